//! Tests unusable interpreters. qus prints one clear message with a hint, exits with 2, and changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use qus::arch::Arch;
use qus::binfmt::{Flags, HandlerName, Matcher, Rule, RuleError};

use crate::downloads::{self, interpreter};
use crate::lab::{Lab, Ran, busybox, is_dynamic, order, run};

/// Expects that `file` is refused as the interpreter of arm, both if it is named and if it is found in a directory.
fn unfit(lab: &Lab, file: &Path, message: &str) -> Ran {
    let path = file.to_str().unwrap();
    let sentence = format!("{path} {message}");
    let found = ["register", "--interpreter-dir", file.parent().unwrap().to_str().unwrap(), "arm"];
    lab.refused(found, 2, &sentence).suggests("qus register --fetch arm");
    lab.refused(["register", "--interpreter", path, "arm"], 2, &sentence)
}

kernel_test!(an_unknown_architecture_is_refused);
fn an_unknown_architecture_is_refused(lab: &Lab) {
    for (typed, meant) in [("armm", "arm"), ("arch64", "aarch64"), ("arm65", "arm64")] {
        let message = format!("unknown architecture \"{typed}\"; did you mean \"{meant}\"?");
        for command in ["register", "fetch", "show"] {
            lab.refused([command, typed], 2, &message);
        }
        let message = format!("no handler or architecture is called \"{typed}\"; did you mean \"{meant}\"?");
        for command in ["reset", "verify", "list", "enable", "disable"] {
            lab.refused([command, typed], 2, &message);
        }
    }
    // The valid name next to it is not registered.
    lab.refused(["register", "arm,qwertyuiop"], 2, "unknown architecture \"qwertyuiop\"");
}

kernel_test!(a_missing_interpreter_is_reported);
fn a_missing_interpreter_is_reported(lab: &Lab) {
    let empty = lab.path("empty");
    fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    let message = format!("no interpreter is in {empty}, /nowhere (does not exist)");
    let words = ["register", "--interpreter-dir", empty, "--interpreter-dir", "/nowhere"];
    let ran = lab.refused(words.into_iter().chain(["arm", "s390x"]), 2, &message);
    ran.suggests("qus register --fetch arm s390x");
    assert!(ran.stderr.contains("2 of 2 architectures were not registered (missing)"), "{ran:#?}");
    lab.refused(words.into_iter().chain(["all"]), 2, &message).suggests("qus register --fetch all");
}

kernel_test!(a_directory_that_cannot_be_searched_is_reported);
fn a_directory_that_cannot_be_searched_is_reported(lab: &Lab) {
    fs::write(lab.path("file"), "").unwrap();
    for (directory, obstacle) in [("nowhere", "does not exist"), ("file", "is not a directory")] {
        let message = format!("is in {directory} ({obstacle})");
        let options = ["--interpreter-dir", directory];
        let commands: [(i32, &[&str], &[&str]); 4] = [
            (2, &["register"], &["s390x"]),
            (2, &["export", "--format", "systemd"], &["s390x"]),
            (125, &["run", "--arch", "s390x"], &["true"]),
            (2, &["bundle", "-o", "copy"], &["s390x"]),
        ];
        // A dynamically linked qus refuses to make a bundle before it searches.
        let possible = if is_dynamic() { 3 } else { 4 };
        for (status, command, rest) in commands.into_iter().take(possible) {
            let ran = lab.refused([command, &options[..], rest].concat(), status, &message);
            match (command[0], directory) {
                ("bundle" | "export", "nowhere") => ran.suggests("qus fetch --dest nowhere s390x"),
                ("bundle" | "export", _) => assert!(!ran.messages().contains("try: "), "{ran:#?}"),
                _ => {}
            }
        }
    }
}

