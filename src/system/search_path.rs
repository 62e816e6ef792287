//! Finds programs in the directories of `PATH`, as a shell does.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

/// Directories to search if `PATH` is not set: the default of a root login on Debian.
const DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the directories of `PATH`.
#[must_use]
pub fn directories() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT.into());
    env::split_paths(&path).collect()
}

/// Finds the executable file that a shell starts for the command `name`, which has no slash.
#[must_use]
pub fn find(name: &OsStr) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    directories().into_iter().map(|directory| directory.join(name)).find(is_program)
}

/// Reports whether `name` has no slash, so that a shell looks it up in `PATH`.
#[must_use]
pub fn is_bare(name: &Path) -> bool {
    !name.as_os_str().as_encoded_bytes().contains(&b'/')
}
