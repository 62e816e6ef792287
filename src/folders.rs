//! Folders of qus itself: where fetched interpreters lie, and what may be thrown away.

use std::env;
use std::path::PathBuf;

use crate::namespace::Scope;

/// Interpreters that root fetches: readable for everybody, writable for root alone.
const SYSTEM: &str = "/usr/local/lib/qus";
/// Caches of root (`hier(7)`).
const SYSTEM_CACHE: &str = "/var/cache/qus";

/// Where `qus fetch` puts interpreters: `/usr/local/lib/qus` for the host's root, `$XDG_DATA_HOME/qus` otherwise. `None`
/// for a user without a home.
#[must_use]
pub fn fetched() -> Option<PathBuf> {
    if Scope::here().is_host_root() { Some(SYSTEM.into()) } else { personal("XDG_DATA_HOME", ".local/share") }
}

/// Where fetched interpreters are looked for. Root never takes one from a folder of somebody else.
#[must_use]
pub fn all_fetched() -> Vec<PathBuf> {
    let personal = fetched().filter(|folder| folder.as_os_str() != SYSTEM);
    personal.into_iter().chain([SYSTEM.into()]).collect()
}

/// Where package lists are kept between two runs; `None` for a user without a home.
#[must_use]
pub fn cache() -> Option<PathBuf> {
    if Scope::here().is_host_root() {
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
