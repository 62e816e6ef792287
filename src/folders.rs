//! Directories of fetched interpreters, and of caches.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::interpreter::{compare, is_version};
use crate::system::namespace::UserNamespace;

/// Interpreters that root fetches: readable for everybody, writable for root alone.
pub const SYSTEM: &str = "/usr/local/lib/qus";
/// Copies of interpreters that `register --persist` makes. Nothing else is in this directory, so that a copy is known as one
/// even if its process was killed before it wrote the file that names it.
pub const COPIES: &str = "/usr/local/lib/qus/copies";
/// Caches of root (`hier(7)`).
const SYSTEM_CACHE: &str = "/var/cache/qus";

/// Where `qus fetch` puts interpreters: `/usr/local/lib/qus` for the host's root, `$XDG_DATA_HOME/qus` otherwise. `None`
/// for a user without a home.
#[must_use]
pub fn fetched() -> Option<PathBuf> {
    if UserNamespace::is_host_root() {
        Some(SYSTEM.into())
    } else {
        personal("XDG_DATA_HOME", ".local/share")
    }
}

/// Where fetched interpreters are looked for: a folder for each version of QEMU, the newest first. Root never takes one
/// from a folder of somebody else.
#[must_use]
pub fn all_fetched() -> Vec<PathBuf> {
    let personal = fetched().filter(|folder| folder.as_os_str() != SYSTEM);
    personal.into_iter().chain([SYSTEM.into()]).flat_map(|folder| with_versions(&folder)).collect()
}

/// `folder`, and before it the folders of versions in it, the newest first.
#[must_use]
pub fn with_versions(folder: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut versions: Vec<String> =
        names.filter_map(|name| name.into_string().ok()).filter(|name| is_version(name)).collect();
    versions.sort_by(|one, other| compare(other, one));
    versions.iter().map(|version| folder.join(version)).chain([folder.to_owned()]).collect()
}

/// Where package lists are kept between two runs; `None` for a user without a home.
#[must_use]
pub fn cache() -> Option<PathBuf> {
    if UserNamespace::is_host_root() {
        Some(SYSTEM_CACHE.into())
    } else {
        personal("XDG_CACHE_HOME", ".cache")
    }
}

/// A folder by the XDG base directory specification: its variable counts only when absolute.
fn personal(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_dir());
    named.or_else(|| Some(home()?.join(below_home))).map(|path| path.join("qus"))
}