kernel_test!(a_command_that_fetches_keeps_the_options);
fn a_command_that_fetches_keeps_the_options(lab: &Lab) {
    fs::create_dir(lab.path("empty")).unwrap();
    let source = ["--interpreter-dir", "empty"];
    let kept = ["--dest", "a b", "--qemu-version", "99", "--credentials", "--no-verify"];
    let words = [&["register", "--replace"][..], &source, &kept, &["arm"]].concat();
    lab.refused(words, 2, "no interpreter of QEMU 99 is in empty").hints(
        "if the distribution has QEMU 99: \
         qus register --fetch --replace --dest 'a b' --qemu-version 99 --credentials --no-verify arm",
    );
    let words = ["register", "--interpreter-dir", "empty", "--qemu-version", "99"];
    lab.refused(words, 2, "no interpreter of QEMU 99 is in empty")
        .hints("if the distribution has QEMU 99: qus register --fetch --qemu-version 99 all");
    let words = ["register", "--interpreter", "nowhere", "--dest", "x", "arm"];
    lab.refused(words, 2, "nowhere does not exist").suggests("qus register --fetch --dest x arm");
}

kernel_test!(no_interpreter_at_all_is_reported);
fn no_interpreter_at_all_is_reported(lab: &Lab) {
    for directory in ["/usr/local/lib/qus", "/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt"] {
        if Path::new(directory).exists() {
            mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
    }
    let mut command = lab.program(&[], ["register", "arm"]);
    let ran = run(command.env("QUS_INTERPRETER_DIR", "/first").env("QEMU_BIN_DIR", "/second"));
    let directories =
        "/first, /second, /usr/local/lib/qus, /usr/bin, /usr/local/bin, /usr/libexec/qemu-binfmt";
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stdout.contains(&format!("missing    no interpreter is in {directories}")), "{ran:#?}");
    // The directories of apt-get are covered as well.
    ran.hints("qus knows no package manager of this system; name a source: qus register --from SRC arm");
    assert!(lab.entries().is_empty());
}

kernel_test!(a_dynamic_interpreter_is_refused);
fn a_dynamic_interpreter_is_refused(lab: &Lab) {
    let file = lab.copy("d/qemu-arm-static", Path::new("/bin/true"));
    let ran = unfit(lab, &file, "is not static: it needs /lib");
    assert!(ran.stderr.contains(", which containers do not have.\n"), "{ran:#?}");
    assert!(ran.stderr.contains("\"No such file or directory\" for a program that exists."), "{ran:#?}");
    ran.suggests("qus register --fetch arm");
}

