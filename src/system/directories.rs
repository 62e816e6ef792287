//! Directories in which qus stores data and caches.

use std::env;
use std::path::PathBuf;

use crate::system::namespace::UserNamespace;

/// Cache directory of root (`hier(7)`).
const SYSTEM_CACHE: &str = "/var/cache/qus";

/// Returns the directory for data of the user who runs qus, `$XDG_DATA_HOME/qus`; `None` for a user without a home
/// directory.
#[must_use]
pub fn data() -> Option<PathBuf> {
    personal("XDG_DATA_HOME", ".local/share")
}

/// Returns the cache directory: `/var/cache/qus` for the host's root, `$XDG_CACHE_HOME/qus` for other users; `None` for
/// a user without a home directory.
#[must_use]
pub fn cache() -> Option<PathBuf> {
    if UserNamespace::is_host_root() {
        Some(SYSTEM_CACHE.into())
    } else {
        personal("XDG_CACHE_HOME", ".cache")
    }
}

/// Returns the directory `qus` in the directory that the environment variable `variable` names, or else in `below_home`
/// of the home directory. A relative path in the variable is ignored (XDG base directory specification).
fn personal(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_dir());
    named.or_else(|| Some(home()?.join(below_home))).map(|path| path.join("qus"))
}
