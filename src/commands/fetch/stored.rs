//! `qus fetch --list` lists fetched interpreters, and `qus fetch --prune` removes unused ones.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::Fetch;
use super::users::{Users, Uses};
use crate::base::count::count;
use crate::base::error::{Advice, Diagnostic};
use crate::base::escape::{display_path, escape};
use crate::base::output::{Output, Status};
use crate::base::table::{Cell, Table};
use crate::base::terminal::TextWriter;
use crate::commands::args::Common;
use crate::commands::report::Report;
use crate::interpreter::ArchFilter;
use crate::interpreter::QemuVersion;
use crate::interpreter::provenance::{Provenance, record_path};
use crate::interpreter::self_exe_header;
use crate::interpreter::store::stored;

/// Results of `qus fetch --list`: fetched interpreters. For `--prune`, only those that are removed or would be removed.
#[derive(Serialize)]
pub(super) struct StoredReport {
    dest: PathBuf,
    files: Vec<StoredInterpreter>,
    /// For `--prune`: interpreters that stay in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<Vec<StoredInterpreter>>,
    /// True for a dry run of `--prune`. `None` for `--list`.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    /// Errors from interpreters that could not be removed.
    #[serde(skip)]
    problems: Vec<Diagnostic>,
}

#[derive(Serialize)]
struct StoredInterpreter {
    arch: &'static str,
    state: State,
    path: PathBuf,
    /// Size of the interpreter in bytes.
    size: u64,
    /// Handlers that use the interpreter, and configuration files with a rule that names it.
    used_by: Vec<String>,
    /// Ids of the processes that execute the interpreter, as far as this user may see them.
    processes: Vec<u32>,
    /// True if `qus run` chooses the interpreter for its architecture.
    #[serde(rename = "used_by_run")]
    by_run: bool,
    provenance: Option<Provenance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<bool>,
}

impl StoredInterpreter {
    /// Reports whether a handler, a rule or a process uses the interpreter.
    fn is_used(&self) -> bool {
        !self.used_by.is_empty() || !self.processes.is_empty()
    }

    /// Returns the users of the interpreter as a cell of a table.
    fn users(&self) -> String {
        let processes = self.processes.iter().map(|process| format!("process {process}"));
        let run = self.by_run.then(|| "qus run".to_owned());
        let users: Vec<String> =
            self.used_by.iter().map(|name| escape(name)).chain(processes).chain(run).collect();
        if users.is_empty() { "-".to_owned() } else { users.join(",") }
    }
}

/// State of a file in the directories of fetched interpreters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// The file is unchanged since qus fetched it.
    Fetched,
    /// The file was changed after qus had fetched it.
    Changed,
    /// The file has no record of its origin.
    Unknown,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Changed => "changed",
            Self::Unknown => "unknown",
        }
    }
}

fn items(dest: &Path, requested: &ArchFilter, users: &Users) -> Vec<StoredInterpreter> {
    let stored = stored(dest).into_iter().filter(|stored| requested.is_wanted(stored.arch));
    stored
        .map(|stored| {
            let state = match (&stored.provenance, Provenance::beside(&stored.path)) {
                (Some(record), _) if record.is_of(&stored.path) => State::Fetched,
                (None, None) => State::Unknown,
                _ => State::Changed,
            };
            let size = fs::metadata(&stored.path).map_or(0, |metadata| metadata.len());
            let Uses { used_by, processes, by_run } = users.of(stored.arch, &stored.path);
            let (arch, path) = (stored.arch.name, stored.path);
            let provenance = stored.provenance;
            StoredInterpreter {
                arch,
                state,
                path,
                size,
                used_by,
                processes,
                by_run,
                provenance,
                removed: None,
            }
        })
        .collect()
}

/// Executes `qus fetch --list`: lists the fetched interpreters in `dest`.
pub(super) fn list(args: &Fetch, dest: PathBuf, common: &Common) -> Result<StoredReport> {
    let requested = requested(args)?;
    let files = items(&dest, &requested, &Users::gather(common)?);
    Ok(StoredReport { dest, files, kept: None, dry_run: None, problems: Vec::new() })
}

