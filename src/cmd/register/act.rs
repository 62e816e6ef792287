//! The act and its proof: register, execute, then remove what is superseded; or put back what was there.

use std::collections::BTreeMap;
use std::path::Path;

use super::gather::{Gathered, NO_VERIFY};
use super::report::{Item, Outcome};
use crate::arch::Arch;
use crate::binfmt::{Flags, Rule};
use crate::kernel::{HandlerError, Instance};
use crate::memory;
use crate::plan::{self, Registration};
use crate::probe::{self, Expected, Failure, Proof, Subject, Trial, judge_all};
use crate::problem::Problem;
use crate::registrar::Staged;

/// One architecture whose new rules are registered, and not yet final.
struct Open {
    item: usize,
    arch: &'static Arch,
    flags: Flags,
    staged: Staged,
}

/// Carries out `work`: registrations, each with the index of its item. What comes of it is written into the items.
pub(super) fn act(
    instance: &Instance,
    work: Vec<(usize, Registration)>,
    items: &mut [Item],
    gathered: &Gathered,
) -> Result<(), Problem> {
    let mut act = Act { instance, items, gathered };
    let mut open = Vec::new();
    for (item, registration) in work {
        let Some(arch) = act.gathered.arches.get(item).copied() else { continue };
        let flags = registration.rules.first().map_or(Flags::empty(), Rule::flags);
        match Staged::stage(instance, &registration) {
            Ok(staged) => open.push(Open { item, arch, flags, staged }),
            Err(error) => act.failed(item, Problem::new(error.to_string())),
        }
    }
    if !act.gathered.verify {
        for one in open {
            act.commit(one, None);
        }
        return Ok(());
    }
    // An interpreter that does not know P gets a second trial without it.
    let again = act.prove(open)?;
    let left = act.prove(again)?;
    for one in left {
        act.undo(one, &Failure::Shifted);
    }
    Ok(())
}

struct Act<'a> {
    instance: &'a Instance,
    items: &'a mut [Item],
    gathered: &'a Gathered,
}

impl Act<'_> {
    /// Executes the probes of `open` and finishes each; returns those that are registered anew without `P`.
    fn prove(&mut self, open: Vec<Open>) -> Result<Vec<Open>, Problem> {
        let mut again = Vec::new();
        let trials = match self.trials(&open) {
            Ok(trials) => trials,
            Err(problem) => {
                for one in open {
                    // The problem that made this necessary is the one to tell.
                    let _ = one.staged.undo(self.instance);
                }
                return Err(problem);
            }
        };
        for (one, trials) in open.into_iter().zip(trials) {
            match self.judge(&one, &trials) {
                Ok(proof) => self.commit(one, Some(proof)),
                Err(Failure::Shifted) if one.flags.contains(Flags::PRESERVE_ARGV0) => {
                    let flags = one.flags - Flags::PRESERVE_ARGV0;
                    match one.staged.with_flags(self.instance, flags) {
                        Ok(staged) => again.push(Open { flags, staged, ..one }),
                        Err(error) => self.failed(one.item, Problem::new(error.to_string())),
                    }
                }
                Err(failure) => self.undo(one, &failure),
            }
        }
        Ok(again)
    }

    /// What becomes of the probes of each of `open`: a trial for each of its machine numbers.
    fn trials(&mut self, open: &[Open]) -> Result<Vec<Vec<Trial>>, Problem> {
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let subjects: Vec<Subject> = open.iter().flat_map(|one| Subject::all_of(one.arch)).collect();
        let paths: Vec<&Path> = open
            .iter()
            .filter_map(|one| self.gathered.interpreter(one.arch))
            .filter(|interpreter| {
                crate::interpreter::is_qemu(&interpreter.path) && interpreter.path.is_absolute()
            })
            .map(|interpreter| interpreter.path.as_path())
            .collect();
        let (trials, versions) =
            probe::run(&subjects, &paths).map_err(|error| Problem::new(error.to_string()).cure(NO_VERIFY))?;
        let mut trials = trials.into_iter();
        let versions: BTreeMap<&Path, Option<String>> = paths.into_iter().zip(versions).collect();
        for one in open {
            let path = self.gathered.interpreter(one.arch).map(|interpreter| interpreter.path.as_path());
            if let Some(item) = self.items.get_mut(one.item) {
                let asked = path.and_then(|path| versions.get(path).cloned().flatten());
                item.version = asked.or_else(|| Some(memory::told(path?)?.version));
            }
        }
        Ok(open.iter().map(|one| trials.by_ref().take(Subject::all_of(one.arch).count()).collect()).collect())
    }

    fn judge(&self, one: &Open, trials: &[Trial]) -> Result<Proof, Failure> {
        let expected = Expected {
            preserve_argv0: one.flags.contains(Flags::PRESERVE_ARGV0),
            interpreter: self.gathered.interpreter(one.arch).map(|interpreter| interpreter.id),
            in_front: None,
        };
        judge_all(trials, &expected).map_err(|failure| match failure {
            // Somebody registered at the same time: who?
            Failure::Shadowed(None) => {
                let handlers = self.instance.handlers().unwrap_or_default();
                Failure::Shadowed(plan::serving(one.arch, &handlers).map(|handler| handler.name.to_string()))
            }
            other => other,
        })
    }

    fn commit(&mut self, one: Open, proof: Option<Proof>) {
        let was_interim = one.staged.is_interim();
        if let Err(error) = one.staged.commit(self.instance) {
            self.failed(one.item, Problem::new(error.to_string()));
            return;
        }
        let proof = if was_interim && proof.is_some() {
            self.prove_again(one.arch, one.flags)
        } else {
            proof.map(Ok)
        };
        match proof.transpose() {
            Ok(proof) => {
                if let Some(item) = self.items.get_mut(one.item) {
                    item.done(one.flags, proof);
                }
            }
            Err(failure) => self.unproven(one.item, &failure),
        }
    }

    /// The same rule under its final name has opened the interpreter anew: that, too, is executed before it is claimed.
    fn prove_again(&mut self, arch: &'static Arch, flags: Flags) -> Option<Result<Proof, Failure>> {
        let (trials, _) = probe::run(&Subject::all_of(arch).collect::<Vec<_>>(), &[]).ok()?;
        let interpreter = self.gathered.interpreter(arch).map(|interpreter| interpreter.id);
        let preserve_argv0 = flags.contains(Flags::PRESERVE_ARGV0);
        Some(judge_all(&trials, &Expected { preserve_argv0, interpreter, in_front: None }))
    }

    /// A failed proof: the new rules go, and what was there is as it was.
    fn undo(&mut self, one: Open, failure: &Failure) {
        let undone: Result<(), HandlerError> = one.staged.undo(self.instance);
        match undone {
            Ok(()) => self.unproven(one.item, failure),
            Err(error) => self
                .failed(one.item, Problem::new(format!("{failure}; and it could not be removed: {error}"))),
        }
    }

    fn unproven(&mut self, item: usize, failure: &Failure) {
        if let Some(item) = self.items.get_mut(item) {
            item.fail(Outcome::Unproven, Problem::new(failure.to_string()));
        }
    }

    fn failed(&mut self, item: usize, problem: Problem) {
        if let Some(item) = self.items.get_mut(item) {
            item.fail(Outcome::Failed, problem);
        }
    }
}
