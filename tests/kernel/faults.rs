//! Lets every system call of a command fail once, and kills the process at every call once: strace injects an errno or
//! a signal.
//!
//! After each fault nothing is half-written or lost, exit status 0 means success, and the next run repairs the rest.
//! Every run of the tests tries a sample of the calls. `QUS_FAULTS=full` tries all of them, and appends their number to
//! the file `faults` in `target/…/tmp`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use qus::binfmt::Flags;

use crate::build::{Tree, deb};
use crate::downloads::{self, interpreter};
use crate::hints;
use crate::lab::{Lab, Ran, busybox, run};

/// Number of faults of a command that every run of the tests tries.
pub(crate) const SAMPLE: usize = 24;

/// Number of calls that are tried from the first and from the last of many similar ones.
const ALIKE: usize = 30;

/// Calls without faults: those that return no errno, and those that a process needs to end.
const SPARED: [&str; 4] = ["exit", "exit_group", "rt_sigreturn", "restart_syscall"];

/// A fault that is injected into a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Errno(&'static str),
    /// A signal that asks a program to end.
    Term,
    Kill,
}

/// A fault in the `when`th `call` of the main process, or of every process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    call: String,
    when: usize,
    fault: Fault,
    every_process: bool,
}

/// A command under test.
pub(crate) struct Scene<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) words: &'a [&'a str],
    /// Number of faults that are tried unless `QUS_FAULTS` is `full`.
    pub(crate) sample: usize,
    /// Restores the state before the command.
    pub(crate) prepare: &'a dyn Fn(),
    /// Checks the state after a fault. Arguments: the result, and whether the fault killed the command.
    pub(crate) after: &'a dyn Fn(&Ran, bool),
    /// Checks the state after success; called after a run with exit status 0.
    pub(crate) done: &'a dyn Fn(),
}

