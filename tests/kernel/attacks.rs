//! Attacks: another user replaces files and directories of their own while qus, as root, works with them. Whatever the
//! attacker does, no file outside of the attacker's directory changes, and qus registers exactly the checked file.
//!
//! The attacker is a thread with another user's rights if the tests may have two users (as root), and otherwise with
//! the user's own rights. `QUS_ATTACKS=60` makes each race last 60 seconds; by default it lasts a few seconds.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chown, mkfifo, setfsgid, setfsuid};

use crate::downloads::{self, interpreter};
use crate::faults::version_printer;
use crate::hints;
use crate::lab::{Lab, Ran, is_dynamic, run};
use crate::namespace::OTHER_USER;
use crate::random::Random;

/// Kills a run that hangs.
const IN_TIME: [&str; 4] = ["timeout", "-s", "KILL", "60"];

/// Returns the highest number of runs of qus in a race, and its longest duration.
fn most() -> (usize, Duration) {
    match std::env::var("QUS_ATTACKS") {
        Ok(seconds) => (usize::MAX, Duration::from_secs(seconds.parse().expect("QUS_ATTACKS are seconds"))),
        Err(_) => (300, Duration::from_secs(4)),
    }
}

/// A directory of the attacker, and files of a victim that must not change.
struct Scene<'a> {
    lab: &'a Lab,
    /// True if the attacker is another user.
    other: bool,
    theirs: PathBuf,
    victims: PathBuf,
    before: BTreeMap<PathBuf, State>,
}

/// Everything that can change about a file: content, mode, owner, inode, and the time of the last change (ctime).
type State = (Vec<u8>, u32, u32, u64, (i64, i64));

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab) -> Self {
        let (theirs, victims) = (lab.path("theirs"), lab.path("victims"));
        fs::set_permissions(lab.path(""), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(&theirs).unwrap();
        fs::create_dir_all(victims.join("directory")).unwrap();
        for name in [
            "file",
            "directory/qemu-arm-static",
            "directory/qemu-arm-static.json",
            "directory/made",
            "directory/qus.1",
        ] {
            fs::write(victims.join(name), "as it was").unwrap();
            fs::set_permissions(victims.join(name), Permissions::from_mode(0o600)).unwrap();
        }
        let other = fs::read_to_string("/proc/self/uid_map").unwrap().lines().count() > 1;
        let mut scene = Self { lab, other, before: state(&victims), theirs, victims };
        scene.give("");
        scene.before = state(&scene.victims);
        scene
    }

    /// Gives a file in the attacker's directory to the attacker.
    fn give(&self, name: &str) {
        if self.other {
            let path = self.theirs.join(name);
            chown(&path, Some(Uid::from_raw(OTHER_USER)), Some(Gid::from_raw(OTHER_USER))).unwrap();
        }
    }

    /// Copies a file into the attacker's directory, as the attacker's own.
    fn copy(&self, name: &str, source: &Path, mode: u32) -> PathBuf {
        let path = self.lab.copy(&format!("theirs/{name}"), source);
        self.give(name);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Returns the directory to which the attacker tries to redirect root: the victim's, or without a second user the
    /// attacker's own.
    fn elsewhere(&self) -> PathBuf {
        if self.other { self.victims.join("directory") } else { self.theirs.clone() }
    }

    fn qus(&self, words: &[&str]) -> Ran {
        run(&mut self.lab.program(&IN_TIME, words.iter().copied()))
    }

    /// Runs `round` repeatedly while the attacker plays randomly chosen `tricks`.
    fn race(&self, tricks: &[&(dyn Fn(&mut Random) + Sync)], mut round: impl FnMut(usize)) {
        hints::are_not_typed("the attacker changes the situation again");
        let (over, tried) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let attacker = scope.spawn(|| {
                if self.other {
                    become_attacker();
                }
                let mut random = Random::new(7);
                while !over.load(Ordering::Relaxed) {
                    tricks[random.below(tricks.len())](&mut random);
                    tried.fetch_add(1, Ordering::Relaxed);
                }
            });
            let (rounds, time) = most();
            let begin = Instant::now();
            // The attacker's thread must end even after a panic.
            let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut played = 0;
                while played < rounds && begin.elapsed() < time {
                    round(played);
                    played += 1;
                }
                played
            }));
            over.store(true, Ordering::Relaxed);
            attacker.join().unwrap();
            let played = played.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert!(
                played >= 3 && tried.load(Ordering::Relaxed) > played,
                "{played} rounds, {tried:?} tricks"
            );
        });
        self.nothing_changed("after all");
    }

    /// Expects that no file of another user has changed.
    fn nothing_changed(&self, after: &str) {
        let now = state(&self.victims);
        let paths = now.keys().chain(self.before.keys());
        let changed: Vec<_> = paths.filter(|path| now.get(*path) != self.before.get(*path)).collect();
        assert!(changed.is_empty(), "{changed:?} {after}");
    }

    /// Expects that qus ended by itself, that it gave a reason if it failed, and that no file of another user changed.
    fn is_true(&self, ran: &Ran) {
        let has_reason = ran.stderr.contains("qus: ") || !ran.stdout.is_empty();
        assert!(matches!(ran.status, 0..=2) && (ran.status == 0 || has_reason), "{ran:#?}");
        assert!(!ran.stderr.contains("panicked"), "{ran:#?}");
        self.nothing_changed(&format!("{ran:#?}"));
    }
}

