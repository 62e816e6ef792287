//! Reads the handlers of an instance, with what identifies their emulators.

use std::fs;
use std::path::{Path, PathBuf};

use crate::binfmt::instance::{HandlerError, Instance};
use crate::binfmt::{Entry, Handler};
use crate::interpreter::emulated_by;
use crate::system::file_id::file_name;

/// Reads all handlers of `instance`, newest first. If the file name of an interpreter is not that of an emulator, looks up
/// where the path leads. Other names identify the emulator themselves, and each look costs a system call.
pub fn handlers(instance: &Instance) -> Result<Vec<Handler>, HandlerError> {
    let entries = instance.entries()?.into_iter();
    Ok(entries.map(|(name, entry)| Handler { target: target(&entry), ..Handler::new(name, entry) }).collect())
}

fn target(entry: &Entry) -> Option<PathBuf> {
    let interpreter = entry.interpreter.as_deref()?;
    if emulated_by(file_name(interpreter)).is_some() { None } else { link_target(interpreter) }
}

/// Maximum number of symbolic links that [`link_target`] follows, as in the kernel (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// Returns the path to which `path` leads, if its last part is a symbolic link. Nothing is opened, and the result may
/// not exist. Returns `None` for a relative path, and for a loop of links.
fn link_target(path: &Path) -> Option<PathBuf> {
    if !path.is_absolute() || path.starts_with("/proc") {
        return None;
    }
    let mut target = None::<PathBuf>;
    for _ in 0..LINKS_MAX {
        let here = target.as_deref().unwrap_or(path);
        match fs::read_link(here) {
            Ok(next) => target = Some(here.parent()?.join(next)),
            Err(_) => return target,
        }
    }
    None
}