impl Scene<'_> {
    pub(crate) fn play(&self) {
        hints::are_not_typed("no command can remove an injected fault");
        set_child_subreaper(true).unwrap();
        fs::create_dir_all(self.lab.path("tmp")).unwrap();
        let cases = self.cases();
        let full = std::env::var_os("QUS_FAULTS").is_some_and(|value| value == "full");
        let step = if full { 1 } else { cases.len().div_ceil(self.sample) };
        // Each run of the tests tries another sample.
        let first = if full { 0 } else { std::process::id() as usize % step };
        let mut found = Vec::new();
        let (mut tried, mut missed) = (0, 0);
        for case in cases.iter().skip(first).step_by(step) {
            tried += 1;
            let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.one(case)));
            match verdict {
                Ok(happened) => missed += usize::from(!happened),
                Err(_) => found.push(case),
            }
        }
        let words = self.words.join(" ");
        let counted = format!("{tried} of {} faults in qus {words}, {missed} did not happen\n", cases.len());
        if full {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
            let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(counted.as_bytes()).unwrap();
        }
        eprint!("{counted}");
        assert!(missed * 4 < tried, "{counted}");
        assert!(found.is_empty(), "{} of {tried}: {found:#?}", found.len());
    }

    /// Tries one fault. Returns false if the call did not happen, because the number of calls differs between runs.
    fn one(&self, case: &Case) -> bool {
        (self.prepare)();
        let fault = match case.fault {
            Fault::Errno(name) => format!("error={name}"),
            Fault::Term => "signal=TERM".to_owned(),
            Fault::Kill => "signal=KILL".to_owned(),
        };
        let inject = format!("inject={}:{fault}:when={}", case.call, case.when);
        let trace = self.lab.path("trace");
        let ran = self.traced(&["-qq", "-o", trace.to_str().unwrap(), "-e", &inject], case.every_process);
        assert_ne!(ran.status, 124, "the command hangs: {ran:#?}");
        let text = fs::read_to_string(&trace).unwrap();
        let happened = match case.fault {
            Fault::Errno(_) => text.contains("(INJECTED)"),
            Fault::Term => text.contains("--- SIGTERM "),
            Fault::Kill => text.contains("killed by"),
        };
        // A failed allocation aborts the process.
        let killed = case.fault == Fault::Kill || ran.status >= 128;
        if ran.status == 0 && !killed {
            (self.done)();
        }
        (self.after)(&ran, killed);
        self.no_process_is_left();
        let again = run(&mut self.command(&[]));
        assert_eq!(again.status, 0, "after {ran:#?}: {again:#?}");
        (self.done)();
        self.nothing_is_left_in_tmp(killed);
        happened
    }

    /// Returns all faults to try.
    fn cases(&self) -> BTreeSet<Case> {
        (self.prepare)();
        let trace = self.lab.path("trace");
        let path = trace.to_str().unwrap().to_owned();
        let ran = self.traced(&["-qq", "-o", &path], true);
        assert_eq!(ran.status, 0, "{ran:#?}");
        (self.done)();
        let text = fs::read_to_string(&trace).unwrap();
        let main = text.split_whitespace().next().unwrap();
        let mut counts = BTreeMap::<(&str, &str), usize>::new();
        for line in text.lines() {
            let Some((process, rest)) = line.split_once(' ') else { continue };
            let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
            if call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                *counts.entry((process, call)).or_default() += 1;
            }
        }
        let mut cases = BTreeSet::new();
        for ((process, call), count) in counts {
            if SPARED.contains(&call) {
                continue;
            }
            let is_main = process == main;
            for when in 1..=count {
                // The first `execve` is that of strace itself.
                if call == "execve" && when == 1 || (ALIKE..count.saturating_sub(ALIKE)).contains(&when) {
                    continue;
                }
                // No user sends SIGTERM to a probe process, which would not get it while signals are deferred.
                for fault in faults(call).into_iter().filter(|fault| is_main || *fault != Fault::Term) {
                    let call = call.to_owned();
                    cases.insert(Case { call, when, fault, every_process: !is_main });
                }
            }
        }
        cases
    }

    fn traced(&self, options: &[&str], every_process: bool) -> Ran {
        let follow = if every_process { &["-f"][..] } else { &[] };
        let wrapper = [&["timeout", "60", "strace"], follow, options].concat();
        run(&mut self.command(&wrapper))
    }

    fn command(&self, wrapper: &[&str]) -> std::process::Command {
        let mut command = self.lab.program(wrapper, self.words.iter().copied());
        command.env("TMPDIR", self.lab.path("tmp"));
        command
    }

    /// Expects that every started process has ended, or ends when its pipes close.
    fn no_process_is_left(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Err(_) => return,
                Ok(WaitStatus::StillAlive) => {
                    assert!(Instant::now() < end, "a process is still running");
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(_) => {}
            }
        }
    }

    /// Expects that only a killed command leaves more than one temporary file.
    fn nothing_is_left_in_tmp(&self, killed: bool) {
        let left: Vec<_> =
            fs::read_dir(self.lab.path("tmp")).unwrap().map(|file| file.unwrap().path()).collect();
        for path in &left {
            fs::remove_dir_all(path).or_else(|_| fs::remove_file(path)).unwrap();
        }
        assert!(killed || left.len() <= 1, "{left:?}");
    }
}

/// Returns the faults of a call: `EINTR` if a signal can interrupt it, and the errnos of a full disk and of exhausted
/// memory if it can return them.
fn faults(call: &str) -> Vec<Fault> {
    let mut faults = vec![Fault::Kill, Fault::Term];
    // The kernel never lets these calls fail, except that a signal ends a sleep early. The standard library relies on
    // this: it panics if closing a directory or a sleep fails.
    if !matches!(call, "clock_nanosleep" | "close" | "nanosleep" | "rt_sigprocmask" | "uname") {
        faults.push(Fault::Errno("EIO"));
    }
    match call {
        "write" | "pwrite64" | "copy_file_range" | "sendfile" | "mkdir" | "symlink" | "ftruncate" => {
            faults.push(Fault::Errno("ENOSPC"));
        }
        "mmap" | "brk" | "clone" | "clone3" | "vfork" | "memfd_create" => {
            faults.push(Fault::Errno("ENOMEM"));
        }
        _ => {}
    }
    if matches!(
        call,
        "read" | "write" | "openat" | "poll" | "ppoll" | "wait4" | "waitid" | "pread64" | "flock"
    ) {
        faults.push(Fault::Errno("EINTR"));
    }
    faults
}

/// A handler of another tool.
const FOREIGN: &str = ":foreign:E::qus-test::/bin/true:";

pub(crate) fn with_foreign(lab: &Lab) {
    for name in lab.entries().keys() {
        lab.command(name, "-1");
    }
    lab.register(FOREIGN.as_bytes()).unwrap();
}

