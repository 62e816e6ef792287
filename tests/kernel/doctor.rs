//! `qus doctor`: each test creates a situation, finds it, and fixes it with the printed hint.
//!
//! `checks.rs` has a table of the tests for each check, and of the reasons why some situations cannot be created here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};
use serde_json::Value;

use crate::checks::{Seen, saw};
use crate::downloads;
use crate::lab::{Lab, run};
use crate::namespace::{INSTANCE, enter_nested, mount_elsewhere, mount_instance};
use crate::prediction::native;
use qus::binfmt::Flags;

/// Matcher of the rule for arm, as in the architecture table.
const ARM: &str = r"M::\x7f\x45\x4c\x46\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00:\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff";

fn findings(lab: &Lab) -> (i32, Vec<Value>) {
    let (status, value) = lab.answer(["doctor"]);
    (status, value["findings"].as_array().unwrap().clone())
}

fn is(finding: &Value, level: &str, id: &str, text: &str) -> bool {
    finding["level"] == level && finding["id"] == id && finding["text"].as_str().unwrap().contains(text)
}

/// Returns the finding. Expects it in text and in JSON, with its exit status, and expects that nothing changed.
pub(crate) fn found(lab: &Lab, level: &str, id: &str, text: &str) -> Value {
    let before = lab.entries();
    let (status, all) = findings(lab);
    let finding = all.iter().find(|finding| is(finding, level, id, text));
    let finding = finding.unwrap_or_else(|| panic!("no {level} {id} {text:?} in {all:#?}")).clone();
    let has_problem = all.iter().any(|finding| finding["level"] == "problem");
    assert_eq!(status, i32::from(has_problem), "{all:#?}");
    let human = lab.qus(["doctor", "-v"]);
    assert_eq!(human.status, status);
    let is_line = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next(), words.next()) == (Some(level), Some(id)) && line.contains(text)
    };
    assert!(human.stdout.lines().any(is_line), "{human:#?}");
    if let Some(command) = finding["try"].as_str() {
        assert!(human.stdout.contains(&format!("try: {command}\n")), "{human:#?}");
        // The tests run as root of a namespace, where sudo does not work.
        assert!(!command.contains("sudo "), "{command}");
    } else {
        saw(id, Seen::WithoutHint);
    }
    assert_eq!(lab.entries(), before);
    finding
}

/// Expects the finding, and expects that its command, typed into a shell, removes it. Returns the command.
pub(crate) fn fixes(lab: &Lab, level: &str, id: &str, text: &str) -> String {
    let finding = found(lab, level, id, text);
    let command = finding["try"].as_str().unwrap_or_else(|| panic!("no command in {finding:#}"));
    lab.type_command(command);
    gone(lab, level, id, text);
    saw(id, Seen::Fixed);
    command.to_owned()
}

pub(crate) fn gone(lab: &Lab, level: &str, id: &str, text: &str) {
    let (_, all) = findings(lab);
    assert!(!all.iter().any(|finding| is(finding, level, id, text)), "{all:#?}");
}

/// Expects that no problem is left.
pub(crate) fn sound(lab: &Lab) {
    let (status, all) = findings(lab);
    assert_eq!(status, 0, "{all:#?}");
}

fn qemu_arm() -> PathBuf {
    downloads::distribution().join("qemu-arm-static")
}

pub(crate) fn register(lab: &Lab, name: &str, takes: &str, interpreter: &Path, flags: &str) {
    lab.register(format!(":{name}:{takes}:{}:{flags}", interpreter.display()).as_bytes()).unwrap();
}

