//! Concurrent runs on one instance. None crashes, every exit status is correct, and the final state is one that some
//! serial order of the runs would have left.
//!
//! `QUS_CONCURRENCY=64` starts 64 runs with all architectures; by default there are 8 with a few.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use qus::binfmt::Flags;
use serde_json::Value;

use crate::downloads::{self, interpreter};
use crate::lab::{Lab, Ran, busybox, order};

/// A handler of another tool, which must still exist in the end.
pub(crate) const FOREIGN: &[u8] = b":foreign:E::qus-test::/bin/true:";

/// Returns the number of concurrent runs, and the architectures.
fn scale() -> (usize, &'static [&'static str]) {
    let asked = std::env::var("QUS_CONCURRENCY").ok().map(|count| count.parse().unwrap());
    asked.map_or((8, &["arm", "s390x", "mips"]), |count| (count, &["all"]))
}

/// Starts qus with each of `lines`, all before it waits for the first.
fn at_once(lab: &Lab, lines: &[Vec<&str>]) -> Vec<Ran> {
    all_at_once(lines.iter().map(|words| lab.program(&[], words.iter().copied())).collect())
}

/// Starts all commands before it waits for the first.
pub(crate) fn all_at_once(commands: Vec<Command>) -> Vec<Ran> {
    let start = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let started: Vec<Child> = commands.into_iter().map(start).collect();
    // Their output is read in parallel, as a full pipe would block a run.
    std::thread::scope(|scope| {
        let waiting: Vec<_> = started
            .into_iter()
            .map(|child| scope.spawn(|| Ran::of(&child.wait_with_output().unwrap())))
            .collect();
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn register<'a>(options: &[&'a str], arches: &[&'a str]) -> Vec<&'a str> {
    [&["register"], options, arches].concat()
}

/// Returns the entries that one `register` leaves in an empty instance.
fn alone(lab: &Lab, line: &[&str]) -> BTreeMap<String, String> {
    lab.done(line.iter().copied());
    let entries = lab.entries();
    lab.done(["reset"]);
    entries
}

kernel_test!(many_register_at_once);
fn many_register_at_once(lab: &Lab) {
    lab.register(FOREIGN).unwrap();
    let (count, arches) = scale();
    let line = register(&[], arches);
    let wanted = alone(lab, &line);
    for ran in at_once(lab, &vec![line; count]) {
        assert_eq!(ran.status, 0, "{ran:#?}");
    }
    assert_eq!(lab.entries(), wanted);
    assert_eq!(order().len(), wanted.len());
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
}

kernel_test!(many_replace_at_once);
fn many_replace_at_once(lab: &Lab) {
    lab.register(FOREIGN).unwrap();
    let (count, arches) = scale();
    let line = register(&[], arches);
    let wanted = alone(lab, &line);
    for arch in ["arm", "s390x", "mips"] {
        lab.handler(&format!("qemu-{arch}"), arch, &interpreter(arch), Flags::empty());
    }
    for ran in at_once(lab, &vec![line; count]) {
        assert_eq!(ran.status, 0, "{ran:#?}");
    }
    assert_eq!(lab.entries(), wanted);
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
}

kernel_test!(many_take_over_an_older_naming);
fn many_take_over_an_older_naming(lab: &Lab) {
    lab.register(FOREIGN).unwrap();
    let line = register(&["--replace"], &["arm"]);
    let wanted = alone(lab, &line);
    // Names that dbhi/qus and an interrupted run use, and a broken handler.
    for name in ["qemu-arm-static", "qus-arm", "qemu-arm.qus-1", "qemu-armv7l"] {
        lab.handler(name, "arm", &interpreter("arm"), Flags::FIX_BINARY);
    }
    lab.handler("qemu-arm", "arm", &interpreter("arm"), Flags::empty());
    for ran in at_once(lab, &vec![line; scale().0]) {
        assert_eq!(ran.status, 0, "{ran:#?}");
    }
    assert_eq!(lab.entries(), wanted);
}

kernel_test!(two_versions_at_once_leave_one_of_them);
/// Tests concurrent runs with different interpreters. In the end one of them is registered, and works.
fn two_versions_at_once_leave_one_of_them(lab: &Lab) {
    lab.register(FOREIGN).unwrap();
    let (older, newer) = (downloads::distribution(), downloads::newer());
    let lines: Vec<_> = [&older, &newer]
        .map(|directory| register(&["--replace", "--interpreter-dir", directory.to_str().unwrap()], &["arm"]))
        .into_iter()
        .cycle()
        .take(scale().0)
        .collect();
    let serial: Vec<_> = lines.iter().take(2).map(|line| alone(lab, line)).collect();
    let runs = at_once(lab, &lines);
    for ran in &runs {
        // A run may fail because a handler of another run is in front, or because a probe failed for that reason.
        // Both are reported.
        assert!(matches!(ran.status, 0..=2) && !ran.stderr.contains("panicked"), "{ran:#?}");
    }
    assert!(runs.iter().any(|ran| ran.status == 0), "{runs:#?}");
    let now = lab.entries();
    assert!(serial.contains(&now), "{now:#?} is neither of {serial:#?} after {runs:#?}");
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    lab.done(lines[0].iter().copied());
    assert_eq!(lab.entries(), serial[0]);
}

kernel_test!(register_reset_and_list_at_once);
fn register_reset_and_list_at_once(lab: &Lab) {
    lab.register(FOREIGN).unwrap();
    let (count, arches) = scale();
    let line = register(&[], arches);
    let wanted = alone(lab, &line);
    let mut lines = Vec::new();
    for index in 0..count {
        lines.push([line.clone(), vec!["--json"]].concat());
        if index % 3 == 0 {
            lines.push(vec!["reset", "--json"]);
            lines.push(vec!["list", "--json"]);
        }
    }
    let runs = at_once(lab, &lines);
    for (words, ran) in lines.iter().zip(&runs) {
        let value: Value = ran.json();
        match words[0] {
            // A handler may disappear after it was listed. What other runs add or remove meanwhile is no failure.
            "reset" | "list" => assert_eq!(ran.status, 0, "{ran:#?}"),
            _ => {
                assert!(matches!(ran.status, 0..=2), "{ran:#?}");
                let items = value["items"].as_array().unwrap();
                let is_good = |item: &Value| {
                    let outcome = item["outcome"].as_str().unwrap();
                    let is_served = ["registered", "replaced", "unchanged", "existing"].contains(&outcome);
                    let is_native = outcome == "refused" && words.contains(&"all");
                    is_served || is_native
                };
                assert_eq!(items.iter().all(is_good), ran.status == 0, "{ran:#?}");
            }
        }
    }
    let now = lab.entries();
    // Each existing handler is complete and has its own name. No order of the runs leaves anything else.
    assert!(now.iter().all(|(name, text)| wanted.get(name) == Some(text)), "{now:#?}");
    assert!(now.contains_key("foreign"));
    lab.done(line.iter().copied());
    assert_eq!(lab.entries(), wanted);
    lab.done(["reset"]);
    assert_eq!(order(), ["foreign"]);
}
