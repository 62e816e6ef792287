//! `qus reset`: remove the handlers of QEMU's emulators, whatever their names, and nobody else's; with `--persist` also
//! what `register --persist` wrote.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::output::{Output, Status, display_path, escape, format_table};
use crate::binfmt::instance::{HandlerError, Instance};
use crate::binfmt::{Handler, HandlerName};
use crate::boot::configuration::Configuration;
use crate::boot::persist::{self, InitSystem, Persisted};
use crate::commands::args::{ArchArg, Common, named, parse_arch};
use crate::commands::instance::{open_read_only, print_scope};
use crate::handler::classify::{emulators, name_lossy};
use crate::handler::owner::Owner;
use crate::system::managed_file::{self, ManagedFileError};
use crate::system::namespace::Scope;
use clap::Args;

/// `qus reset`.
#[derive(Debug, Args)]
pub struct Reset {
    /// Only the handlers of these architectures [default: all]
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch)]
    pub arches: Vec<ArchArg>,
    /// Remove what `register --persist` wrote, too: they do not come back at boot
    #[arg(long)]
    pub persist: bool,
    /// Say what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Serialize)]
struct ResetReport {
    scope: Scope,
    dry_run: bool,
    items: Vec<ResetHandler>,
    /// With `--persist`: what was written for the next boot.
    files: Vec<FileItem>,
    /// Handlers that were left alone.
    left: Vec<String>,
    /// Handlers that configuration brings back at boot.
    returns: Vec<Return>,
}

#[derive(Serialize)]
struct ResetHandler {
    arch: &'static str,
    outcome: &'static str,
    name: String,
    interpreter: Option<String>,
    error: Option<String>,
}

#[derive(Serialize)]
struct FileItem {
    arch: &'static str,
    outcome: &'static str,
    path: PathBuf,
    error: Option<String>,
}

#[derive(Serialize)]
struct Return {
    arch: &'static str,
    name: String,
    /// The file that says so.
    file: PathBuf,
    /// Whether qus wrote it.
    own: bool,
}

pub(super) fn run(args: &Reset, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    let arches = named(&args.arches);
    // Before anything is looked at. Until this ends, as does the lock.
    let _lock = (args.persist && !args.dry_run).then(persist::lock);
    let instance = open_read_only(common)?;
    let handlers = match &instance {
        Some(instance) => instance.handlers().map_err(Diagnostic::from)?,
        None => Vec::new(),
    };
    let doomed = emulators(&handlers, arches.as_deref());
    let kept = if args.persist { kept(arches.as_deref())? } else { Vec::new() };
    if !args.dry_run {
        if let Some(instance) = instance.as_ref().filter(|_| !doomed.is_empty()) {
            instance.check_writable().map_err(Diagnostic::from)?;
        }
        for kept in kept.iter().filter(|kept| !kept.is_edited) {
            managed_file::check(&kept.path).map_err(Diagnostic::from)?;
        }
    }
    // First what would bring the handlers back: who ends this halfway is left with handlers that are seen.
    let files = forget(&kept, args.dry_run);
    if args.persist && !args.dry_run {
        persist::sweep();
        InitSystem::here().update()?;
    }
    let items = match &instance {
        Some(instance) => remove(instance, &doomed, args.dry_run),
        None => Vec::new(),
    };
    if args.persist && !args.dry_run {
        let handlers =
            instance.as_ref().map_or(Ok(Vec::new()), Instance::handlers).map_err(Diagnostic::from)?;
        persist::remove_unused_copies(&handlers)?;
    }
    let errors = items.iter().map(|item| &item.error).chain(files.iter().map(|file| &file.error));
    let status = if errors.flatten().next().is_some() { Status::Failed } else { Status::Done };
    let is_doomed = |name: &HandlerName| doomed.iter().any(|(handler, _)| handler.name == *name);
    let left = handlers.iter().filter(|handler| !is_doomed(&handler.name));
    let left: Vec<String> = left.map(|handler| name_lossy(&handler.name)).collect();
    let scope = if instance.is_some() { Scope::of(&common.instance) } else { Scope::of_own_mount() };
    let returns = returns(&doomed, &files);
    let view = ResetReport { scope, dry_run: args.dry_run, items, files, left, returns };
    output.data(&view, || text(&view))?;
    if instance.is_none() {
        output.note(&format!(
            "binfmt_misc is not mounted on {}: no handler can be seen, and none was removed",
            common.instance.display()
        ))?;
        return Ok(status);
    }
    print_scope(view.scope, output)?;
    if view.items.is_empty() {
        output.note("no handler of QEMU's emulators is there")?;
    }
    tell_returns(&view, output)?;
    Ok(status)
}