/// Gives this thread the rights of another user.
fn become_attacker() {
    let none = u32::MAX;
    setfsgid(Gid::from_raw(OTHER_USER));
    setfsuid(Uid::from_raw(OTHER_USER));
    assert_eq!(setfsuid(Uid::from_raw(none)), Uid::from_raw(OTHER_USER));
}

fn state(directory: &Path) -> BTreeMap<PathBuf, State> {
    let mut found = BTreeMap::new();
    let mut paths = vec![directory.to_owned()];
    while let Some(path) = paths.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if metadata.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        found.insert(path, (content, metadata.mode(), metadata.uid(), metadata.ino(), changed));
    }
    found
}

/// Creates a directory with small interpreters of root's.
fn source(lab: &Lab) -> PathBuf {
    for arch in ["arm", "s390x"] {
        let name = format!("source/qemu-{arch}-static");
        if cfg!(target_arch = "x86_64") {
            fs::create_dir_all(lab.path("source")).unwrap();
            lab.executable(&name, &version_printer());
        } else {
            lab.copy(&name, &interpreter(arch));
        }
    }
    lab.path("source")
}

/// Replaces `path` by what `make` creates, for a short or a longer time.
fn exchange(random: &mut Random, path: &Path, make: impl Fn(&Path) -> std::io::Result<()>) {
    let aside = path.with_file_name(format!("aside-{}", random.below(1 << 30)));
    let there = fs::rename(path, &aside).is_ok();
    let _made = make(path);
    if random.chance(50) {
        std::thread::sleep(Duration::from_micros(random.below(2000) as u64));
    }
    if random.chance(80) {
        let _gone = fs::remove_file(path);
        if there {
            let _back = fs::rename(&aside, path);
        }
    }
}

fn pipe(path: &Path) -> std::io::Result<()> {
    Ok(mkfifo(path, Mode::S_IRWXU | Mode::S_IRWXO)?)
}

kernel_test!(no_file_is_written_through_a_link_of_another_user, among_others);
fn no_file_is_written_through_a_link_of_another_user(lab: &Lab) {
    let scene = Scene::new(lab);
    source(lab);
    fs::create_dir(scene.theirs.join("real")).unwrap();
    // A link with the name of an output file is replaced by a regular file.
    for (name, words) in [
        ("real/qus.1", &["man", "-o", "theirs/real"][..]),
        ("real/qemu-arm-static", &["fetch", "--from", "source", "--dest", "theirs/real", "arm"]),
        ("real/qemu-arm-static.json", &["fetch", "--from", "source", "--dest", "theirs/real", "arm"]),
        ("real/made", &["bundle", "--interpreter-dir", "source", "-o", "theirs/real/made", "arm"]),
    ] {
        if words[0] == "bundle" && is_dynamic() {
            continue;
        }
        let path = scene.theirs.join(name);
        let _none = fs::remove_file(&path);
        symlink(scene.victims.join("file"), &path).unwrap();
        let ran = scene.qus(words);
        assert_eq!(ran.status, 0, "{ran:#?}");
        assert!(fs::symlink_metadata(&path).unwrap().is_file(), "{name}");
        scene.is_true(&ran);
    }
    let path = scene.theirs.join("real/qemu-arm.conf");
    symlink(scene.victims.join("file"), &path).unwrap();
    lab.link("qemu-binfmt-conf.sh", Path::new(crate::lab::QUS));
    let mut conf = Command::new(lab.path("qemu-binfmt-conf.sh"));
    let ran = run(conf.args(["--systemd", "arm", "--exportdir", "theirs/real"]).current_dir(lab.path("")));
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(fs::read_to_string(&path).unwrap().starts_with(":qemu-arm:M:"));
    scene.is_true(&ran);
    // A file that qus did not write stays as it is.
    let path = scene.theirs.join("real/qus-arm.conf");
    symlink(scene.victims.join("file"), &path).unwrap();
    let export = ["export", "arm", "--format", "systemd", "--interpreter-dir", "source", "-o", "theirs/real"];
    lab.refused(export, 2, "theirs/real/qus-arm.conf is a symbolic link, to ");
    if scene.other {
        links_of_another_user(lab, &scene);
    }
}

