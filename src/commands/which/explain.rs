//! From a prediction, and what was executed, to an answer that a person can act on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::fate::{Case, Fate};
use super::{Trials, subject};
use crate::arch::Arch;
use crate::binfmt::Handler;
use crate::handler::exec_target::{Elf, ExecTarget, Kind};
use crate::handler::predict::{End, Prediction, Step, Table, matching};
use crate::interpreter::QemuVersion;
use crate::interpreter::provenance::Provenance;
use crate::probe::{self, STATUS_ARGV0, STATUS_PATH};

/// What was executed.
#[derive(Default)]
pub(super) struct Known {
    pub(super) trials: Trials,
    pub(super) versions: BTreeMap<PathBuf, QemuVersion>,
    /// The handlers as they are told of, in the order of the table.
    pub(super) takers: Vec<Taken>,
}

impl Known {
    /// Describes the handlers, once for all files that they take.
    pub(super) fn describe(&mut self, handlers: &[Handler]) {
        let describe = |handler: &Handler| {
            let path = handler.entry.interpreter.clone().unwrap_or_default();
            // The record of one that was fetched.
            let provenance = path.is_absolute().then(|| Provenance::of(&path)).flatten();
            Taken {
                name: handler.name.to_string(),
                interpreter: path.to_string_lossy().into(),
                flags: handler.entry.flag_letters(),
                version: self.versions.get(&path).map(ToString::to_string),
                provenance,
            }
        };
        self.takers = handlers.iter().map(describe).collect();
    }

    fn matched_by(&self, handler: &Handler, table: &Table<'_>) -> Option<&Taken> {
        let index = table.handlers.iter().position(|other| std::ptr::eq(other, handler))?;
        self.takers.get(index)
    }

    /// Whether a program with the header of `file` ran.
    pub(super) fn ran(&self, file: &ExecTarget) -> bool {
        let trial = subject(file).and_then(|subject| self.trials.get(&subject));
        trial.is_some_and(|trial| matches!(trial.host.end, probe::End::Exited(STATUS_ARGV0 | STATUS_PATH)))
    }
}

/// How sure an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Certainty {
    /// A program with the same header was executed, and went this way.
    Executed,
    /// The rules leave no other choice.
    Ruled,
    /// Several handlers match, and the kernel's order is not part of its interface (K32).
    Likely,
}

/// What is said about one file.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    pub(super) file: String,
    pub(super) kind: String,
    pub(super) arch: Option<&'static str>,
    pub(super) runs: bool,
    pub(super) certainty: Certainty,
    /// The handler that takes it; nothing for a program that the host runs itself.
    pub(super) handler: Option<&'a Taken>,
    /// Other handlers that match, in the kernel's order, and why they do not take it.
    pub(super) others: Vec<Other>,
    /// What happens, in words.
    pub(super) text: String,
    /// Errno of `execve(2)`, where it fails.
    pub(super) errno: Option<String>,
    #[serde(rename = "cure")]
    pub(super) hint: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Taken {
    pub(super) name: String,
    pub(super) interpreter: String,
    pub(super) flags: String,
    pub(super) version: Option<String>,
    pub(super) provenance: Option<Provenance>,
}

#[derive(Debug, Serialize)]
pub(super) struct Other {
    pub(super) name: String,
    pub(super) why: &'static str,
}

/// The answer about `file`.
pub(super) fn explain<'a>(
    file: &ExecTarget,
    prediction: &Prediction,
    table: &Table<'_>,
    known: &'a Known,
) -> Answer<'a> {
    let matches = matching(table.handlers, file);
    let rivals: Vec<&Handler> = matches.iter().filter(|handler| handler.entry.enabled).copied().collect();
    let certainty = if rivals.len() > 1 { Certainty::Likely } else { Certainty::Ruled };
    let case = Case { file, arch: arch_of(file), table, known, certainty };
    if is_unread(file) {
        return Answer::new(&case, case.unread());
    }
    let predicted = match prediction.steps.first() {
        Some(Step::Handler { name, .. }) => table.handlers.iter().find(|handler| handler.name == *name),
        _ => None,
    };
    let matched_by =
        predicted.map(|predicted| executed_one(file, predicted, &rivals, table, known).unwrap_or(predicted));
    let fate = case.fate(prediction, matched_by);
    let errno = match &prediction.end {
        End::Fails { errno, .. } if !fate.runs => Some(format!("{errno:?}")),
        _ => None,
    };
    let others = matches.into_iter().filter(|handler| matched_by.is_none_or(|by| by.name != handler.name));
    let others = others.map(|handler| Other { name: handler.name.to_string(), why: why_not(handler, table) });
    Answer {
        handler: matched_by.and_then(|matched_by| known.matched_by(matched_by, table)),
        others: others.collect(),
        errno,
        ..Answer::new(&case, fate)
    }
}

impl Answer<'_> {
    /// An answer without handlers.
    fn new(case: &Case<'_>, fate: Fate) -> Self {
        let file = case.file;
        let kind = if file.id.is_none() && file.denied.is_some() {
            "no file".to_owned()
        } else {
            file.kind.to_string()
        };
        Self {
            file: file.path.to_string_lossy().into(),
            kind,
            arch: case.arch.map(|arch| arch.name),
            runs: fate.runs,
            certainty: fate.certainty,
            handler: None,
            others: Vec::new(),
            text: fate.text,
            errno: None,
            hint: fate.hint,
        }
    }
}

/// The architecture of an ELF program.
pub(super) fn arch_of(file: &ExecTarget) -> Option<&'static Arch> {
    match &file.kind {
        Kind::Elf(Elf { arch, .. }) => *arch,
        _ => None,
    }
}

/// Whether the kernel may start the file, and this process may not read it (mode 0711).
fn is_unread(file: &ExecTarget) -> bool {
    file.id.is_none() && file.denied.is_none()
}

/// The rival whose interpreter the kernel was seen to start. Directory order is newest first, but only as far as anyone
/// has seen (K32): an execution knows better.
fn executed_one<'a>(
    file: &ExecTarget,
    matched_by: &'a Handler,
    rivals: &[&'a Handler],
    table: &Table<'_>,
    known: &Known,
) -> Option<&'a Handler> {
    let started = known.trials.get(&subject(file)?)?.host.started?;
    let opens = |handler: &&&Handler| {
        let path = handler.entry.interpreter.as_deref();
        path.and_then(|path| (table.look)(path).id) == Some(started)
    };
    std::iter::once(&matched_by).chain(rivals).find(opens).copied()
}

fn why_not(handler: &Handler, table: &Table<'_>) -> &'static str {
    if !table.enabled {
        "the whole instance is switched off"
    } else if handler.entry.enabled {
        "it was registered earlier"
    } else {
        "it is disabled"
    }
}