/// Copies the real emulator into the directory of the test.
fn copy_of_qemu_arm(lab: &Lab, mode: u32) -> PathBuf {
    fs::create_dir_all(lab.path("own")).unwrap();
    let path = lab.path("own/qemu-arm-static");
    fs::copy(qemu_arm(), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

pub(crate) fn bind(source: &Path, target: &str) {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

pub(crate) fn tmpfs(target: impl AsRef<Path>, flags: MsFlags) {
    mount(Some("none"), target.as_ref(), Some("tmpfs"), flags, None::<&str>).unwrap();
}

kernel_test!(doctor_of_a_healthy_instance);
fn doctor_of_a_healthy_instance(lab: &Lab) {
    fixes(lab, "note", "working", "no handler is registered");
    found(lab, "ok", "working", "working architectures: aarch64");
    found(lab, "ok", "kernel", "F, P");
    found(lab, "ok", "mounted", "is mounted on /proc/sys/fs/binfmt_misc");
    found(lab, "note", "scope", "user namespace");
    lab.done(["register", "all"]);
    sound(lab);
    let ran = lab.qus(["doctor", "--no-verify"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stdout.contains("no probe was executed: --no-verify"), "{ran:#?}");
}

kernel_test!(doctor_without_rights, ordinary_user);
/// Tests that every user may run `doctor`.
fn doctor_without_rights(lab: &Lab) {
    let ran = lab.qus(["doctor", "-v"]);
    let line = "ok       mounted     binfmt_misc is mounted on /proc/sys/fs/binfmt_misc\n";
    // This user can neither run a foreign program nor register a handler.
    assert!(ran.status == 1 && ran.stdout.contains(line), "{ran:#?}");
    assert!(ran.stdout.contains("problem  working "), "{ran:#?}");
    // A user who is not root gets commands with `sudo`, and the command that needs none.
    assert!(ran.stdout.contains("try: sudo qus register --fetch aarch64\n"), "{ran:#?}");
    assert!(ran.stdout.contains("hint: without root: qus run --fetch PROGRAM\n"), "{ran:#?}");
}

kernel_test!(doctor_not_mounted, unmounted);
fn doctor_not_mounted(lab: &Lab) {
    assert_eq!(
        fixes(lab, "note", "mounted", "binfmt_misc is not mounted on /proc/sys/fs/binfmt_misc: the host's"),
        "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc"
    );
    sound(lab);
}

kernel_test!(doctor_mounted_over);
/// Tests a mount point that another file system covers, or whose parent directory is covered.
fn doctor_mounted_over(lab: &Lab) {
    tmpfs(INSTANCE, MsFlags::empty());
    fixes(lab, "problem", "mounted", "/proc/sys/fs/binfmt_misc is not a binfmt_misc file system");
    sound(lab);
    tmpfs("/proc/sys/fs", MsFlags::empty());
    let finding = found(lab, "problem", "mounted", "this kernel has no binfmt_misc");
    assert!(finding["try"].is_null(), "{finding}");
    umount("/proc/sys/fs").unwrap();
    gone(lab, "problem", "mounted", "");
}

kernel_test!(doctor_without_a_mount_namespace, unmounted);
/// Tests a process that cannot mount anything, because the mounts belong to another user namespace. `run` works,
/// because it creates its own namespaces.
fn doctor_without_a_mount_namespace(lab: &Lab) {
    let wrapper = ["unshare", "--user", "--map-root-user"];
    let ran = run(&mut lab.program(&wrapper, ["doctor"]));
    assert!(ran.stdout.contains("cannot be listed, and mounting is not permitted here"), "{ran:#?}");
    assert!(ran.stdout.contains("try: qus run sh\n"), "{ran:#?}");
    let busybox = lab.copy("busybox", &downloads::busybox("arm"));
    let script = format!("{} uname -m", busybox.display());
    let ran = run(&mut lab.program(&wrapper, ["run", "sh", "-c", &script]));
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "armv7l\n"), "{ran:#?}");
}

kernel_test!(doctor_read_only);
fn doctor_read_only(lab: &Lab) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, INSTANCE, None::<&str>, flags, None::<&str>).unwrap();
    fixes(lab, "problem", "writable", "is mounted read-only; its 0 handlers cannot be changed");
    lab.done(["register", "arm"]);
}

kernel_test!(doctor_instance_off);
fn doctor_instance_off(lab: &Lab) {
    lab.done(["register", "arm"]);
    lab.command("status", "0");
    fixes(lab, "problem", "instance-off", "the whole instance is disabled");
    sound(lab);
    found(lab, "ok", "working", "working architectures: arm");
}

