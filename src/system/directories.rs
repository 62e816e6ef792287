//! Directories of a user and of the system for data and caches.

use std::env;
use std::path::PathBuf;

use crate::system::namespace::UserNamespace;

/// Caches of root (`hier(7)`).
const SYSTEM_CACHE: &str = "/var/cache/qus";

/// Directory for data of the caller: `$XDG_DATA_HOME/qus`; `None` for a user without a home.
#[must_use]
pub fn data() -> Option<PathBuf> {
    personal("XDG_DATA_HOME", ".local/share")
}

/// Returns the cache directory: `/var/cache/qus` for the host's root, `$XDG_CACHE_HOME/qus` otherwise; `None` for a
/// user without a home.
#[must_use]
pub fn cache() -> Option<PathBuf> {
    if UserNamespace::is_host_root() {
        Some(SYSTEM_CACHE.into())
    } else {
        personal("XDG_CACHE_HOME", ".cache")
    }
}

/// A directory by the XDG base directory specification, which lets a variable count only when it is absolute.
fn personal(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_dir());
    named.or_else(|| Some(home()?.join(below_home))).map(|path| path.join("qus"))
}
