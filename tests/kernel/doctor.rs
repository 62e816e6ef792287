//! `qus doctor`: each situation is made real, found, and mended by the cure that is printed.
//!
//! Not made here, as no namespace can: a kernel without `F` or instances (`kernel`), pages of another size than the
//! machine's (`page-size`), an automount, systemd, and what concerns the initial user namespace alone (`flushed`): those have
//! tests next to the checks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::lab::{Lab, run};
use crate::namespace::{INSTANCE, Identity, Inside, mount_instance};
use crate::prediction::native;
use crate::{Test, downloads};
use qus::binfmt::Flags;

pub(crate) static TESTS: &[Test] = &[
    Test::new("doctor_of_a_healthy_instance", healthy),
    Test { identity: Identity::Somebody, ..Test::new("doctor_without_rights", without_rights) },
    Test { mounted: false, ..Test::new("doctor_not_mounted", not_mounted) },
    Test { mounted: false, ..Test::new("doctor_without_a_mount_namespace", no_mount_namespace) },
    Test::new("doctor_read_only", read_only),
    Test::new("doctor_instance_off", instance_off),
    Test::new("doctor_captures", captures),
    Test::new("doctor_captures_companions", captures_companions),
    Test::new("doctor_disabled", disabled),
    Test::new("doctor_no_fix", no_fix),
    Test::new("doctor_unfit_interpreters", unfit_interpreters),
    Test::new("doctor_interpreter_gone", interpreter_gone),
    Test::new("doctor_nothing_at_hand", nothing_at_hand),
    Test::new("doctor_stale", stale),
    Test::new("doctor_self_capture", self_capture),
    Test::new("doctor_writable_file", writable_file),
    Test::new("doctor_credentials", credentials),
    Test::new("doctor_shadowed", shadowed),
    Test::new("doctor_overlap", overlap),
    Test::new("doctor_broken", broken),
    Test::new("doctor_interim", interim),
    Test::new("doctor_promised", promised),
    Test::new("doctor_wsl", wsl),
    Test::new("doctor_emulator", emulator),
    Test::new("doctor_engines", engines),
    Test::new("doctor_security", security),
    Test::new("doctor_namespaces", namespaces),
];

/// The rule for arm, as the table has it.
const ARM: &str = r"M::\x7f\x45\x4c\x46\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00:\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff";

fn findings(lab: &Lab) -> (i32, Vec<Value>) {
    let (status, value) = lab.answer(["doctor"]);
    (status, value["findings"].as_array().unwrap().clone())
}

fn is(finding: &Value, level: &str, id: &str, text: &str) -> bool {
    finding["level"] == level && finding["id"] == id && finding["text"].as_str().unwrap().contains(text)
}

/// The finding, which is there in both forms, with the exit status that belongs to it; nothing is changed.
fn found(lab: &Lab, level: &str, id: &str, text: &str) -> Value {
    let before = lab.entries();
    let (status, all) = findings(lab);
    let finding = all.iter().find(|finding| is(finding, level, id, text));
    let finding = finding.unwrap_or_else(|| panic!("no {level} {id} {text:?} in {all:#?}")).clone();
    let has_problem = all.iter().any(|finding| finding["level"] == "problem");
    assert_eq!(status, i32::from(has_problem), "{all:#?}");
    let human = lab.qus(["doctor"]);
    assert_eq!(human.status, status);
    let is_line = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next(), words.next()) == (Some(level), Some(id)) && line.contains(text)
    };
    assert!(human.stdout.lines().any(is_line), "{human:#?}");
    if let Some(cure) = finding["cure"].as_str() {
        assert!(human.stdout.contains(&format!("cure: {cure}\n")), "{human:#?}");
    }
    assert_eq!(lab.entries(), before);
    finding
}

/// The finding is there, and its cure, typed into a shell, makes it go.
fn mends(lab: &Lab, level: &str, id: &str, text: &str) -> String {
    let finding = found(lab, level, id, text);
    let cure = finding["cure"].as_str().unwrap_or_else(|| panic!("no cure in {finding:#}"));
    lab.cure(cure);
    gone(lab, level, id, text);
    cure.to_owned()
}