kernel_test!(doctor_captures);
/// Tests a rule that matches the host's own programs. No program can start while it is enabled, not even qus. So qus
/// runs in a nested user namespace with its own instance, in which the kernel ignores this rule (K65).
fn doctor_captures(lab: &Lab) {
    enter_nested();
    fs::create_dir(lab.path("inner")).unwrap();
    mount_instance(&lab.path("inner"), MsFlags::empty());
    register(lab, "catch-all", r"M::\x7fELF:", &qemu_arm(), "F");
    let command = fixes(lab, "problem", "captures", "catch-all matches this host's own programs");
    assert_eq!(command, "echo -1 | tee /proc/sys/fs/binfmt_misc/catch-all");
    sound(lab);
}

kernel_test!(doctor_captures_companions);
/// Tests `--force-native`, which has an effect only if the machine runs both architectures.
fn doctor_captures_companions(lab: &Lab) {
    let ran = lab.qus(["register", "i386"]);
    if !ran.stdout.contains("this host runs i386 natively") {
        gone(lab, "problem", "captures", "");
        return;
    }
    lab.done(["register", "--force-native", "i386"]);
    let command =
        fixes(lab, "problem", "captures", "qemu-i386 takes programs of i386, which this host runs natively");
    assert_eq!(command, "qus reset i386");
    sound(lab);
}

kernel_test!(doctor_disabled);
fn doctor_disabled(lab: &Lab) {
    lab.done(["register", "arm"]);
    lab.command("qemu-arm", "0");
    assert_eq!(fixes(lab, "problem", "disabled", "qemu-arm is disabled"), "qus enable arm");
    register(lab, "it's", "E::x:", Path::new("/bin/sh"), "");
    lab.command("it's", "0");
    fixes(lab, "problem", "disabled", "s is disabled");
    sound(lab);
}

kernel_test!(doctor_no_fix);
fn doctor_no_fix(lab: &Lab) {
    register(lab, "qemu-arm", ARM, &qemu_arm(), "");
    let command = fixes(lab, "problem", "no-fix", "qemu-arm has no F flag (arm)");
    assert_eq!(command, "qus register --replace arm");
    sound(lab);
}

kernel_test!(doctor_wrong_emulator);
fn doctor_wrong_emulator(lab: &Lab) {
    register(lab, "mine", ARM, &downloads::interpreter("aarch64"), "F");
    let text = "mine takes programs of arm, but runs ";
    assert_eq!(fixes(lab, "problem", "wrong-emulator", text), "qus register --replace arm");
    sound(lab);
    lab.done(["verify", "arm"]);
}