/// Expects that qus does not follow a link of another user, both as the directory and inside of its path.
fn links_of_another_user(lab: &Lab, scene: &Scene<'_>) {
    symlink(scene.victims.join("directory"), scene.theirs.join("link")).unwrap();
    std::os::unix::fs::lchown(scene.theirs.join("link"), Some(OTHER_USER), Some(OTHER_USER)).unwrap();
    let message = format!(
        "theirs/link is a symbolic link to {} that user {OTHER_USER} created, and is not followed",
        scene.victims.join("directory").display()
    );
    for words in [
        &["man", "-o", "theirs/link"][..],
        &["fetch", "--from", "source", "--dest", "theirs/link", "arm"],
        &["fetch", "--from", "source", "--dest", "theirs/link/new/directory", "arm"],
        &["bundle", "--interpreter-dir", "source", "-o", "theirs/link/made", "arm"],
        &["export", "arm", "--format", "systemd", "--interpreter-dir", "source", "-o", "theirs/link"],
    ] {
        if words[0] == "bundle" && is_dynamic() {
            continue;
        }
        let ran = lab.refused(words.iter().copied(), 2, &message);
        scene.is_true(&ran);
    }
    // qus follows a user's own link.
    symlink(scene.theirs.join("real"), lab.path("own")).unwrap();
    fs::remove_file(scene.theirs.join("real/qemu-arm-static")).unwrap();
    lab.done(["fetch", "--from", "source", "--dest", "own", "arm"]);
    assert!(scene.theirs.join("real/qemu-arm-static").exists());
}

