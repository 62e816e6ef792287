//! Builds the answers of `qus which` from predictions and the results of probes.

use serde::Serialize;

use super::fate::{Case, Fate};
use super::known::{Certainty, HandlerDescription, Known, arch_of};
use super::probe_target;
use crate::base::error::Advice;
use crate::binfmt::Handler;
use crate::handler::exec_target::ExecTarget;
use crate::handler::predict::{End, Prediction, Step, Table, matching};

/// Answer of `qus which` about one file.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    pub(super) file: String,
    pub(super) kind: String,
    pub(super) arch: Option<&'static str>,
    /// `None` if it cannot be known.
    pub(super) runs: Option<bool>,
    pub(super) certainty: Certainty,
    /// Handler that takes the file. `None` if no handler does, as for native programs.
    pub(super) handler: Option<&'a HandlerDescription>,
    /// Other handlers that match the file, in the order in which the kernel tries them. Each has the reason why it does
    /// not take the file.
    pub(super) others: Vec<Other>,
    /// Description of what happens when the file is executed.
    pub(super) text: String,
    /// Name of the error of `execve(2)`, such as `ENOEXEC`, if the call fails.
    pub(super) errno: Option<String>,
    #[serde(flatten)]
    pub(super) advice: Advice,
}

#[derive(Debug, Serialize)]
pub(super) struct Other {
    pub(super) name: String,
    pub(super) why: &'static str,
}

/// Returns the answer about `file`, from `prediction` and the results of probes in `known`.
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
        End::Fails { errno, .. } if fate.runs == Some(false) => Some(format!("{errno:?}")),
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
    /// Returns an answer about the file of `case`, without handlers and without an error of `execve(2)`.
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
            advice: fate.advice,
        }
    }
}

/// Reports whether this process may execute the file but not read it (mode 0711).
fn is_unread(file: &ExecTarget) -> bool {
    file.id.is_none() && file.denied.is_none()
}

/// Returns the handler whose interpreter the kernel started for the probe with the header of `file`. The order in which
/// the kernel tries handlers is not documented (K32), so this result counts, and not the prediction.
fn executed_one<'a>(
    file: &ExecTarget,
    matched_by: &'a Handler,
    rivals: &[&'a Handler],
    table: &Table<'_>,
    known: &Known,
) -> Option<&'a Handler> {
    let started = known.results.get(&probe_target(file)?)?.host.started?;
    let opens = |handler: &&&Handler| {
        let path = handler.entry.interpreter.as_deref();
        path.and_then(|path| (table.inspect)(path).id) == Some(started)
    };
    std::iter::once(&matched_by).chain(rivals).find(opens).copied()
}

fn why_not(handler: &Handler, table: &Table<'_>) -> &'static str {
    if !table.enabled {
        "the whole instance is disabled"
    } else if handler.entry.enabled {
        "it was registered earlier"
    } else {
        "it is disabled"
    }
}
