//! Executes a plan of `qus register`: registers and verifies new handlers. Then removes the handlers that they replace,
//! or rolls the registration back.

use super::gather::{Inputs, NO_VERIFY, Placed};
use super::report::{ArchResult, Outcome};
use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::binfmt::instance::{HandlerError, Instance};
use crate::binfmt::{Flags, Rule};
use crate::handler::classify;
use crate::handler::classify::is_stale_staging;
use crate::handler::plan::Registration;
use crate::handler::table;
use crate::handler::transaction::{Staged, remove};
use crate::interpreter::Interpreter;
use crate::interpreter::memfd;
use crate::interpreter::versions_of;
use crate::probe::{self, Expected, Failure, ProbeResult, ProbeTarget, Verification, judge_all};

/// An architecture whose new rules are registered but not yet verified.
struct Open {
    item: usize,
    arch: &'static Arch,
    flags: Flags,
    staged: Staged,
}

/// Executes the registrations in `work`, each with the index of its result in `items`. Writes the outcomes into
/// `items`.
pub(super) fn act(
    instance: &Instance,
    work: Vec<(usize, Registration)>,
    items: &mut [ArchResult],
    inputs: &Inputs,
    placed: &Placed,
) -> Result<(), Diagnostic> {
    let mut act = Act { instance, items, inputs, placed };
    act.remove_stale()?;
    let mut open = Vec::new();
    for (item, registration) in work {
        let Some(arch) = act.inputs.arches.get(item).copied() else { continue };
        let flags = registration.rules.first().map_or(Flags::empty(), Rule::flags);
        let _arch = tracing::info_span!("arch", name = arch.name).entered();
        match Staged::stage(instance, &registration) {
            Ok(staged) => open.push(Open { item, arch, flags, staged }),
            Err(error) => act.failed(item, Diagnostic::from(error)),
        }
    }
    if !act.inputs.verify {
        for one in open {
            act.commit(one, None);
        }
        return Ok(());
    }
    // An interpreter that does not support P is registered and verified again without it.
    let again = act.verify(open)?;
    let remaining = act.verify(again)?;
    for one in remaining {
        act.rollback(one, &Failure::Argv0NotPreserved);
    }
    Ok(())
}

/// Reason why a new handler was not verified.
enum Unverified {
    /// The probe failed.
    Failed(Failure),
    /// No probe could be executed.
    NotRun(Diagnostic),
}

struct Act<'a> {
    instance: &'a Instance,
    items: &'a mut [ArchResult],
    inputs: &'a Inputs,
    placed: &'a Placed,
}