fn gone(lab: &Lab, level: &str, id: &str, text: &str) {
    let (_, all) = findings(lab);
    assert!(!all.iter().any(|finding| is(finding, level, id, text)), "{all:#?}");
}

/// Nothing is wrong any more.
fn sound(lab: &Lab) {
    let (status, all) = findings(lab);
    assert_eq!(status, 0, "{all:#?}");
}

fn qemu_arm() -> PathBuf {
    downloads::distribution().join("qemu-arm-static")
}

fn register(lab: &Lab, name: &str, takes: &str, interpreter: &Path, flags: &str) {
    lab.register(format!(":{name}:{takes}:{}:{flags}", interpreter.display()).as_bytes()).unwrap();
}

/// A copy of the real emulator, in the folder of the test.
fn copy_of_qemu_arm(lab: &Lab, mode: u32) -> PathBuf {
    fs::create_dir_all(lab.path("own")).unwrap();
    let path = lab.path("own/qemu-arm-static");
    fs::copy(qemu_arm(), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn bind(source: &Path, target: &str) {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

fn tmpfs(target: impl AsRef<Path>, flags: MsFlags) {
    mount(Some("none"), target.as_ref(), Some("tmpfs"), flags, None::<&str>).unwrap();
}

fn healthy(lab: &Lab) {
    mends(lab, "note", "working", "no architecture is emulated");
    found(lab, "ok", "working", "programs ran of: aarch64");
    found(lab, "ok", "kernel", "F, P");
    found(lab, "ok", "mounted", "is mounted on /proc/sys/fs/binfmt_misc");
    found(lab, "note", "scope", "user namespace");
    lab.done(["register", "all"]);
    sound(lab);
    let ran = lab.qus(["doctor", "--no-verify"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stdout.contains("no handler was tried: probes were not wanted"), "{ran:#?}");
}

/// Everybody may look.
fn without_rights(lab: &Lab) {
    found(lab, "ok", "mounted", "is mounted on /proc/sys/fs/binfmt_misc");
    sound(lab);
}

fn not_mounted(lab: &Lab) {
    assert_eq!(
        mends(lab, "note", "mounted", "binfmt_misc is not mounted on /proc/sys/fs/binfmt_misc: the host's"),
        "sudo mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc"
    );
    sound(lab);
}

/// A user namespace whose mounts are another's: nothing can be mounted, and `run` makes what it needs.
fn no_mount_namespace(lab: &Lab) {
    let wrapper = ["unshare", "--user", "--map-root-user"];
    let ran = run(&mut lab.program(&wrapper, ["doctor"]));
    assert!(ran.stdout.contains("cannot be seen, and mounting is not permitted here"), "{ran:#?}");
    assert!(ran.stdout.contains("cure: qus run sh\n"), "{ran:#?}");
    let busybox = lab.copy("busybox", &downloads::busybox("arm"));
    let script = format!("{} uname -m", busybox.display());
    let ran = run(&mut lab.program(&wrapper, ["run", "sh", "-c", &script]));
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "armv7l\n"), "{ran:#?}");
}

fn read_only(lab: &Lab) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, INSTANCE, None::<&str>, flags, None::<&str>).unwrap();
    mends(lab, "problem", "writable", "is mounted read-only; 0 handlers stay as they are");
    lab.done(["register", "arm"]);
}

fn instance_off(lab: &Lab) {
    lab.done(["register", "arm"]);
    lab.command("status", "0");
    mends(lab, "problem", "instance-off", "the whole instance is switched off");
    sound(lab);
    found(lab, "ok", "working", "programs ran of: arm");
}

/// Once such a rule is in force, nothing starts any more, qus neither. So it is looked at from a user namespace with an
/// instance of its own, where the kernel does not ask this one (K65).
fn captures(lab: &Lab) {
    Inside::enter(Identity::Root, false);
    fs::create_dir(lab.path("inner")).unwrap();
    mount_instance(&lab.path("inner"), MsFlags::empty());
    register(lab, "catch-all", r"M::\x7fELF:", &qemu_arm(), "F");
    let cure = mends(lab, "problem", "captures", "catch-all takes this host's own programs");
    assert_eq!(cure, "echo -1 | sudo tee /proc/sys/fs/binfmt_misc/catch-all");
    sound(lab);
}

