//! Directories in which fetched interpreters are stored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::ArchFilter;
use super::provenance::Provenance;
use super::{Interpreter, QemuVersion, arch_from_file_name, version_in};
use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::order;
use crate::package::Sha256;
use crate::system::directories;
use crate::system::file_id::file_name;
use crate::system::namespace::UserNamespace;

/// Directory for the interpreters that root fetches. All users can read it, but only root can write to it.
pub const SYSTEM: &str = "/usr/local/lib/qus";
/// Directory for the copies of interpreters that `register --persist` makes. It contains nothing else, so qus
/// recognises such a copy even if the qus that made it was killed before it wrote the configuration file for the boot.
pub const COPIES: &str = "/usr/local/lib/qus/copies";
/// Returns the directory in which `qus fetch` stores interpreters: `/usr/local/lib/qus` for the host's root, otherwise
/// `$XDG_DATA_HOME/qus`. Returns `None` for a user without a home directory.
#[must_use]
pub fn fetched() -> Option<PathBuf> {
    if UserNamespace::is_host_root() { Some(SYSTEM.into()) } else { directories::data() }
}

/// Returns the directories with fetched interpreters: those of the current user, then those of root. Each QEMU version
/// has its own directory, and newer versions come first. Root does not use directories of other users.
#[must_use]
pub fn all_fetched() -> Vec<PathBuf> {
    let personal = fetched().filter(|directory| directory.as_os_str() != SYSTEM);
    personal.into_iter().chain([SYSTEM.into()]).flat_map(|directory| with_versions(&directory)).collect()
}

/// Returns the subdirectories of `directory` whose name is a QEMU version, newest version first, and then `directory`
/// itself.
#[must_use]
pub fn with_versions(directory: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut versions: Vec<QemuVersion> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    order::sort_by(&mut versions, |one, other| other.cmp(one));
    versions.iter().map(|version| directory.join(version.to_string())).chain([directory.to_owned()]).collect()
}

/// Returns the directory that receives fetched interpreters: `dest` as an absolute path. If `dest` is `None`, returns
/// this user's directory for interpreters.
///
/// # Errors
/// `dest` is `None` and this user has no home directory, or the working directory cannot be determined.
pub fn destination(dest: Option<&Path>) -> Result<PathBuf, Diagnostic> {
    let home = || {
        Diagnostic::new("this user has no home directory for interpreters")
            .with_hint("name a directory: qus fetch --dest DIR …")
    };
    match dest {
        Some(dest) => {
            std::path::absolute(dest).map_err(|error| Diagnostic::new(format!("{}: {error}", dest.display())))
        }
        None => fetched().ok_or_else(home),
    }
}

/// Interpreter that `qus fetch` stored in a directory.
pub(crate) struct Stored {
    pub(crate) arch: &'static Arch,
    pub(crate) path: PathBuf,
    /// Record of the interpreter's origin; `None` if the file has no record or has changed since the fetch.
    pub(crate) provenance: Option<Provenance>,
}

/// Returns the interpreters in `directory` and in its subdirectories for QEMU versions, newest version first.
pub(crate) fn stored(directory: &Path) -> Vec<Stored> {
    let mut stored = Vec::new();
    for directory in with_versions(directory) {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        order::sort(&mut paths);
        let found = paths.into_iter().filter(|path| path.is_file()).filter_map(|path| {
            let arch = arch_from_file_name(file_name(&path))?;
            Some(Stored { arch, provenance: Provenance::of(&path), path })
        });
        stored.extend(found);
    }
    stored
}

/// Returns the sources that need not be read again, because all requested interpreters of such a source exist unchanged
/// in `directory`. The key is the SHA-256 of the source, the value is its interpreters.
pub(crate) fn known(directory: &Path, requested: &ArchFilter) -> BTreeMap<Sha256, Vec<Stored>> {
    let mut sources = BTreeMap::<Sha256, Vec<Stored>>::new();
    for stored in stored(directory) {
        let digest = stored.provenance.as_ref().and_then(|record| record.source_sha256);
        if let Some(digest) = digest
            && requested.is_wanted(stored.arch)
        {
            sources.entry(digest).or_default().push(stored);
        }
    }
    let is_whole = |stored: &Stored| {
        let version = || version_in(&stored.path, stored.arch.name);
        stored.provenance.as_ref().is_some_and(|record| record.is_of(&stored.path))
            && Interpreter::check(&stored.path, &requested.host).is_ok()
            && requested
                .version
                .as_ref()
                .is_none_or(|requested| version().is_some_and(|version| requested.matches(&version)))
    };
    sources.retain(|_, stored| {
        let enough = match &requested.arches {
            Some(arches) => arches.iter().all(|arch| stored.iter().any(|stored| stored.arch.name == *arch)),
            None => stored
                .iter()
                .any(|one| one.provenance.as_ref().is_some_and(|record| record.all == Some(stored.len()))),
        };
        enough && stored.iter().all(is_whole)
    });
    sources
}