impl<'a> Act<'a> {
    /// Returns the interpreter whose path the new rules for `arch` contain.
    fn interpreter(&self, arch: &Arch) -> Option<&'a Interpreter> {
        self.placed.get(arch.name).or_else(|| self.inputs.interpreter(arch))
    }

    /// Removes staging handlers (temporary handlers) that interrupted runs left behind, for architectures whose present
    /// handlers stay. For other architectures, the registration of the new handlers removes them.
    fn remove_stale(&self) -> Result<(), Diagnostic> {
        for handler in &self.inputs.handlers {
            let Some(arch) = classify::emulated_arch(handler) else { continue };
            let mut items = self.inputs.arches.iter().zip(self.items.iter());
            if is_stale_staging(&handler.name)
                && items.any(|(its, item)| *its == arch && item.has_existing_handler())
            {
                remove(self.instance, &handler.name)?;
            }
        }
        Ok(())
    }

    /// Executes the probes of the architectures in `open`, and commits or rolls back each of them. If an interpreter
    /// does not support the flag `P`, its rules are registered again without the flag. Returns the architectures of
    /// such rules, which must be verified again.
    fn verify(&mut self, open: Vec<Open>) -> Result<Vec<Open>, Diagnostic> {
        let mut again = Vec::new();
        let results = match self.results(&open) {
            Ok(results) => results,
            Err(problem) => {
                for one in open {
                    // Only the first error is reported.
                    let _ = one.staged.rollback(self.instance);
                }
                return Err(problem);
            }
        };
        for (one, results) in open.into_iter().zip(results) {
            match self.judge(&one, &results) {
                Ok(verification) => self.commit(one, Some(verification)),
                Err(Failure::Argv0NotPreserved) if one.flags.contains(Flags::PRESERVE_ARGV0) => {
                    let flags = one.flags - Flags::PRESERVE_ARGV0;
                    match one.staged.with_flags(self.instance, flags) {
                        Ok(staged) => again.push(Open { flags, staged, ..one }),
                        Err(error) => self.failed(one.item, Diagnostic::from(error)),
                    }
                }
                Err(failure) => self.rollback(one, &failure),
            }
        }
        Ok(again)
    }

    /// Executes the probes of the architectures in `open`: for each architecture, one probe for each ELF machine
    /// number.
    fn results(&mut self, open: &[Open]) -> Result<Vec<Vec<ProbeResult>>, Diagnostic> {
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let targets: Vec<ProbeTarget> = open.iter().flat_map(|one| ProbeTarget::all_of(one.arch)).collect();
        let interpreters = open.iter().filter_map(|one| self.interpreter(one.arch));
        let paths = interpreters.map(|interpreter| interpreter.path.as_path());
        let versions = versions_of(paths.filter(|path| path.is_absolute()));
        let results = probe::run(&targets).map_err(|error| Diagnostic::from(error).with_hint(NO_VERIFY))?;
        let mut results = results.into_iter();
        for one in open {
            let path = self.interpreter(one.arch).map(|interpreter| interpreter.path.as_path());
            if let Some(item) = self.items.get_mut(one.item) {
                let found = path.and_then(|path| versions.get(path).cloned());
                item.version = found
                    .map(|version| version.to_string())
                    .or_else(|| Some(memfd::parse_description(path?)?.version));
            }
        }
        Ok(open
            .iter()
            .map(|one| results.by_ref().take(ProbeTarget::all_of(one.arch).count()).collect())
            .collect())
    }

    fn judge(&self, one: &Open, results: &[ProbeResult]) -> Result<Verification, Failure> {
        let expected = Expected {
            preserve_argv0: one.flags.contains(Flags::PRESERVE_ARGV0),
            interpreter: self.interpreter(one.arch).map(|interpreter| interpreter.id),
            in_front: None,
        };
        judge_all(results, &expected).map_err(|failure| match failure {
            // Another process registered a handler at the same time. The failure names the other handler.
            Failure::Shadowed(None) => {
                let handlers = table::handlers(self.instance).unwrap_or_default();
                Failure::Shadowed(
                    classify::active_handler(one.arch, &handlers).map(|handler| handler.name.to_string()),
                )
            }
            other => other,
        })
    }

    fn commit(&mut self, one: Open, verification: Option<Verification>) {
        let _arch = tracing::info_span!("arch", name = one.arch.name).entered();
        let Open { item, arch, flags, staged } = one;
        let verify = verification.is_some();
        let mut again = verification.map(Ok);
        // Registration under the final name opened the interpreter again, so the handler is verified again.
        let mut confirm = || {
            if verify {
                again = Some(self.verify_again(arch, flags));
            }
            matches!(again, None | Some(Ok(_)))
        };
        let committed = staged.commit(self.instance, &mut confirm);
        match (committed, again.transpose()) {
            (Ok(_), Ok(verification)) => {
                if let Some(item) = self.items.get_mut(item) {
                    item.done(flags, verification);
                }
            }
            (Ok(_), Err(Unverified::Failed(failure))) => self.verification_failed(item, &failure),
            (Ok(_), Err(Unverified::NotRun(problem))) => self.failed(item, problem),
            (Err(error), _) => self.failed(item, Diagnostic::from(error)),
        }
    }

    fn verify_again(&self, arch: &'static Arch, flags: Flags) -> Result<Verification, Unverified> {
        let results = probe::run(&ProbeTarget::all_of(arch).collect::<Vec<_>>())
            .map_err(|error| Unverified::NotRun(Diagnostic::from(error).with_hint(NO_VERIFY)))?;
        let interpreter = self.interpreter(arch).map(|interpreter| interpreter.id);
        let preserve_argv0 = flags.contains(Flags::PRESERVE_ARGV0);
        judge_all(&results, &Expected { preserve_argv0, interpreter, in_front: None })
            .map_err(Unverified::Failed)
    }

    /// Removes the new handlers of `one`, which restores the previous state, because their verification failed with
    /// `failure`.
    fn rollback(&mut self, one: Open, failure: &Failure) {
        let _arch = tracing::info_span!("arch", name = one.arch.name).entered();
        let rolled_back: Result<(), HandlerError> = one.staged.rollback(self.instance);
        match rolled_back {
            Ok(()) => self.verification_failed(one.item, failure),
            Err(error) => self.failed(
                one.item,
                Diagnostic::new(format!("{failure}; the new handler could not be removed: {error}")),
            ),
        }
    }

    fn verification_failed(&mut self, item: usize, failure: &Failure) {
        if let Some(item) = self.items.get_mut(item) {
            item.fail(Outcome::VerificationFailed, Diagnostic::new(failure.to_string()));
        }
    }

    fn failed(&mut self, item: usize, problem: Diagnostic) {
        if let Some(item) = self.items.get_mut(item) {
            item.fail(Outcome::Failed, problem);
        }
    }
}
