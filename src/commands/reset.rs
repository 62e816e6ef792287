//! `qus reset`: removes the handlers of QEMU's emulators under any name, and other handlers only if the command line
//! names them. With `--persist`, also removes the files that `register --persist` wrote.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::base::error::Diagnostic;
use crate::base::escape::{display_path, escape};
use crate::base::output::{Output, Status};
use crate::base::table::{Cell, Table};
use crate::base::terminal::{BAD, GOOD, NOTABLE, TextWriter};
use crate::binfmt::instance::{HandlerError, Instance, OpenError};
use crate::binfmt::{Handler, HandlerName, Rule};
use crate::boot::configuration::{Configuration, binfmt_support_file};
use crate::boot::formats::{Subject, other_subject};
use crate::boot::persist::{self, InitSystem, Persisted};
use crate::commands::args::{Common, HandlerArg, PERSISTENCE, Words, flat, parse_handlers};
use crate::commands::instance::{open_read_only, print_scope};
use crate::commands::report::Report;
use crate::commands::selection::{is_meant, select};
use crate::handler::classify::{emulated_arch, is_emulator_of, main_arch, name_lossy};
use crate::handler::owner::Owner;
use crate::handler::table;
use crate::system::managed_file::{self, ManagedFileError};
use crate::system::namespace::{Scope, UserNamespace};
use clap::Args;

/// Arguments of `qus reset`.
#[derive(Debug, Args)]
pub struct Reset {
    /// Architectures, or names of handlers [default: all]
    ///
    /// An architecture selects its handlers of QEMU's emulators, `all` selects those of every architecture. The name of a
    /// handler, or a pattern such as 'python*', selects handlers of any tool.
    #[arg(value_name = "HANDLER", value_parser = parse_handlers)]
    pub handlers: Vec<Words<HandlerArg>>,
    /// Also remove the files of register --persist
    ///
    /// Also removes the files that `register --persist` wrote, so that the handlers are not registered again at boot.
    #[arg(help_heading = PERSISTENCE, long)]
    pub persist: bool,
    /// Print what would be removed
    ///
    /// Prints what would be removed, and removes nothing.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Result of `qus reset` for a handler or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The handler or the file was removed.
    Removed,
    /// A run without `--dry-run` would remove the handler or the file.
    WouldRemove,
    /// The file was edited after qus wrote it, and was left in place.
    Edited,
    /// The handler or the file could not be removed.
    Failed,
}

impl Outcome {
    fn cell(self) -> Cell {
        let (word, style) = match self {
            Self::Removed => ("removed", GOOD),
            Self::WouldRemove => ("would remove", NOTABLE),
            Self::Edited => ("edited", NOTABLE),
            Self::Failed => ("failed", BAD),
        };
        Cell::styled(word, style)
    }
}

/// Results of `qus reset`.
#[derive(Serialize)]
pub(crate) struct ResetReport {
    scope: Scope,
    dry_run: bool,
    pub(crate) items: Vec<ResetHandler>,
    /// With `--persist`: the files that `register --persist` wrote, each with its outcome.
    files: Vec<FileItem>,
    /// Names of the registered handlers that this run does not remove.
    pub(crate) skipped: Vec<String>,
    /// Removed handlers that a configuration file registers again at boot.
    #[serde(rename = "returns")]
    restored_at_boot: Vec<RestoredHandler>,
    /// Error that binfmt_misc is not mounted, so that no handler was removed.
    #[serde(skip)]
    hidden: Option<Diagnostic>,
}

/// A handler that was removed or would be removed.
#[derive(Serialize)]
pub(crate) struct ResetHandler {
    /// Architecture of the handler; `None` if its programs belong to no known architecture.
    pub(crate) arch: Option<&'static str>,
    outcome: Outcome,
    pub(crate) name: String,
    interpreter: Option<String>,
    pub(crate) error: Option<String>,
}

#[derive(Serialize)]
struct FileItem {
    /// Architecture of the rules in the file; `None` for rules of other kinds of files.
    arch: Option<&'static str>,
    /// Name of the architecture, preset or handler.
    name: String,
    outcome: Outcome,
    path: PathBuf,
    error: Option<String>,
}

#[derive(Serialize)]
struct RestoredHandler {
    arch: Option<&'static str>,
    name: String,
    /// The file that registers the handler at boot.
    file: PathBuf,
    /// True if qus wrote the file.
    own: bool,
    /// Subject of the file, if qus wrote it.
    #[serde(skip)]
    subject: Option<Subject>,
}

