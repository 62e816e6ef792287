//! `qus register --persist`: copies interpreters to a permanent directory, and writes files with rules that the system
//! registers at boot. Problems are reported before anything is registered. The written rules are read back from the
//! kernel after the registration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::gather::{Inputs, Placed};
use super::interpreter_source::InterpreterSource;
use super::report::ArchResult;
use crate::arch::Arch;
use crate::base::error::{Advice, Content, Diagnostic};
use crate::binfmt::instance::Instance;
use crate::binfmt::{Handler, Rule};
use crate::boot::configuration::{Configuration, binfmt_support_file};
use crate::boot::formats::{ArchRules, Subject};
use crate::boot::persist::{self, InitSystem};
use crate::handler::classify;
use crate::handler::owner::Owner;
use crate::handler::plan::{Decision, Registration, Request};
use crate::handler::table;
use crate::interpreter::store;
use crate::interpreter::{Interpreter, is_qemu};
use crate::system::atomic_file::{self, PendingFile};
use crate::system::dir::{Dir, parent_dir};
use crate::system::file_id::FileId;

/// The init system, the rules that the host registers at boot, and the copies of interpreters of a run with
/// `--persist`.
pub(super) struct Persistence {
    pub(super) init_system: InitSystem,
    configuration: Configuration,
    /// Interpreters that this run has copied to a permanent directory.
    copies: Vec<Copy>,
}

/// The copy of an interpreter in a permanent directory.
struct Copy {
    arch: &'static str,
    path: PathBuf,
    /// Backup of the file that was at `path` before the copy, if there was one.
    before: Option<PendingFile>,
    /// True if the directory of `path` was created for this copy.
    made: bool,
    /// Device and inode of the file at `path` after the copy.
    id: Option<FileId>,
}

impl Copy {
    /// Restores the file that was at `path` before the copy, or removes the copy if there was none.
    fn rollback(self) -> io::Result<()> {
        // Another program has replaced the copy: its file is left in place.
        if file_id(&self.path) != self.id {
            return Ok(());
        }
        if let Some(before) = self.before {
            return before.persist(&self.path);
        }
        fs::remove_file(&self.path)?;
        if self.made {
            persist::remove_empty_directories();
        }
        Ok(())
    }
}

impl Persistence {
    /// Determines the init system, and reads the rules that the host registers at boot.
    pub(super) fn gather() -> Self {
        let configuration = Configuration::read(Path::new("/"));
        Self { init_system: InitSystem::here(), configuration, copies: Vec::new() }
    }

    /// Returns `request`, changed so that it asks for a handler of `arch` that is also registered at boot.
    ///
    /// An existing handler satisfies the request only if another tool than qus registers it at boot. A handler that qus
    /// registered for a QEMU emulator is replaced. A handler with another interpreter is not replaced, because the user
    /// chose that interpreter.
    pub(super) fn request(&self, arch: &'static Arch, inputs: &Inputs, request: Request) -> Request {
        let Some(handler) = classify::active_handler(arch, &inputs.handlers) else { return request };
        match Owner::of(handler, &self.configuration) {
            Owner::Configuration(file) if file != persist::file_of(&arch.into()) => request,
            Owner::BinfmtSupport(_) => request,
            Owner::Qus if handler.entry.interpreter.as_deref().is_some_and(is_qemu) => {
                Request { explicit: true, replace: true, ..request }
            }
            _ => Request { explicit: true, ..request },
        }
    }

    /// Returns `decision`, or a refusal if the rules in `set` could not be registered at boot.
    pub(super) fn checked(&self, subject: &Subject, decision: Decision, set: Option<&ArchRules>) -> Decision {
        let Some(set) = set else { return decision };
        if !matches!(decision, Decision::Register(_) | Decision::Unchanged(_)) {
            return decision;
        }
        // A file that is read later replaces the rule at boot if it has a rule of the same name.
        let own = persist::file_of(subject);
        let overridden = self.configuration.rules.iter().find(|configured| {
            configured.file.file_name() > own.file_name()
                && set.rules.iter().any(|rule| rule.name() == configured.rule.name())
        });
        if let Some(configured) = overridden {
            let (name, file) = (configured.rule.name(), configured.file.display());
            let reason = format!("{file} has another rule for {name}, which would replace this one at boot");
            return Decision::Refused { reason, advice: Advice::default() };
        }
        match persist::check(set).and_then(|()| self.init_system.check(set)) {
            Ok(()) => decision,
            Err(problem) => {
                let Content { message: reason, advice } = problem.into_content();
                Decision::Refused { reason, advice }
            }
        }
    }

