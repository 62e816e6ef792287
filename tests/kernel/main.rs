//! Tests with the kernel as the referee. Each test has its own user namespace, mount namespace and instance. So the
//! tests need no root, do not touch the host, and run in parallel.
//!
//! If the kernel or the host does not permit that, the tests are skipped, with the reason; with `QUS_REQUIRE_KERNEL=1`
//! a skip is a failure. Interpreters and foreign programs are fetched once, into `target/`.
//!
//! This executable can be of another architecture than the kernel (`.ci/foreign-hosts`). Then `QUS_TEST_EMULATED_ON`
//! names the kernel's architecture, and only tests run that start no program of this executable's architecture.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::unused_self, reason = "methods of a lab ask the kernel, whichever lab it is")]

/// Declares the function of this name as a test: `kernel_test!(a_name, unmounted, with_strace);`. The words after the
/// name are methods of [`Test`].
macro_rules! kernel_test {
    ($name:ident $(, $option:ident)*) => {
        inventory::submit!(crate::Test::new(stringify!($name), $name)$(.$option())*);
    };
}

mod apply;
mod attacks;
mod bad_input;
mod boot;
#[allow(dead_code, reason = "the tests of packages need more of it")]
#[path = "../support/packages.rs"]
mod build;
mod caller;
mod checks;
mod clock;
mod concurrency;
mod conflict;
mod corpora;
mod cover;
mod damaged;
mod differential;
mod doctor;
mod downloads;
mod edited;
mod empty_home;
mod environment;
mod escapes;
mod exhausted;
mod export;
mod facts;
mod faults;
mod faults_in_files;
mod fetch;
mod forty;
mod general;
mod grammar;
mod guard;
mod headers;
mod hints;
mod hold;
mod identity;
mod inherited;
mod interrupted;
mod killed;
mod lab;
mod list;
mod log;
mod memory;
mod names;
mod namespace;
mod output;
mod owner;
mod paths;
mod peers;
mod persist;
mod prediction;
mod probe_code;
mod probing;
mod programs;
mod provenance;
mod random;
mod register;
mod replace;
mod reset;
mod run;
mod scope;
mod setup_qemu_action;
mod situations;
mod skip;
mod sources;
mod starter;
mod terminal;
mod tools;
mod two_versions;
mod verify;
mod which;

use std::process::ExitCode;

use nix::sys::signal::{SigHandler, SigSet, Signal};

use libtest_mimic::{Arguments, Completion, Conclusion, Trial};

use crate::guard::Machine;
use crate::lab::Lab;
use crate::namespace::{Identity, Inside};

/// A test: its name, its identity in its user namespace, and its function.
struct Test {
    name: &'static str,
    identity: Identity,
    /// Mounts an instance before the test begins.
    mounted: bool,
    /// Skips the test if strace is not installed.
    strace: bool,
    /// True if the test starts no program of this executable's architecture. Only such a test can run in an emulator,
    /// because its new instance has no handler for that architecture.
    alone: bool,
    body: fn(&Lab),
}

impl Test {
    /// Creates a test that is root of its user namespace, with an instance mounted.
    const fn new(name: &'static str, body: fn(&Lab)) -> Self {
        Self { name, identity: Identity::Root, mounted: true, strace: false, alone: false, body }
    }

    /// Makes the test run as a user who is not root.
    const fn ordinary_user(self) -> Self {
        Self { identity: Identity::User, ..self }
    }

    /// Adds another user to the test's namespace, if the tests run as root.
    const fn among_others(self) -> Self {
        Self { identity: Identity::RootAmongOthers, ..self }
    }

    /// Declares that the test starts no program of this executable's architecture.
    const fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// Skips the test if strace is not installed.
    const fn with_strace(self) -> Self {
        Self { strace: true, ..self }
    }

    /// Mounts no instance before the test begins.
    const fn unmounted(self) -> Self {
        Self { mounted: false, ..self }
    }
}

inventory::collect!(Test);

/// Returns all tests, sorted by name.
fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = inventory::iter::<Test>.into_iter().map(|test| Test { ..*test }).collect();
    tests.sort_by_key(|test| test.name);
    tests
}

/// Restores the default action of the signals that end a program. The parent of the tests may ignore them, as a shell
/// does for background jobs, and every program that a test starts would inherit that.
#[allow(unsafe_code, reason = "nix marks every change of a disposition as unsafe, because of handlers")]
fn end_by_signals() {
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the default action calls no function of this program.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.unwrap();
    }
    SigSet::empty().thread_set_mask().unwrap();
}

/// Runs the test `name` in this process.
fn run_here(tests: &[Test], name: &str) -> ExitCode {
    let Some(test) = tests.iter().find(|test| test.name == name) else {
        eprintln!("unknown test: {name}");
        return ExitCode::FAILURE;
    };
    Inside::enter(test.identity, test.mounted);
    let skipped = skip::catch(|| {
        (test.body)(&Lab::new());
        checks::check_results(test.name);
        hints::report();
    });
    match skipped {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("{reason}");
            ExitCode::from(skip::STATUS)
        }
    }
}

fn main() -> ExitCode {
    end_by_signals();
    let tests = tests();
    if let Some(name) = namespace::inside() {
        return run_here(&tests, &name);
    }
    let arguments = Arguments::from_args();
    if arguments.list {
        return conclude(&arguments, tests, |_| None).exit_code();
    }
    if namespace::emulated_on().is_some() {
        // None of these tests needs a download.
        let needed = |test: &Test| {
            (!test.alone).then(|| "it starts programs of this executable's architecture".to_owned())
        };
        return conclude(&arguments, tests, needed).exit_code();
    }
    let obstacle = namespace::obstacle().map(|text| format!("cannot mount a private instance: {text}"));
    let has_strace = skip::has_program("strace");
    if obstacle.is_none() {
        downloads::prepare();
    }
    let machine = Machine::inspect();
    guard::adopt_orphans();
    let missing = |test: &Test| match &obstacle {
        None if test.strace && !has_strace => Some("strace is not installed".to_owned()),
        obstacle => obstacle.clone(),
    };
    let conclusion = conclude(&arguments, tests, missing);
    let left_behind = machine.left_behind();
    if !left_behind.is_empty() {
        eprintln!("processes or changes that the tests left behind:\n{}", left_behind.join("\n"));
        return ExitCode::FAILURE;
    }
    let are_all = conclusion.num_filtered_out + conclusion.num_ignored + conclusion.num_failed == 0;
    if are_all && let Err(problem) = hints::check_coverage() {
        eprintln!("{problem}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Runs the tests. `missing` returns the reason why a test cannot run here, which is a failure with
/// `QUS_REQUIRE_KERNEL=1`.
fn conclude(
    arguments: &Arguments,
    tests: Vec<Test>,
    missing: impl Fn(&Test) -> Option<String>,
) -> Conclusion {
    let is_emulated = namespace::emulated_on().is_some();
    let trials = tests.into_iter().map(|test| {
        let missing = missing(&test);
        Trial::ignorable_test(test.name, move || {
            let skipped = match missing {
                Some(reason) => Some(reason),
                None => namespace::run_inside(test.name)?,
            };
            match skipped {
                None => Ok(Completion::Completed),
                Some(reason) if skip::is_forbidden() && !is_emulated => {
                    Err(format!("skipped: {reason}; with QUS_REQUIRE_KERNEL a skip is a failure").into())
                }
                Some(reason) => Ok(Completion::ignored_with(reason)),
            }
        })
    });
    libtest_mimic::run(arguments, trials.collect())
}
