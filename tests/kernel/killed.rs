//! Tests SIGKILL at any moment. The next run of the same command succeeds, and removes everything that the killed run
//! left.
//!
//! `QUS_KILLS=200` kills each command 200 times; by default each one is killed a few times.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use crate::downloads::{self, interpreter};
use crate::lab::{Lab, OURS};
use crate::persist::{DIRECTORIES, host};
use crate::random::Random;

/// Number of kills of each fast command, and of each slow one, without the variable.
const SAMPLE: [usize; 2] = [6, 2];

/// A command, and the handlers that exist before it.
struct Case {
    words: Vec<&'static str>,
    /// Architectures with a working handler.
    registered: &'static [&'static str],
}

/// Returns every command that writes, executes or registers. Commands that only print leave nothing.
fn cases() -> Vec<Case> {
    let case = |line: &'static str, registered| Case { words: line.split(' ').collect(), registered };
    vec![
        case("register --interpreter-dir q arm s390x", &[]),
        case("register --interpreter-dir q --replace arm s390x", &["arm"]),
        case("register --persist --interpreter-dir q arm", &[]),
        case("register --in-memory --interpreter-dir q arm", &[]),
        case("reset", &["arm", "s390x"]),
        case("reset --persist", &["arm", "s390x"]),
        case("verify", &["arm", "s390x"]),
        case("list --probe", &["arm", "s390x"]),
        case("which program", &["arm", "s390x"]),
        case("doctor", &["arm", "s390x"]),
        case("run --interpreter-dir q -- program true", &[]),
        case("fetch --from q --dest out arm s390x", &[]),
        case("export --format systemd --interpreter-dir q --output out arm s390x", &[]),
        case("apply rules.conf", &[]),
        case("disable arm", &["arm", "s390x"]),
        case("enable arm", &["arm"]),
        case("man --output out", &[]),
    ]
}

/// Returns the files in the directories to which commands write, with their content. The lock of `--persist` is left
/// out, because it stays.
fn files(lab: &Lab) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut directories: Vec<PathBuf> = DIRECTORIES.iter().map(PathBuf::from).collect();
    directories.extend([lab.path("tmp"), lab.path("out")]);
    let mut files = BTreeMap::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
                files.insert(entry.path(), Vec::new());
            } else if entry.path() != Path::new("/run/qus.lock") {
                files.insert(entry.path(), fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    // The record of a fetched interpreter holds the time.
    for (path, content) in &mut files {
        if path.extension().is_some_and(|extension| extension == "json") {
            content.clear();
        }
    }
    files
}

/// Creates the state before each run: the handlers, and only the files of the test.
fn prepare(lab: &Lab, case: &Case) {
    lab.command("status", "-1");
    for arch in case.registered {
        lab.handler(&format!("qemu-{arch}"), arch, &lab.path(&format!("q/qemu-{arch}-static")), OURS);
    }
    for directory in ["/etc/binfmt.d", "/usr/local/lib/qus"] {
        let _none = fs::remove_dir_all(directory);
    }
    let _none = fs::remove_dir_all(lab.path("out"));
}

fn program(lab: &Lab, case: &Case) -> Command {
    let mut program = lab.program(&[], case.words.iter().copied());
    program.env("TMPDIR", lab.path("tmp")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    program
}

fn play(lab: &Lab, case: &Case, kills: usize) {
    prepare(lab, case);
    let began = Instant::now();
    let clean = program(lab, case).status().unwrap();
    let duration = began.elapsed();
    let (wanted, entries) = (files(lab), lab.entries());
    let mut random = Random::new(kills as u64);
    for round in 0..kills {
        prepare(lab, case);
        let moment = duration * u32::try_from(random.below(1200)).unwrap() / 1000;
        let mut child = program(lab, case).spawn().unwrap();
        thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        // Child processes of the killed one end by themselves, because their pipes close.
        let next = program(lab, case).status().unwrap();
        let description = format!("{:?}, kill {round} after {moment:?} of {duration:?}", case.words);
        assert_eq!(next, clean, "{description}");
        assert_eq!(lab.entries(), entries, "{description}");
        let found = files(lab);
        let left: Vec<_> = found.keys().filter(|path| !wanted.contains_key(*path)).collect();
        let missing: Vec<_> = wanted.keys().filter(|path| !found.contains_key(*path)).collect();
        assert!(left.is_empty() && missing.is_empty(), "{description}: left {left:?}, missing {missing:?}");
        assert!(found == wanted, "{description}: a file has other content");
    }
}

fn kills(sample: usize) -> usize {
    std::env::var("QUS_KILLS").map_or(sample, |kills| kills.parse().expect("QUS_KILLS must be a number"))
}

fn begin(lab: &Lab) {
    host(lab);
    for directory in ["tmp", "out"] {
        fs::create_dir(lab.path(directory)).unwrap();
    }
    lab.copy("program", &downloads::busybox("arm"));
    let line = format!(":mine:E::mine::{}:F\n", interpreter("s390x").display());
    fs::write(lab.path("rules.conf"), line).unwrap();
}

kernel_test!(a_killed_command_leaves_nothing_after_the_next);
fn a_killed_command_leaves_nothing_after_the_next(lab: &Lab) {
    begin(lab);
    for case in cases() {
        play(lab, &case, kills(SAMPLE[0]));
    }
}

kernel_test!(a_killed_bundle_leaves_nothing_after_the_next);
fn a_killed_bundle_leaves_nothing_after_the_next(lab: &Lab) {
    crate::lab::needs_static_qus();
    begin(lab);
    fs::create_dir_all(lab.path("out")).unwrap();
    let words = "bundle --from q --output out/bundle arm".split(' ').collect();
    play(lab, &Case { words, registered: &[] }, kills(SAMPLE[1]));
}
