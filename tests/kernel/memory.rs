//! Interpreters in memory, and bundles that contain them.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::unistd::{AccessFlags, access};

use crate::downloads::{self, interpreter};
use crate::lab::{Lab, OURS, QUS, Ran, busybox, is_dynamic, needs_static_qus, order, run};

kernel_test!(interpreters_live_in_memory);
fn interpreters_live_in_memory(lab: &Lab) {
    let own = lab.copy("own/qemu-arm-static", &downloads::interpreter("arm"));
    let words = ["register", "--in-memory", "--interpreter-dir", "own", "arm"];
    let printed = lab.done(words);
    assert!(printed.contains("registered  POF  memory/QEMU-") && !printed.contains("verified"), "{printed}");
    let value = lab.json(["list"]);
    let size = fs::metadata(&own).unwrap().len();
    assert_eq!(value["handlers"][0]["in_memory"]["size"], size);
    let entries = lab.entries();
    assert!(lab.done(words).contains(" unchanged "));
    assert_eq!(lab.entries(), entries);
    // The handler works after its file is removed. Other content counts as another interpreter.
    fs::remove_file(&own).unwrap();
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    let printed = lab.done(["verify"]);
    assert!(
        printed.contains("arm  working  qemu-arm  memory/QEMU-") && printed.contains(" (QEMU "),
        "{printed}"
    );
    let printed = lab.qus(["doctor", "-v"]).stdout;
    let held = format!("in memory, and uses {} MiB", size.div_ceil(1 << 20));
    assert!(printed.contains(&held) && !printed.contains("the file was removed"), "{printed}");
    let printed = lab.done(["which", downloads::busybox("arm").to_str().unwrap()]);
    assert!(printed.contains("; it is in memory\n"), "{printed}");
    lab.copy_with_a_byte_more("own/qemu-arm-static", &interpreter("arm"));
    let printed = lab.done(["register", "--in-memory", "--interpreter-dir", "own", "--replace", "arm"]);
    assert!(printed.contains(" replaced ") && lab.entries() != entries, "{printed}");
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    lab.done(["reset"]);
    assert!(order().is_empty());
}

kernel_test!(a_version_that_was_unknown_makes_no_other_interpreter);
/// Tests a handler in memory whose path says that the version is unknown, as after a failure to start the interpreter.
fn a_version_that_was_unknown_makes_no_other_interpreter(lab: &Lab) {
    let words = ["register", "--in-memory", "arm"];
    lab.done(words);
    let value = lab.json(["list"]);
    let known = value["handlers"][0]["interpreter"].as_str().unwrap();
    let (_, content) = known.strip_prefix("memory/QEMU-").unwrap().split_once('/').unwrap();
    let unknown = Path::new("memory/QEMU-unknown").join(content);
    lab.done(["reset"]);
    let file = lab.copy(unknown.to_str().unwrap(), &interpreter("arm"));
    std::env::set_current_dir(lab.path("")).unwrap();
    lab.handler("qemu-arm", "arm", &unknown, OURS);
    fs::remove_file(file).unwrap();
    let before = lab.entries();
    let printed = lab.done(words);
    assert!(printed.contains(" unchanged "), "{printed}");
    assert_eq!(lab.entries(), before);
}

kernel_test!(a_handler_with_a_file_is_not_in_memory);
fn a_handler_with_a_file_is_not_in_memory(lab: &Lab) {
    lab.done(["register", "arm"]);
    let before = lab.entries();
    let message = format!(
        "qemu-arm ({}, flags POF) already handles these programs, not memory/QEMU-",
        interpreter("arm").display()
    );
    let command = ["qus", "register", "--replace", "--in-memory", "arm"];
    lab.refused(["register", "--in-memory", "arm"], 2, &message).suggests(&command.join(" "));
    assert_eq!(lab.entries(), before);
    lab.done(command.into_iter().skip(1));
    assert!(lab.entries()["qemu-arm"].contains("interpreter memory/QEMU-"));
    assert!(lab.done(["register", "--in-memory", "arm"]).contains(" unchanged "));
    // Without the option, a handler in memory is sufficient.
    assert!(lab.done(["register", "arm"]).contains(" existing "));
}

