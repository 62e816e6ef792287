//! The interpreters that `qus run` registers.

use std::path::{Path, PathBuf};

use super::takeover::can_take_over;
use super::{Run, typed};
use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::order::ByArch;
use crate::binfmt::instance::{DEFAULT_PATH, Instance};
use crate::handler::classify;
use crate::handler::table;
use crate::interpreter::fetch::{self, FetchRequest};
use crate::interpreter::{SearchResult, describe_dirs, is_of, search, search_dirs};
use crate::system::temp_dir::TempDir;

/// Results of the search for interpreters, by the name of the architecture.
pub(super) type Interpreters = ByArch<SearchResult>;

/// Conditions of the search of `qus run` for interpreters.
pub(super) struct InterpreterRequest<'a> {
    pub(super) args: &'a Run,
    /// The host's own architecture.
    pub(super) own: Option<&'static Arch>,
    /// File header of a program that this host runs natively.
    pub(super) host: &'a [u8],
    /// Architectures that must have an interpreter, unless the host may run them natively.
    pub(super) arches: &'a [&'static Arch],
    pub(super) quiet: bool,
}

impl InterpreterRequest<'_> {
    /// Finds interpreters in the source of `--from`, or in directories. With `--fetch`, downloads the distribution's
    /// package for architectures whose interpreters are still missing.
    ///
    /// # Errors
    /// Fails if an architecture of `self.arches` has neither an interpreter nor a usable handler of the host, and the
    /// host cannot run it natively.
    pub(super) fn find(&self, unpacked: Option<&TempDir>) -> Result<Interpreters, Diagnostic> {
        let search_dirs = if self.args.source.interpreter_dir.is_empty() {
            search_dirs(unpacked)
        } else {
            self.args.source.interpreter_dir.clone()
        };
        let mut found = match &self.args.source.from {
            Some(source) => {
                self.fetch((!self.arches.is_empty()).then(|| self.arches.to_vec()), Some(source))?
            }
            None => search(&search_dirs, self.host, |arch, path| self.is_asked_for(arch, path)),
        };
        let missing: Vec<&'static Arch> =
            self.arches.iter().copied().filter(|arch| !has_interpreter(&found, arch)).collect();
        if self.args.source.fetch && !missing.is_empty() {
            found.extend(self.fetch(Some(missing), None)?);
        }
        self.check(&found, &search_dirs)?;
        Ok(found)
    }

    /// Fetches the interpreters of `arches`, or of all architectures if it is `None`. The source is `from`, or the
    /// distribution's package if `from` is `None`.
    fn fetch(
        &self,
        arches: Option<Vec<&'static Arch>>,
        from: Option<&Path>,
    ) -> Result<Interpreters, Diagnostic> {
        // `--sha256` is the digest of the source of `--from`.
        let sha256 = if from.is_some() { self.args.source.required.sha256 } else { None };
        let version = self.args.source.required.qemu_version.as_ref();
        let request = FetchRequest { arches, from, sha256, dest: None, is_dest_named: false, version };
        Ok(fetch::fetch(&request, self.quiet)?.found(self.host))
    }

    fn is_asked_for(&self, arch: &'static Arch, path: &Path) -> bool {
        let is_named = if self.args.arch.is_empty() {
            !self.is_of_host_family(arch) || self.arches.contains(&arch)
        } else {
            self.args.arch.iter().flatten().any(|named| *named == arch)
        };
        is_named && is_of(self.args.source.required.qemu_version.as_ref(), arch, path)
    }

    /// Reports whether the host may run programs of `arch` natively, because it belongs to the same family of
    /// architectures.
    fn is_of_host_family(&self, arch: &Arch) -> bool {
        self.own.is_some_and(|own| own.same_family().contains(&arch.name))
    }

    fn check(&self, found: &Interpreters, search_dirs: &[PathBuf]) -> Result<(), Diagnostic> {
        let is_missing =
            |arch: &&&'static Arch| !has_interpreter(found, arch) && !self.is_of_host_family(arch);
        let missing: Vec<&'static Arch> = self.arches.iter().filter(is_missing).copied().collect();
        // The version of a handler's interpreter is unknown, so a handler does not satisfy `--qemu-version`.
        let version = self.args.source.required.qemu_version.as_ref();
        if missing.is_empty() || version.is_none() && missing.iter().all(|arch| is_served(arch)) {
            return Ok(());
        }
        let names = missing.iter().map(|arch| arch.name).collect::<Vec<_>>().join(", ");
        let search_dirs = describe_dirs(search_dirs, !self.args.source.interpreter_dir.is_empty());
        let of = version.map(|version| format!(" of QEMU {version}")).unwrap_or_default();
        let problem = Diagnostic::new(format!("no interpreter{of} for {names} is in {search_dirs}"));
        // `--fetch` was given and found none, so it is not suggested.
        if self.args.source.fetch {
            return Err(problem);
        }
        let command = typed(self.args, "--fetch");
        Err(match version {
            // Only the download shows which version the distribution has.
            Some(version) => problem.with_hint(format!("if the distribution has QEMU {version}: {command}")),
            None => problem.with_command(command),
        })
    }
}

/// Reports whether an interpreter was found for `arch`.
pub(super) fn has_interpreter(found: &Interpreters, arch: &Arch) -> bool {
    found.get(arch.name).is_some_and(|found| found.interpreter.is_some())
}

/// Reports whether the host has a handler for `arch` that can be registered again in the new instance of `qus run`.
fn is_served(arch: &Arch) -> bool {
    let handlers = Instance::open(Path::new(DEFAULT_PATH)).map(|instance| table::handlers(&instance));
    let Ok(Ok(handlers)) = handlers else { return false };
    classify::active_handler(arch, &handlers).is_some_and(|handler| can_take_over(handler).is_ok())
}