/// Removes the selected handlers. With `--persist`, also removes the files that register them at boot.
pub(crate) fn execute(args: &Reset, common: &Common) -> Result<ResetReport> {
    // The lock is taken before any file is read, and released at the end of this function.
    let _lock = (args.persist && !args.dry_run).then(persist::lock);
    let instance = open_read_only(common)?;
    let hidden = instance.is_none().then(|| hidden(&common.instance));
    // The files of `--persist` can be removed without an instance.
    if let Some(problem) = hidden.as_ref().filter(|_| !args.persist) {
        return Err(problem.clone().into());
    }
    let handlers = handlers_of(instance.as_ref())?;
    let persisted = if args.persist { persist::persisted()? } else { Vec::new() };
    let (to_remove, persisted) = selected(&flat(&args.handlers), &handlers, persisted)?;
    if !args.dry_run {
        check(instance.as_ref(), &to_remove, &persisted)?;
    }
    // Boot files are removed first. If qus is killed halfway, the remaining handlers are still listed and can be
    // removed.
    let files = remove_files(&persisted, args.dry_run);
    if args.persist && !args.dry_run {
        persist::remove_stale();
        InitSystem::here().update()?;
    }
    let items = match &instance {
        Some(instance) => remove(instance, &to_remove, args.dry_run),
        None => Vec::new(),
    };
    if args.persist && !args.dry_run {
        persist::remove_unused_copies(&handlers_of(instance.as_ref())?)?;
    }
    let is_removed = |name: &HandlerName| to_remove.iter().any(|handler| handler.name == *name);
    let skipped = handlers.iter().filter(|handler| !is_removed(&handler.name));
    Ok(ResetReport {
        scope: if instance.is_some() { Scope::of(&common.instance) } else { Scope::of_own_mount() },
        dry_run: args.dry_run,
        skipped: skipped.map(|handler| name_lossy(&handler.name)).collect(),
        restored_at_boot: restored_at_boot(&to_remove, &files),
        items,
        files,
        hidden,
    })
}

/// Returns the handlers that `words` select, and those of the `persisted` files that register them at boot.
fn selected<'a>(
    words: &[HandlerArg],
    handlers: &'a [Handler],
    mut persisted: Vec<Persisted>,
) -> Result<(Vec<&'a Handler>, Vec<Persisted>), Diagnostic> {
    let names: Vec<HandlerName> =
        persisted.iter().flat_map(|file| file.set.rules.iter().map(|rule| rule.name().clone())).collect();
    let is_default = |handler: &Handler| emulated_arch(handler).is_some();
    let selection = select(handlers, words, &names, is_default, is_emulator_of)?;
    let by_name: Vec<HandlerArg> =
        words.iter().filter(|word| !matches!(word, HandlerArg::All)).cloned().collect();
    persisted.retain(|file| {
        let mut names = file.set.rules.iter().map(Rule::name);
        match file.set.subject.arch() {
            Some(arch) => names.any(|name| is_meant(words, name, &[arch])),
            // Handlers of other kinds of files are removed only by name, and so are their files.
            None => !by_name.is_empty() && names.any(|name| is_meant(&by_name, name, &[])),
        }
    });
    Ok((selection.handlers, persisted))
}

/// Returns the error that no handler can be removed, because binfmt_misc is not mounted on `path`. Handlers may be active
/// nevertheless (K65).
fn hidden(path: &Path) -> Diagnostic {
    let problem = Diagnostic::from(OpenError::NotMounted(path.to_owned()));
    let message = format!("cannot remove handlers: {}", problem.message);
    let problem = problem.with_message(message);
    if UserNamespace::own() == UserNamespace::Initial {
        return problem;
    }
    problem.with_hint(
        "the command mounts an instance of this user namespace, which hides the host's handlers here",
    )
}

fn handlers_of(instance: Option<&Instance>) -> Result<Vec<Handler>, Diagnostic> {
    Ok(instance.map_or(Ok(Vec::new()), table::handlers)?)
}

/// Checks, before the first removal, that all handlers and files can be removed.
fn check(
    instance: Option<&Instance>,
    to_remove: &[&Handler],
    persisted: &[Persisted],
) -> Result<(), Diagnostic> {
    if let Some(instance) = instance
        && !to_remove.is_empty()
    {
        instance.check_writable()?;
    }
    for file in persisted.iter().filter(|file| !file.is_edited) {
        managed_file::check(&file.path)?;
    }
    Ok(())
}

impl Report for ResetReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let mut table = Table::new();
        for item in &self.items {
            let interpreter = item.interpreter.as_ref().map(|path| display_path(Path::new(path)));
            let detail = item.error.clone().or(interpreter).unwrap_or_default();
            table.push([
                item.arch.unwrap_or("-").into(),
                item.outcome.cell(),
                escape(&item.name).into(),
                detail.into(),
            ]);
        }
        for file in &self.files {
            let detail = file.error.clone().unwrap_or_default();
            table.push([
                file.name.as_str().into(),
                file.outcome.cell(),
                display_path(&file.path).into(),
                detail.into(),
            ]);
        }
        table.write(text)
    }

    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        if let Some(problem) = &self.hidden {
            output.problem(problem)?;
            return Ok(Status::Failed);
        }
        print_scope(self.scope, output)?;
        if self.items.is_empty() {
            output.info("no handler of a QEMU emulator is registered")?;
        }
        for restored in &self.restored_at_boot {
            let name = restored.subject.as_ref().map(Subject::name);
            let hint = name.map(|name| format!("; to remove it for good: sudo qus reset --persist {name}"));
            let hint = hint.unwrap_or_default();
            let (name, file) = (escape(&restored.name), display_path(&restored.file));
            output.info(&format!("{file} registers {name} again at boot{hint}"))?;
        }
        Ok(self.status())
    }
}