kernel_test!(a_pipe_or_a_device_for_an_interpreter_stops_nothing);
/// Tests files that block when they are opened, or that never end.
fn a_pipe_or_a_device_for_an_interpreter_stops_nothing(lab: &Lab) {
    let scene = Scene::new(lab);
    fs::create_dir(lab.path("q")).unwrap();
    pipe(&lab.path("q/qemu-arm-static")).unwrap();
    symlink("/dev/zero", lab.path("q/qemu-s390x-static")).unwrap();
    for words in [
        &["register", "--interpreter-dir", "q", "--qemu-version", "7.2", "arm", "s390x"][..],
        &["register", "--interpreter-dir", "q", "arm", "s390x"],
        &["register", "--interpreter-dir", "q", "--in-memory", "arm", "s390x"],
        &["bundle", "--interpreter-dir", "q", "--qemu-version", "7.2", "-o", "made", "arm", "s390x"],
        &["fetch", "--from", "q", "--dest", "new", "arm", "s390x"],
        &["register", "--interpreter", "q/qemu-arm-static", "arm"],
    ] {
        if words[0] == "bundle" && is_dynamic() {
            continue;
        }
        let ran = lab.refused_under(&IN_TIME, words.iter().copied(), 2, "arm");
        scene.is_true(&ran);
    }
    // The same holds for a file that seems to be fetched already.
    let ran = scene.qus(&["fetch", "--list", "--dest", "q"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
}

kernel_test!(what_is_fetched_and_exported_among_other_users_stays_there, among_others);
fn what_is_fetched_and_exported_among_other_users_stays_there(lab: &Lab) {
    let scene = Scene::new(lab);
    source(lab);
    let (theirs, victim) = (&scene.theirs, scene.victims.join("file"));
    let (target, elsewhere) = (theirs.join("q"), scene.elsewhere());
    let to_victim = |path: &Path| symlink(&victim, path);
    // At the moment when qus creates the directory, another directory or a link to the victim's file replaces it.
    let directory = |random: &mut Random| exchange(random, &target, |path| symlink(&elsewhere, path));
    let made = |random: &mut Random| {
        let _away = fs::rename(&target, theirs.join(format!("away-{}", random.below(1 << 30))));
        while fs::symlink_metadata(&target).is_err() && !random.chance(1) {}
        let _away = fs::rename(&target, theirs.join(format!("away-{}", random.below(1 << 30))));
        let _link = symlink(&victim, &target);
        std::thread::sleep(Duration::from_micros(random.below(300) as u64));
        let _gone = fs::remove_file(&target);
    };
    let own = |random: &mut Random| {
        let _ours = fs::create_dir(&target);
        std::thread::sleep(Duration::from_micros(random.below(3000) as u64));
    };
    let file = |random: &mut Random| {
        let name = random.pick(&["qemu-arm-static", "qemu-arm-static.json", "qus.1", "qus-arm.conf"]);
        exchange(random, &target.join(name), to_victim);
        exchange(random, &target.join(name), pipe);
    };
    let draft = |random: &mut Random| {
        for entry in fs::read_dir(&target).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".qus-") {
                let _gone = fs::remove_file(entry.path());
                let _other = if random.chance(50) { to_victim(&entry.path()) } else { pipe(&entry.path()) };
            }
        }
    };
    scene.race(&[&directory, &made, &own, &file, &draft], |round| {
        let words: &[&str] = match round % 4 {
            0 => &["man", "-o", "theirs/q"],
            1 => &["export", "arm", "--format", "systemd", "--interpreter-dir", "source", "-o", "theirs/q"],
            _ => &["fetch", "--from", "source", "--dest", "theirs/q", "arm", "s390x"],
        };
        scene.is_true(&scene.qus(words));
    });
}

kernel_test!(what_is_bundled_among_other_users_stays_there, among_others);
fn what_is_bundled_among_other_users_stays_there(lab: &Lab) {
    crate::lab::needs_static_qus();
    let scene = Scene::new(lab);
    source(lab);
    fs::create_dir(scene.theirs.join("q")).unwrap();
    scene.give("q");
    let (victim, elsewhere, target) = (scene.victims.join("file"), scene.elsewhere(), scene.theirs.join("q"));
    let directory = |random: &mut Random| exchange(random, &target, |path| symlink(&elsewhere, path));
    let file = |random: &mut Random| exchange(random, &target.join("made"), |path| symlink(&victim, path));
    scene.race(&[&directory, &file], |_| {
        let words = ["bundle", "--interpreter-dir", "source", "-o", "theirs/q/made", "arm"];
        scene.is_true(&scene.qus(&words));
    });
}

/// Lets the attacker put two files alternately at the path of the interpreter.
fn takes_turns(scene: &Scene<'_>, files: [&Path; 2], random: &mut Random) {
    let (place, new) = (scene.theirs.join("q/qemu-arm-static"), scene.theirs.join("new"));
    for file in files {
        fs::hard_link(file, &new).unwrap();
        fs::rename(&new, &place).unwrap();
        std::thread::sleep(Duration::from_micros(random.below(15_000) as u64));
    }
}

/// Returns a usable interpreter, and one with a setuid bit (K60), which no check accepts.
fn good_and_bad(scene: &Scene<'_>) -> (PathBuf, PathBuf) {
    fs::create_dir(scene.theirs.join("q")).unwrap();
    scene.give("q");
    let good = scene.copy("good", &interpreter("arm"), 0o755);
    let bad = scene.copy("bad", &downloads::newer().join("qemu-arm-static"), 0o4755);
    fs::hard_link(&good, scene.theirs.join("q/qemu-arm-static")).unwrap();
    (good, bad)
}