kernel_test!(memory_that_may_not_be_executed);
/// Tests `vm.memfd_noexec`. Each pid namespace has its own value (Linux 6.3), so a test can change it.
fn memory_that_may_not_be_executed(lab: &Lab) {
    // The file belongs to the machine's root, which the namespace of an ordinary user cannot map.
    if access("/proc/sys/vm/memfd_noexec", AccessFlags::W_OK).is_err() {
        return;
    }
    let script = |value: u32, command: &str| {
        let sysctl = "/proc/sys/vm/memfd_noexec";
        let mount = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc";
        let script = format!("{mount}; echo {value} > {sysctl}; test $(cat {sysctl}) = {value}; {command}");
        let wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-ec", &script];
        run(&mut lab.program(&wrapper, ["register", "--in-memory", "arm"]))
    };
    let ran = script(2, "exec \"$0\" \"$@\"");
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{ran:#?}");
    let message = "qus: cannot execute files in memory: vm.memfd_noexec forbids it\n";
    assert!(ran.stderr.starts_with(message), "{ran:#?}");
    ran.suggests("sysctl -w vm.memfd_noexec=1");
    assert!(order().is_empty());
    let ran = script(1, "exec \"$0\" \"$@\"");
    assert!(ran.status == 0 && ran.stdout.contains("registered  POF  memory/QEMU-"), "{ran:#?}");
}

/// Makes a bundle of arm and s390x in the directory of the test.
fn make(lab: &Lab, name: &str) -> std::path::PathBuf {
    needs_static_qus();
    let directory = downloads::distribution();
    let words =
        ["bundle", "--interpreter-dir", directory.to_str().unwrap(), "-o", name, "linux/arm/v7,s390x"];
    let printed = lab.done(words);
    assert!(printed.contains("with arm s390x"), "{printed}");
    lab.path(name)
}

kernel_test!(a_cut_or_longer_bundle_is_refused);
/// Tests that a truncated or extended bundle does not run like a plain qus: every command reports the damage and does
/// nothing.
fn a_cut_or_longer_bundle_is_refused(lab: &Lab) {
    let file = make(lab, "whole");
    let bytes = fs::read(&file).unwrap();
    let length = bytes.len();
    let cases = [
        ("cut", bytes[..length - 1].to_vec()),
        ("half", fs::read(QUS).unwrap().iter().enumerate().map(|(at, _)| bytes[at]).collect()),
        ("longer", [&bytes, &b"signature"[..]].concat()),
    ];
    for (name, content) in cases {
        let path = lab.executable(name, &content);
        let message =
            format!("qus: the bundle is damaged: it has {} bytes instead of {length}\n", content.len());
        for words in [
            &["register", "all"][..],
            &["list"],
            &["show", "--bundled"],
            &["show"],
            &["run", "--", "/bin/true"],
            &["bundle", "-o", "again", "arm"],
            &["doctor"],
        ] {
            let ran = run(Command::new(&path).args(words).current_dir(lab.path("")));
            let status = if words[0] == "run" { 125 } else { 2 };
            assert_eq!((ran.status, ran.stderr.as_str()), (status, message.as_str()), "{name} {words:?}");
            assert!(ran.stdout.is_empty() && lab.entries().is_empty() && !lab.path("again").exists());
        }
    }
}

kernel_test!(commands_of_a_bundle_use_its_interpreters);
/// Tests that commands of a bundle use its interpreters if no directory is named.
fn commands_of_a_bundle_use_its_interpreters(lab: &Lab) {
    let file = make(lab, "whole");
    let program = lab.copy("busybox", &downloads::busybox("s390x"));
    let alone = |words: &[&str]| {
        let mut command = Command::new(&file);
        command.args(words).env_clear().env("PATH", "/usr/bin:/bin").current_dir(lab.path(""));
        command.env("TMPDIR", lab.path("tmp"));
        command
    };
    fs::create_dir(lab.path("tmp")).unwrap();
    let ran = run(&mut alone(&["run", "--", program.to_str().unwrap(), "echo", "works"]));
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "works\n"), "{ran:#?}");
    assert_eq!(fs::read_dir(lab.path("tmp")).unwrap().count(), 0);
    let ran = run(&mut alone(&["bundle", "-o", "again", "arm"]));
    assert_eq!(ran.status, 0, "{ran:#?}");
    let ran = run(Command::new(lab.path("again")).args(["show", "--bundled"]));
    assert!(ran.stdout.contains("qemu-arm-static") && !ran.stdout.contains("s390x"), "{ran:#?}");
    // A directory in a variable has precedence.
    for variable in ["QUS_INTERPRETER_DIR", "QEMU_BIN_DIR"] {
        let mut command = alone(&["register", "arm", "s390x"]);
        lab.copy("own/qemu-arm-static", &downloads::interpreter("arm"));
        let ran = run(command.env(variable, lab.path("own")));
        let own = format!("arm    registered  POF  {} ", lab.path("own/qemu-arm-static").display());
        assert!(ran.status == 0 && ran.stdout.contains(&own), "no {own:?} in {ran:#?}");
        assert!(ran.stdout.contains("s390x  registered  POF  memory/QEMU-"), "{ran:#?}");
        lab.done(["reset"]);
    }
}

