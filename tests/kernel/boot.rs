//! The real programs restore handlers from the files of `qus register --persist` and `qus export`: systemd-binfmt,
//! OpenRC, binfmt-support and `qus apply`. Each test removes all handlers of its instance, runs such a program as at
//! boot, and expects the previous handlers. The programs come from Debian's packages (see `tools`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::downloads::interpreter;
use crate::lab::{Lab, Ran, busybox, order, run};
use crate::namespace::INSTANCE;
use crate::{persist, tools};

/// Architectures of these tests. They have four handlers, because microblaze has two.
const ARCHES: [&str; 3] = ["arm64", "arm", "microblaze"];
pub(crate) const SYSTEMD_BINFMT: &str = "/usr/lib/systemd/systemd-binfmt";
/// Service that `--persist` writes for OpenRC.
const SERVICE: &str = "/etc/init.d/qus";

/// The text of every entry, by name.
type State = BTreeMap<String, String>;

/// Prepares a machine with the programs, and with interpreters in `q`.
fn host(lab: &Lab) {
    tools::install();
    persist::host(lab);
    for arch in ["aarch64", "microblaze"] {
        lab.copy(&format!("q/qemu-{arch}-static"), &interpreter(arch));
    }
}

/// Imitates a machine that OpenRC has booted into the runlevel `boot`.
fn boot_openrc() {
    let _ = fs::remove_dir_all("/run/systemd");
    for name in [
        "daemons",
        "exclusive",
        "failed",
        "hotplugged",
        "inactive",
        "options",
        "scheduled",
        "started",
        "starting",
        "stopping",
        "tmp",
        "wasinactive",
    ] {
        fs::create_dir_all(Path::new("/run/openrc").join(name)).unwrap();
    }
    fs::write("/run/openrc/softlevel", "boot\n").unwrap();
    fs::create_dir_all("/etc/init.d").unwrap();
}

/// Imitates a machine without a running init system. Only binfmt-support remains.
fn boot_binfmt_support() {
    let _ = (fs::remove_dir_all("/run/systemd"), fs::remove_dir_all("/run/openrc"));
    let _ = fs::remove_dir_all("/etc/runlevels");
    fs::create_dir_all("/var/lib/binfmts").unwrap();
}

/// Runs a program of the packages or of the machine, and expects success.
#[track_caller]
fn done(words: &[&str]) -> Ran {
    let ran = run(tools::command(words[0]).args(&words[1..]));
    assert_eq!(ran.status, 0, "{words:?} {ran:#?}");
    ran
}

/// Registers [`ARCHES`] with `--persist`. Expects a summary that names the program that restores them.
#[track_caller]
fn register(lab: &Lab, restored_by: &str) -> State {
    let options = ["register", "--persist", "--interpreter-dir", "q"];
    let ran = lab.qus(options.into_iter().chain(ARCHES));
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stderr.contains(&format!("; {restored_by}")), "{ran:#?}");
    assert_eq!(rows(lab, "missing") + rows(lab, "differs"), 0);
    let state = lab.entries();
    assert_eq!(state.values().filter(|text| text.starts_with("enabled\n")).count(), 4, "{state:#?}");
    state
}