/// Executes `qus fetch --prune`. Removes only interpreters that qus has fetched, that are unchanged since then, and
/// that no handler, no rule and no process uses. If the command line names no architecture and no version, the
/// interpreters that `qus run` chooses stay, too.
pub(super) fn prune(args: &Fetch, dest: PathBuf, common: &Common) -> Result<StoredReport> {
    let requested = requested(args)?;
    let is_named = super::arches(args).is_some() || requested.version.is_some();
    let (mut files, kept): (Vec<_>, Vec<_>) = items(&dest, &requested, &Users::gather(common)?)
        .into_iter()
        .partition(|item| item.state == State::Fetched && !item.is_used() && (is_named || !item.by_run));
    let mut problems = Vec::new();
    for item in &mut files {
        if !args.dry_run
            && let Err(error) = remove(&item.path)
        {
            problems.push(not_removed(&item.path, &error));
            item.removed = Some(false);
            continue;
        }
        item.removed = Some(!args.dry_run);
    }
    Ok(StoredReport { dest, files, kept: Some(kept), dry_run: Some(args.dry_run), problems })
}

/// Returns the error that the interpreter at `path` was not removed. Root can remove it if this user lacks the rights.
fn not_removed(path: &Path, error: &io::Error) -> Diagnostic {
    let problem = Diagnostic::new(format!("cannot remove {}: {error}", display_path(path)));
    match error.kind() {
        io::ErrorKind::PermissionDenied => problem.with_advice(Advice::this_command_as_root()),
        _ => problem,
    }
}

/// Removes the interpreter at `path`, then the record of its origin, then the directory of its QEMU version if that is
/// empty. The record comes after the interpreter, because `--prune` ignores interpreters without a record.
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    match fs::remove_file(record_path(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let Some(directory) = path.parent() else { return Ok(()) };
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    if name.parse::<QemuVersion>().is_ok() {
        // This fails if the directory has other interpreters.
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

/// Returns a filter for the architectures that the command line names, or for all architectures.
fn requested(args: &Fetch) -> Result<ArchFilter, Diagnostic> {
    Ok(ArchFilter {
        host: self_exe_header()?,
        arches: super::arches(args),
        version: args.required.qemu_version.clone(),
        by_version: true,
        done: std::collections::BTreeSet::new(),
    })
}

impl Report for StoredReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        match self.dry_run {
            Some(dry_run) => self.removed_table(dry_run).write(text),
            None => self.list_table().write(text),
        }
    }

    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        for problem in &self.problems {
            output.problem(problem)?;
        }
        if let Some(note) = self.note() {
            output.info(&note)?;
        }
        Ok(if self.problems.is_empty() { Status::Done } else { Status::Failed })
    }
}

impl StoredReport {
    /// Returns a sentence about the interpreters that stay, or that there are none.
    fn note(&self) -> Option<String> {
        let kept = self.kept.as_deref().unwrap_or_default();
        if self.files.is_empty() && kept.is_empty() {
            return Some(format!("no fetched interpreter is in {}", display_path(&self.dest)));
        }
        let number =
            |is_meant: &dyn Fn(&StoredInterpreter) -> bool| kept.iter().filter(|item| is_meant(item)).count();
        let is_fetched = |item: &StoredInterpreter| item.state == State::Fetched;
        let reasons = [
            (number(&|item| item.is_used()), "in use"),
            (
                number(&|item| !item.is_used() && is_fetched(item)),
                "for `qus run` (to remove one, name its architecture)",
            ),
            (number(&|item| !item.is_used() && !is_fetched(item)), "not as it was fetched"),
        ];
        let reasons: Vec<String> = reasons
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, reason)| format!("{number} {reason}"))
            .collect();
        let stay = if kept.len() == 1 { "stays" } else { "stay" };
        let kept = count(kept.len(), "interpreter");
        (!reasons.is_empty()).then(|| format!("{kept} {stay}: {}", reasons.join(", ")))
    }

    fn list_table(&self) -> Table {
        let or_dash = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| escape(text));
        let mut table =
            Table::with_header(["ARCH", "QEMU", "STATE", "FETCHED", "FROM", "USED-BY", "PATH"]).shorten(4);
        for item in &self.files {
            let record = item.provenance.as_ref();
            let from = record.map(Provenance::short);
            table.push(
                [
                    item.arch.to_owned(),
                    or_dash(record.and_then(|record| record.qemu_version.as_ref())),
                    item.state.word().to_owned(),
                    or_dash(record.map(|record| &record.date)),
                    or_dash(from.as_ref()),
                    item.users(),
                    display_path(&item.path),
                ]
                .map(Cell::from),
            );
        }
        table
    }

    fn removed_table(&self, dry_run: bool) -> Table {
        let word = if dry_run { "would be removed" } else { "removed" };
        let mut table = Table::new();
        for item in self.files.iter().filter(|item| dry_run || item.removed == Some(true)) {
            table.push([item.arch, word, &display_path(&item.path)].map(Cell::from));
        }
        table
    }
}