    /// Copies the interpreters for the registrations in `work` to a permanent directory.
    pub(super) fn copy(
        &mut self,
        work: &[(usize, Registration)],
        inputs: &Inputs,
    ) -> Result<Placed, Diagnostic> {
        persist::remove_stale();
        let mut placed = Placed::new();
        for (item, _) in work {
            let Some(arch) = inputs.arches.get(*item).copied() else { continue };
            if let Some(copy) = inputs.copy_to_persistent_path(arch, &mut self.copies)? {
                placed.insert(arch.name, copy);
            }
        }
        Ok(placed)
    }

    /// Rolls back the copies of interpreters whose architectures were not registered. The next boot then uses the
    /// previous files.
    pub(super) fn rollback_failed_copies(
        &mut self,
        items: &mut [ArchResult],
        acted: Result<(), Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let is_served = |copy: &Copy| items.iter().any(|item| item.is_of(copy.arch) && item.is_served());
        let (good, failed): (Vec<Copy>, Vec<Copy>) =
            self.copies.drain(..).partition(|copy| acted.is_ok() && is_served(copy));
        self.copies = good;
        let mut problems: Vec<Diagnostic> = acted.err().into_iter().collect();
        for copy in failed.into_iter().rev() {
            let path = copy.path.clone();
            if let Err(error) = copy.rollback() {
                problems.push(Diagnostic::new(format!("cannot restore {}: {error}", path.display())));
            }
        }
        let mut problems = problems.into_iter();
        let Some(first) = problems.next() else { return Ok(()) };
        Err(problems.fold(first, |first, more| {
            let message = format!("{}; {}", first.message, more.message);
            first.with_message(message)
        }))
    }

    /// Writes, for every architecture with a handler, a file that registers the handler at boot. Leaves out handlers
    /// that another tool registers at boot.
    pub(super) fn write_boot_files(
        &mut self,
        instance: &Instance,
        items: &mut [ArchResult],
        inputs: &Inputs,
    ) -> Result<(), Diagnostic> {
        for (item, arch) in items.iter_mut().zip(&inputs.arches) {
            if !item.is_served() {
                continue;
            }
            if let Some(file) = self.persisted_by_another_tool(&(*arch).into(), item, &inputs.handlers) {
                item.persisted_by(file);
                continue;
            }
            let written = Self::registered(instance, (*arch).into(), item)
                .and_then(|set| persist::write_boot_file(&set));
            match written {
                Ok(path) => item.persisted_by(path),
                Err(problem) => item.not_persisted(problem),
            }
        }
        let updated =
            if items.iter().any(ArchResult::is_persisted) { self.init_system.update() } else { Ok(()) };
        updated.and(self.remove_backups())?;
        persist::remove_unused_copies(&table::handlers(instance)?)
    }

    /// Removes the backups of the files that copies have replaced.
    fn remove_backups(&mut self) -> Result<(), Diagnostic> {
        self.copies.drain(..).filter_map(|copy| copy.before).try_for_each(|before| {
            let path = before.path().to_owned();
            let failed = |error| Diagnostic::new(format!("cannot remove {}: {error}", path.display()));
            before.remove().map_err(failed)
        })
    }

    /// Returns the file with which another tool than qus registers the existing handler of `subject` at boot, if
    /// there is one.
    pub(super) fn persisted_by_another_tool(
        &self,
        subject: &Subject,
        item: &ArchResult,
        handlers: &[Handler],
    ) -> Option<PathBuf> {
        let handler = handlers.iter().find(|handler| item.has_existing(&handler.name))?;
        match Owner::of(handler, &self.configuration) {
            Owner::Configuration(file) if file != persist::file_of(subject) => Some(file),
            Owner::BinfmtSupport(_) => Some(binfmt_support_file(handler.name.as_os_str())),
            _ => None,
        }
    }

    /// Reads the rules of the handlers in `item` back from the kernel. They have the flags with which the handlers were
    /// verified.
    pub(super) fn registered(
        instance: &Instance,
        subject: Subject,
        item: &ArchResult,
    ) -> Result<ArchRules, Diagnostic> {
        let mut rules: Vec<Rule> = Vec::new();
        for name in item.names() {
            let rule = instance.entry(&name)?.and_then(|entry| entry.to_rule(&name));
            rules
                .push(rule.ok_or_else(|| Diagnostic::new(format!("{name} was removed by another process")))?);
        }
        let copied = rules.first().is_some_and(|rule| persist::is_copy(rule.interpreter()));
        Ok(ArchRules { subject, rules, copied })
    }
}

