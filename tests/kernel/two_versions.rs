//! Two versions of qus at the same time: an installed older one, and a newer one that was just downloaded.
//!
//! `QUS_OTHER=FILE` names the other executable (`.ci/two-versions` builds one of an older commit). Then 64 runs start
//! at once. Without the variable, the other executable is a copy of the one under test, and there are fewer runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::concurrency::{FOREIGN, all_at_once};
use crate::lab::{Lab, QUS, Ran, busybox, order, run};

/// Text of every entry, by name.
type State = BTreeMap<String, String>;

/// The executables, the number of concurrent runs, and the architectures.
struct Versions {
    qus: [PathBuf; 2],
    count: usize,
    arches: &'static [&'static str],
}

impl Versions {
    fn of(lab: &Lab) -> Self {
        let this = PathBuf::from(QUS);
        if let Some(other) = std::env::var_os("QUS_OTHER") {
            return Self { qus: [this, other.into()], count: 64, arches: &["all"] };
        }
        let other = lab.copy("other/qus", &this);
        Self { qus: [this, other], count: 8, arches: &["arm", "s390x", "mips"] }
    }

    fn register(&self) -> Vec<&'static str> {
        [&["register", "--json"], self.arches].concat()
    }

    /// Returns the states that serial runs of `register` and `reset` of both versions can leave, in any order.
    fn serial(&self, lab: &Lab) -> BTreeSet<State> {
        let (register, empty) = (self.register(), lab.entries());
        let mut states = BTreeSet::new();
        // The second version may leave the first one's handlers in place, or replace them.
        for (first, second) in [(0, 1), (1, 0)] {
            for qus in [first, second] {
                done(lab, &self.qus[qus], &register);
                states.insert(lab.entries());
            }
            done(lab, &self.qus[first], &["reset"]);
            assert_eq!(lab.entries(), empty, "reset of one version removes the handlers of the other");
        }
        states
    }
}

fn done(lab: &Lab, qus: &Path, words: &[&str]) {
    let ran = run(&mut lab.program_of(qus, &[], words.iter().copied()));
    assert_eq!(ran.status, 0, "{} {words:?}: {ran:#?}", qus.display());
}

/// Reports whether the exit status agrees with the printed outcomes: 0 if every architecture has a handler, or is
/// native and was not named.
fn status_matches_outcomes(words: &[&str], ran: &Ran) -> bool {
    let value: Value = ran.json();
    let is_good = |item: &Value| {
        let outcome = item["outcome"].as_str().unwrap();
        ["registered", "replaced", "unchanged", "existing"].contains(&outcome)
            || ["refused", "native"].contains(&outcome) && words.contains(&"all")
    };
    let is_served = value["items"].as_array().is_some_and(|items| items.iter().all(is_good));
    matches!(ran.status, 0..=2) && !ran.stderr.contains("panicked") && is_served == (ran.status == 0)
}

/// Groups handlers by architecture, which is the part of their name after a dash.
fn by_architecture(state: &State) -> BTreeMap<&str, BTreeMap<&str, &str>> {
    let mut arches = BTreeMap::<&str, BTreeMap<&str, &str>>::new();
    for (name, text) in state {
        let arch = name.split_once('-').map_or(name.as_str(), |(_, arch)| arch);
        arches.entry(arch).or_default().insert(name, text);
    }
    arches
}

kernel_test!(two_versions_register_at_once);
fn two_versions_register_at_once(lab: &Lab) {
    lab.register(FOREIGN).unwrap();
    let versions = Versions::of(lab);
    let serial = versions.serial(lab);
    let words = versions.register();
    let commands =
        (0..versions.count).map(|index| lab.program_of(&versions.qus[index % 2], &[], words.iter().copied()));
    for ran in all_at_once(commands.collect()) {
        assert!(ran.status == 0 && status_matches_outcomes(&words, &ran), "{ran:#?}");
    }
    let now = lab.entries();
    assert!(serial.contains(&now), "{now:#?} is none of {serial:#?}");
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    done(lab, &versions.qus[1], &["reset"]);
    assert_eq!(order(), ["foreign"]);
}

kernel_test!(two_versions_register_reset_and_list_at_once);
fn two_versions_register_reset_and_list_at_once(lab: &Lab) {
    lab.register(FOREIGN).unwrap();
    let versions = Versions::of(lab);
    let serial = versions.serial(lab);
    let register = versions.register();
    // Both versions run two registrations, a removal and a listing in turn.
    let lines: Vec<(usize, Vec<&str>)> = (0..versions.count)
        .map(|index| {
            let words = match index / 2 % 4 {
                0 | 2 => register.clone(),
                1 => vec!["reset", "--json"],
                _ => vec!["list", "--json"],
            };
            (index % 2, words)
        })
        .collect();
    let commands =
        lines.iter().map(|(qus, words)| lab.program_of(&versions.qus[*qus], &[], words.iter().copied()));
    for ((qus, words), ran) in lines.iter().zip(all_at_once(commands.collect())) {
        // A handler may disappear after it was listed. What other runs add or remove meanwhile is no failure.
        let is_right =
            if words[0] == "register" { status_matches_outcomes(words, &ran) } else { ran.status == 0 };
        assert!(is_right, "{} {words:?}: {ran:#?}", versions.qus[*qus].display());
    }
    // For each architecture, the handlers are those of some serial order, or none. No staged handler is left.
    let now = lab.entries();
    let serial: Vec<_> = serial.iter().map(by_architecture).collect();
    for (arch, handlers) in by_architecture(&now) {
        let is_known = serial.iter().any(|state| state.get(arch) == Some(&handlers));
        assert!(is_known, "{arch}: {handlers:#?} of {now:#?}");
    }
    assert!(now.contains_key("foreign"));
    for (index, words) in [(1, &register[..]), (0, &register[..])] {
        done(lab, &versions.qus[index], words);
    }
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    done(lab, &versions.qus[1], &["reset"]);
    assert_eq!(order(), ["foreign"]);
}