/// Only where the machine runs both does `--force-native` make a difference that can be seen.
fn captures_companions(lab: &Lab) {
    let ran = lab.qus(["register", "i386"]);
    if !ran.stdout.contains("this host runs i386 itself") {
        gone(lab, "problem", "captures", "");
        return;
    }
    lab.done(["register", "--force-native", "i386"]);
    let cure =
        mends(lab, "problem", "captures", "qemu-i386 takes programs of i386, which this host runs itself");
    assert_eq!(cure, "sudo qus reset i386");
    sound(lab);
}

fn disabled(lab: &Lab) {
    lab.done(["register", "arm"]);
    lab.command("qemu-arm", "0");
    assert_eq!(mends(lab, "problem", "disabled", "qemu-arm is disabled"), "sudo qus enable arm");
    register(lab, "it's", "E::x:", Path::new("/bin/sh"), "");
    lab.command("it's", "0");
    mends(lab, "problem", "disabled", "s is disabled");
    sound(lab);
}

fn no_fix(lab: &Lab) {
    register(lab, "qemu-arm", ARM, &qemu_arm(), "");
    let cure = mends(lab, "problem", "no-fix", "qemu-arm has no F flag (arm)");
    assert_eq!(cure, "sudo qus register --replace arm");
    sound(lab);
}

fn unfit_interpreters(lab: &Lab) {
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
            mends(lab, "problem", "interpreter", text);
            sound(lab);
            lab.done(["reset"]);
            fs::remove_file(path).unwrap();
        }
    }
    register(lab, "qemu-arm", ARM, &copy_of_qemu_arm(lab, 0o4755), "F");
    mends(lab, "problem", "interpreter", "has a setuid or setgid bit");
    sound(lab);
    lab.done(["reset"]);
    fs::remove_file(&path).unwrap();

    tmpfs(lab.path("own"), MsFlags::MS_NOEXEC);
    register(lab, "qemu-arm", ARM, &copy_of_qemu_arm(lab, 0o755), "");
    mends(lab, "problem", "interpreter", "lies on a file system that is mounted noexec");
    sound(lab);
}

/// A program of this host that needs a loader.
fn native_dynamic() -> (PathBuf, Vec<u8>) {
    let path = fs::canonicalize("/bin/true").unwrap();
    let content = fs::read(&path).unwrap();
    (path, content)
}

fn interpreter_gone(lab: &Lab) {
    let path = lab.path("own/qemu-arm-static");
    register(lab, "qemu-arm", ARM, &path, "");
    mends(lab, "problem", "interpreter", "which does not exist");
    sound(lab);
    lab.done(["reset"]);
    register(lab, "qemu-arm", ARM, &copy_of_qemu_arm(lab, 0o755), "F");
    fs::remove_file(path).unwrap();
    found(lab, "note", "interpreter", "and no file is there any more");
    sound(lab);
}

/// The cure does not name what is not there.
fn nothing_at_hand(lab: &Lab) {
    register(lab, "qemu-arm", ARM, &lab.path("own/qemu-arm-static"), "");
    let empty = lab.path("empty");
    fs::create_dir(&empty).unwrap();
    let mut command = lab.program(&[], ["doctor"]);
    command.env("QUS_INTERPRETER_DIR", &empty);
    let ran = run(&mut command);
    assert_eq!(ran.status, 1, "{ran:#?}");
    let at_hand = ["/usr/bin", "/usr/local/bin", "/usr/local/lib/qus"];
    if !at_hand.iter().any(|folder| Path::new(folder).join("qemu-arm-static").exists()) {
        assert!(ran.stdout.contains("cure: sudo qus register --replace --fetch arm\n"), "{ran:#?}");
    }
}

fn stale(lab: &Lab) {
    let path = copy_of_qemu_arm(lab, 0o755);
    register(lab, "qemu-arm", ARM, &path, "F");
    gone(lab, "problem", "stale", "");
    fs::copy(&path, lab.path("new")).unwrap();
    fs::rename(lab.path("new"), &path).unwrap();
    mends(lab, "problem", "stale", "qemu-arm runs a file that was replaced at");
    sound(lab);
}