impl Inputs {
    /// Selects the interpreters that have to be copied because their paths are not permanent, and sets the paths of
    /// their copies.
    pub(super) fn choose_persistent_paths(&mut self) -> Result<(), Diagnostic> {
        let to_copy = self.found.iter().filter_map(|(arch, found)| {
            let interpreter = found.interpreter.as_ref()?;
            (!persist::is_stable(interpreter)).then(|| (*arch, interpreter.clone()))
        });
        for (arch, interpreter) in to_copy.collect::<Vec<_>>() {
            let source =
                self.to_memory.remove(arch).unwrap_or_else(|| InterpreterSource::File(interpreter.clone()));
            let name = match &source {
                InterpreterSource::Bundled(member) => member.name.clone().into(),
                InterpreterSource::File(interpreter) => {
                    interpreter.path.file_name().unwrap_or_default().to_owned()
                }
            };
            let path = Path::new(store::COPIES).join(&name);
            let same = self.same_file(&[path.clone(), Path::new(store::SYSTEM).join(&name)], &source)?;
            let Some(found) = self.found.get_mut(arch) else { continue };
            if same.is_none() {
                self.to_copy.insert(arch, source);
            }
            let new =
                Interpreter { path, id: FileId { device: 0, inode: 0 }, owned_by_root: true, ..interpreter };
            found.interpreter = Some(same.unwrap_or(new));
        }
        Ok(())
    }

    /// Returns the first file of `paths` with the same content as `source`, such as the copy of an earlier run. The
    /// interpreter then needs no new copy.
    fn same_file(
        &self,
        paths: &[PathBuf],
        source: &InterpreterSource,
    ) -> Result<Option<Interpreter>, Diagnostic> {
        let fit = |path: &PathBuf| Interpreter::check(path, &self.host).ok().filter(persist::is_stable);
        let found: Vec<Interpreter> = paths.iter().filter_map(fit).collect();
        if found.is_empty() {
            return Ok(None);
        }
        let content = source.content()?;
        Ok(found.into_iter().find(|file| file.read().is_ok_and(|existing| *existing == *content)))
    }

    /// Copies the interpreter of `arch` to its permanent path and returns the copy. Returns `None` if no copy is
    /// needed.
    fn copy_to_persistent_path(
        &self,
        arch: &'static Arch,
        copies: &mut Vec<Copy>,
    ) -> Result<Option<Interpreter>, Diagnostic> {
        let (Some(source), Some(interpreter)) = (self.to_copy.get(arch.name), self.interpreter(arch)) else {
            return Ok(None);
        };
        let path = &interpreter.path;
        let content = source.content()?;
        write_copy(arch.name, path, &content, copies).map_err(|error| {
            let path = path.display();
            Diagnostic::new(format!("cannot copy the interpreter for {} to {path}: {error}", arch.name))
        })?;
        let copy = Interpreter::check(path, &self.host)
            .map_err(|fault| Diagnostic::new(format!("{} {fault}", path.display())))?;
        Ok(Some(copy))
    }
}

/// Writes the executable file `path` atomically, and adds it to `copies`. An old file is replaced, not overwritten,
/// because it may be running (K50).
fn write_copy(arch: &'static str, path: &Path, content: &[u8], copies: &mut Vec<Copy>) -> io::Result<()> {
    let mut directories = Vec::new();
    Dir::make(parent_dir(path), &mut directories).map_err(|(_, error)| error)?;
    let made = !directories.is_empty();
    let before = if path.exists() { Some(atomic_file::backup(path)?) } else { None };
    let was = file_id(path);
    let placed = atomic_file::write_atomic(path, content, 0o755);
    // After an error, the new file may already be at `path`.
    let id = file_id(path);
    if id != was {
        copies.push(Copy { arch, path: path.to_owned(), before, made, id });
    }
    placed.map(drop)
}

fn file_id(path: &Path) -> Option<FileId> {
    fs::symlink_metadata(path).ok().map(|metadata| FileId::of(&metadata))
}

/// Returns the rules for `arch` that `decision` registers or leaves registered, as they are planned before
/// verification. Returns `None` for any other decision.
pub(super) fn planned(
    arch: &'static Arch,
    decision: &Decision,
    inputs: &Inputs,
    request: Request,
) -> Option<ArchRules> {
    if !matches!(decision, Decision::Register(_) | Decision::Unchanged(_)) {
        return None;
    }
    let interpreter = inputs.interpreter(arch)?;
    let rules = classify::rules(arch, &interpreter.path, request.flags).ok()?;
    Some(ArchRules { subject: arch.into(), rules, copied: false })
}