/// Removes handlers, each by its name.
fn remove(instance: &Instance, doomed: &[(&Handler, &'static Arch)], dry_run: bool) -> Vec<ResetHandler> {
    let mut items = Vec::new();
    for (handler, arch) in doomed {
        let removed = if dry_run { Ok(()) } else { instance.remove(&handler.name) };
        let (outcome, error) = match removed {
            Ok(()) if dry_run => ("would remove", None),
            // Somebody else was faster: it is gone all the same.
            Ok(()) | Err(HandlerError::Missing(_)) => ("removed", None),
            Err(error) => ("failed", Some(error.to_string())),
        };
        let name = name_lossy(&handler.name);
        let interpreter = handler.entry.interpreter.as_deref().map(Path::to_string_lossy).map(Into::into);
        items.push(ResetHandler { arch: arch.name, outcome, name, interpreter, error });
    }
    items
}

/// What `register --persist` wrote, for the named architectures or for all.
fn kept(arches: Option<&[&'static Arch]>) -> Result<Vec<Persisted>, Diagnostic> {
    let mut kept = persist::persisted()?;
    kept.retain(|kept| arches.is_none_or(|arches| arches.contains(&kept.set.arch)));
    Ok(kept)
}

/// Removes the files, and the copies of interpreters that go with them.
fn forget(kept: &[Persisted], dry_run: bool) -> Vec<FileItem> {
    let mut files = Vec::new();
    for kept in kept {
        let arch = kept.set.arch.name;
        let mut copies = Vec::new();
        if kept.is_edited {
            let error = Diagnostic::from(ManagedFileError::Edited(kept.path.clone())).message;
            files.push(FileItem { arch, outcome: "kept", path: kept.path.clone(), error: Some(error) });
            continue;
        }
        let forgotten = if dry_run { Ok(()) } else { forget_one(kept, &mut copies) };
        let (outcome, error) = match forgotten {
            Ok(()) => (if dry_run { "would remove" } else { "removed" }, None),
            Err(problem) => ("failed", Some(problem.message)),
        };
        files.push(FileItem { arch, outcome, path: kept.path.clone(), error });
        files.extend(copies.into_iter().map(|path| FileItem { arch, outcome: "removed", path, error: None }));
    }
    files
}

/// Removes a file, and before it what goes with it; copies of interpreters that were removed come into `removed`.
fn forget_one(kept: &Persisted, removed: &mut Vec<PathBuf>) -> Result<(), Diagnostic> {
    for rule in &kept.set.rules {
        persist::remove_from_binfmt_support(rule)?;
    }
    persist::remove_persisted(kept, removed)
}

/// Which of the handlers come back at boot, whoever wrote that; `files` are to go, or gone.
fn returns(doomed: &[(&Handler, &'static Arch)], files: &[FileItem]) -> Vec<Return> {
    let configuration = Configuration::read(Path::new("/"));
    let file = |handler: &Handler| match Owner::of(handler, &configuration) {
        Owner::Configuration(file) => Some(file),
        Owner::BinfmtSupport(_) => Some(Path::new("/var/lib/binfmts").join(handler.name.as_os_str())),
        _ => None,
    };
    let going = |file: &PathBuf| files.iter().any(|going| going.error.is_none() && going.path == *file);
    let returning = doomed.iter().filter_map(|(handler, arch)| {
        let file = file(handler).filter(|file| !going(file))?;
        let own = file == persist::file_of(arch)
            && matches!(managed_file::read(&file), Ok(Some(own)) if !own.is_edited);
        Some(Return { arch: arch.name, name: name_lossy(&handler.name), file, own })
    });
    returning.collect()
}

fn tell_returns(view: &ResetReport, output: &mut Output<'_>) -> Result<()> {
    for back in &view.returns {
        let hint = if back.own {
            format!("; to have it stay away: sudo qus reset --persist {}", back.arch)
        } else {
            String::new()
        };
        let (name, file) = (escape(&back.name), display_path(&back.file));
        output.note(&format!("{name} comes back at boot, by {file}{hint}"))?;
    }
    Ok(())
}

fn text(view: &ResetReport) -> String {
    let handlers = view.items.iter().map(|item| {
        let interpreter = item.interpreter.as_ref().map(|path| display_path(Path::new(path)));
        let detail = item.error.clone().or(interpreter).unwrap_or_default();
        vec![item.arch.to_owned(), item.outcome.to_owned(), escape(&item.name), detail]
    });
    let files = view.files.iter().map(|file| {
        let detail = file.error.clone().unwrap_or_default();
        vec![file.arch.to_owned(), file.outcome.to_owned(), display_path(&file.path), detail]
    });
    format_table(&handlers.chain(files).collect::<Vec<_>>())
}
