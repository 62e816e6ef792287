//! A directory as a source of interpreters: the files in it and in its subdirectories `bin` and `usr/bin`.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::order;

use super::extractor::Extractor;
use super::file_slice::FileSlice;
use super::{PackageError, Progress};

/// Subdirectories that are searched, because an unpacked package or a root filesystem stores its programs there. The
/// empty name means the directory itself.
const LOCATIONS: [&str; 3] = ["", "bin", "usr/bin"];

#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Passes the regular files in the directory to the receiver `sink`, sorted by name. Symbolic links are followed,
    /// because the directory belongs to the user.
    pub(super) fn members(
        &self,
        sink: &mut Extractor<'_>,
        progress: &dyn Progress,
    ) -> Result<(), PackageError> {
        for location in LOCATIONS {
            let directory = if location.is_empty() { self.path.clone() } else { self.path.join(location) };
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if !location.is_empty() && absent(&error) => continue,
                Err(source) => return Err(PackageError::Open { path: directory, source }),
            };
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry.map_err(|source| PackageError::Open { path: directory.clone(), source })?;
                sink.count()?;
                names.push(entry.file_name());
            }
            order::sort(&mut names);
            for name in names {
                let path = directory.join(&name);
                if !regular(&path)? {
                    continue;
                }
                let Some(stored_name) = sink.want(name.as_bytes())? else { continue };
                let mut section = open(&path)?;
                let size = section.len();
                progress.total(size);
                let flow = sink.store(name.as_bytes(), &stored_name, size, &mut section)?;
                progress.advance(size);
                if flow.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Reports whether `path` leads to a regular file, directly or through symbolic links.
fn regular(path: &Path) -> Result<bool, PackageError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_file()),
        Err(error) if absent(&error) => Ok(false),
        Err(source) => Err(PackageError::Open { path: path.to_owned(), source }),
    }
}

fn open(path: &Path) -> Result<FileSlice, PackageError> {
    let cannot_open = |source| PackageError::Open { path: path.to_owned(), source };
    let file = crate::system::file_id::open_without_waiting(path).map_err(cannot_open)?;
    let length = file.metadata().map_err(cannot_open)?.len();
    Ok(FileSlice::whole(file, length))
}

/// Reports whether `error` means that a path does not lead to a file. Dangling links and loops of links count as well.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(nix::libc::ELOOP)
}