kernel_test!(doctor_of_another_instance, unmounted);
/// Tests that the commands are for the instance that was examined.
fn doctor_of_another_instance(lab: &Lab) {
    let elsewhere = mount_elsewhere(lab);
    let at = ["--instance", elsewhere.to_str().unwrap()];
    for line in [format!(":qemu-arm:{ARM}:/gone/qemu-arm:"), ":jar:E::jar::/gone/jexec:".to_owned()] {
        fs::write(elsewhere.join("register"), line).unwrap();
    }
    let doctor = || lab.answer(at.into_iter().chain(["doctor"]));
    let (status, value) = doctor();
    let findings = value["findings"].as_array().unwrap();
    let commands: Vec<&str> = findings.iter().filter_map(|finding| finding["try"].as_str()).collect();
    assert!(status == 1 && commands.len() >= 2, "{value:#}");
    for command in commands {
        assert!(command.starts_with(&format!("qus --instance '{}' ", elsewhere.display())), "{command}");
        lab.type_command(command);
    }
    let (status, value) = doctor();
    assert!(status == 0 && !elsewhere.join("jar").exists(), "{value:#}");
    fs::write(elsewhere.join("status"), "0").unwrap();
    let (_, value) = doctor();
    let finding =
        value["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == "instance-off");
    let command = finding.unwrap()["try"].as_str().unwrap();
    assert_eq!(command, format!("echo 1 | tee '{}/status'", elsewhere.display()));
    lab.type_command(command);
    assert_eq!(doctor().0, 0);
}

kernel_test!(doctor_host_only);
fn doctor_host_only(lab: &Lab) {
    register(lab, "jar", "E::jar:", Path::new("/bin/sh"), "");
    register(lab, "APE", "M::MZqFpD=':", Path::new("/bin/sh"), "F");
    let finding = found(lab, "note", "host-only", "without the flag F, and not for containers: jar");
    assert!(finding["try"].is_null(), "{finding}");
    found(lab, "note", "host-only", "with a dynamic interpreter, and not for containers: APE");
    sound(lab);
}

kernel_test!(doctor_unfit_interpreters);
fn doctor_unfit_interpreters(lab: &Lab) {
    fs::create_dir(lab.path("own")).unwrap();
    let path = lab.path("own/qemu-arm-static");
    let (_, loader) = native_dynamic();
    let foreign = fs::read(downloads::busybox("aarch64")).unwrap();
    let cases: [(&str, &[u8], u32); 5] = [
        ("is not static: it needs", &loader, 0o755),
        ("is a program for aarch64, not for this host", &foreign, 0o755),
        ("is a script (#!/bin/sh)", b"#!/bin/sh\n", 0o755),
        ("is empty", b"", 0o755),
        ("is not executable", &fs::read(qemu_arm()).unwrap(), 0o644),
    ];
    for (text, content, mode) in cases {
        for flags in ["", "F"] {
            let path = lab.executable("own/qemu-arm-static", content);
            register(lab, "qemu-arm", ARM, &path, flags);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            fixes(lab, "problem", "interpreter", text);
            sound(lab);
            lab.done(["reset"]);
            fs::remove_file(path).unwrap();
        }
    }
    register(lab, "qemu-arm", ARM, &copy_of_qemu_arm(lab, 0o4755), "F");
    fixes(lab, "problem", "interpreter", "has a setuid or setgid bit");
    sound(lab);
    lab.done(["reset"]);
    fs::remove_file(&path).unwrap();

    tmpfs(lab.path("own"), MsFlags::MS_NOEXEC);
    register(lab, "qemu-arm", ARM, &copy_of_qemu_arm(lab, 0o755), "");
    fixes(lab, "problem", "interpreter", "is on a file system that is mounted noexec");
    sound(lab);
}

/// Returns a program of this host that needs a loader.
fn native_dynamic() -> (PathBuf, Vec<u8>) {
    let path = fs::canonicalize("/bin/true").unwrap();
    let content = fs::read(&path).unwrap();
    (path, content)
}

kernel_test!(doctor_interpreter_gone);
fn doctor_interpreter_gone(lab: &Lab) {
    let path = lab.path("own/qemu-arm-static");
    register(lab, "qemu-arm", ARM, &path, "");
    fixes(lab, "problem", "interpreter", "which does not exist");
    sound(lab);
    lab.done(["reset"]);
    register(lab, "qemu-arm", ARM, &copy_of_qemu_arm(lab, 0o755), "F");
    fs::remove_file(path).unwrap();
    found(lab, "note", "interpreter", "but the file was removed");
    sound(lab);
}

kernel_test!(doctor_nothing_available);
/// Tests that the hint does not name a missing interpreter.
fn doctor_nothing_available(lab: &Lab) {
    register(lab, "qemu-arm", ARM, &lab.path("own/qemu-arm-static"), "");
    let empty = lab.path("empty");
    fs::create_dir(&empty).unwrap();
    let mut command = lab.program(&[], ["doctor"]);
    command.env("QUS_INTERPRETER_DIR", &empty);
    let ran = run(&mut command);
    assert_eq!(ran.status, 1, "{ran:#?}");
    assert!(ran.stdout.contains("try: qus register --replace --fetch arm\n"), "{ran:#?}");
}

kernel_test!(doctor_stale);
fn doctor_stale(lab: &Lab) {
    let path = copy_of_qemu_arm(lab, 0o755);
    register(lab, "qemu-arm", ARM, &path, "F");
    gone(lab, "problem", "stale", "");
    fs::copy(&path, lab.path("new")).unwrap();
    fs::rename(lab.path("new"), &path).unwrap();
    fixes(lab, "problem", "stale", "qemu-arm runs an old file, which was replaced at");
    sound(lab);
}

kernel_test!(doctor_origin);
fn doctor_origin(lab: &Lab) {
    let source = lab.copy("source/qemu-arm-static", &downloads::interpreter("arm"));
    lab.done(["fetch", "--from", source.to_str().unwrap(), "--dest", "own", "arm"]);
    lab.done(["register", "--interpreter-dir", "own", "arm"]);
    let description = format!("qemu-arm runs a file that was fetched from {} on 2", source.display());
    found(lab, "ok", "origin", &description);
    // A new file with the same content still counts as the fetched one.
    let path = lab.path("own/qemu-arm-static");
    fs::copy(&path, lab.path("new")).unwrap();
    fs::rename(lab.path("new"), &path).unwrap();
    found(lab, "ok", "origin", &description);
    fs::copy(&path, lab.path("new")).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(lab.path("new")).unwrap();
    std::io::Write::write_all(&mut file, b"more").unwrap();
    drop(file);
    fs::rename(lab.path("new"), &path).unwrap();
    fixes(lab, "problem", "origin", "own/qemu-arm-static was changed");
    found(lab, "ok", "origin", &description);
}

kernel_test!(doctor_self_capture);
fn doctor_self_capture(lab: &Lab) {
    let script = lab.executable("run.x", b"#!/bin/sh\n");
    register(lab, "by-name", "E::x:", &script, "");
    let command = fixes(lab, "problem", "self-capture", "by-name matches its own interpreter");
    assert_eq!(command, "qus reset by-name");
    let script = lab.executable("magic", b"MAGIC");
    register(lab, "by-magic", "M::MAGIC:", &script, "F");
    fixes(lab, "problem", "self-capture", "by-magic matches its own interpreter");
    sound(lab);
}

kernel_test!(doctor_writable_file);
fn doctor_writable_file(lab: &Lab) {
    register(lab, "qemu-arm", ARM, &copy_of_qemu_arm(lab, 0o775), "F");
    fixes(lab, "problem", "writable-file", "which other users can change");
    sound(lab);
}

kernel_test!(doctor_credentials);
fn doctor_credentials(lab: &Lab) {
    register(lab, "qemu-arm", ARM, &qemu_arm(), "FC");
    fixes(lab, "note", "credentials", "qemu-arm has the flag C, set by");
    sound(lab);
}

kernel_test!(doctor_shadowed);
fn doctor_shadowed(lab: &Lab) {
    // The other handler matches all files of qemu-arm.
    register(lab, "qemu-arm", ARM, &qemu_arm(), "F");
    register(lab, "rosetta", ARM, &lab.executable("rosetta", &native(2)), "F");
    fixes(
        lab,
        "problem",
        "shadowed",
        "qemu-arm never runs: rosetta, registered later, matches the same files",
    );
    sound(lab);
    // The opposite order is only a note. The hint has two choices, because one of the two handlers is intended.
    let finding = found(lab, "note", "shadowed", "rosetta never runs: qemu-arm, registered later");
    let hint = "to use it, type qus disable 'qemu-ar[m]'; to remove it, type qus reset rosetta";
    assert_eq!(finding["hint"], hint);
    lab.type_command("qus disable 'qemu-ar[m]'");
    found(lab, "note", "disabled", "qemu-arm is disabled, and rosetta takes its files");
    sound(lab);
    lab.done(["reset"]);
    lab.type_command("qus reset rosetta");
    // The other handler matches fixed-position programs, but not position-independent ones.
    register(lab, "qemu-arm", ARM, &qemu_arm(), "F");
    let some = ARM.replace(r"\xfe\xff\xff\xff", r"\xff\xff\xff\xff");
    register(lab, "rosetta", &some, &lab.path("rosetta"), "F");
    fixes(
        lab,
        "problem",
        "shadowed",
        "qemu-arm does not get all its programs: rosetta, registered later, matches some",
    );
    sound(lab);
}

kernel_test!(doctor_overlap);
fn doctor_overlap(lab: &Lab) {
    register(lab, "older", "M::AB:", Path::new("/bin/sh"), "");
    register(lab, "newer", "M:1:BC:", Path::new("/bin/sh"), "");
    let finding =
        found(lab, "note", "overlap", "newer matches some files of older, which was registered earlier");
    assert!(finding["try"].is_null(), "{finding}");
    lab.command("newer", "0");
    gone(lab, "note", "overlap", "");
}

kernel_test!(doctor_broken);
fn doctor_broken(lab: &Lab) {
    // Code of zeros crashes.
    let mut crashing = native(2);
    let code = crashing.len() - 10;
    crashing[code - 10..].fill(0);
    let path = lab.executable("qemu-arm-static", &crashing);
    register(lab, "qemu-arm", ARM, &path, "F");
    let text = format!("qemu-arm ({}): its interpreter crashed (signal", path.display());
    fixes(lab, "problem", "broken", &text);
    sound(lab);
    // If the broken interpreter is the only one available, the hint asks for another directory.
    lab.done(["reset"]);
    lab.handler("qemu-arm", "arm", &path, Flags::FIX_BINARY);
    let mut command = lab.program(&[], ["doctor"]);
    let ran = run(command.env("QUS_INTERPRETER_DIR", path.parent().unwrap()));
    let hint = "hint: use another version, where DIR is its directory: qus register --replace --interpreter-dir DIR arm\n";
    assert!(ran.status == 1 && ran.stdout.contains(hint), "{ran:#?}");
}

kernel_test!(doctor_broken_of_another);
/// Tests an emulator other than QEMU. qus does not check its file, but only executes it.
fn doctor_broken_of_another(lab: &Lab) {
    for flags in ["", "F"] {
        let path = lab.executable("box64", b"");
        register(lab, "box64", ARM, &path, flags);
        let command = fixes(lab, "problem", "broken", &format!("box64 ({}): ", path.display()));
        assert_eq!(command, "qus register --replace arm");
        found(lab, "ok", "working", "working architectures: arm");
        sound(lab);
        lab.done(["reset"]);
        lab.command("box64", "-1");
    }
}

kernel_test!(doctor_interim);
fn doctor_interim(lab: &Lab) {
    // A run may be interrupted before or after the new handler gets its name.
    register(lab, "qemu-arm.qus-123", ARM, &qemu_arm(), "F");
    fixes(lab, "problem", "interim", "qemu-arm.qus-123 is a temporary handler that was left behind");
    sound(lab);
    lab.done(["verify", "arm"]);
    lab.done(["reset"]);
    register(lab, "qemu-arm.qus-123", ARM, &qemu_arm(), "F");
    lab.done(["register", "arm"]);
    register(lab, "qemu-arm.qus-124", ARM, &qemu_arm(), "F");
    fixes(lab, "problem", "interim", "qemu-arm.qus-124 is a temporary handler that was left behind");
    sound(lab);
    lab.done(["verify", "arm"]);
}

/// Writes configuration for a handler `listed`, and for one whose interpreter does not exist.
fn configure(lab: &Lab) {
    quiet();
    let here = format!("# comment\n:listed:{ARM}:{}:F\n", qemu_arm().display());
    let other = ":other:E::x::/missing:\n";
    let directory = Path::new(CONFIGURATION);
    // The command would register the broken rule too.
    fs::write(directory.join("test.conf"), format!("{here}{other}")).unwrap();
    let finding = found(lab, "note", "configured", "listed is configured in /run/binfmt.d/test.conf");
    let hint = "remove the rule other from the file, because its interpreter /missing does not exist; then type qus apply /run/binfmt.d/test.conf";
    assert_eq!((&finding["try"], &finding["hint"]), (&Value::Null, &hint.into()));
    fs::write(directory.join("test.conf"), here).unwrap();
    fs::write(directory.join("other.conf"), other).unwrap();
    let finding = found(
        lab,
        "note",
        "configured",
        "other is configured in /run/binfmt.d/other.conf, but not registered",
    );
    assert!(finding["text"].as_str().unwrap().ends_with("its interpreter /missing does not exist"));
}

kernel_test!(doctor_configured);
fn doctor_configured(lab: &Lab) {
    configure(lab);
    let command = fixes(lab, "note", "configured", "listed is configured in /run/binfmt.d/test.conf");
    assert_eq!(command, "qus apply /run/binfmt.d/test.conf");
    found(lab, "ok", "working", "working architectures: arm");
    sound(lab);
}

kernel_test!(doctor_configured_with_systemd);
/// Tests that the printed command, also with systemd, does not remove handlers without configuration.
fn doctor_configured_with_systemd(lab: &Lab) {
    configure(lab);
    systemd();
    lab.handler("mine", "s390x", &downloads::interpreter("s390x"), Flags::FIX_BINARY);
    let mine = lab.entries()["mine"].clone();
    let command = fixes(lab, "note", "configured", "listed is configured in /run/binfmt.d/test.conf");
    assert_eq!(command, "qus apply /run/binfmt.d/test.conf");
    assert_eq!(lab.entries()["mine"], mine);
    found(lab, "ok", "working", "working architectures: arm s390x");
}

/// Imitates a running systemd by the directory that identifies it.
pub(crate) fn systemd() {
    fs::create_dir_all("/run/systemd/system").unwrap();
}

/// Hides the machine's configuration and init system, so that all findings are those of the test. The test writes its
/// own configuration to [`CONFIGURATION`].
pub(crate) fn quiet() {
    for directory in ["/etc/binfmt.d", "/usr/lib/binfmt.d", "/usr/local/lib/binfmt.d", "/run"] {
        if Path::new(directory).exists() {
            tmpfs(directory, MsFlags::empty());
        }
    }
    fs::create_dir(CONFIGURATION).unwrap();
}

/// A directory that systemd-binfmt reads.
pub(crate) const CONFIGURATION: &str = "/run/binfmt.d";

kernel_test!(doctor_wsl);
fn doctor_wsl(lab: &Lab) {
    let version = lab.path("version");
    fs::write(&version, "Linux version 6.6.87.2-microsoft-standard-WSL2\n").unwrap();
    bind(&version, "/proc/version");
    fixes(lab, "problem", "wsl", "this is WSL, and its handler WSLInterop is gone");
    // Here is no WSL, so the handler's interpreter is missing.
    if !Path::new("/init").exists() {
        found(lab, "problem", "interpreter", "WSLInterop runs /init, which does not exist");
    }
    assert!(lab.entries()["WSLInterop"].contains("interpreter /init\nflags: P\n"));
}

kernel_test!(doctor_emulator);
/// Tests an emulator with a known bug. None is available here, so a script prints such a version.
fn doctor_emulator(lab: &Lab) {
    let script = b"#!/bin/sh\necho qemu-aarch64 version 9.2.1\n";
    let path = lab.executable("qemu-aarch64", script);
    lab.handler("qemu-aarch64", "aarch64", &path, Flags::FIX_BINARY);
    let finding = found(lab, "note", "emulator", "qemu-aarch64 is QEMU 9.2.1: ldconfig crashes");
    let (_, command) = finding["hint"].as_str().unwrap().split_once("directory: ").unwrap();
    assert!(finding["text"].as_str().unwrap().contains("https://"), "{finding}");
    lab.type_command(&command.replace("DIR", downloads::distribution().to_str().unwrap()));
    gone(lab, "note", "emulator", "");
    saw("emulator", Seen::Fixed);
    sound(lab);
}

kernel_test!(doctor_in_memory);
fn doctor_in_memory(lab: &Lab) {
    lab.done(["register", "--in-memory", "arm"]);
    found(lab, "ok", "in-memory", " in memory, and uses ");
    sound(lab);
    lab.done(["reset"]);
    gone(lab, "ok", "in-memory", "");
}

kernel_test!(doctor_engines);
fn doctor_engines(lab: &Lab) {
    fs::create_dir(lab.path("engines")).unwrap();
    let with = |engine: &str| {
        lab.executable(&format!("engines/{engine}"), b"");
        let mut command = lab.program(&[], ["doctor", "-v"]);
        run(command.env("PATH", lab.path("engines"))).stdout
    };
    let ok = "found: their containers use every handler with the flag F";
    assert!(with("podman").contains(&format!(" podman {ok}")));
    let text = with("docker");
    assert!(text.contains(&format!(" docker, podman {ok}")), "{text}");
}

/// A process with the name of BuildKit's daemon.
struct Builder(Child);

impl Builder {
    /// Starts a daemon after `wrapper`, and waits. The delay is longer than the difference in time that `doctor` can
    /// detect.
    fn start(lab: &Lab, wrapper: &[&str]) -> Self {
        let program = lab.path("buildkitd");
        let mut line = wrapper.iter().map(Path::new).chain([program.as_path()]);
        let mut command = Command::new(line.next().unwrap());
        let child = command.args(line).arg("1000").spawn().unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&comm).unwrap() != "buildkitd\n" {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(300));
        Self(child)
    }

    fn text(&self) -> String {
        format!("buildkitd (process {}) started before the registration of 2 handlers", self.0.id())
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

kernel_test!(doctor_builder_that_started_too_early);
fn doctor_builder_that_started_too_early(lab: &Lab) {
    lab.copy("buildkitd", Path::new("/bin/sleep"));
    let elsewhere = Builder::start(lab, &["unshare", "-U"]);
    let mut early = Builder::start(lab, &[]);
    gone(lab, "note", "engines", "buildkitd");
    lab.done(["register", "arm", "aarch64"]);
    register(lab, "other", "E::x:", Path::new("/bin/sh"), "");
    // A daemon that starts now sees all handlers.
    std::thread::sleep(Duration::from_millis(300));
    let late = Builder::start(lab, &[]);
    gone(lab, "note", "engines", &format!("process {}", late.0.id()));
    // A daemon in another user namespace may have other handlers.
    gone(lab, "note", "engines", &format!("process {}", elsewhere.0.id()));
    // The process must not be in a cgroup that could be restarted, such as that of the tests.
    let groups = lab.path("cgroup");
    fs::write(&groups, "0::/\n").unwrap();
    bind(&groups, &format!("/proc/{}/cgroup", early.0.id()));
    let finding = found(lab, "note", "engines", &early.text());
    let command = finding["try"].as_str().unwrap();
    assert_eq!(command, format!("kill {}", early.0.id()));
    lab.type_command(command);
    assert_eq!(early.0.wait().unwrap().signal(), Some(15));
    gone(lab, "note", "engines", &format!("process {}", early.0.id()));
    saw("engines", Seen::Fixed);
    sound(lab);
}

kernel_test!(doctor_security);
/// Tests active security modules. They cannot be enabled here, so the test imitates the files that show their state.
fn doctor_security(lab: &Lab) {
    if !Path::new("/sys/fs").exists() {
        crate::skip::skip("sysfs is not mounted");
    }
    tmpfs("/sys/fs", MsFlags::empty());
    fs::create_dir("/sys/fs/selinux").unwrap();
    fs::write("/sys/fs/selinux/enforce", "1").unwrap();
    let finding = found(lab, "note", "security", "active: SELinux (enforcing)");
    assert!(finding["text"].as_str().unwrap().contains("ausearch -m avc -ts recent"), "{finding}");
    assert!(finding["try"].is_null(), "{finding}");
    fs::write("/sys/fs/selinux/enforce", "0").unwrap();
    gone(lab, "note", "security", "");
    tmpfs("/sys/module", MsFlags::empty());
    fs::create_dir_all("/sys/module/apparmor/parameters").unwrap();
    fs::write("/sys/module/apparmor/parameters/enabled", "Y\n").unwrap();
    found(lab, "ok", "security", "active: AppArmor");
}

kernel_test!(doctor_namespaces);
/// Tests a setting that forbids user namespaces. Each user namespace has its own value of it.
fn doctor_namespaces(lab: &Lab) {
    found(lab, "ok", "namespaces", "user namespaces are available");
    fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    let command = fixes(lab, "note", "namespaces", "a setting forbids user namespaces to ordinary users");
    assert_eq!(command, "sysctl -w user.max_user_namespaces=65536");
}
