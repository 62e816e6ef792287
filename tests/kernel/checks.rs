//! What holds each check of `qus doctor`: a test that makes its situation real, sees it found, and has the printed command
//! mend it; or why there is nothing to mend; or why it cannot be made real here.
//!
//! A test that is named here and does not do what is said of it fails, and so does a check that is not named.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::lab::Lab;

/// How a check is held.
enum Dir {
    /// These tests see it found, and gone after its command was typed into a shell.
    Mended(&'static [&'static str]),
    /// This test sees it found, with no command; then why there is none.
    Explained(&'static str, &'static str),
    /// No test of this folder makes it real, because; the tests that there are judge facts.
    NotHere(&'static str),
}
use Dir::{Explained, Mended, NotHere};

static HELD: &[(&str, Dir)] = &[
    ("kernel", NotHere("there is one kernel here, and it is not older than 4.8")),
    ("mounted", Mended(&["doctor_not_mounted", "doctor_mounted_over"])),
    ("writable", Mended(&["doctor_read_only"])),
    ("instance-off", Mended(&["doctor_instance_off"])),
    ("scope", Explained("doctor_of_a_healthy_instance", "it says where this is, which is not wrong")),
    ("lifetime", Mended(&["situation_9_in_a_mount_namespace"])),
    ("captures", Mended(&["doctor_captures", "situation_4_native_programs_captured"])),
    ("disabled", Mended(&["doctor_disabled"])),
    ("no-fix", Mended(&["doctor_no_fix"])),
    ("interpreter", Mended(&["doctor_unfit_interpreters", "doctor_interpreter_gone"])),
    ("stale", Mended(&["doctor_stale"])),
    ("self-capture", Mended(&["doctor_self_capture"])),
    ("writable-file", Mended(&["doctor_writable_file"])),
    ("credentials", Mended(&["doctor_credentials"])),
    ("shadowed", Mended(&["doctor_shadowed"])),
    (
        "overlap",
        Explained("doctor_overlap", "which of two other programs shall be in front is for their user to say"),
    ),
    ("broken", Mended(&["doctor_broken", "doctor_broken_of_another"])),
    ("interim", Mended(&["doctor_interim"])),
    ("configured", Mended(&["doctor_promised", "doctor_promised_with_systemd"])),
    (
        "flushed",
        NotHere(
            "it is about handlers of the initial user namespace; as root of a machine .ci/e2e/situations makes it real",
        ),
    ),
    ("wsl", Mended(&["doctor_wsl"])),
    ("emulator", Mended(&["doctor_emulator"])),
    ("engines", Mended(&["doctor_builder_that_started_too_early"])),
    ("page-size", NotHere("pages have the size that the machine's kernel was built for")),
    ("security", Explained("doctor_security", "a security module that is active is not wrong")),
    ("namespaces", Mended(&["doctor_namespaces"])),
    ("origin", Mended(&["doctor_origin"])),
    ("in-memory", Explained("doctor_in_memory", "it says how much memory is held, which is not wrong")),
    ("working", Mended(&["doctor_of_a_healthy_instance"])),
];

/// What this test has seen: ids of checks, and whether their finding was gone after its command, or had none.
static SEEN: Mutex<BTreeSet<(String, Seen)>> = Mutex::new(BTreeSet::new());

/// What a test has seen of a check.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// It was found, and after the command gone.
    Mended,
    /// It was found, and had no command.
    WithoutCure,
}

/// Notes that `id` was seen.
pub(crate) fn saw(id: &str, seen: Seen) {
    SEEN.lock().unwrap().insert((id.to_owned(), seen));
}

/// Fails where the test called `name` has not done what the table says of it.
pub(crate) fn kept_its_word(name: &str) {
    let seen = SEEN.lock().unwrap();
    for (id, held) in HELD {
        let wanted = match held {
            Mended(tests) if tests.contains(&name) => Seen::Mended,
            Explained(test, _) if *test == name => Seen::WithoutCure,
            _ => continue,
        };
        assert!(seen.contains(&((*id).to_owned(), wanted)), "{name} did not do for {id} what the table says");
    }
}

kernel_test!(doctor_has_a_test_for_every_check, alone);
fn doctor_has_a_test_for_every_check(_: &Lab) {
    let held: Vec<&str> = HELD.iter().map(|(id, _)| *id).collect();
    assert_eq!(qus::commands::doctor_checks().collect::<Vec<_>>(), held);
    let tests: BTreeSet<&str> = crate::tests().iter().map(|test| test.name).collect();
    for (id, held) in HELD {
        match held {
            Mended(names) => {
                assert!(!names.is_empty() && names.iter().all(|name| tests.contains(name)), "{id}");
            }
            Explained(name, why) => assert!(tests.contains(name) && !why.is_empty(), "{id}"),
            NotHere(why) => assert!(!why.is_empty(), "{id}"),
        }
    }
}
