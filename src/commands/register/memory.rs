//! Loads interpreters into memory, from this executable if it is a bundle, or from files.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use super::gather::{Inputs, Placed};
use super::interpreter_source::{InterpreterSource, read};
use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::order::{self, ByArch};
use crate::handler::plan::Registration;
use crate::interpreter::bundle::own_bundle;
use crate::interpreter::memfd::{self, Memory, PendingFile};
use crate::interpreter::{Interpreter, SearchResult, arch_from_file_name, named_search_dirs, versions_of};
use crate::package::Sha256;
use crate::system::file_id::FileId;
use crate::system::file_id::file_name;

/// Number of threads that unpack interpreters. A machine with more processors uses one thread for each processor. Each
/// thread needs 9 MB of memory.
const THREADS: usize = 8;

impl Inputs {
    /// Selects the interpreters that this executable contains, if it is a bundle. An interpreter that was found in a
    /// directory of `QUS_INTERPRETER_DIR` takes precedence.
    pub(super) fn find_bundled(&mut self) -> Result<(), Diagnostic> {
        let Some(bundle) = own_bundle()? else { return Ok(()) };
        let named: Vec<PathBuf> =
            named_search_dirs().iter().filter_map(|location| std::path::absolute(location).ok()).collect();
        for member in bundle.members() {
            let Some((arch, version)) =
                arch_from_file_name(member.name.as_bytes()).zip(member.version.as_ref())
            else {
                continue;
            };
            if !self.is_wanted(arch) || !self.is_of_wanted_version(version) {
                continue;
            }
            let is_named = |found: &Interpreter| {
                found.path.parent().is_some_and(|location| named.iter().any(|named| named == location))
            };
            if self.interpreter(arch).is_some_and(is_named) {
                continue;
            }
            let path = memfd::path(version, member.size, member.sha256, &member.name);
            self.store(arch, path, InterpreterSource::Bundled(member.clone()));
        }
        Ok(())
    }

    /// Selects every interpreter file that the search has found, so that its content is loaded into memory
    /// (`--in-memory`).
    pub(super) fn find_in_files(&mut self) -> Result<(), Diagnostic> {
        let found = self.found.values().filter_map(|found| found.interpreter.as_ref());
        let files: Vec<Interpreter> =
            found.filter(|interpreter| !memfd::is_in_memory(&interpreter.path)).cloned().collect();
        let versions = versions_of(files.iter().map(|file| file.path.as_path()));
        for file in &files {
            let Some(arch) = self.arch_of(&file.path) else { continue };
            let content = read(file)?;
            let version = versions.get(&file.path).map_or_else(|| "unknown".to_owned(), ToString::to_string);
            let name = String::from_utf8_lossy(file_name(&file.path)).into_owned();
            let path = memfd::path(&version, content.len() as u64, Sha256::of_bytes(&content), &name);
            self.store(arch, path, InterpreterSource::File(file.clone()));
        }
        Ok(())
    }

    fn is_of_wanted_version(&self, version: &str) -> bool {
        self.version
            .as_ref()
            .is_none_or(|requested| version.parse().is_ok_and(|version| requested.matches(&version)))
    }

    fn arch_of(&self, file: &Path) -> Option<&'static Arch> {
        let has_file = |found: &SearchResult| {
            found.interpreter.as_ref().is_some_and(|interpreter| interpreter.path == file)
        };
        let (name, _) = self.found.iter().find(|(_, found)| has_file(found))?;
        Arch::from_qemu_target(name)
    }

    /// Records that the interpreter of `arch` will be loaded into memory from `source`. The device and inode of the
    /// future file are unknown, so they are set to 0. Uses the path of a handler that runs the same file, because the
    /// version in `path` may differ from it: it is unknown if the interpreter could not be started.
    fn store(&mut self, arch: &'static Arch, path: PathBuf, source: InterpreterSource) {
        let mut registered = self.handlers.iter().filter_map(|handler| handler.entry.interpreter.as_deref());
        let path = registered.find(|other| memfd::is_same(other, &path)).map_or(path, Path::to_owned);
        let id = FileId { device: 0, inode: 0 };
        // The interpreter was checked before, and its copy in memory belongs to this process.
        let interpreter = Interpreter { path, id, header: self.host.clone(), owned_by_root: true };
        self.found.insert(arch.name, SearchResult { interpreter: Some(interpreter), unfit: Vec::new() });
        self.to_memory.insert(arch.name, source);
    }

    /// Loads the interpreters for the registrations in `work` into memory. The paths of these interpreters are valid
    /// while the returned [`Memory`] exists.
    pub(super) fn load_into_memory(
        &self,
        work: &[(usize, Registration)],
    ) -> Result<(Option<Memory>, Placed), Diagnostic> {
        let arches = work.iter().filter_map(|(item, _)| self.arches.get(*item));
        let arches: Vec<&'static Arch> =
            arches.copied().filter(|arch| self.to_memory.contains_key(arch.name)).collect();
        let mut placed = Placed::new();
        if arches.is_empty() {
            return Ok((None, placed));
        }
        let pending_files = self.pending_files(&arches)?;
        let mut memory = Memory::enter()?;
        for (name, pending) in pending_files {
            let interpreter = self.found.get(name).and_then(|found| found.interpreter.as_ref());
            let Some(interpreter) = interpreter else { continue };
            let id = memory.put(&interpreter.path, pending)?;
            placed.insert(name, Interpreter { id, ..interpreter.clone() });
        }
        Ok((Some(memory), placed))
    }

    /// Unpacks the interpreters of `arches` into files in memory, in several threads.
    fn pending_files(&self, arches: &[&'static Arch]) -> Result<ByArch<PendingFile>, Diagnostic> {
        let source =
            |arch: &&'static Arch| Some((arch.name, self.to_memory.get(arch.name)?, self.interpreter(arch)?));
        let waiting = Mutex::new(arches.iter().filter_map(source));
        let work = || {
            let mut pending_files = Vec::new();
            loop {
                let next = waiting.lock().map_or(None, |mut waiting| waiting.next());
                let Some((name, source, interpreter)) = next else {
                    return Ok::<_, Diagnostic>(pending_files);
                };
                pending_files.push((name, source.pending(&interpreter.path)?));
            }
        };
        // All interpreters take about the same time. With one thread per processor, most threads would wait for the
        // last one.
        let threads = thread::available_parallelism().map_or(1, usize::from).max(THREADS).min(arches.len());
        thread::scope(|scope| {
            let start = |_| thread::Builder::new().spawn_scoped(scope, work);
            // If no thread can be started, this thread does all the work.
            let others: Vec<_> = (1..threads).flat_map(start).collect();
            let mut pending_files = work()?;
            for other in others {
                pending_files.extend(other.join().map_err(|_| Diagnostic::new("unpacking failed"))??);
            }
            Ok(order::by_arch(pending_files))
        })
    }
}