fn self_capture(lab: &Lab) {
    let script = lab.executable("run.x", b"#!/bin/sh\n");
    register(lab, "by-name", "E::x:", &script, "");
    let cure = mends(lab, "problem", "self-capture", "by-name takes its own interpreter");
    assert_eq!(cure, "echo -1 | sudo tee /proc/sys/fs/binfmt_misc/by-name");
    let script = lab.executable("magic", b"MAGIC");
    register(lab, "by-magic", "M::MAGIC:", &script, "F");
    mends(lab, "problem", "self-capture", "by-magic takes its own interpreter");
    sound(lab);
}

fn writable_file(lab: &Lab) {
    register(lab, "qemu-arm", ARM, &copy_of_qemu_arm(lab, 0o775), "F");
    mends(lab, "problem", "writable-file", "which others than its owner may write to");
    sound(lab);
}

fn credentials(lab: &Lab) {
    register(lab, "qemu-arm", ARM, &qemu_arm(), "FC");
    mends(lab, "note", "credentials", "qemu-arm has the flag C, set by");
    sound(lab);
}

fn shadowed(lab: &Lab) {
    // All of its files.
    register(lab, "qemu-arm", ARM, &qemu_arm(), "F");
    register(lab, "rosetta", ARM, &lab.executable("rosetta", &native(2)), "F");
    mends(lab, "problem", "shadowed", "qemu-arm never runs: rosetta, registered later, takes the same files");
    sound(lab);
    // The other way round nothing is wrong, and can be given back.
    let cure = mends(lab, "note", "shadowed", "rosetta never runs: qemu-arm, registered later");
    assert_eq!(cure, "sudo qus disable arm");
    lab.done(["reset"]);
    lab.command("rosetta", "-1");
    // Only fixed programs, not the position-independent ones.
    register(lab, "qemu-arm", ARM, &qemu_arm(), "F");
    let some = ARM.replace(r"\xfe\xff\xff\xff", r"\xff\xff\xff\xff");
    register(lab, "rosetta", &some, &lab.path("rosetta"), "F");
    mends(
        lab,
        "problem",
        "shadowed",
        "qemu-arm does not get all its programs: rosetta, registered later, takes some",
    );
    sound(lab);
}

fn overlap(lab: &Lab) {
    register(lab, "older", "M::AB:", Path::new("/bin/sh"), "");
    register(lab, "newer", "M:1:BC:", Path::new("/bin/sh"), "");
    let finding =
        found(lab, "note", "overlap", "newer takes some files of older, which was registered earlier");
    assert!(finding.get("cure").is_none(), "{finding}");
    lab.command("newer", "0");
    gone(lab, "note", "overlap", "");
}

fn broken(lab: &Lab) {
    // Zeros are no instructions that lead anywhere.
    let mut crashing = native(2);
    let code = crashing.len() - 10;
    crashing[code - 10..].fill(0);
    let path = lab.executable("qemu-arm-static", &crashing);
    register(lab, "qemu-arm", ARM, &path, "F");
    let text = format!("qemu-arm ({}): its interpreter crashed (signal", path.display());
    mends(lab, "problem", "broken", &text);
    sound(lab);
    // Where that is the one that is at hand, another has to be named.
    lab.done(["reset"]);
    lab.handler("qemu-arm", "arm", &path, Flags::FIX_BINARY);
    let mut command = lab.program(&[], ["doctor"]);
    let ran = run(command.env("QUS_INTERPRETER_DIR", path.parent().unwrap()));
    let cure = "cure: sudo qus register --replace --interpreter-dir DIR arm\n";
    assert!(ran.status == 1 && ran.stdout.contains(cure), "{ran:#?}");
}

fn interim(lab: &Lab) {
    // Interrupted before the new handler got its name, and after that.
    register(lab, "qemu-arm.qus-123", ARM, &qemu_arm(), "F");
    mends(lab, "problem", "interim", "qemu-arm.qus-123 was left behind");
    sound(lab);
    lab.done(["verify", "arm"]);
    lab.done(["reset"]);
    register(lab, "qemu-arm.qus-123", ARM, &qemu_arm(), "F");
    lab.done(["register", "arm"]);
    register(lab, "qemu-arm.qus-124", ARM, &qemu_arm(), "F");
    mends(lab, "problem", "interim", "qemu-arm.qus-124 was left behind");
    sound(lab);
    lab.done(["verify", "arm"]);
}

