//! Tests Ctrl-C and other signals while an emulator hangs. qus ends at once, with the signal, after it has restored the
//! handlers; neither an emulator nor a helper process runs on.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::downloads::interpreter;
use crate::lab::{Lab, OURS};
use crate::programs;

/// Time within which an interrupted qus must end. It is far below the time limit of an emulator, which is 20 seconds.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Writes an emulator that never ends. Skips the test on a host for which there is none.
fn hanging(lab: &Lab, name: &str) -> PathBuf {
    let Some(program) = programs::hanging() else { crate::skip::skip("no endless program for this host") };
    let path = lab.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    lab.executable(name, &program)
}

/// Returns the number of processes that execute the file at `path`.
fn running(path: &Path) -> usize {
    let file = fs::metadata(path).unwrap();
    let programs = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("exe"));
    let same = |program: &PathBuf| {
        fs::metadata(program)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (file.dev(), file.ino()))
    };
    programs.filter(same).count()
}

/// Waits until `condition` holds.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a command, and sends `signal` to it when it executes `emulator`. With `to_group` its helper processes get the
/// signal too, as a terminal sends it. Expects that the signal ends everything at once, and that the handlers stay.
fn interrupt(lab: &Lab, words: &[&str], emulator: &Path, signal: Signal, to_group: bool) {
    use std::os::unix::process::CommandExt as _;

    let description = format!("{words:?}, {signal}, to the group: {to_group}");
    let before = lab.entries();
    let mut command: Command = lab.program(&[], words.iter().copied());
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_until(&format!("no emulator was started: {description}"), || running(emulator) > 0);
    let sent = Instant::now();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    if to_group { killpg(pid, signal) } else { kill(pid, signal) }.unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(signal as i32), "{description}: {status}");
    assert_eq!(lab.entries(), before, "{description}");
    wait_until(&format!("an emulator runs on: {description}"), || running(emulator) == 0);
    assert!(sent.elapsed() < AT_ONCE, "{description}: {:?}", sent.elapsed());
}

kernel_test!(an_interrupted_registration_is_rolled_back);
fn an_interrupted_registration_is_rolled_back(lab: &Lab) {
    let emulator = hanging(lab, "none/qemu-arm-static");
    lab.handler("qemu-arm", "arm", &interpreter("arm"), OURS);
    let commands: [&[&str]; 2] = [
        &["register", "--replace", "--interpreter-dir", "none", "arm"],
        &["register", "--interpreter", "none/qemu-arm-static", "wasm32-wasi"],
    ];
    for words in commands {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            for to_group in [false, true] {
                interrupt(lab, words, &emulator, signal, to_group);
            }
        }
    }
}

kernel_test!(an_interrupted_question_leaves_no_process);
fn an_interrupted_question_leaves_no_process(lab: &Lab) {
    let emulator = hanging(lab, "none/qemu-arm-static");
    lab.handler("qemu-arm", "arm", &emulator, OURS);
    fs::write(lab.path("program"), programs::probe(programs::arch("arm"))).unwrap();
    lab.shell("chmod +x program");
    for words in [&["verify", "arm"][..], &["list", "--probe"], &["doctor"], &["which", "./program"]] {
        for (signal, to_group) in [(Signal::SIGINT, true), (Signal::SIGTERM, false), (Signal::SIGKILL, false)]
        {
            interrupt(lab, words, &emulator, signal, to_group);
        }
    }
}

kernel_test!(a_held_registration_that_is_interrupted_says_so);
fn a_held_registration_that_is_interrupted_says_so(lab: &Lab) {
    let emulator = hanging(lab, "none/qemu-arm-static");
    let before = lab.entries();
    let words = ["register", "--hold", "--interpreter-dir", "none", "arm"];
    let mut command = lab.program(&[], words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("no emulator was started", || running(&emulator) > 0);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("interrupted by a signal"), "{message}");
    assert_eq!(lab.entries(), before);
}
