//! Coverage of the checks of `qus doctor`. For each check a table names the tests that create its situation, find it,
//! and fix it with the printed hint. For other checks it gives the reason why nothing needs a fix, or why the situation
//! cannot be created here.
//!
//! A test in the table fails if it does not do what the table states. A check without a row is a failure, too.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::lab::Lab;

/// Coverage of one check.
enum Coverage {
    /// These tests get the finding, type its hint into a shell, and do not get the finding again.
    Fixed(&'static [&'static str]),
    /// This test gets the finding, without a hint. The text is the reason why there is none.
    Explained(&'static str, &'static str),
    /// No test in this directory creates its situation, for this reason. Unit tests cover the check with given facts.
    NotHere(&'static str),
}
use Coverage::{Explained, Fixed, NotHere};

static HELD: &[(&str, Coverage)] = &[
    ("kernel", NotHere("this machine has one kernel, which is not older than 4.8")),
    ("mounted", Fixed(&["doctor_not_mounted", "doctor_mounted_over"])),
    ("writable", Fixed(&["doctor_read_only"])),
    ("instance-off", Fixed(&["doctor_instance_off"])),
    ("scope", Explained("doctor_of_a_healthy_instance", "it reports the scope, which is no problem")),
    ("lifetime", Fixed(&["situation_9_in_a_mount_namespace"])),
    ("captures", Fixed(&["doctor_captures", "situation_4_native_programs_captured"])),
    ("disabled", Fixed(&["doctor_disabled"])),
    ("no-fix", Fixed(&["doctor_no_fix"])),
    ("wrong-emulator", Fixed(&["doctor_wrong_emulator"])),
    ("interpreter", Fixed(&["doctor_unfit_interpreters", "doctor_interpreter_gone"])),
    ("stale", Fixed(&["doctor_stale"])),
    ("self-capture", Fixed(&["doctor_self_capture"])),
    ("writable-file", Fixed(&["doctor_writable_file"])),
    ("credentials", Fixed(&["doctor_credentials"])),
    ("shadowed", Fixed(&["doctor_shadowed"])),
    ("overlap", Explained("doctor_overlap", "the user decides which of two other programs comes first")),
    ("host-only", Explained("doctor_host_only", "such handlers are meant for the host")),
    ("broken", Fixed(&["doctor_broken", "doctor_broken_of_another"])),
    ("interim", Fixed(&["doctor_interim"])),
    ("configured", Fixed(&["doctor_configured", "doctor_configured_with_systemd"])),
    (
        "flushed",
        NotHere(
            "it concerns handlers of the initial user namespace; .ci/e2e/situations creates it, as root of a machine",
        ),
    ),
    ("wsl", Fixed(&["doctor_wsl"])),
    ("emulator", Fixed(&["doctor_emulator"])),
    ("engines", Fixed(&["doctor_builder_that_started_too_early"])),
    ("page-size", NotHere("the page size is that of the machine's kernel")),
    ("security", Explained("doctor_security", "an active security module is no problem")),
    ("namespaces", Fixed(&["doctor_namespaces"])),
    ("origin", Fixed(&["doctor_origin"])),
    ("in-memory", Explained("doctor_in_memory", "it reports how much memory is in use, which is no problem")),
    ("working", Fixed(&["doctor_of_a_healthy_instance"])),
];

/// Results of this test: ids of checks, and whether the hint removed the finding or there was none.
static SEEN: Mutex<BTreeSet<(String, Seen)>> = Mutex::new(BTreeSet::new());

/// Result of a test for one check.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// The finding appeared, and its hint removed it.
    Fixed,
    /// The finding appeared without a hint.
    WithoutHint,
}

/// Records a result for the check `id`.
pub(crate) fn saw(id: &str, seen: Seen) {
    SEEN.lock().unwrap().insert((id.to_owned(), seen));
}

/// Fails if the test called `name` has not produced the results that the table states.
pub(crate) fn check_results(name: &str) {
    let seen = SEEN.lock().unwrap();
    for (id, held) in HELD {
        let wanted = match held {
            Fixed(tests) if tests.contains(&name) => Seen::Fixed,
            Explained(test, _) if *test == name => Seen::WithoutHint,
            _ => continue,
        };
        assert!(
            seen.contains(&((*id).to_owned(), wanted)),
            "{name} has no such result for {id} as the table states"
        );
    }
}

kernel_test!(doctor_has_a_test_for_every_check, alone);
fn doctor_has_a_test_for_every_check(_: &Lab) {
    let held: Vec<&str> = HELD.iter().map(|(id, _)| *id).collect();
    assert_eq!(qus::commands::doctor_checks().collect::<Vec<_>>(), held);
    let tests: BTreeSet<&str> = crate::tests().iter().map(|test| test.name).collect();
    for (id, held) in HELD {
        match held {
            Fixed(names) => {
                assert!(!names.is_empty() && names.iter().all(|name| tests.contains(name)), "{id}");
            }
            Explained(name, why) => assert!(tests.contains(name) && !why.is_empty(), "{id}"),
            NotHere(why) => assert!(!why.is_empty(), "{id}"),
        }
    }
}
