//! Tests state that qus inherits from its parent process. It does not change the behaviour of qus, and `qus run` passes
//! it on.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::downloads;
use crate::lab::{Lab, run};

/// Command lines that start a program with unusual inherited state.
const WRAPPERS: &[&[&str]] = &[
    &["env", "--ignore-signal=CHLD"],
    &["env", "--ignore-signal"],
    &["env", "--block-signal"],
    &["env", "--ignore-signal", "--block-signal"],
    &["sh", "-c", "exec \"$@\" <&-", "sh"],
    &["sh", "-c", "umask 0777; exec \"$@\"", "sh"],
    &["sh", "-c", "trap '' CHLD PIPE HUP INT QUIT; umask 0077; exec \"$@\" <&-", "sh"],
];

/// Expects that each command prints and changes the same with every wrapper as without one.
fn same_with_every_wrapper(lab: &Lab, commands: &[&[&str]]) {
    for words in commands {
        let mut seen = Vec::new();
        for wrapper in [&[][..]].iter().chain(WRAPPERS) {
            let _none_yet = fs::remove_dir_all(lab.path("dest"));
            let ran = run(&mut lab.program(wrapper, words.iter().copied()));
            seen.push((ran, lab.entries()));
            // The next run has to register again.
            if words.contains(&"register") {
                lab.done(["reset"]);
            }
        }
        for (wrapper, with) in WRAPPERS.iter().zip(&seen[1..]) {
            assert_eq!(with, &seen[0], "{wrapper:?} {words:?}");
        }
    }
}

kernel_test!(commands_work_with_inherited_state);
fn commands_work_with_inherited_state(lab: &Lab) {
    let program = lab.copy("busybox", &downloads::busybox("s390x"));
    let program = program.to_str().unwrap();
    same_with_every_wrapper(lab, &[&["register", "arm", "s390x"]]);
    lab.done(["register", "arm", "s390x"]);
    let from = downloads::distribution();
    let from = from.to_str().unwrap();
    same_with_every_wrapper(
        lab,
        &[
            &["verify"],
            &["list", "--probe"],
            &["which", program],
            &["run", "--", program, "uname", "-m"],
            &["run", "--direct", "--", program, "uname", "-m"],
            &["fetch", "--from", from, "--dest", "dest", "arm"],
        ],
    );
    lab.done(["verify"]);
}

kernel_test!(commands_of_a_user_work_with_inherited_state, ordinary_user);
/// Tests commands of a user without root's rights over files, so that the umask has its full effect.
fn commands_of_a_user_work_with_inherited_state(lab: &Lab) {
    let program = lab.copy("busybox", &downloads::busybox("s390x"));
    let program = program.to_str().unwrap();
    let from = downloads::distribution();
    let from = from.to_str().unwrap();
    same_with_every_wrapper(
        lab,
        &[
            &["which", program],
            &["run", "--", program, "uname", "-m"],
            &["fetch", "--from", from, "--dest", "dest", "arm"],
        ],
    );
}

/// Expects that a program finds the same state whether `wrapper` starts it directly or through `qus run`.
fn same_through_run(lab: &Lab, wrapper: &[&str], program: &[&str]) {
    let through = lab.program(wrapper, ["run", "--"].iter().chain(program).copied()).output().unwrap();
    let mut words = wrapper.iter().chain(program);
    let mut directly = std::process::Command::new(words.next().unwrap());
    directly.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(lab.path(""));
    assert_eq!(through, directly.output().unwrap(), "{wrapper:?} {program:?}");
    assert!(through.status.success(), "{through:?}");
}

kernel_test!(run_passes_inherited_signals_on);
fn run_passes_inherited_signals_on(lab: &Lab) {
    let program = ["grep", "-E", "^Sig(Blk|Ign|Cgt):", "/proc/self/status"];
    let signals = ["CHLD", "PIPE", "HUP", "INT", "QUIT", "TERM", "USR1", "SEGV"];
    for signal in signals {
        for option in ["--ignore-signal", "--default-signal", "--block-signal"] {
            same_through_run(lab, &["env", &format!("{option}={signal}")], &program);
        }
    }
    same_through_run(lab, &["env", "--ignore-signal=CHLD,PIPE,HUP", "--block-signal=CHLD,USR1"], &program);
    for wrapper in WRAPPERS {
        same_through_run(lab, wrapper, &program);
    }
    // The comparison detects a difference.
    let seen = |option: &str| {
        let ran = run(lab.program(&["env", option], ["run", "--"]).args(program));
        ran.stdout
    };
    let options =
        ["--ignore-signal=CHLD", "--ignore-signal=PIPE", "--block-signal=CHLD", "--list-signal-handling"];
    let all: BTreeSet<String> = options.into_iter().map(seen).collect();
    assert_eq!(all.len(), options.len(), "{all:?}");
}

kernel_test!(run_passes_inherited_descriptors_and_umask_on);
fn run_passes_inherited_descriptors_and_umask_on(lab: &Lab) {
    // Lists which of the first ten descriptors are open. The shell's own descriptors are higher.
    let script =
        "umask; for n in 0 1 2 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$n && echo $n; done >>found; true";
    for closed in ["", "<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        for umask in ["0022", "0777"] {
            fs::write(lab.path("found"), "").unwrap();
            let start = format!("umask {umask}; exec \"$@\" {closed}");
            same_through_run(lab, &["sh", "-c", &start, "sh"], &["sh", "-c", script]);
            let found = fs::read_to_string(lab.path("found")).unwrap();
            let lines: Vec<&str> = found.lines().collect();
            let (one, other) = lines.split_at(lines.len() / 2);
            assert_eq!(one, other, "{closed}");
        }
    }
}

kernel_test!(hold_ignores_inherited_ignored_signals);
fn hold_ignores_inherited_ignored_signals(lab: &Lab) {
    let mut command = lab.program(&["env", "--ignore-signal=INT,HUP"], ["register", "--hold", "arm"]);
    let mut holder = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // qus prints the registered handlers just before it waits.
    let mut first = [0];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut first).unwrap();
    let process = Pid::from_raw(holder.id().try_into().unwrap());
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        kill(process, signal).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(holder.try_wait().unwrap(), None, "{signal}");
    }
    assert!(lab.entries().contains_key("qemu-arm"));
    kill(process, Signal::SIGTERM).unwrap();
    assert!(holder.wait().unwrap().success());
    assert!(lab.entries().is_empty());
}