impl ResetReport {
    pub(crate) fn status(&self) -> Status {
        let mut errors =
            self.items.iter().map(|item| &item.error).chain(self.files.iter().map(|file| &file.error));
        if errors.any(Option::is_some) { Status::Failed } else { Status::Done }
    }
}

/// Removes the handlers in `to_remove`, unless this is a dry run. Returns a result for each.
fn remove(instance: &Instance, to_remove: &[&Handler], dry_run: bool) -> Vec<ResetHandler> {
    let mut items = Vec::new();
    for handler in to_remove {
        let removed = if dry_run { Ok(()) } else { instance.remove(&handler.name) };
        let (outcome, error) = match removed {
            Ok(()) if dry_run => (Outcome::WouldRemove, None),
            // Another process removed it.
            Ok(()) | Err(HandlerError::Missing(_)) => (Outcome::Removed, None),
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        };
        let name = name_lossy(&handler.name);
        let interpreter = handler.entry.interpreter.as_deref().map(Path::to_string_lossy).map(Into::into);
        let arch = main_arch(handler).map(|arch| arch.name);
        items.push(ResetHandler { arch, outcome, name, interpreter, error });
    }
    items
}

/// Removes the files that `register --persist` wrote, and the copies of interpreters that their rules use. A dry run
/// removes nothing.
fn remove_files(persisted: &[Persisted], dry_run: bool) -> Vec<FileItem> {
    let mut files = Vec::new();
    for persisted_arch in persisted {
        let subject = &persisted_arch.set.subject;
        let (arch, name) = (subject.arch().map(|arch| arch.name), subject.name().to_owned());
        let mut copies = Vec::new();
        if persisted_arch.is_edited {
            let error = ManagedFileError::Edited(persisted_arch.path.clone()).to_string();
            files.push(FileItem {
                arch,
                name,
                outcome: Outcome::Edited,
                path: persisted_arch.path.clone(),
                error: Some(error),
            });
            continue;
        }
        let removed = if dry_run { Ok(()) } else { remove_one(persisted_arch, &mut copies) };
        let (outcome, error) = match removed {
            Ok(()) => (if dry_run { Outcome::WouldRemove } else { Outcome::Removed }, None),
            Err(problem) => (Outcome::Failed, Some(problem.into_content().message)),
        };
        let path = persisted_arch.path.clone();
        files.push(FileItem { arch, name: name.clone(), outcome, path, error });
        files.extend(copies.into_iter().map(|path| FileItem {
            arch,
            name: name.clone(),
            outcome: Outcome::Removed,
            path,
            error: None,
        }));
    }
    files
}

/// Removes a file that `register --persist` wrote, its rules in binfmt-support, and the copies of interpreters that the
/// rules use. Adds the paths of the removed copies to `removed`.
fn remove_one(persisted_arch: &Persisted, removed: &mut Vec<PathBuf>) -> Result<(), Diagnostic> {
    for rule in &persisted_arch.set.rules {
        persist::remove_from_binfmt_support(rule)?;
    }
    persist::remove_persisted(persisted_arch, removed)
}

/// Returns those handlers of `to_remove` that a remaining configuration file registers again at boot. `files` are the
/// files that this run removes or would remove.
fn restored_at_boot(to_remove: &[&Handler], files: &[FileItem]) -> Vec<RestoredHandler> {
    let configuration = Configuration::read(Path::new("/"));
    let file = |handler: &Handler| match Owner::of(handler, &configuration) {
        Owner::Configuration(file) => Some(file),
        Owner::BinfmtSupport(_) => Some(binfmt_support_file(handler.name.as_os_str())),
        _ => None,
    };
    let is_removed = |file: &PathBuf| files.iter().any(|item| item.error.is_none() && item.path == *file);
    let restored = to_remove.iter().filter_map(|handler| {
        let file = file(handler).filter(|file| !is_removed(file))?;
        let arch = main_arch(handler);
        let subject = file.file_name().and_then(OsStr::to_str).and_then(other_subject);
        let subject = arch.map(Subject::Arch).filter(|arch| file == persist::file_of(arch)).or(subject);
        let own = subject.filter(|subject| file == persist::file_of(subject));
        let own = own.filter(|_| matches!(managed_file::read(&file), Ok(Some(own)) if !own.is_edited));
        Some(RestoredHandler {
            arch: arch.map(|arch| arch.name),
            name: name_lossy(&handler.name),
            file,
            own: own.is_some(),
            subject: own,
        })
    });
    restored.collect()
}