/// Expects that the instance is in its old or its new state. After a kill, each handler is in one of these states or is
/// a staged one, and no old handler is lost.
pub(crate) fn instance_is_sound(
    lab: &Lab,
    ran: &Ran,
    killed: bool,
    before: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) {
    let now = handlers(lab);
    assert_eq!(now.get("foreign"), before.get("foreign"), "{ran:#?}");
    if !killed && (now == *before || now == *wanted) {
        return;
    }
    // A handler that cannot be removed is named in the output.
    assert!(killed || ran.stdout.contains("cannot write "), "{now:#?} after {ran:#?}");
    for (name, text) in &now {
        let (name, _) = name.split_once(".qus-").unwrap_or((name, ""));
        let known = [before.get(name), wanted.get(name)];
        assert!(known.contains(&Some(text)), "{name}: {text}");
    }
}

/// Returns the handlers, without the version in the path of an interpreter in memory. The version is unknown if the
/// interpreter cannot be run.
fn handlers(lab: &Lab) -> BTreeMap<String, String> {
    let without_version = |text: String| match text.split_once("memory/QEMU-") {
        Some((before, rest)) => {
            let (_, rest) = rest.split_once('/').unwrap();
            format!("{before}memory/{rest}")
        }
        None => text,
    };
    lab.entries().into_iter().map(|(name, text)| (name, without_version(text))).collect()
}