kernel_test!(what_is_registered_is_what_was_checked, among_others);
fn what_is_registered_is_what_was_checked(lab: &Lab) {
    let scene = Scene::new(lab);
    let (good, bad) = good_and_bad(&scene);
    let wanted = fs::metadata(&good).unwrap().ino();
    let turns = |random: &mut Random| takes_turns(&scene, [&bad, &good], random);
    let (directory, aside) = (scene.theirs.join("q"), scene.theirs.join("aside"));
    scene.copy("other/qemu-arm-static", &bad, 0o4755);
    let directories = |random: &mut Random| {
        fs::rename(&directory, &aside).unwrap();
        symlink("other", &directory).unwrap();
        std::thread::sleep(Duration::from_micros(random.below(15_000) as u64));
        fs::remove_file(&directory).unwrap();
        fs::rename(&aside, &directory).unwrap();
        std::thread::sleep(Duration::from_micros(random.below(15_000) as u64));
    };
    scene.race(&[&turns, &directories], |round| {
        let options: &[&str] = match round % 3 {
            // qus replaces the broken handler only with a checked interpreter.
            0 => &["--replace"],
            1 => &["--in-memory"],
            _ => &[],
        };
        if round % 3 == 0 {
            lab.handler("qemu-arm", "arm", &interpreter("arm"), qus::binfmt::Flags::empty());
        }
        let before = lab.entries();
        let ran = scene.qus(&[&["register", "--interpreter-dir", "theirs/q", "arm"], options].concat());
        scene.is_true(&ran);
        if ran.status == 0 {
            let content = started(&ran);
            let is_good =
                if round % 3 == 1 { content.1 == fs::read(&good).unwrap() } else { content.0 == wanted };
            assert!(is_good, "{ran:#?}");
        } else {
            assert_eq!(lab.entries(), before, "{ran:#?}");
        }
        lab.clear();
    });
}

/// Returns inode and content of the file that the kernel starts for programs of arm.
fn started(ran: &Ran) -> (u64, Vec<u8>) {
    let mut cat = Command::new(downloads::busybox("arm"));
    std::os::unix::process::CommandExt::arg0(&mut cat, "cat");
    let child = cat.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{error} after {ran:#?}"));
    let path = format!("/proc/{}/exe", child.id());
    let found = (fs::metadata(&path).unwrap().ino(), fs::read(&path).unwrap());
    let _ended = child.stdin.take().unwrap().write_all(b"over");
    assert!(child.wait().unwrap().success());
    found
}

kernel_test!(what_is_persisted_is_what_was_checked, among_others);
fn what_is_persisted_is_what_was_checked(lab: &Lab) {
    let scene = Scene::new(lab);
    let (good, bad) = good_and_bad(&scene);
    for directory in ["/etc", "/run", "/usr/local/lib", "/var/lib"] {
        mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    }
    fs::create_dir_all("/run/systemd/system").unwrap();
    // No real host has such a directory. Even there qus writes nothing through the links in it.
    fs::create_dir("/etc/binfmt.d").unwrap();
    if scene.other {
        chown("/etc/binfmt.d", Some(Uid::from_raw(OTHER_USER)), None).unwrap();
    }
    let (victim, conf) = (scene.victims.join("file"), Path::new("/etc/binfmt.d/qus-arm.conf"));
    let content = fs::read(&good).unwrap();
    let turns = |random: &mut Random| takes_turns(&scene, [&bad, &good], random);
    let special = |random: &mut Random| {
        let place = scene.theirs.join("q/qemu-arm-static");
        exchange(random, &place, |path| if path.exists() { Ok(()) } else { symlink("/dev/zero", path) });
        exchange(random, &place, pipe);
        let _there = fs::hard_link(&good, &place);
    };
    let link = |random: &mut Random| {
        let _there = fs::remove_file(conf);
        let _link = symlink(&victim, conf);
        std::thread::sleep(Duration::from_micros(random.below(20_000) as u64));
        let _gone = fs::remove_file(conf);
    };
    scene.race(&[&turns, &special, &link], |_| {
        let ran = scene.qus(&["register", "--persist", "--interpreter-dir", "theirs/q", "arm"]);
        scene.is_true(&ran);
        let copy = Path::new("/usr/local/lib/qus/copies/qemu-arm-static");
        if let Ok(metadata) = fs::symlink_metadata(copy) {
            assert!(
                metadata.is_file() && metadata.uid() == 0 && metadata.mode() & 0o7777 == 0o755,
                "{ran:#?}"
            );
            assert!(fs::read(copy).unwrap() == content, "another content after {ran:#?}");
        }
        if ran.status == 0 {
            assert!(started(&ran).1 == content, "another content after {ran:#?}");
        }
        lab.clear();
        let _gone = fs::remove_file(copy);
        let _gone = fs::remove_file(conf);
    });
}
