//! `qus reset` removes the handlers of QEMU's emulators, whatever their names are, and no others.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use qus::binfmt::Flags;

use crate::downloads::interpreter;
use crate::lab::{Lab, OURS, order};

/// Registers handlers that other tools have: Java, Python, the Windows programs of WSL, Wine, and emulators other than
/// QEMU. Returns all entries.
fn others(lab: &Lab) -> BTreeMap<String, String> {
    lab.register(b":jar:E::jar::/usr/bin/jexec:").unwrap();
    lab.register(b":python3.11:M::\\xa7\\x0d\\x0d\\x0a::/usr/bin/python3.11:").unwrap();
    lab.register(b":WSLInterop:M::MZ::/init:P").unwrap();
    lab.register(b":wine:M::MZ::/usr/bin/wine:").unwrap();
    // Names like qus's own, for other files.
    lab.register(b":qemu-arm:M::MZ::/usr/bin/qemu-arm-static:").unwrap();
    lab.register(b":qus-arm:E::exe::/bin/true:").unwrap();
    lab.handler("rosetta", "aarch64", Path::new("/mnt/lima-rosetta/rosetta"), Flags::empty());
    lab.handler("FEX-s390x", "s390x", &interpreter("s390x").with_file_name("FEXInterpreter"), Flags::empty());
    // This handler takes the host's own programs, so it must be disabled before a program is started.
    lab.handler("box64", std::env::consts::ARCH, Path::new("/usr/local/bin/box64"), Flags::empty());
    lab.command("box64", "0");
    lab.entries()
}