/// Tests a registration in an instance that `prepare` creates.
fn registers(lab: &Lab, words: &[&str], prepare: &dyn Fn()) {
    prepare();
    let before = handlers(lab);
    let ran = run(&mut lab.program(&[], words.iter().copied()));
    assert_eq!(ran.status, 0, "{ran:#?}");
    let wanted = handlers(lab);
    assert_ne!(before, wanted);
    let served_before = before.get("qemu-arm").is_some_and(|text| text.starts_with("enabled"));
    Scene {
        lab,
        words,
        sample: SAMPLE,
        prepare,
        after: &|ran, killed| {
            instance_is_sound(lab, ran, killed, &before, &wanted);
            let is_verified =
                ran.stderr.contains("architecture works in ") && !ran.stdout.contains("unverified");
            assert!(ran.status != 0 || is_verified, "claimed without verification: {ran:#?}");
            assert!(!ran.stdout.contains("verification failed") || handlers(lab) == before, "{ran:#?}");
            // The test runs the program on this host, because the handler may lack the flag F.
            if served_before {
                assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n", "{ran:#?}");
            }
        },
        done: &|| assert_eq!(handlers(lab), wanted),
    }
    .play();
}

kernel_test!(faults_in_register, with_strace);
fn faults_in_register(lab: &Lab) {
    registers(lab, &["register", "arm"], &|| with_foreign(lab));
}

kernel_test!(faults_in_replace, with_strace);
fn faults_in_replace(lab: &Lab) {
    registers(lab, &["register", "arm"], &|| {
        with_foreign(lab);
        lab.handler("qemu-arm", "arm", &interpreter("arm"), Flags::PRESERVE_ARGV0);
    });
}

kernel_test!(a_handler_whose_second_verification_fails_is_restored, with_strace);
/// Tests a failure of the last process, which verifies the handler under its final name: the process cannot be started.
fn a_handler_whose_second_verification_fails_is_restored(lab: &Lab) {
    let words = ["register", "arm"];
    for enabled in ["1", "0"] {
        with_foreign(lab);
        lab.handler("qemu-arm", "arm", &interpreter("arm"), Flags::empty());
        lab.command("qemu-arm", enabled);
        let before = lab.entries();
        let trace = lab.path("trace");
        let options = ["-qq", "-e", "trace=process", "-o", trace.to_str().unwrap()];
        let ran = run(&mut lab.program(&[&["strace"], &options[..]].concat(), words));
        assert!(ran.status == 0 && ran.stdout.contains(" replaced "), "{ran:#?}");
        let text = fs::read_to_string(&trace).unwrap();
        let calls = text.lines().filter_map(|line| Some(line.split_once('(')?.0));
        let starts: Vec<&str> = calls.filter(|call| matches!(*call, "clone" | "clone3" | "vfork")).collect();
        let last = starts.last().unwrap();
        let when = starts.iter().filter(|call| *call == last).count();

        with_foreign(lab);
        lab.handler("qemu-arm", "arm", &interpreter("arm"), Flags::empty());
        lab.command("qemu-arm", enabled);
        let inject = format!("inject={last}:error=EAGAIN:when={when}");
        let wrapper = ["strace", "-qq", "-o", trace.to_str().unwrap(), "-e", &inject];
        let ran = run(&mut lab.program(&wrapper, words));
        assert_eq!(ran.status, 2, "{ran:#?}");
        assert!(
            ran.stdout
                .contains("cannot run probes: cannot start a process: Resource temporarily unavailable"),
            "{ran:#?}"
        );
        assert_eq!(lab.entries(), before);
    }
}

kernel_test!(an_interrupted_register_restores_the_previous_state, with_strace);
/// Tests Ctrl-C at any moment of a registration whose verification will fail. The previous state is restored.
fn an_interrupted_register_restores_the_previous_state(lab: &Lab) {
    let prepare = || {
        with_foreign(lab);
        lab.handler("qemu-arm", "arm", &interpreter("arm"), Flags::PRESERVE_ARGV0);
    };
    let none = lab.static_failure("none/qemu-arm-static");
    let words = ["register", "--replace", "--interpreter", none.to_str().unwrap(), "arm"];
    prepare();
    let before = lab.entries();
    let trace = lab.path("trace");
    let options = ["-qq", "-o", trace.to_str().unwrap()];
    let ran = run(&mut lab.program(&[&["strace"], &options[..]].concat(), words));
    assert!(ran.status == 1 && ran.stdout.contains(" verification failed "), "{ran:#?}");
    let text = fs::read_to_string(&trace).unwrap();
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut ended_by_it = 0;
    for (call, _) in text.lines().filter_map(|line| line.split_once('(')) {
        if !matches!(
            call,
            "write" | "clone" | "clone3" | "vfork" | "poll" | "wait4" | "waitid" | "pidfd_open"
        ) {
            continue;
        }
        let when = counts.entry(call).or_default();
        *when += 1;
        prepare();
        let inject = format!("inject={call}:signal=INT:when={when}");
        // A shell makes background jobs ignore Ctrl-C, and these tests may run as one.
        let wrapper = ["env", "--default-signal=INT", "strace", "-qq", "-o", "/dev/null", "-e", &inject];
        let ran = run(&mut lab.program(&wrapper, words));
        assert!(matches!(ran.status, 1 | 130), "{call} {when}: {ran:#?}");
        ended_by_it += usize::from(ran.status == 130);
        assert_eq!(lab.entries(), before, "{call} {when}: {ran:#?}");
    }
    assert!(ended_by_it >= 5, "{ended_by_it} of {counts:?}");
}

kernel_test!(faults_in_replace_of_what_is_disabled, with_strace);
fn faults_in_replace_of_what_is_disabled(lab: &Lab) {
    registers(lab, &["register", "arm"], &|| {
        with_foreign(lab);
        lab.handler("qemu-arm", "arm", &interpreter("arm"), Flags::FIX_BINARY);
        lab.command("qemu-arm", "0");
    });
}

kernel_test!(faults_in_register_in_memory, with_strace);
fn faults_in_register_in_memory(lab: &Lab) {
    registers(lab, &["register", "--in-memory", "arm"], &|| with_foreign(lab));
}

kernel_test!(faults_in_reset, with_strace);
fn faults_in_reset(lab: &Lab) {
    let prepare = || {
        with_foreign(lab);
        for arch in ["arm", "s390x", "mips"] {
            lab.handler(&format!("qemu-{arch}"), arch, &interpreter(arch), Flags::FIX_BINARY);
        }
    };
    prepare();
    let before = lab.entries();
    let words = ["reset"];
    Scene {
        lab,
        words: &words,
        sample: SAMPLE,
        prepare: &prepare,
        after: &|ran, _| {
            let now = lab.entries();
            assert!(now.contains_key("foreign"), "{ran:#?}");
            assert!(now.iter().all(|(name, text)| before.get(name) == Some(text)), "{now:#?} after {ran:#?}");
        },
        done: &|| assert_eq!(lab.entries().into_keys().collect::<Vec<_>>(), ["foreign"]),
    }
    .play();
}

/// Returns the files of a directory with their contents, and the number of temporary files. Records are left out,
/// because they contain the time of their creation and the digest of their file. A record of another file has no
/// effect.
fn files(directory: &Path) -> (BTreeMap<String, Vec<u8>>, usize) {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    let files = files.filter(|file| file.path().extension().is_none_or(|end| end != "json"));
    let files = files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()));
    let (temporary, files): (BTreeMap<_, _>, _) = files.partition(|(name, _)| name.starts_with(".qus-"));
    (files, temporary.len())
}

