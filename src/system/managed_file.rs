//! Files that qus writes into system directories such as `/etc`. qus writes such a file completely or not at all, and
//! never replaces a file of another tool.
//!
//! A file belongs to qus if its first comment begins with [`MARKER`].

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::base::error::{Advice, Advise};
use crate::base::hex::Hex;
use crate::base::shell::shell_word;
use crate::system::atomic_file;
use crate::system::dir::{Dir, parent_dir};
use crate::system::file_id::open_no_follow;

/// Beginning of the first comment line in every file that qus writes for other programs.
pub const MARKER: &str = "# Written by qus";
/// Beginning of the line after the [`MARKER`] line. It contains the checksum of all other lines, which shows whether
/// the file was edited.
const CHECKSUM: &str = "# Checksum: ";

/// Maximum number of bytes that are read from a file. Files that qus wrote are smaller.
const MAX: u64 = 1 << 20;

/// Failure to write, read or remove a file in a system directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManagedFileError {
    /// qus did not write the file.
    #[error("{} was not written by qus, and is left in place", .0.display())]
    Foreign(PathBuf),
    /// The file was edited since qus wrote it, or was written by version 0.1.0 of qus, which added no checksum.
    #[error("{} was edited since qus wrote it, and is left in place", .0.display())]
    Edited(PathBuf),
    /// The path is a symbolic link. A link to `/dev/null` shows that an administrator has masked the file.
    #[error("{} is a symbolic link, to {}, and is left in place", path.display(), target.display())]
    Link {
        /// Path of the symbolic link.
        path: PathBuf,
        /// Path to which the symbolic link leads.
        target: PathBuf,
    },
    /// The path is a directory, a pipe or a device.
    #[error("{} is not a regular file, and is left in place", .0.display())]
    Special(PathBuf),
    /// A system call failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// Verb for the failed operation, such as `read`.
        operation: &'static str,
        /// File or directory on which the operation failed.
        path: PathBuf,
        /// Error that the kernel returned.
        source: io::Error,
    },
}

impl Advise for ManagedFileError {
    fn advice(&self) -> Advice {
        if self.is_denied() && !geteuid().is_root() {
            return Advice::this_command_as_root();
        }
        match self {
            // Programs ignore the renamed file, because they read only files with the original suffix.
            Self::Foreign(path) => {
                let mut aside = path.as_os_str().to_owned();
                aside.push(".before-qus");
                format!("sudo mv {} {}", shell_word(path), shell_word(aside)).into()
            }
            Self::Edited(path) => {
                let mut aside = path.as_os_str().to_owned();
                aside.push(".edited");
                format!("sudo mv {} {}", shell_word(path), shell_word(aside)).into()
            }
            Self::Link { path, .. } => format!("sudo rm {}", shell_word(path)).into(),
            Self::Special(_) | Self::Io { .. } => Advice::default(),
        }
    }
}

impl ManagedFileError {
    /// Reports whether the path is occupied by something that qus must not change: a file of another tool, an edited
    /// file, a symbolic link, or a special file.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }

    /// Reports whether the operation failed because this user has no permission for it.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> ManagedFileError {
    move |source| ManagedFileError::Io { operation, path: path.to_owned(), source }
}

/// Returns the content of the regular file at `path`, whichever tool wrote it; `None` if the file does not exist.
fn content(path: &Path) -> Result<Option<Vec<u8>>, ManagedFileError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("inspect", path)(error)),
    };
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(failed("read", path))?;
        return Err(ManagedFileError::Link { path: path.to_owned(), target });
    }
    if !metadata.is_file() {
        return Err(ManagedFileError::Special(path.to_owned()));
    }
    let mut content = Vec::new();
    open_no_follow(path)
        .and_then(|file| file.take(MAX).read_to_end(&mut content))
        .map_err(failed("read", path))?;
    Ok(Some(content))
}

/// Origin of a file, determined by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// qus wrote the file, and the file is unchanged since.
    Own,
    /// qus wrote the file, and the file was changed since.
    Edited,
    /// Another tool or a user wrote the file.
    Foreign,
}