/// Returns the number of rows of `qus list` that have this state.
fn rows(lab: &Lab, state: &str) -> usize {
    let ran = lab.qus(["list"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    ran.stdout.lines().filter(|line| line.split_whitespace().any(|word| word == state)).count()
}

/// Removes all handlers, as a reboot does.
#[track_caller]
fn reboot(lab: &Lab) {
    lab.command("status", "-1");
    assert_eq!(order(), [""; 0]);
    assert_eq!(rows(lab, "missing"), 4);
}

#[track_caller]
fn restored(lab: &Lab, state: &State) {
    assert_eq!(lab.entries(), *state);
    assert_eq!(busybox("aarch64", "uname -m").unwrap().stdout, "aarch64\n");
}

/// Registers a handler of another tool.
fn add_foreign(lab: &Lab) {
    lab.register(b":foreign:E::foreign::/bin/true:").unwrap();
}

/// Returns the handlers that binfmt-support registers for `state`. It does not support the flag `O`.
fn without_open_binary(state: &State) -> State {
    state.iter().map(|(name, text)| (name.clone(), text.replace("flags: POF\n", "flags: PF\n"))).collect()
}

kernel_test!(systemd_binfmt_restores_what_was_persisted);
fn systemd_binfmt_restores_what_was_persisted(lab: &Lab) {
    host(lab);
    let state = register(lab, "systemd registers them again whenever it starts");
    reboot(lab);
    done(&[SYSTEMD_BINFMT]);
    restored(lab, &state);
    // A restart removes every handler. The handlers of qus are registered again.
    add_foreign(lab);
    done(&[SYSTEMD_BINFMT]);
    restored(lab, &state);
    let shown = done(&[SYSTEMD_BINFMT, "--cat-config"]).stdout;
    assert!(shown.contains("\n# Written by qus for aarch64. "), "{shown}");
}

kernel_test!(apply_restores_what_was_persisted);
fn apply_restores_what_was_persisted(lab: &Lab) {
    host(lab);
    let state = register(lab, "systemd registers them again whenever it starts");
    reboot(lab);
    let first = lab.done_with(["apply"], "qus: 4 handlers are new; run `qus verify` to test them\n");
    restored(lab, &state);
    let second = lab.done(["apply"]);
    let outcomes =
        |printed: &str, outcome: &str| printed.lines().filter(|line| line.contains(outcome)).count();
    assert_eq!(
        (outcomes(&first, "  registered  "), outcomes(&second, "  unchanged  ")),
        (4, 4),
        "{first}{second}"
    );
    add_foreign(lab);
    lab.done(["apply"]);
    let mut with_foreign = lab.entries();
    assert!(with_foreign.remove("foreign").is_some(), "{with_foreign:#?}");
    assert_eq!(with_foreign, state);
}

kernel_test!(openrc_restores_what_was_persisted);
fn openrc_restores_what_was_persisted(lab: &Lab) {
    host(lab);
    boot_openrc();
    let state = register(lab, "the service qus in OpenRC's runlevel boot");
    let shown = done(&["rc-update", "show", "boot"]).stdout;
    let shown: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(shown, ["qus", "|", "boot"]);
    reboot(lab);
    done(&[SERVICE, "start"]);
    restored(lab, &state);
    add_foreign(lab);
    done(&[SERVICE, "stop"]);
    assert_eq!(order(), ["foreign"]);
    lab.command("foreign", "-1");
    done(&[SERVICE, "start"]);
    restored(lab, &state);
}

kernel_test!(binfmt_support_restores_what_was_persisted);
/// Tests a machine that changes its init system. The files for the old init system are removed.
fn binfmt_support_restores_what_was_persisted(lab: &Lab) {
    host(lab);
    boot_openrc();
    let state = register(lab, "the service qus in OpenRC's runlevel boot");
    assert!(Path::new(SERVICE).exists());
    boot_binfmt_support();
    let again = register(lab, "binfmt-support registers them again, without the flag O");
    assert_eq!(again, state);
    assert!(!Path::new(SERVICE).exists());
    reboot(lab);
    done(&["update-binfmts", "--enable"]);
    restored(lab, &without_open_binary(&state));
    assert_eq!(rows(lab, "differs"), 4);
    assert_eq!(lab.qus(["apply"]).status, 0);
    restored(lab, &state);
}

kernel_test!(every_init_system_restores_a_rule);
/// Tests a handler that is not of an emulator. The files for the former init system are removed.
fn every_init_system_restores_a_rule(lab: &Lab) {
    host(lab);
    fs::create_dir_all("/usr/local/lib/qus").unwrap();
    let launcher = "/usr/local/lib/qus/launch";
    fs::copy(lab.path("q/qemu-arm-static"), launcher).unwrap();
    let rules =
        [format!(":launch:E::xyz::{launcher}:F"), format!(":magic:M:4:\\xff\\x00:\\xff\\x0f:{launcher}:PF")];
    let register = || {
        for rule in &rules {
            lab.done_with(["register", "--persist", "--rule", rule], "");
        }
        let entries = lab.entries();
        assert_eq!(entries.len(), 2, "{entries:#?}");
        lab.clear();
        entries
    };
    let state = register();
    done(&[SYSTEMD_BINFMT]);
    assert_eq!(lab.entries(), state);
    lab.clear();
    boot_openrc();
    assert_eq!(register(), state);
    done(&[SERVICE, "start"]);
    assert_eq!(lab.entries(), state);
    done(&[SERVICE, "stop"]);
    assert!(lab.entries().is_empty());
    boot_binfmt_support();
    assert_eq!(register(), state);
    done(&["update-binfmts", "--enable"]);
    assert_eq!(lab.entries(), state);
    lab.done_with(["reset", "--persist", "launch", "magic"], "");
    let find = ["find", "/etc/binfmt.d", "/etc/init.d", "/var/lib/binfmts", "-type", "f"];
    assert_eq!(run(tools::command(find[0]).args(&find[1..])).stdout, "");
}

kernel_test!(reset_persist_leaves_nothing_to_restore);
fn reset_persist_leaves_nothing_to_restore(lab: &Lab) {
    host(lab);
    let state = register(lab, "systemd registers them again whenever it starts");
    boot_openrc();
    assert_eq!(register(lab, "the service qus in OpenRC's runlevel boot"), state);
    boot_binfmt_support();
    assert_eq!(register(lab, "binfmt-support registers them again, without the flag O"), state);
    let ran = lab.qus(["reset", "--persist"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(order(), [""; 0]);
    let find = ["find", "/etc/binfmt.d", "/etc/init.d", "/usr/local/lib", "/var/lib/binfmts", "-type", "f"];
    assert_eq!(run(tools::command(find[0]).args(&find[1..])).stdout, "");
    done(&["update-binfmts", "--enable"]);
    done(&[SYSTEMD_BINFMT]);
    assert_eq!(order(), [""; 0]);
}

/// Copies the interpreters to a permanent directory, and exports [`ARCHES`]. Returns the handlers that `qus register`
/// registers for the same interpreters, and the output of `qus export`.
fn export(lab: &Lab, words: &[&str]) -> (State, String) {
    host(lab);
    let fetch = ["fetch", "--quiet", "--from", "q", "--dest", "/usr/local/lib/qus"];
    lab.done(fetch.into_iter().chain(ARCHES));
    let qus = |words: &[&str]| {
        let mut command = lab.program(&[], words.iter().copied());
        let ran = run(command.args(ARCHES).env_remove("QUS_INTERPRETER_DIR"));
        assert_eq!(ran.status, 0, "{ran:#?}");
        ran.stdout
    };
    qus(&["register"]);
    let state = lab.entries();
    assert_eq!(state.len(), 4, "{state:#?}");
    let printed = qus(&[&["export"], words].concat());
    lab.clear();
    (state, printed)
}

kernel_test!(systemd_binfmt_takes_what_was_exported);
fn systemd_binfmt_takes_what_was_exported(lab: &Lab) {
    let (state, printed) = export(lab, &["--format", "systemd", "-o", "/run/exported"]);
    let files: Vec<&str> = printed.lines().collect();
    let names = ["aarch64", "arm", "microblaze"].map(|arch| format!("/run/exported/qus-{arch}.conf"));
    assert_eq!(files, names);
    done(&[&[SYSTEMD_BINFMT], &files[..]].concat());
    restored(lab, &state);
}

kernel_test!(binfmt_support_takes_what_was_exported);
fn binfmt_support_takes_what_was_exported(lab: &Lab) {
    let (state, printed) = export(lab, &["--format", "binfmt-support", "-o", "/run/exported"]);
    let files: Vec<&str> = printed.lines().collect();
    let names =
        ["aarch64", "arm", "microblaze", "microblaze-old"].map(|name| format!("/run/exported/qemu-{name}"));
    assert_eq!(files, names);
    boot_binfmt_support();
    // Each file contains the command that removes it.
    let mut commands = Vec::new();
    for file in files {
        done(&["update-binfmts", "--import", file]);
        let text = fs::read_to_string(file).unwrap();
        let command = |line: &str| Some(line.strip_prefix("# To remove it: ")?.to_owned());
        commands.extend(text.lines().filter_map(command));
    }
    restored(lab, &without_open_binary(&state));
    let shown = done(&["update-binfmts", "--display"]).stdout;
    assert_eq!(shown.lines().filter(|line| line.ends_with(" (enabled):")).count(), 4, "{shown}");
    assert_eq!(commands.len(), 4);
    for command in commands {
        done(&["sh", "-ec", &command]);
    }
    assert_eq!(order(), [""; 0]);
}

kernel_test!(openrc_takes_what_was_exported);
fn openrc_takes_what_was_exported(lab: &Lab) {
    let (state, printed) = export(lab, &["--format", "openrc", "-o", "/etc/init.d"]);
    assert_eq!(printed, format!("{SERVICE}\n"));
    boot_openrc();
    done(&[SERVICE, "start"]);
    restored(lab, &state);
    done(&[SERVICE, "stop"]);
    assert_eq!(order(), [""; 0]);
}

kernel_test!(a_shell_takes_what_was_exported);
fn a_shell_takes_what_was_exported(lab: &Lab) {
    let (state, printed) = export(lab, &["--format", "register"]);
    assert_eq!(printed.lines().count(), 4, "{printed}");
    let script = format!(
        "printf '%s' \"$1\" | while read -r line; do printf '%s' \"$line\" >{INSTANCE}/register; done"
    );
    done(&["sh", "-ec", &script, "sh", &printed]);
    restored(lab, &state);
}