kernel_test!(a_dynamic_qus_makes_no_bundle);
/// Tests a dynamically linked qus, as distributions build it. It refuses to make bundles.
fn a_dynamic_qus_makes_no_bundle(lab: &Lab) {
    let ran = lab.qus(["bundle", "-o", "bundle", "arm"]);
    if is_dynamic() {
        assert_eq!(ran.status, 2, "{ran:#?}");
        assert!(
            ran.stderr.starts_with("qus: cannot bundle: this qus is dynamically linked (needs /"),
            "{ran:#?}"
        );
        assert!(!lab.path("bundle").exists());
    } else {
        assert_eq!(ran.status, 0, "{ran:#?}");
    }
}

kernel_test!(a_bundle_needs_nothing_else);
fn a_bundle_needs_nothing_else(lab: &Lab) {
    let file = make(lab, "qus-two");
    let root = lab.path("root");
    fs::create_dir_all(root.join("proc")).unwrap();
    fs::copy(&file, root.join("qus")).unwrap();
    lab.shell("mount --rbind /proc root/proc");
    let inside =
        |words: &[&str]| -> Ran { run(Command::new("/usr/sbin/chroot").arg(&root).arg("/qus").args(words)) };
    let before = names(&root);
    let ran = inside(&["register", "-v", "all"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(ran.stdout.matches(" registered  POF  memory/QEMU-").count(), 2, "{ran:#?}");
    assert_eq!(names(&root), before);
    for arch in ["arm", "s390x"] {
        assert_eq!(busybox(arch, "echo works").unwrap().stdout, "works\n");
    }
    let ran = inside(&["show", "--bundled"]);
    assert!(ran.stdout.contains("qemu-arm-static") && ran.stdout.contains("qemu-s390x-static"), "{ran:#?}");
    let ran = inside(&["reset"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(order().is_empty());
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

kernel_test!(a_damaged_bundle_is_refused);
fn a_damaged_bundle_is_refused(lab: &Lab) {
    let file = make(lab, "whole");
    let whole = fs::read(&file).unwrap();
    let at = |bytes: &[u8]| lab.executable("damaged", bytes);
    // The last kilobytes are compressed members, the index and the trailer.
    for from_end in [10, 40, 100, 1 << 20] {
        let mut bytes = whole.clone();
        let position = bytes.len() - from_end;
        bytes[position] ^= 0x10;
        let ran = run(Command::new(at(&bytes)).args(["register", "arm", "s390x"]));
        assert_eq!(ran.status, 2, "{from_end}: {ran:#?}");
        assert!(ran.stderr.contains("the bundle is damaged: "), "{from_end}: {ran:#?}");
        assert!(order().is_empty());
    }
}

kernel_test!(bundles_of_the_same_are_the_same);
fn bundles_of_the_same_are_the_same(lab: &Lab) {
    let one = make(lab, "one");
    let two = make(lab, "two");
    assert!(fs::read(&one).unwrap() == fs::read(two).unwrap());
    // A bundle also makes bundles, and writes the same bytes.
    let directory = downloads::distribution();
    let words = ["bundle", "--interpreter-dir", directory.to_str().unwrap(), "-o", "three", "arm", "s390x"];
    let ran = run(Command::new(one).args(words).current_dir(lab.path(".")));
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(fs::read(lab.path("one")).unwrap() == fs::read(lab.path("three")).unwrap());
}
