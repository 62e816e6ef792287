//! Command lines of the tools that qus replaces: their output, and the intended differences.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use qus::arch::Arch;
use qus::binfmt::{Flags, Rule};
use serde_json::Value;

use crate::downloads::{self, interpreter};
use crate::lab::{Lab, QUS, Ran, busybox, order, run, start};
use crate::namespace::INSTANCE;

/// Returns a command that runs qus under another name, as in an image, with the distribution's interpreters.
fn tool(lab: &Lab, name: &str) -> Command {
    let path = lab.path(name);
    if !path.exists() {
        lab.link(name, Path::new(QUS));
    }
    let mut command = Command::new(path);
    command.env_clear().env("PATH", crate::lab::path()).current_dir(lab.path(""));
    command.env("QUS_INTERPRETER_DIR", downloads::distribution());
    command
}

fn call(lab: &Lab, name: &str, words: &[&str]) -> Ran {
    run(tool(lab, name).args(words))
}

/// Registers a handler that is not QEMU's.
fn python(lab: &Lab) {
    lab.register(b":python3.11:M::\\xa7\\x0d\\x0d\\x0a::/usr/bin/python3.11:").unwrap();
}

fn state(ran: &Ran) -> (Vec<String>, Vec<String>) {
    let value: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:#?}"));
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["emulators", "supported"], "{ran:#?}");
    // Go indents JSON like this.
    assert!(ran.stdout.starts_with("{\n  \"supported\": [\n    \"linux/"), "{ran:#?}");
    let list = |key: &str| {
        let words = value[key].as_array().unwrap().iter();
        words.map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    (list("supported"), list("emulators"))
}

fn last_line(ran: &Ran) -> &str {
    ran.stderr.lines().last().unwrap_or_default()
}

/// Returns the flags of a handler, as the kernel prints them.
fn flags(lab: &Lab, name: &str) -> String {
    let text = lab.entries().remove(name).unwrap_or_else(|| panic!("no {name}"));
    text.lines().find_map(|line| line.strip_prefix("flags: ")).unwrap().to_owned()
}

