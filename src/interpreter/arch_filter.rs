//! Selects which files of a package or an archive are fetched as interpreters.

use std::collections::BTreeSet;
use std::path::Path;

use crate::arch::Arch;
use crate::interpreter::{Interpreter, VersionReq, arch_from_file_name, version_in};
use crate::package::MemberFilter;

/// Filter for the files of a package or an archive. It selects one interpreter for each requested architecture. The
/// interpreter is stored as `qemu-ARCH-static`.
pub(crate) struct ArchFilter {
    /// First bytes of a program that this host runs natively. Interpreters must be for the same machine.
    pub(crate) host: Vec<u8>,
    /// Names of the requested architectures; `None` selects all architectures.
    pub(crate) arches: Option<BTreeSet<&'static str>>,
    /// QEMU version that an interpreter must have; `None` accepts any version.
    pub(crate) version: Option<VersionReq>,
    /// True if each QEMU version is stored in its own directory, such as `7.2.22/`.
    pub(crate) by_version: bool,
    pub(crate) done: BTreeSet<&'static str>,
}

impl ArchFilter {
    pub(crate) fn is_wanted(&self, arch: &Arch) -> bool {
        self.arches.as_ref().is_none_or(|arches| arches.contains(arch.name))
    }

    /// Returns the requested architectures as arguments for a qus command; `all` if every architecture is requested.
    pub(crate) fn words(&self) -> String {
        let arches = self.arches.as_ref().map(|arches| arches.iter().copied().collect::<Vec<_>>().join(" "));
        arches.unwrap_or_else(|| "all".to_owned())
    }
}

impl MemberFilter for ArchFilter {
    fn want(&mut self, file_name: &[u8]) -> Option<String> {
        let arch = arch_from_file_name(file_name)?;
        (self.is_wanted(arch) && !self.done.contains(arch.name)).then(|| format!("qemu-{}-static", arch.name))
    }

    fn complete(&self) -> bool {
        self.arches.as_ref().is_some_and(|arches| arches.is_subset(&self.done))
    }

    fn satisfied(&self) -> bool {
        self.complete() || self.arches.is_none() && !self.done.is_empty()
    }

    fn accept(&mut self, stored_name: &str, file: &Path) -> Result<(), String> {
        Interpreter::check(file, &self.host).map_err(|unfit| unfit.to_string())?;
        let Some(arch) = arch_from_file_name(stored_name.as_bytes()) else { return Ok(()) };
        if let Some(requested) = &self.version {
            let version = version_in(file, arch.name);
            if !version.as_ref().is_some_and(|version| requested.matches(version)) {
                let version = version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
                return Err(format!("has version {version}, not {requested}"));
            }
        }
        self.done.insert(arch.name);
        Ok(())
    }

    fn directory(&self, stored_name: &str, file: &Path) -> Option<String> {
        if !self.by_version {
            return None;
        }
        let arch = arch_from_file_name(stored_name.as_bytes())?;
        version_in(file, arch.name).map(|version| version.to_string())
    }
}
