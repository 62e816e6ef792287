//! Identity of files. A path does not identify a file, because the path can lead to another file at any time.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

/// Identity of a file, which stays the same when a path leads to another file. It shows which interpreter file the
/// kernel opened for a handler (K49).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// Device number of the file system, `st_dev`.
    pub device: u64,
    /// Inode number of the file, `st_ino`.
    pub inode: u64,
}

impl FileId {
    /// Returns the identity of the file that `metadata` describes.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Opens a file for reading. If the file is a pipe, does not wait for a process that writes to the pipe.
///
/// A device is not opened, because that alone can have an effect: a watchdog starts, a tape rewinds. The returned file
/// then has metadata, but cannot be read (`O_PATH`). This is no protection from a user who puts a device in the place of
/// a file between the look and the opening: to open every file twice would slow `which` down by half.
pub(crate) fn open_without_waiting(path: &Path) -> io::Result<File> {
    open(path, fs::metadata(path), OFlag::O_NONBLOCK)
}

/// Opens a file like [`open_without_waiting`], but fails if the path ends in a symbolic link.
pub(crate) fn open_no_follow(path: &Path) -> io::Result<File> {
    open(path, fs::symlink_metadata(path), OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)
}

fn open(path: &Path, found: io::Result<Metadata>, flags: OFlag) -> io::Result<File> {
    let is_device = |file: Metadata| file.file_type().is_char_device() || file.file_type().is_block_device();
    let flags = if found.is_ok_and(is_device) { flags | OFlag::O_PATH } else { flags };
    fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// Opens a regular file for reading. Fails for other types of files, because reading a device might never end.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let file = open_without_waiting(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Returns the file name of a path as bytes; empty if the path has no file name.
#[must_use]
pub fn file_name(path: &Path) -> &[u8] {
    path.file_name().map(OsStr::as_bytes).unwrap_or_default()
}