kernel_test!(binfmt_installs_and_prints_the_state);
fn binfmt_installs_and_prints_the_state(lab: &Lab) {
    python(lab);
    let (native, emulators) = state(&call(lab, "binfmt", &[]));
    assert!(emulators.is_empty() && !native.is_empty(), "{native:?} {emulators:?}");
    let own = Arch::named(std::env::consts::ARCH).unwrap().names.platforms[0];
    assert_eq!(native[0], own);
    let ran = call(lab, "binfmt", &["--install", "arm64,linux/arm/v7,s390x"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    for name in ["arm64", "arm", "s390x"] {
        assert!(ran.stderr.contains(&format!("installing: {name} OK\n")), "{ran:#?}");
    }
    let (supported, emulators) = state(&ran);
    assert_eq!(emulators, ["qemu-aarch64", "qemu-arm", "qemu-s390x"]);
    let new: Vec<&String> = supported.iter().filter(|platform| !native.contains(platform)).collect();
    assert_eq!(new, ["linux/arm64", "linux/s390x", "linux/arm/v7", "linux/arm/v6"], "{supported:?}");
    assert_eq!(busybox("s390x", "uname -m").unwrap().stdout, "s390x\n");
    // The emulator does not get setuid rights: there is no flag C.
    assert_eq!(flags(lab, "qemu-aarch64"), "POF");

    let before = (lab.entries(), order());
    let ran = call(lab, "binfmt", &["-install=arm64"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stderr.contains("installing: arm64 qemu-aarch64 already registered\n"), "{ran:#?}");
    assert_eq!((lab.entries(), order()), before);
    // A disabled handler does not work, and is not listed.
    lab.command("qemu-arm", "0");
    let (supported, emulators) = state(&call(lab, "binfmt", &[]));
    assert_eq!(emulators, ["qemu-aarch64", "qemu-s390x"]);
    assert!(!supported.contains(&"linux/arm/v7".to_owned()), "{supported:?}");
    let ran = call(lab, "binfmt", &["--version"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{ran:#?}");
    assert!(ran.stderr.starts_with("binfmt/qus-") && ran.stderr.contains(" qemu/v"), "{ran:#?}");
    // Commands of qus work as well, because this tool has no positional arguments.
    assert!(call(lab, "binfmt", &["show", "arm"]).stdout.starts_with("arm"));
}

kernel_test!(binfmt_is_honest_about_failures);
fn binfmt_is_honest_about_failures(lab: &Lab) {
    let ran = call(lab, "binfmt", &["--install", "arm64,amr"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert_eq!(last_line(&ran), "error: installing: amr unsupported architecture: amr; did you mean arm?");
    assert!(ran.stderr.contains("installing: arm64 OK\n"), "{ran:#?}");
    assert_eq!(state(&ran).1, ["qemu-aarch64"]);

    let before = (lab.entries(), order());
    fs::create_dir(lab.path("empty")).unwrap();
    let mut command = tool(lab, "binfmt");
    command.env("QEMU_BINARY_PATH", lab.path("empty")).args(["--install", "s390x"]);
    let ran = run(&mut command);
    assert_eq!(ran.status, 2, "{ran:#?}");
    let reason = format!("no interpreter is in {}", lab.path("empty").display());
    assert!(last_line(&ran).starts_with("error: ") && last_line(&ran).contains(&reason), "{ran:#?}");
    // Callers parse the JSON after a failure too.
    assert_eq!(state(&ran).1, ["qemu-aarch64"]);
    let ran = run(tool(lab, "binfmt").env("QEMU_BINARY_PREFIX", "my-").args(["--install", "s390x"]));
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(last_line(&ran).starts_with("error: QEMU_BINARY_PREFIX is not supported"), "{ran:#?}");
    assert_eq!(state(&ran).1, ["qemu-aarch64"]);
    assert_eq!((lab.entries(), order()), before);

    let own = lab.copy("own/qemu-s390x-static", &interpreter("s390x"));
    let mut command = tool(lab, "binfmt");
    command.env("QEMU_BINARY_PATH", lab.path("own")).env("QEMU_PRESERVE_ARGV0", "1");
    let ran = run(command.args(["--install", "s390x"]));
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(lab.entries()["qemu-s390x"].contains(&format!("interpreter {}\n", own.display())));
    assert_eq!(flags(lab, "qemu-s390x"), "POF");
    // The variable names another interpreter than the registered one: qus reports that, and does not accept the
    // registered one.
    let ran = run(tool(lab, "binfmt")
        .env("QEMU_BINARY_PATH", downloads::distribution())
        .args(["--install", "s390x"]));
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(last_line(&ran).contains("qemu-s390x"), "{ran:#?}");
    assert!(lab.entries()["qemu-s390x"].contains(&format!("interpreter {}\n", own.display())));
}

kernel_test!(binfmt_reads_patterns_as_go_does);
/// Tests character classes, an invalid pattern, and a pattern for which a naive matcher needs exponential time.
fn binfmt_reads_patterns_as_go_does(lab: &Lab) {
    let long = "a".repeat(60);
    lab.register(format!(":{long}:E::theirs::/theirs:").as_bytes()).unwrap();
    lab.done(["register", "arm", "aarch64", "s390x"]);
    let ran = call(lab, "binfmt", &["--uninstall", "qemu-[s-z]*"]);
    assert!(ran.status == 0 && ran.stderr.contains("uninstalling: qemu-s390x OK\n"), "{ran:#?}");
    assert_eq!(lab.entries().len(), 3);
    let before = lab.entries();
    for pattern in ["qemu-[", "qemu-[]", "qemu-arm\\"] {
        let ran = call(lab, "binfmt", &["--uninstall", &format!("qemu-aarch64,{pattern}")]);
        assert_eq!(ran.status, 2, "{ran:#?}");
        assert!(ran.stderr.contains(&format!("{pattern}: syntax error in pattern")), "{ran:#?}");
        assert_eq!(lab.entries(), before);
    }
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "30"]).arg(lab.path("binfmt")).args(["--uninstall", "*a*a*a*a*a*a*b"]);
    let ran = run(command.env_clear().env("PATH", "/usr/bin:/bin"));
    assert!(ran.status == 0 && ran.stderr.contains("uninstalling: *a*a*a*a*a*a*b not found\n"), "{ran:#?}");
    assert_eq!(lab.entries(), before);
}

kernel_test!(binfmt_uninstalls_emulators_alone);
fn binfmt_uninstalls_emulators_alone(lab: &Lab) {
    python(lab);
    lab.done(["register", "arm", "aarch64", "riscv64", "s390x", "microblaze"]);
    let ran = call(lab, "binfmt", &["--uninstall", "arm64,qemu-arm"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    for name in ["qemu-aarch64", "qemu-arm"] {
        assert!(ran.stderr.contains(&format!("uninstalling: {name} OK\n")), "{ran:#?}");
    }
    assert!(state(&ran).1.contains(&"qemu-riscv64".to_owned()));
    let before = (lab.entries(), order());
    // The handler does not exist, which is the requested state.
    let ran = call(lab, "binfmt", &["--uninstall", "arm64"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stderr.contains("uninstalling: arm64 not found\n"), "{ran:#?}");
    for (word, line) in [
        ("python3.11", "error: uninstalling: python3.11 is not a QEMU emulator: left in place"),
        ("qemu-nonsense", "error: uninstalling: qemu-nonsense not found"),
    ] {
        let ran = call(lab, "binfmt", &["--uninstall", word]);
        assert_eq!((ran.status, last_line(&ran)), (2, line), "{ran:#?}");
    }
    assert_eq!((lab.entries(), order()), before);
    let ran = call(lab, "binfmt", &["--uninstall", "qemu-r*"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(order(), ["qemu-microblaze-old", "qemu-microblaze", "qemu-s390x", "python3.11"]);
    // The original tool removes this handler, too; qus does not.
    let ran = call(lab, "binfmt", &["--uninstall", "*"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(
        ran.stderr.contains("uninstalling: python3.11 is not a QEMU emulator: left in place\n"),
        "{ran:#?}"
    );
    assert_eq!(order(), ["python3.11"]);
    let ran = call(lab, "binfmt", &["--uninstall", "qemu-*"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stderr.contains("uninstalling: qemu-* not found\n"), "{ran:#?}");
    assert!(state(&ran).1.is_empty());
}

kernel_test!(binfmt_takes_its_mount_point);
fn binfmt_takes_its_mount_point(lab: &Lab) {
    let directory = lab.path("instance");
    fs::create_dir(&directory).unwrap();
    let words = ["--mount", directory.to_str().unwrap(), "--install", "arm64"];
    lab.shell("mount -t binfmt_misc none instance");
    let ran = call(lab, "binfmt", &words);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(state(&ran).1, ["qemu-aarch64"]);
    assert_eq!(order(), ["qemu-aarch64"]);
    lab.shell("umount instance");
    let ran = call(lab, "binfmt", &words[..2]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{ran:#?}");
    let line = format!("error: {} is not a binfmt_misc file system; try: ", directory.display());
    assert!(last_line(&ran).starts_with(&line), "{ran:#?}");
}

kernel_test!(binfmt_needs_no_handler_for_what_the_host_runs);
fn binfmt_needs_no_handler_for_what_the_host_runs(lab: &Lab) {
    let own = Arch::named(std::env::consts::ARCH).unwrap().names.platforms[0];
    let ran = call(lab, "binfmt", &["--install", own]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    let name = own.strip_prefix("linux/").unwrap();
    assert!(ran.stderr.contains(&format!("installing: {name} this host runs it natively\n")), "{ran:#?}");
    assert!(order().is_empty());
}

kernel_test!(binfmt_does_not_hide_that_nothing_lasts, unmounted);
fn binfmt_does_not_hide_that_nothing_lasts(lab: &Lab) {
    lab.link("binfmt", Path::new(QUS));
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "unchanged", "./binfmt", "--install", "arm64"]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(lab.path(""));
    let ran = run(command.env("QUS_INTERPRETER_DIR", downloads::distribution()));
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains("the handlers end with this command"), "{ran:#?}");
    assert_eq!(last_line(&ran), "error: the handlers do not last, as reported above");
}

kernel_test!(binfmt_does_not_mount_in_order_to_look, unmounted);
fn binfmt_does_not_mount_in_order_to_look(lab: &Lab) {
    let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
    let before = mounts();
    let ran = call(lab, "binfmt", &["--uninstall", "qemu-*"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    let line = "cannot remove handlers: binfmt_misc is not mounted on /proc/sys/fs/binfmt_misc";
    assert!(last_line(&ran).starts_with("error: ") && ran.stderr.contains(line), "{ran:#?}");
    let after_failure = state(&ran);
    let ran = call(lab, "binfmt", &[]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    let (supported, emulators) = state(&ran);
    assert_eq!((&supported, &emulators), (&after_failure.0, &after_failure.1));
    assert_eq!(supported[0], Arch::named(std::env::consts::ARCH).unwrap().names.platforms[0]);
    assert!(emulators.is_empty(), "{ran:#?}");
    let line = "qus: binfmt_misc is not mounted on /proc/sys/fs/binfmt_misc: emulators cannot be listed";
    assert!(ran.stderr.contains(line), "{ran:#?}");
    assert_eq!(mounts(), before);
    // The list has the same order when it is determined in the other way.
    lab.shell("mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc");
    assert_eq!(state(&call(lab, "binfmt", &[])).0, supported);
}

kernel_test!(binfmt_prints_a_command_for_users_who_may_not_register, ordinary_user);
fn binfmt_prints_a_command_for_users_who_may_not_register(lab: &Lab) {
    let ran = call(lab, "binfmt", &["--install", "arm64"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    let binfmt = lab.path("binfmt");
    let command = format!(
        "try: sudo {} --install arm64; hint: without root: qus run --fetch PROGRAM",
        binfmt.display()
    );
    assert!(last_line(&ran).starts_with("error: ") && last_line(&ran).ends_with(&command), "{ran:#?}");
    assert!(order().is_empty());
}

kernel_test!(register_skips_what_the_host_runs_when_asked_to);
fn register_skips_what_the_host_runs_when_asked_to(lab: &Lab) {
    let own = std::env::consts::ARCH;
    let value = lab.json(["register", own, "s390x"]);
    let outcomes: Vec<_> = value["items"].as_array().unwrap().iter().map(|item| &item["outcome"]).collect();
    assert_eq!(outcomes, ["native", "registered"], "{value:#}");
    assert_eq!(order(), ["qemu-s390x"]);
    let printed = lab.done(["register", own]);
    assert_eq!(
        printed.split_whitespace().collect::<Vec<_>>().join(" "),
        format!("{own} native this host runs it natively")
    );
}

kernel_test!(dbhi_registers_lists_and_clears);
fn dbhi_registers_lists_and_clears(lab: &Lab) {
    python(lab);
    let ran = call(lab, "register.sh", &["-s", "--", "-p", "aarch64"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    let path = interpreter("aarch64");
    assert_eq!(ran.stdout, format!("Setting {} as binfmt interpreter for aarch64\n", path.display()));
    assert_eq!(flags(lab, "qemu-aarch64"), "POF");
    let ran = call(lab, "register.sh", &["--static", "-t", "arm,s390x"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(order(), ["qemu-s390x", "qemu-arm", "qemu-aarch64", "python3.11"]);
    let before = (lab.entries(), order());
    for (words, printed) in [
        (&["-s", "--", "-p", "aarch64"][..], "is the binfmt interpreter for aarch64 already\n"),
        // Listing registers nothing.
        (&["-l"], "aarch64  enabled  POF"),
        (&["-s", "--", "-t", "riscv64"], "Would set "),
        (&["-r", "-s", "--", "-t", "riscv64"], "Would remove qemu-arm "),
        (&["--", "-t", "-r", "arm"], "Would remove qemu-arm "),
        (&["-e"], ""),
        (&["-h"], "Usage: register.sh "),
    ] {
        let ran = call(lab, "register.sh", words);
        assert_eq!(ran.status, 0, "{words:?}: {ran:#?}");
        assert!(ran.stdout.contains(printed), "{words:?}: {ran:#?}");
        assert_eq!((lab.entries(), order()), before, "{words:?}");
    }
    dbhi_clears(lab, &before);
}

fn dbhi_clears(lab: &Lab, before: &(BTreeMap<String, String>, Vec<String>)) {
    let ran = call(lab, "register.sh", &["-s", "--", "-p", "arm", "nonsense"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.starts_with("ERROR: unknown CPU nonsense\n"), "{ran:#?}");
    assert_eq!((lab.entries(), order()), *before);
    let ran = call(lab, "register.sh", &["--", "-r", "arm"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(ran.stdout, "Removed qemu-arm as binfmt interpreter for arm\n");
    let ran = run(tool(lab, "dbhi-qus").env("QEMU_CLEAR", "yes"));
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(
        ran.stderr.contains("left in place because they are not QEMU emulators: python3.11\n"),
        "{ran:#?}"
    );
    assert_eq!(order(), ["python3.11"]);
    let ran = call(lab, "register.sh", &["-r", "-s", "--", "-p"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(order().len() > 20 && busybox("arm", "true").is_ok(), "{ran:#?}");
    assert_eq!(call(lab, "register.sh", &["-r", "-e"]).status, 0);
    assert_eq!(order(), ["python3.11"]);
}

kernel_test!(dbhi_starts_a_shell);
fn dbhi_starts_a_shell(lab: &Lab) {
    let ran = call(lab, "register.sh", &["-i", "echo", "printed;", "exit", "7"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (7, "printed\n"), "{ran:#?}");
    let ran = run(tool(lab, "register.sh").env("PATH", lab.path("")).args(["-i", "true"]));
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.starts_with("qus: cannot start a shell for -i: No such file"), "{ran:#?}");
    assert!(order().is_empty());
}

kernel_test!(multiarch_mounts_before_it_resets, unmounted);
/// Tests an instance of this user namespace that is mounted elsewhere only.
fn multiarch_mounts_before_it_resets(lab: &Lab) {
    let elsewhere = lab.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    crate::namespace::mount_instance(&elsewhere, nix::mount::MsFlags::empty());
    lab.done(["--instance", elsewhere.to_str().unwrap(), "register", "s390x", "arm"]);
    let ran = call(lab, "register", &["--reset", "-p", "yes"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stdout.contains("Removed qemu-s390x as binfmt interpreter for s390x"), "{ran:#?}");
    assert!(order().len() > 10);
}

kernel_test!(multiarch_resets_and_registers);
fn multiarch_resets_and_registers(lab: &Lab) {
    python(lab);
    lab.handler("qemu-sparc", "sparc", &interpreter("sparc"), Flags::empty());
    let ran = call(lab, "register", &["--reset", "-p", "yes"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stdout.starts_with("Removed qemu-sparc as binfmt interpreter for sparc\n"), "{ran:#?}");
    assert!(
        ran.stderr.contains("left in place because they are not QEMU emulators: python3.11\n"),
        "{ran:#?}"
    );
    let line = format!("Setting {} as binfmt interpreter for sparc\n", interpreter("sparc").display());
    assert!(ran.stdout.contains(&line), "{ran:#?}");
    assert!(lab.entries().iter().all(|(name, entry)| name == "python3.11" || entry.contains("flags: POF\n")));
    assert!(order().contains(&"python3.11".to_owned()));
    // Two runs with conflicting requests: qus reports that, and nothing is lost.
    let own = lab.copy("own/qemu-arm-static", &interpreter("arm"));
    let before = (lab.entries(), order());
    let ran = call(lab, "register", &["--credential", "yes", "--qemu-path", "own"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains("ERROR: arm: qemu-arm ("), "{ran:#?}");
    assert_eq!((lab.entries(), order()), before);
    let ran = call(lab, "register", &["--reset", "--credential", "yes", "--qemu-path", "own"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(order(), ["qemu-arm", "python3.11"]);
    assert!(flags(lab, "qemu-arm").contains('C'));
    assert!(lab.entries()["qemu-arm"].contains(own.to_str().unwrap()));
}

kernel_test!(conf_registers);
fn conf_registers(lab: &Lab) {
    lab.copy("own/qemu-arm-mine", &interpreter("arm"));
    lab.copy("own/qemu-s390x", &interpreter("s390x"));
    let ran = call(lab, "qemu-binfmt-conf.sh", &["--qemu-path", "own", "--persistent", "no"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stderr.contains("every interpreter is opened once (F)"), "{ran:#?}");
    assert_eq!((order(), flags(lab, "qemu-s390x")), (vec!["qemu-s390x".to_owned()], "POF".to_owned()));
    let ran = call(lab, "qemu-binfmt-conf.sh", &["-Q", "own", "-F-mine"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(order(), ["qus-arm", "qemu-s390x"]);
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    let before = (lab.entries(), order());
    let ran = call(lab, "qemu-binfmt-conf.sh", &["-Q", "own", "-F-yours"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains("own has no interpreter called qemu-…-yours"), "{ran:#?}");
    assert_eq!((lab.entries(), order()), before);
}

/// Writes files with `words`, and expects no change of the handlers.
fn export(lab: &Lab, host: &str, words: &[&str]) -> Vec<String> {
    let directory = lab.path("out");
    let _from_the_last_time = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).unwrap();
    let before = lab.entries();
    let ran = run(tool(lab, "qemu-binfmt-conf.sh").env("HOST_ARCH", host).args(["-e", "out"]).args(words));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:#?}");
    assert_eq!(lab.entries(), before);
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

kernel_test!(conf_writes_files_that_the_kernel_takes);
fn conf_writes_files_that_the_kernel_takes(lab: &Lab) {
    let directory = downloads::distribution();
    let here = ["--qemu-path", directory.to_str().unwrap(), "--qemu-suffix", "-static"];
    let host = std::env::consts::ARCH;
    let names = export(lab, host, &[&["--systemd", "s390x"], &here[..]].concat());
    assert_eq!(names, ["qemu-s390x.conf"]);
    let line = fs::read(lab.path("out/qemu-s390x.conf")).unwrap();
    let text = String::from_utf8(line.clone()).unwrap();
    assert!(text.starts_with(":qemu-s390x:M::\\x7f") && text.ends_with(":OF\n"), "{text}");
    lab.register(&line).unwrap();
    // Without P, the program's name is its path.
    let program = lab.copy("uname", &downloads::busybox("s390x"));
    assert_eq!(start(&program, &["lost", "-m"]).unwrap().stdout, "s390x\n");
    lab.done(["reset"]);

    let names = export(lab, host, &[&["-s", "ALL", "-g", "yes", "-c", "yes"], &here[..]].concat());
    assert!(names.len() > 20, "{names:?}");
    for name in &names {
        let line = fs::read(lab.path("out").join(name)).unwrap();
        let rule = Rule::parse(&line).unwrap();
        assert_eq!(rule.flags().to_string(), "POCF", "{name}");
        lab.register(&line).unwrap();
    }
    assert_eq!(order().len(), names.len());
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    lab.done(["reset"]);

    // For a package the interpreter need not exist. The host's own architecture is left out, and its family unless it
    // is named.
    let nowhere = ["-s", "ALL", "--qemu-path", "/nowhere", "-p", "no"];
    let names = export(lab, "arm64", &nowhere);
    let has = |names: &[String], name: &str| names.iter().any(|other| other == &format!("qemu-{name}.conf"));
    assert!(has(&names, "x86_64") && !has(&names, "aarch64") && !has(&names, "arm"), "{names:?}");
    let names = export(lab, "arm64", &[&nowhere[..], &["-i", "yes"]].concat());
    assert!(has(&names, "arm") && !has(&names, "aarch64"), "{names:?}");
    let text = fs::read_to_string(lab.path("out/qemu-arm.conf")).unwrap();
    assert!(text.ends_with(":/nowhere/qemu-arm:O\n"), "{text}");

    let ran = call(lab, "qemu-binfmt-conf.sh", &["-s", "arm", "-e", "missing"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{ran:#?}");
    assert!(ran.stderr.starts_with("qus: cannot write missing/qemu-arm.conf: No such file"), "{ran:#?}");
    assert!(!lab.path("missing").exists());
}

kernel_test!(conf_writes_files_for_update_binfmts);
fn conf_writes_files_for_update_binfmts(lab: &Lab) {
    let names = export(
        lab,
        "x86_64",
        &["--debian", "--qemu-path", "/nowhere", "--qemu-suffix", "-static", "-c", "yes"],
    );
    assert!(names.contains(&"qemu-arm".to_owned()) && !names.contains(&"qemu-i386".to_owned()), "{names:?}");
    let text = fs::read_to_string(lab.path("out/qemu-arm")).unwrap();
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).unwrap();
    assert_eq!(
        (
            field("package"),
            field("interpreter"),
            field("credentials"),
            field("preserve"),
            field("fix_binary")
        ),
        ("qemu-arm", "/nowhere/qemu-arm-static", "yes", "no", "yes")
    );
    // From both rules the kernel makes the entry that qus itself registers.
    let path = interpreter("arm");
    let line = format!(":n:M::{}:{}:{}:OF", field("magic"), field("mask"), path.display());
    lab.register(line.as_bytes()).unwrap();
    let taken = |name: &str| {
        let text = fs::read_to_string(Path::new(INSTANCE).join(name)).unwrap();
        text.lines()
            .filter(|line| line.starts_with("magic") || line.starts_with("mask"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let ours = taken("n");
    lab.command("n", "-1");
    lab.done(["register", "arm"]);
    assert_eq!(taken("qemu-arm"), ours);
}

kernel_test!(peers_refuse_what_they_do_not_know);
fn peers_refuse_what_they_do_not_know(lab: &Lab) {
    python(lab);
    let before = (lab.entries(), order());
    for (name, words, message) in [
        ("binfmt", &["--instal=all", "--nonsense"][..], "unknown option --nonsense"),
        ("binfmt", &["--install"], "--install needs a value"),
        ("binfmt", &["--version", "all"], "unknown option all"),
        ("register.sh", &["-x"], "unknown option -x"),
        ("register.sh", &["aarch64"], "unknown option aarch64; targets come after --"),
        ("register.sh", &["-r", "--", "-x"], "unknown option -x"),
        ("register", &["--reset", "-p", "maybe"], "--persistent is yes or no, not maybe"),
        ("register", &["-p", "yes", "--reset"], "unknown option --reset"),
        ("qemu-binfmt-conf.sh", &["--systemd", "nonsense"], "ERROR: unknown CPU nonsense"),
        ("qemu-binfmt-conf.sh", &["arm"], "unknown option arm"),
    ] {
        let ran = call(lab, name, words);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{name} {words:?}: {ran:#?}");
        assert!(ran.stderr.starts_with(&format!("{message}\n\nUsage")), "{name} {words:?}: {ran:#?}");
        assert_eq!((lab.entries(), order()), before, "{name} {words:?}");
    }
    for name in ["binfmt", "register.sh", "register", "qemu-binfmt-conf.sh"] {
        let ran = call(lab, name, &["--help"]);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{name}: {ran:#?}");
        assert!(ran.stdout.starts_with("Usage"), "{name}: {ran:#?}");
    }
}