fn promised(lab: &Lab) {
    let folder = lab.path("binfmt.d");
    fs::create_dir(&folder).unwrap();
    fs::create_dir_all("/etc/binfmt.d").ok();
    bind(&folder, "/etc/binfmt.d");
    let here = format!("# comment\n:promised:{ARM}:{}:F\n:other:E::x::/missing:\n", qemu_arm().display());
    fs::write(folder.join("test.conf"), here).unwrap();
    let finding =
        found(lab, "note", "promised", "other is promised by /etc/binfmt.d/test.conf, and not there");
    assert!(finding["text"].as_str().unwrap().ends_with("its interpreter /missing does not exist"));
    // systemd's own command cannot be given here.
    if !Path::new("/run/systemd/system").exists() {
        mends(lab, "note", "promised", "promised is promised by /etc/binfmt.d/test.conf");
        sound(lab);
    }
}

fn wsl(lab: &Lab) {
    let version = lab.path("version");
    fs::write(&version, "Linux version 6.6.87.2-microsoft-standard-WSL2\n").unwrap();
    bind(&version, "/proc/version");
    mends(lab, "problem", "wsl", "this is WSL, and its handler WSLInterop is gone");
    sound(lab);
    assert!(lab.entries()["WSLInterop"].contains("interpreter /init\nflags: P\n"));
}

/// No emulator with a known defect is to be had here: one that says it is.
fn emulator(lab: &Lab) {
    let says = b"#!/bin/sh\necho qemu-aarch64 version 9.2.1\n";
    let path = lab.executable("qemu-aarch64", says);
    lab.handler("qemu-aarch64", "aarch64", &path, Flags::FIX_BINARY);
    let finding = found(lab, "note", "emulator", "qemu-aarch64 is QEMU 9.2.1: ldconfig crashes");
    let cure = finding["cure"].as_str().unwrap();
    assert!(finding["text"].as_str().unwrap().contains("https://"), "{finding}");
    lab.cure(&cure.replace("DIR", downloads::distribution().to_str().unwrap()));
    gone(lab, "note", "emulator", "");
    sound(lab);
}

fn engines(lab: &Lab) {
    fs::create_dir(lab.path("engines")).unwrap();
    let with = |engine: &str| {
        lab.executable(&format!("engines/{engine}"), b"");
        let mut command = lab.program(&[], ["doctor"]);
        run(command.env("PATH", lab.path("engines"))).stdout
    };
    assert!(with("podman").contains("podman here: it sees every handler that has the flag F"));
    let text = with("docker");
    assert!(text.contains("docker, podman here: what was registered after a builder started"), "{text}");
    assert!(text.contains("cure: docker buildx stop\n"), "{text}");
}

/// The modules themselves cannot be switched on here; the files by which they tell can be.
fn security(lab: &Lab) {
    tmpfs("/sys/fs", MsFlags::empty());
    fs::create_dir("/sys/fs/selinux").unwrap();
    fs::write("/sys/fs/selinux/enforce", "1").unwrap();
    let finding = found(lab, "note", "security", "active: SELinux (enforcing)");
    assert_eq!(finding["cure"], "sudo ausearch -m avc -ts recent");
    fs::write("/sys/fs/selinux/enforce", "0").unwrap();
    gone(lab, "note", "security", "");
    tmpfs("/sys/module", MsFlags::empty());
    fs::create_dir_all("/sys/module/apparmor/parameters").unwrap();
    fs::write("/sys/module/apparmor/parameters/enabled", "Y\n").unwrap();
    found(lab, "ok", "security", "active: AppArmor");
}

/// The setting is one of each user namespace.
fn namespaces(lab: &Lab) {
    found(lab, "ok", "namespaces", "user namespaces are to be had");
    fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    let cure = mends(lab, "note", "namespaces", "a setting keeps user namespaces from unprivileged users");
    assert_eq!(cure, "sudo sysctl -w user.max_user_namespaces=65536");
}
