//! `qus fetch --list` lists fetched interpreters, and `qus fetch --prune` removes unused ones.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::Fetch;
use crate::base::error::Diagnostic;
use crate::base::escape::{display_path, escape};
use crate::base::output::{Output, Status};
use crate::base::table::{Cell, Table};
use crate::base::terminal::TextWriter;
use crate::binfmt::Handler;
use crate::binfmt::instance::{Instance, OpenError};
use crate::boot::configuration::Configuration;
use crate::commands::args::Common;
use crate::commands::report::Report;
use crate::interpreter::ArchFilter;
use crate::interpreter::QemuVersion;
use crate::interpreter::provenance::{Provenance, record_path};
use crate::interpreter::self_exe_header;
use crate::interpreter::store::stored;
use crate::system::file_id::FileId;

/// Results of `qus fetch --list`: fetched interpreters. For `--prune`, only those that are removed or would be removed.
#[derive(Serialize)]
pub(super) struct StoredReport {
    dest: PathBuf,
    files: Vec<StoredInterpreter>,
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
    provenance: Option<Provenance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<bool>,
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

/// Registered handlers and configured rules that may use fetched interpreters.
struct Users {
    handlers: Vec<Handler>,
    configuration: Configuration,
}

impl Users {
    /// Gathers the handlers of the instance, and the rules that the system registers at boot.
    fn gather(common: &Common) -> Result<Self, Diagnostic> {
        let handlers = match Instance::open(&common.instance) {
            Ok(instance) => instance.handlers()?,
            // Without an instance there are no handlers.
            Err(OpenError::NotMounted(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { handlers, configuration: Configuration::read(Path::new("/")) })
    }

    fn of(&self, path: &Path) -> Vec<String> {
        let id = |path: &Path| fs::metadata(path).ok().map(|metadata| FileId::of(&metadata));
        let this = id(path);
        let is_this = |other: &Path| other == path || other.is_absolute() && id(other) == this;
        let handlers =
            self.handlers.iter().filter(|handler| handler.entry.interpreter.as_deref().is_some_and(is_this));
        let rules =
            self.configuration.rules.iter().filter(|configured| is_this(configured.rule.interpreter()));
        let files = rules.map(|configured| configured.file.to_string_lossy().into_owned());
        handlers.map(|handler| handler.name.to_string()).chain(files).collect()
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
            let used_by = users.of(&stored.path);
            let (arch, path) = (stored.arch.name, stored.path);
            StoredInterpreter {
                arch,
                state,
                path,
                size,
                used_by,
                provenance: stored.provenance,
                removed: None,
            }
        })
        .collect()
}

/// Executes `qus fetch --list`: lists the fetched interpreters in `dest`.
pub(super) fn list(args: &Fetch, dest: PathBuf, common: &Common) -> Result<StoredReport> {
    let requested = requested(args)?;
    let files = items(&dest, &requested, &Users::gather(common)?);
    Ok(StoredReport { dest, files, dry_run: None, problems: Vec::new() })
}

/// Executes `qus fetch --prune`. Removes only interpreters that qus has fetched, that are unchanged since then, and
/// that no handler and no rule uses.
pub(super) fn prune(args: &Fetch, dest: PathBuf, common: &Common) -> Result<StoredReport> {
    let requested = requested(args)?;
    let mut files = items(&dest, &requested, &Users::gather(common)?);
    files.retain(|item| item.state == State::Fetched && item.used_by.is_empty());
    let mut problems = Vec::new();
    for item in &mut files {
        let failed = |error: io::Error| {
            Diagnostic::new(format!("cannot remove {}: {error}", display_path(&item.path)))
                .with_command("sudo qus fetch --prune")
        };
        if !args.dry_run
            && let Err(error) = remove(&item.path)
        {
            problems.push(failed(error));
            item.removed = Some(false);
            continue;
        }
        item.removed = Some(!args.dry_run);
    }
    Ok(StoredReport { dest, files, dry_run: Some(args.dry_run), problems })
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
        if self.files.is_empty() {
            let note = match self.dry_run {
                Some(_) => "every fetched interpreter is in use".to_owned(),
                None => format!("nothing was fetched into {}", display_path(&self.dest)),
            };
            output.info(&note)?;
        }
        Ok(if self.problems.is_empty() { Status::Done } else { Status::Failed })
    }
}

impl StoredReport {
    fn list_table(&self) -> Table {
        let or_dash = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| escape(text));
        let mut table =
            Table::with_header(["ARCH", "QEMU", "STATE", "FETCHED", "FROM", "USED-BY", "PATH"]).shorten(4);
        for item in &self.files {
            let record = item.provenance.as_ref();
            let from = record.map(Provenance::short);
            let used_by =
                if item.used_by.is_empty() { "-".to_owned() } else { escape(&item.used_by.join(",")) };
            table.push(
                [
                    item.arch.to_owned(),
                    or_dash(record.and_then(|record| record.qemu_version.as_ref())),
                    item.state.word().to_owned(),
                    or_dash(record.map(|record| &record.date)),
                    or_dash(from.as_ref()),
                    used_by,
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
