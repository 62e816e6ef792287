//! Directories of fetched interpreters.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::ArchFilter;
use super::provenance::Provenance;
use super::{Interpreter, QemuVersion, arch_from_file_name, version_in};
use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::package::Sha256;
use crate::system::directories;
use crate::system::file_id::file_name;
use crate::system::namespace::UserNamespace;

/// Interpreters that root fetches: readable for everybody, writable for root alone.
pub const SYSTEM: &str = "/usr/local/lib/qus";
/// Copies of interpreters that `register --persist` makes. Nothing else is in this directory, so that a copy is known
/// as one even if its process was killed before it wrote the file that names it.
pub const COPIES: &str = "/usr/local/lib/qus/copies";
/// Where `qus fetch` puts interpreters: `/usr/local/lib/qus` for the host's root, `$XDG_DATA_HOME/qus` otherwise.
/// `None` for a user without a home.
#[must_use]
pub fn fetched() -> Option<PathBuf> {
    if UserNamespace::is_host_root() { Some(SYSTEM.into()) } else { directories::data() }
}

/// Returns directories of fetched interpreters: one for each version of QEMU, newest first. Root uses none from the
/// directories of other users.
#[must_use]
pub fn all_fetched() -> Vec<PathBuf> {
    let personal = fetched().filter(|directory| directory.as_os_str() != SYSTEM);
    personal.into_iter().chain([SYSTEM.into()]).flat_map(|directory| with_versions(&directory)).collect()
}

/// `directory`, and before it the directories of versions in it, the newest first.
#[must_use]
pub fn with_versions(directory: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut versions: Vec<QemuVersion> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    versions.sort_by(|one, other| other.cmp(one));
    versions.iter().map(|version| directory.join(version.to_string())).chain([directory.to_owned()]).collect()
}

/// `dest`, or the directory of this user.
///
/// # Errors
/// This user has no home.
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

/// An interpreter in a directory of fetched ones.
pub(crate) struct Stored {
    pub(crate) arch: &'static Arch,
    pub(crate) path: PathBuf,
    /// Its record, if it is still the file that was fetched.
    pub(crate) provenance: Option<Provenance>,
}

/// The interpreters in `directory` and its directories of versions, newest version first.
pub(crate) fn stored(directory: &Path) -> Vec<Stored> {
    let mut stored = Vec::new();
    for directory in with_versions(directory) {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let found = paths.into_iter().filter(|path| path.is_file()).filter_map(|path| {
            let arch = arch_from_file_name(file_name(&path))?;
            Some(Stored { arch, provenance: Provenance::of(&path), path })
        });
        stored.extend(found);
    }
    stored
}

/// Returns sources, by their SHA-256, of which all requested files are in `directory`, unchanged.
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