kernel_test!(an_interpreter_that_may_not_run_is_refused);
fn an_interpreter_that_may_not_run_is_refused(lab: &Lab) {
    let file = lab.copy("d d/qemu-arm-static", &interpreter("arm"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let command = format!("chmod 755 '{}'", file.display());
    unfit(lab, &file, "is not executable").suggests(&command);
    // The printed command fixes the problem.
    lab.shell(&command);
    lab.done(["register", "--interpreter", file.to_str().unwrap(), "arm"]);
}

kernel_test!(an_interpreter_for_another_host_is_refused);
fn an_interpreter_for_another_host_is_refused(lab: &Lab) {
    let foreign = if cfg!(target_arch = "aarch64") { "s390x" } else { "aarch64" };
    let file = lab.copy("d/qemu-arm-static", &downloads::busybox(foreign));
    let message = format!("is a program for {foreign}, not for this host");
    unfit(lab, &file, &message).suggests("qus register --fetch arm");
}

kernel_test!(an_empty_interpreter_is_refused);
fn an_empty_interpreter_is_refused(lab: &Lab) {
    fs::create_dir(lab.path("d")).unwrap();
    let file = lab.executable("d/qemu-arm-static", b"");
    unfit(lab, &file, "is empty").suggests("qus register --fetch arm");
}

kernel_test!(a_script_as_interpreter_is_refused);
fn a_script_as_interpreter_is_refused(lab: &Lab) {
    fs::create_dir(lab.path("d")).unwrap();
    let file = lab.executable("d/qemu-arm-static", b"#!/bin/sh -e\nexec qemu-arm \"$@\"\n");
    unfit(lab, &file, "is a script (#!/bin/sh -e)").suggests("qus register --fetch arm");
}

kernel_test!(a_directory_as_interpreter_is_refused);
fn a_directory_as_interpreter_is_refused(lab: &Lab) {
    let file = lab.path("d/qemu-arm-static");
    fs::create_dir_all(&file).unwrap();
    unfit(lab, &file, "is a directory").suggests("qus register --fetch arm");
}

kernel_test!(a_text_as_interpreter_is_refused);
fn a_text_as_interpreter_is_refused(lab: &Lab) {
    fs::create_dir(lab.path("d")).unwrap();
    let file = lab.executable("d/qemu-arm-static", b"an emulator\n");
    unfit(lab, &file, "is not an ELF file").suggests("qus register --fetch arm");
    let header = fs::read(interpreter("arm")).unwrap()[..40].to_vec();
    fs::write(&file, header).unwrap();
    unfit(lab, &file, "is a damaged ELF file");
}

kernel_test!(an_interpreter_that_is_not_there_is_refused);
fn an_interpreter_that_is_not_there_is_refused(lab: &Lab) {
    let file = lab.link("d/qemu-arm-static", Path::new("/nowhere"));
    unfit(lab, &file, "does not exist").suggests("qus register --fetch arm");
}

kernel_test!(an_interpreter_on_a_noexec_mount_is_refused);
fn an_interpreter_on_a_noexec_mount_is_refused(lab: &Lab) {
    let directory = lab.path("d");
    fs::create_dir(&directory).unwrap();
    mount(Some("none"), &directory, Some("tmpfs"), MsFlags::MS_NOEXEC, None::<&str>).unwrap();
    let file = lab.copy("d/qemu-arm-static", &interpreter("arm"));
    let ran = unfit(lab, &file, "is on a file system that is mounted noexec");
    ran.suggests("qus register --fetch arm");
}

kernel_test!(a_setuid_interpreter_is_refused);
fn a_setuid_interpreter_is_refused(lab: &Lab) {
    let file = lab.copy("d/qemu-arm-static", &interpreter("arm"));
    for mode in [0o4755, 0o2755] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let message = "has a setuid or setgid bit: all programs would get the rights of its owner";
        unfit(lab, &file, message).suggests(&format!("chmod ug-s {}", file.display()));
    }
}

kernel_test!(an_interpreter_open_for_writing_is_refused);
fn an_interpreter_open_for_writing_is_refused(lab: &Lab) {
    // Only the kernel detects this, when qus writes the line.
    let file = lab.copy("d/qemu-arm-static", &interpreter("arm"));
    let writer = fs::OpenOptions::new().append(true).open(&file).unwrap();
    let path = file.to_str().unwrap();
    let message = format!("the kernel cannot open the interpreter {path}: a process has it open for writing");
    lab.refused(["register", "--interpreter", path, "arm"], 2, &message);
    lab.done(["register", "--interpreter-dir", "d", "--dry-run", "arm"]);
    drop(writer);
    lab.done(["register", "--interpreter", path, "arm"]);
}

kernel_test!(unfit_interpreters_are_passed_over);
fn unfit_interpreters_are_passed_over(lab: &Lab) {
    // The first directory has a dynamic interpreter, and the second one has another under the preferred name. The first
    // usable one is taken.
    lab.copy("first/qemu-arm-static", Path::new("/bin/true"));
    lab.copy("second/qemu-arm-static", Path::new("/bin/true"));
    lab.link("second/qemu-arm", &interpreter("arm"));
    let words = ["register", "--interpreter-dir", "first", "--interpreter-dir", "second", "arm"];
    assert!(lab.done(words).contains("/second/qemu-arm "));
    // If the named directory has only an unusable interpreter, an existing handler does not count: the user named a
    // directory.
    let words = ["register", "--interpreter-dir", "first", "arm"];
    lab.refused(words, 2, "first/qemu-arm-static is not static");
    lab.refused(words.into_iter().chain(["--replace"]), 2, "first/qemu-arm-static is not static");
}

kernel_test!(one_interpreter_is_for_one_architecture);
fn one_interpreter_is_for_one_architecture(lab: &Lab) {
    let file = interpreter("arm");
    for arches in [&["arm", "aarch64"][..], &["all"], &[]] {
        let words = ["register", "--interpreter", file.to_str().unwrap()];
        let ran = lab.refused(
            words.into_iter().chain(arches.iter().copied()),
            2,
            "--interpreter requires exactly one architecture",
        );
        ran.hints(&format!("name one: qus register --interpreter {} ARCH", file.display()));
    }
}

/// Expects that an interpreter in the directory `name` is registered, is found again, runs programs, and is removed.
fn serves_from(lab: &Lab, name: &str) {
    let file = lab.link(&format!("{name}/qemu-arm-static"), &interpreter("arm"));
    for (word, words) in [
        (" registered ", ["register", "--interpreter", file.to_str().unwrap(), "arm"]),
        (" unchanged ", ["register", "--interpreter-dir", file.parent().unwrap().to_str().unwrap(), "arm"]),
    ] {
        let printed = lab.done(words);
        assert!(printed.contains(word), "{printed}");
        assert_eq!(printed.lines().count(), 1, "{printed}");
    }
    let entries = lab.entries();
    assert!(entries["qemu-arm"].contains(file.to_str().unwrap()), "{entries:?}");
    let listed = lab.json(["list"]);
    assert_eq!(listed["handlers"][0]["interpreter"], file.to_str().unwrap());
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    lab.done(["reset"]);
    assert!(lab.entries().is_empty());
}

kernel_test!(a_path_may_hold_the_delimiter);
fn a_path_may_hold_the_delimiter(lab: &Lab) {
    serves_from(lab, "a:b");
    serves_from(lab, ":,;|!#%&@^~=?*");
    serves_from(lab, "with space and \\x41 and \"'");
}

kernel_test!(a_path_may_hold_a_newline);
fn a_path_may_hold_a_newline(lab: &Lab) {
    serves_from(lab, "new\nline");
    serves_from(lab, "\n");
    serves_from(lab, "a\nflags: \noffset 3\nmagic 00\n");
}

kernel_test!(a_path_may_not_hold_a_nul);
fn a_path_may_not_hold_a_nul(lab: &Lab) {
    // execve(2) cannot pass a NUL, so it can only come from a program that uses the library.
    let rule = |path: &str| {
        let pattern = Arch::from_qemu_target("arm").unwrap().identity.patterns().swap_remove(0);
        let name = HandlerName::new("qemu-arm").unwrap();
        Rule::new(name, Matcher::Magic(pattern), path, Flags::empty())
    };
    let error = rule("/a\0b").unwrap_err();
    assert_eq!(error, RuleError::Interpreter);
    assert_eq!(error.to_string(), "the path of the interpreter is empty, or contains a NUL");
    // The kernel refuses it, too.
    let line = rule("/a_b").unwrap().to_line();
    let with_nul: Vec<u8> = line.iter().map(|byte| if *byte == b'_' { 0 } else { *byte }).collect();
    assert_eq!(lab.register(&with_nul), Err(Errno::EINVAL));
    assert_eq!(lab.register(&line), Ok(()));
}

kernel_test!(a_path_too_long_for_the_line_is_refused);
fn a_path_too_long_for_the_line_is_refused(lab: &Lab) {
    let deep = vec!["d".repeat(200); 10].join("/");
    lab.link(&format!("{deep}/qemu-arm-static"), &interpreter("arm"));
    lab.link("short/qemu-s390x-static", &interpreter("s390x"));
    let words = ["register", "--interpreter-dir", &deep, "arm"];
    let ran =
        lab.refused(words, 2, " bytes, but the kernel accepts 1920: the path of the interpreter is too long");
    ran.hints("put the interpreter into a directory with a shorter path");
    // The rest of a batch is registered.
    let words = ["register", "--interpreter-dir", &deep, "--interpreter-dir", "short", "arm", "s390x"];
    let ran = lab.qus(words);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains("1 of 2 architectures were not registered (refused)"), "{ran:#?}");
    assert_eq!(order(), ["qemu-s390x"], "{ran:#?}");
}