/// Returns the position after the line that begins with [`MARKER`]: the first line of a file, or the second line of a
/// script. Returns `None` if this line does not begin with the marker.
fn marker_end(content: &[u8]) -> Option<usize> {
    let line_end = |from: usize| {
        let rest = content.get(from..)?;
        Some(from + rest.iter().position(|byte| *byte == b'\n')? + 1)
    };
    let start = if content.starts_with(b"#!") { line_end(0)? } else { 0 };
    content.get(start..)?.starts_with(MARKER.as_bytes()).then(|| line_end(start)).flatten()
}

/// Returns the checksum line for a file with the content `others`.
fn checksum_line(others: &[&[u8]]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in others {
        hash.update(part);
    }
    format!("{CHECKSUM}{}\n", Hex(&hash.finalize())).into_bytes()
}

/// Returns `text` with a checksum line after the [`MARKER`] line. A text without a marker is returned unchanged.
fn sealed(text: &[u8]) -> Vec<u8> {
    let Some((beginning, rest)) = marker_end(text).and_then(|end| text.split_at_checked(end)) else {
        return text.to_owned();
    };
    [beginning, &checksum_line(&[beginning, rest]), rest].concat()
}

/// Determines the origin of a file from its content. A file with a marker but no checksum was written by version 0.1.0
/// of qus. Such a file counts as edited, because qus cannot detect edits in it.
fn origin(content: &[u8]) -> Origin {
    let Some((beginning, rest)) = marker_end(content).and_then(|end| content.split_at_checked(end)) else {
        return Origin::Foreign;
    };
    let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |position| position + 1);
    let (line, others) = rest.split_at(end);
    if line == checksum_line(&[beginning, others]) { Origin::Own } else { Origin::Edited }
}

/// A file that qus wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedFile {
    /// Content of the file.
    pub content: Vec<u8>,
    /// True if the file was changed since qus wrote it. Such a file is neither replaced nor removed.
    pub is_edited: bool,
}

/// Reads a file that qus wrote; `None` if the file does not exist. Fails for a file that qus did not write.
pub fn read(path: &Path) -> Result<Option<ManagedFile>, ManagedFileError> {
    let Some(content) = content(path)? else { return Ok(None) };
    match origin(&content) {
        Origin::Foreign => Err(ManagedFileError::Foreign(path.to_owned())),
        origin => Ok(Some(ManagedFile { content, is_edited: origin == Origin::Edited })),
    }
}

/// Returns an error if qus did not write `content`, or if `content` was edited after qus wrote it.
fn check_origin(path: &Path, content: &[u8]) -> Result<(), ManagedFileError> {
    match origin(content) {
        Origin::Own => Ok(()),
        Origin::Edited => Err(ManagedFileError::Edited(path.to_owned())),
        Origin::Foreign => Err(ManagedFileError::Foreign(path.to_owned())),
    }
}

/// Checks, without writing, that [`write()`] could write a file at `path`.
pub fn check(path: &Path) -> Result<(), ManagedFileError> {
    check_for(path, None)
}

/// Checks, without writing, that [`write()`] could write `text` at `path`. A file of another tool at `path` is accepted
/// if its content is identical.
pub fn check_content(path: &Path, text: &[u8]) -> Result<(), ManagedFileError> {
    check_for(path, Some(text))
}

fn check_for(path: &Path, text: Option<&[u8]>) -> Result<(), ManagedFileError> {
    match content(path)? {
        Some(content) if text.is_some_and(|text| content == text || content == sealed(text)) => {
            return Ok(());
        }
        Some(content) => check_origin(path, &content)?,
        None => {}
    }
    let directory = parent_dir(path);
    // Missing directories would be created in the first ancestor that exists.
    let there = directory.ancestors().find(|directory| directory.exists()).unwrap_or(Path::new("."));
    // The test file has no name, so a killed process leaves no file.
    Dir::open(there).and_then(|held| held.check_writable()).map_err(failed("write", path))
}