kernel_test!(reset_leaves_what_is_not_qemus);
fn reset_leaves_what_is_not_qemus(lab: &Lab) {
    let before = others(lab);
    let names = order();
    // A name in use stays with its handler.
    lab.done(["register", "aarch64_be", "riscv64", "microblaze", "hppa"]);
    assert_eq!(lab.entries().len(), before.len() + 5);
    let ran = lab.qus(["reset"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(ran.stdout.matches(" removed ").count(), 5, "{ran:#?}");
    assert_eq!((lab.entries(), order()), (before, names.clone()));
    assert_eq!(lab.json(["reset"])["skipped"], serde_json::json!(names));
}

/// Registers emulators of QEMU under various names.
fn odd(lab: &Lab) {
    lab.handler("arm", "arm", Path::new("/x/qemu-arm-static"), Flags::empty());
    lab.handler("foo", "arm", Path::new("/usr/libexec/qemu-binfmt/arm-binfmt-P"), Flags::PRESERVE_ARGV0);
    lab.handler("with space", "aarch64", Path::new("/usr/bin/buildkit-qemu-aarch64"), Flags::empty());
    lab.handler("off", "s390x", Path::new("/usr/bin/qemu-s390x"), Flags::empty());
    lab.command("off", "0");
    // QEMU's own script writes both bytes of the type in the wrong order.
    let microblaze =
        b":qemu-microblaze:M::\\x7fELF\\x01\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\
        \\x00\\x02\\xba\\xab:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\
        \\xfe\\xff\\xff\\xff:/usr/bin/qemu-microblaze:";
    lab.register(microblaze).unwrap();
}

kernel_test!(reset_finds_emulators_under_any_name);
fn reset_finds_emulators_under_any_name(lab: &Lab) {
    odd(lab);
    let ran = lab.qus(["reset"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    for (arch, name) in [
        ("arm", "arm"),
        ("arm", "foo"),
        ("aarch64", "with space"),
        ("s390x", "off"),
        ("microblaze", "qemu-microblaze"),
    ] {
        let printed = |line: &str| {
            line.starts_with(&format!("{arch} ")) && line.contains(&format!(" removed  {name} "))
        };
        assert!(ran.stdout.lines().any(printed), "no {arch} {name} in {ran:#?}");
    }
    assert!(order().is_empty(), "{ran:#?}");
}

kernel_test!(an_emulator_that_has_no_file_is_one);
fn an_emulator_that_has_no_file_is_one(lab: &Lab) {
    // The interpreter is in memory, as if its image no longer existed. Only the name of the handler identifies the
    // emulator (K51).
    let memory = memfd_create(c"emulator", MFdFlags::empty()).unwrap();
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let mut memory = File::from(memory);
    io::copy(&mut File::open(interpreter("arm")).unwrap(), &mut memory).unwrap();
    lab.handler("qemu-arm", "arm", Path::new(&path), OURS);
    lab.handler("nameless", "s390x", Path::new(&path), Flags::FIX_BINARY);
    drop(memory);
    let item = &lab.json(["register", "arm"])["items"][0];
    assert_eq!((&item["outcome"], &item["verified"]), (&"existing".into(), &true.into()));
    assert_eq!(item["version"], serde_json::Value::Null);
    lab.done(["reset"]);
    assert_eq!(order(), ["nameless"]);
}

kernel_test!(reset_of_one_architecture_leaves_the_others);
fn reset_of_one_architecture_leaves_the_others(lab: &Lab) {
    odd(lab);
    let printed = lab.done(["reset", "arm"]);
    assert_eq!(printed.lines().count(), 2, "{printed}");
    assert_eq!(order(), ["qemu-microblaze", "off", "with space"]);
    lab.done(["reset", "s390x,aarch64"]);
    assert_eq!(order(), ["qemu-microblaze"]);
}

kernel_test!(reset_takes_every_name_of_an_architecture);
fn reset_takes_every_name_of_an_architecture(lab: &Lab) {
    for name in ["arm64", "linux/arm64", "linux/arm64/v8", "aarch64-linux", "arm64v8"] {
        lab.done(["register", name, "arm"]);
        let printed = lab.done(["reset", name]);
        assert!(printed.starts_with("aarch64  removed  qemu-aarch64  "), "{name}: {printed}");
        assert_eq!(order(), ["qemu-arm"]);
    }
    lab.done(["register", "arm64"]);
    lab.done(["reset", "all"]);
    assert!(order().is_empty());
}

kernel_test!(a_second_reset_has_nothing_to_do);
fn a_second_reset_has_nothing_to_do(lab: &Lab) {
    lab.done(["register", "arm"]);
    lab.done(["reset"]);
    for words in [&["reset"][..], &["reset", "arm"]] {
        let ran = lab.qus(words.iter().copied());
        assert_eq!(ran.status, 0, "{ran:#?}");
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.ends_with("qus: no handler of a QEMU emulator is registered\n"), "{ran:#?}");
    }
    assert_eq!(lab.qus(["reset", "--quiet"]).stderr, "");
    assert_eq!(lab.json(["reset"])["items"], serde_json::json!([]));
}

kernel_test!(reset_where_nothing_is_mounted_is_an_error, unmounted);
fn reset_where_nothing_is_mounted_is_an_error(lab: &Lab) {
    let message = "cannot remove handlers: binfmt_misc is not mounted on /proc/sys/fs/binfmt_misc";
    for words in [&["reset"][..], &["reset", "arm"], &["reset", "-n"], &["reset", "jar"]] {
        let ran = lab.refused(words.iter().copied(), 2, message);
        ran.suggests("mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc");
        ran.hints(
            "the command mounts an instance of this user namespace, which hides the host's handlers here",
        );
    }
    // In a user namespace, mounting would hide the host's handlers.
    assert!(!Path::new("/proc/sys/fs/binfmt_misc/register").exists());
    lab.type_command("mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc");
    lab.done_with(["reset"], crate::lab::NO_HANDLER);
}

kernel_test!(handlers_that_are_not_visible_are_not_reported_as_removed, unmounted);
/// Tests an instance of this user namespace that is not mounted on the usual path, such as that of a container.
fn handlers_that_are_not_visible_are_not_reported_as_removed(lab: &Lab) {
    let elsewhere = lab.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    crate::namespace::mount_instance(&elsewhere, nix::mount::MsFlags::empty());
    let at = ["--instance", elsewhere.to_str().unwrap()];
    lab.done(at.into_iter().chain(["register", "arm"]));
    lab.refused(["reset"], 2, "cannot remove handlers: binfmt_misc is not mounted");
    assert_eq!(lab.json(at.into_iter().chain(["list"]))["handlers"].as_array().unwrap().len(), 1);
    lab.type_command("mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && qus reset");
    assert!(lab.json(at.into_iter().chain(["list"]))["handlers"].as_array().unwrap().is_empty());
}

kernel_test!(a_dry_run_of_reset_removes_nothing);
fn a_dry_run_of_reset_removes_nothing(lab: &Lab) {
    others(lab);
    odd(lab);
    let before = (lab.entries(), order());
    let printed = lab.done(["reset", "--dry-run"]);
    assert_eq!(printed.matches(" would remove ").count(), 5, "{printed}");
    assert_eq!((lab.entries(), order()), before);
    let value = lab.json(["reset", "-n", "arm"]);
    assert_eq!(value["dry_run"], true);
    let names: Vec<_> = value["items"].as_array().unwrap().iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["foo", "arm"]);
    assert_eq!((lab.entries(), order()), before);
}

kernel_test!(reset_clears_away_what_an_interrupted_run_left);
fn reset_clears_away_what_an_interrupted_run_left(lab: &Lab) {
    lab.handler("qemu-arm.qus-99", "arm", &interpreter("arm"), Flags::FIX_BINARY);
    lab.handler("qus-arm.qus-99", "arm", &interpreter("arm").with_file_name("box"), Flags::empty());
    lab.done(["reset", "arm"]);
    assert!(order().is_empty());
}