/// Tests a command that writes a file: at every moment, the file has its old or its new content.
fn writes(lab: &Lab, words: &[&str], file: &str, sample: usize) {
    let directory = lab.path("dest");
    let prepare = || {
        if directory.exists() {
            fs::remove_dir_all(&directory).unwrap();
        }
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(file), "old").unwrap();
    };
    prepare();
    let before = files(&directory).0;
    let ran = run(&mut lab.program(&[], words.iter().copied()));
    assert_eq!(ran.status, 0, "{ran:#?}");
    let wanted = files(&directory).0;
    assert_ne!(before, wanted);
    Scene {
        lab,
        words,
        sample,
        prepare: &prepare,
        after: &|ran, killed| {
            let (now, temporary) = files(&directory);
            assert!(now == before || now == wanted, "neither the old nor the new file after {ran:#?}");
            // A temporary file that cannot be removed stays.
            assert!(temporary <= 1, "{temporary} temporary files after {ran:#?}");
            assert!(temporary == 0 || killed || ran.status != 0, "{ran:#?}");
        },
        done: &|| {
            let (now, temporary) = files(&directory);
            assert!(now == wanted, "the file has other content");
            assert_eq!(temporary, 0);
        },
    }
    .play();
}

kernel_test!(faults_in_fetch, with_strace);
fn faults_in_fetch(lab: &Lab) {
    let content = fs::read(interpreter("arm")).unwrap();
    let tree = Tree::new().file("./usr/bin/qemu-arm-static", &content).done();
    fs::write(lab.path("some.deb"), deb(".gz", &tree)).unwrap();
    writes(lab, &["fetch", "--from", "some.deb", "--dest", "dest", "arm"], "qemu-arm-static", SAMPLE);
}

kernel_test!(faults_in_bundle, with_strace);
fn faults_in_bundle(lab: &Lab) {
    crate::lab::needs_static_qus();
    if cfg!(target_arch = "x86_64") {
        fs::create_dir(lab.path("one")).unwrap();
        lab.executable("one/qemu-arm-static", &version_printer());
    } else {
        lab.link("one/qemu-arm-static", &interpreter("arm"));
    }
    // The sample is smaller, because each case copies the executable, which is large in a debug build.
    writes(lab, &["bundle", "--interpreter-dir", "one", "-o", "dest/qus-arm", "arm"], "qus-arm", SAMPLE / 4);
}

/// Returns a program of x86_64 that prints a version as QEMU does, and is small, so that it is compressed quickly.
pub(crate) fn version_printer() -> Vec<u8> {
    let printed = b"qemu-arm version 9.9.9\n";
    // write(1, printed, 23); exit(0). The address of the text is relative to the end of its instruction.
    let code = b"\xb8\x01\0\0\0\xbf\x01\0\0\0\x48\x8d\x35\x10\0\0\0\xba\x17\0\0\0\x0f\x05\xb8\x3c\0\0\0\x31\xff\x0f\x05";
    let base = 0x0040_0000_u64;
    let length = (64 + 56 + code.len() + printed.len()) as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend([base + 120, 64, 0].map(u64::to_le_bytes).concat());
    // No flags; sizes of the header and of the one program header; no sections.
    file.extend([0, 0, 64, 56, 1, 0, 0, 0_u16].map(u16::to_le_bytes).concat());
    // PT_LOAD, readable and executable.
    file.extend([1, 5_u32].map(u32::to_le_bytes).concat());
    file.extend([0, base, base, length, length, 0x1000].map(u64::to_le_bytes).concat());
    [file.as_slice(), code, printed].concat()
}

kernel_test!(faults_in_run, with_strace);
fn faults_in_run(lab: &Lab) {
    with_foreign(lab);
    let before = lab.entries();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    lab.link("bin/busybox", &downloads::busybox("arm"));
    let words = ["run", "--", "bin/busybox", "true"];
    Scene {
        lab,
        words: &words,
        sample: SAMPLE,
        prepare: &|| {},
        after: &|ran, _| {
            assert_eq!(lab.entries(), before, "{ran:#?}");
            assert_eq!(fs::read_to_string("/proc/self/mounts").unwrap(), mounts, "{ran:#?}");
        },
        done: &|| assert_eq!(lab.entries(), before),
    }
    .play();
}