/// Writes `text`, with a checksum, to the file at `path`, and creates missing directories. The file belongs to qus from
/// now on. An old file stays in place until the new file is complete on the disk. Returns false if the file already had
/// this content.
pub fn write(path: &Path, text: &[u8], executable: bool) -> Result<bool, ManagedFileError> {
    let mode = if executable { 0o755 } else { 0o644 };
    let sealed = sealed(text);
    if let Some(there) = content(path)? {
        if there == text || there == sealed {
            return Ok(false);
        }
        check_origin(path, &there)?;
    }
    let directory = Dir::make(parent_dir(path), &mut Vec::new());
    directory.map_err(|(directory, error)| failed("make", &directory)(error))?;
    atomic_file::write_atomic(path, &sealed, mode).map_err(failed("write", path))?;
    Ok(true)
}

/// Removes the file that qus wrote at `path`. Returns false if the file does not exist.
pub fn remove(path: &Path) -> Result<bool, ManagedFileError> {
    match content(path)? {
        None => return Ok(false),
        Some(content) => check_origin(path, &content)?,
    }
    fs::remove_file(path).map_err(failed("remove", path))?;
    let directory = parent_dir(path);
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("write", directory))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn own(text: &str) -> Vec<u8> {
        format!("{MARKER} for a test\n{text}").into_bytes()
    }

    #[test]
    fn a_file_is_written_once_and_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/for/it.conf");
        check(&path).unwrap();
        assert!(!directory.path().join("made").exists());
        assert!(write(&path, &own("a"), false).unwrap());
        assert!(!write(&path, &own("a"), false).unwrap());
        assert!(write(&path, &own("b"), true).unwrap());
        assert_eq!(read(&path).unwrap(), Some(ManagedFile { content: sealed(&own("b")), is_edited: false }));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
    }

    #[test]
    fn files_of_other_tools_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("foreign");
        let refused = |path: &Path, message: &str| {
            for error in [
                check(path).unwrap_err(),
                write(path, &own("a"), false).unwrap_err(),
                remove(path).unwrap_err(),
            ] {
                assert_eq!(error.to_string(), format!("{} {message}, and is left in place", path.display()));
            }
        };
        fs::write(&path, "# Written by another tool\n").unwrap();
        refused(&path, "was not written by qus");
        assert_eq!(fs::read(&path).unwrap(), b"# Written by another tool\n");
        let link = directory.path().join("link");
        symlink("/dev/null", &link).unwrap();
        refused(&link, "is a symbolic link, to /dev/null");
        refused(directory.path(), "is not a regular file");
        // An empty file in `/etc` masks files of the same name in other directories.
        fs::write(&path, "").unwrap();
        refused(&path, "was not written by qus");
    }

    #[test]
    fn a_script_has_its_marker_after_its_first_line() {
        assert_eq!(origin(&sealed(format!("#!/bin/sh\n{MARKER} for arm\nx\n").as_bytes())), Origin::Own);
        assert_eq!(origin(&sealed(format!("#!/bin/sh\n\n{MARKER} for arm\n").as_bytes())), Origin::Foreign);
        assert_eq!(origin(b""), Origin::Foreign);
        assert_eq!(origin(MARKER.as_bytes()), Origin::Foreign);
    }

    #[test]
    fn every_change_of_one_byte_is_found() {
        let text = sealed(&own("a\nb\n"));
        assert_eq!(origin(&text), Origin::Own);
        assert_eq!(origin(&own("a\nb\n")), Origin::Edited);
        for position in 0..text.len() {
            let mut changed = text.clone();
            changed[position] ^= 1;
            assert_ne!(origin(&changed), Origin::Own, "byte {position}");
            let mut shorter = text.clone();
            shorter.remove(position);
            assert_ne!(origin(&shorter), Origin::Own, "without byte {position}");
        }
        assert_eq!(origin(&[text, b"\n".to_vec()].concat()), Origin::Edited);
    }
}
