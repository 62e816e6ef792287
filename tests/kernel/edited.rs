//! Files of qus that an administrator has changed, and copies of interpreters that no file names.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::downloads::interpreter;
use crate::lab::{Lab, NO_HANDLER, Ran};
use crate::persist::host;

const ARM: &str = "/etc/binfmt.d/qus-arm.conf";
const S390X: &str = "/etc/binfmt.d/qus-s390x.conf";
const COPIES: &str = "/usr/local/lib/qus/copies";

fn persist(lab: &Lab, words: &[&str]) -> Ran {
    lab.qus(["register", "--persist", "--interpreter-dir", "q"].iter().chain(words).copied())
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

kernel_test!(an_edited_file_stays_as_it_is);
/// Tests that every kind of edit is detected.
fn an_edited_file_stays_as_it_is(lab: &Lab) {
    host(lab);
    let ran = persist(lab, &["arm", "s390x"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    let written = fs::read_to_string(ARM).unwrap();
    let edits = [
        format!("{written}:mine:E::mine::/mine:\n"),
        written.replace(":POF", ":OF"),
        format!("# A note of mine\n{written}"),
        written.replacen("# Checksum: ", "# Checksum: 0", 1),
        written.split_inclusive('\n').filter(|line| !line.starts_with("# Checksum: ")).collect(),
        written.replacen('\n', "\n\n", 1),
    ];
    for edited in edits {
        assert_ne!(edited, written);
        // The first line is qus's marker: a file without it is not a file of qus.
        let message = if edited.starts_with("# Written by qus") {
            format!("{ARM} was edited since qus wrote it, and is left in place")
        } else {
            format!("{ARM} was not written by qus, and is left in place")
        };
        fs::write(ARM, &edited).unwrap();
        for words in [&["arm"][..], &["--replace", "arm"]] {
            let ran = persist(lab, words);
            assert!(ran.status == 2 && ran.stdout.contains("arm  refused"), "{ran:#?}");
            assert!(ran.stdout.contains(&message), "no {message:?} in {ran:#?}");
            assert_eq!(fs::read_to_string(ARM).unwrap(), edited);
        }
        assert!(Path::new(COPIES).join("qemu-arm-static").exists());
    }

    let edited = format!("{written}:mine:E::mine::/mine:\n");
    fs::write(ARM, &edited).unwrap();
    let ran = lab.qus(["reset", "--persist"]);
    let message = format!("  {ARM} was edited since qus wrote it, and is left in place\n");
    let row = ran.stdout.lines().find(|line| line.starts_with(&format!("arm    edited   {ARM}  ")));
    assert!(ran.status == 2 && row.is_some() && ran.stdout.contains(&message), "no {message:?} in {ran:#?}");
    assert!(ran.stderr.contains(&format!("{ARM} registers qemu-arm again at boot\n")), "{ran:#?}");
    assert_eq!(fs::read_to_string(ARM).unwrap(), edited);
    assert_eq!(names(COPIES), ["qemu-arm-static"]);
    assert!(!Path::new(S390X).exists() && lab.entries().is_empty());

    // The printed hint of `register` resolves that.
    let ran = persist(lab, &["arm"]);
    ran.suggests(&format!("mv {ARM} {ARM}.edited"));
    lab.type_command(&format!("mv {ARM} {ARM}.edited"));
    let ran = persist(lab, &["arm"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(fs::read_to_string(ARM).unwrap(), written);
    let ran = lab.qus(["reset", "--persist"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(!Path::new(ARM).exists() && !Path::new("/usr/local/lib/qus").exists());
}

kernel_test!(an_edited_service_stays_as_it_is);
fn an_edited_service_stays_as_it_is(lab: &Lab) {
    host(lab);
    fs::remove_dir_all("/run/systemd").unwrap();
    fs::create_dir("/run/openrc").unwrap();
    let ran = persist(lab, &["arm"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    let service = "/etc/init.d/qus";
    let edited = fs::read_to_string(service).unwrap() + "# mine\n";
    fs::write(service, &edited).unwrap();
    let message = format!("{service} was edited since qus wrote it, and is left in place");
    for words in [&["register", "--persist", "--interpreter-dir", "q", "arm"][..], &["reset", "--persist"]] {
        let ran = lab.qus(words.iter().copied());
        assert_eq!(ran.status, 2, "{ran:#?}");
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains(&message), "{ran:#?}");
        assert_eq!(fs::read_to_string(service).unwrap(), edited);
    }
}

kernel_test!(an_exported_file_that_was_edited_stays);
fn an_exported_file_that_was_edited_stays(lab: &Lab) {
    let words = ["export", "--format", "systemd", "--output", "rules", "arm"];
    lab.done(words);
    let path = lab.path("rules/qus-arm.conf");
    let edited = fs::read_to_string(&path).unwrap() + "# mine\n";
    fs::write(&path, &edited).unwrap();
    lab.refused(words, 2, "rules/qus-arm.conf was edited since qus wrote it, and is left in place");
    assert_eq!(fs::read_to_string(&path).unwrap(), edited);
}

kernel_test!(a_copy_without_a_file_is_removed);
/// Tests a process that was killed after it wrote the copy and before it wrote the file.
fn a_copy_without_a_file_is_removed(lab: &Lab) {
    host(lab);
    for words in [&["register", "--persist", "--interpreter-dir", "q", "arm"][..], &["reset", "--persist"]] {
        fs::create_dir_all(COPIES).unwrap();
        fs::copy(interpreter("s390x"), Path::new(COPIES).join("qemu-s390x-static")).unwrap();
        lab.done(words.iter().copied());
        assert!(!names(COPIES).contains(&"qemu-s390x-static".to_owned()), "{words:?}");
    }
    // A copy that a handler still uses stays.
    fs::create_dir_all(COPIES).unwrap();
    let copy = Path::new(COPIES).join("qemu-s390x-static");
    fs::copy(interpreter("s390x"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    lab.handler("theirs", "s390x", &copy, crate::lab::OURS);
    lab.done_with(["reset", "--persist", "arm"], NO_HANDLER);
    assert_eq!(names(COPIES), ["qemu-s390x-static"]);
}

kernel_test!(a_copy_of_another_name_is_removed);
fn a_copy_of_another_name_is_removed(lab: &Lab) {
    host(lab);
    lab.copy("q/emulator", &interpreter("arm"));
    for (words, left) in [
        (&["register", "--persist", "--interpreter-dir", "q", "arm"][..], "qemu-arm-static"),
        (&["register", "--persist", "--replace", "--interpreter", "q/emulator", "arm"], "emulator"),
    ] {
        lab.done(words.iter().copied());
        assert_eq!(names(COPIES), [left], "{words:?}");
    }
    lab.done(["reset", "--persist"]);
}
