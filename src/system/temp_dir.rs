//! Temporary directories, which a process locks while it uses them. If a process is killed, the next run of qus removes
//! its directory.

use std::env;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;

use crate::system::file_id::FileId;

/// Prefix of the names of temporary directories. Version 0.1.0 of qus used `qus-`, and did not lock the directories.
const PREFIX: &str = "qus-tmp-";
/// Number of random letters and digits after [`PREFIX`] in the name of a temporary directory.
const RANDOM: usize = 8;

/// A temporary directory, removed with its content when the value is dropped.
///
/// The process locks the directory (`flock(2)`). The kernel releases the lock when the process ends, even if it is
/// killed.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    /// The open directory, which holds the lock. `execve(2)` closes it, so that no other program keeps the lock.
    directory: File,
}

impl TempDir {
    /// Creates a temporary directory with `mode` in `parent`, after [`sweep`] has removed unused temporary directories
    /// there.
    pub fn create_in(parent: &Path, mode: u32) -> io::Result<Self> {
        let parent = std::path::absolute(parent)?;
        sweep(&parent);
        loop {
            let mut builder = tempfile::Builder::new();
            let created = builder
                .prefix(PREFIX)
                .rand_bytes(RANDOM)
                .make_in(&parent, |path| fs::DirBuilder::new().mode(0o700).create(path));
            let path = created.map_err(|error| without_path(&error))?.into_temp_path().keep()?;
            // Another process may remove the directory as stale before it is locked.
            let directory = match open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            if lock(&directory) != Lock::HeldByAnother && is_at(&directory, &path) {
                // The umask limits the mode that a new directory gets.
                directory.set_permissions(Permissions::from_mode(mode))?;
                return Ok(Self { path, directory });
            }
        }
    }

    /// Creates a temporary directory that only this user may read, in the first suitable parent directory. If
    /// `executable` is true, a parent directory is suitable only if the kernel executes programs in it: hardened hosts
    /// mount `/tmp` with `noexec`.
    ///
    /// # Errors
    /// Fails if no parent directory is suitable. The error lists each parent directory with the reason.
    pub fn create(executable: bool) -> Result<Self, String> {
        let mut reasons = Vec::new();
        for parent in [env::temp_dir(), "/run".into(), "/dev/shm".into(), "/var/tmp".into(), ".".into()] {
            let is_noexec = statvfs(&parent).is_ok_and(|found| found.flags().contains(FsFlags::ST_NOEXEC));
            let reason = if executable && is_noexec {
                "noexec".to_owned()
            } else {
                match Self::create_in(&parent, 0o700) {
                    Ok(directory) => return Ok(directory),
                    Err(error) => error.to_string(),
                }
            };
            reasons.push(format!("{}: {reason}", parent.display()));
        }
        Err(reasons.join("; "))
    }

    /// Returns the path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        remove(&self.path, &self.directory);
        // If a process is killed while it starts a child, the child keeps the lock until it executes a program. So
        // another directory may have become stale since this one was created.
        if let Some(parent) = self.path.parent() {
            sweep(parent);
        }
    }
}

/// Removes this user's temporary directories in `parent` that no process uses. Errors are ignored, because another
/// process may remove the same directories.
pub fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let random = name.as_bytes().strip_prefix(PREFIX.as_bytes());
        if random.is_some_and(|random| random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric))
        {
            remove_stale(&entry.path());
        }
    }
}

fn remove_stale(path: &Path) {
    let Ok(directory) = open(path) else { return };
    let is_ours = directory.metadata().is_ok_and(|metadata| metadata.uid() == geteuid().as_raw());
    if is_ours && lock(&directory) == Lock::Taken && is_at(&directory, path) {
        remove(path, &directory);
    }
}

/// Opens a directory. A symbolic link is an error.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(path)
}

/// Result of locking a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    /// This process holds the lock.
    Taken,
    /// Another process holds the lock, because it uses the directory.
    HeldByAnother,
    /// The lock failed, for example on a file system without locks: another process may use the directory.
    Unknown,
}

/// Locks a directory without waiting (`flock(2)`).
fn lock(directory: &File) -> Lock {
    match directory.try_lock() {
        Ok(()) => Lock::Taken,
        Err(fs::TryLockError::WouldBlock) => Lock::HeldByAnother,
        Err(fs::TryLockError::Error(_)) => Lock::Unknown,
    }
}

/// Reports whether `path` still leads to the open directory `directory`.
fn is_at(directory: &File, path: &Path) -> bool {
    let held = directory.metadata().map(|metadata| FileId::of(&metadata));
    let named = fs::symlink_metadata(path).map(|metadata| FileId::of(&metadata));
    matches!((held, named), (Ok(held), Ok(named)) if held == named)
}

/// Removes the content of the open directory `directory`, even if `path` leads to another directory now. Then removes
/// the empty directory at `path`.
fn remove(path: &Path, directory: &File) {
    let opened = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    for entry in fs::read_dir(&opened).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let _ = if is_directory { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
    }
    let _ = fs::remove_dir(path);
}

/// Removes the file path from the text of an error. The library `tempfile` adds the path to its errors.
fn without_path(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(parent: &Path) -> Vec<String> {
        let entries = fs::read_dir(parent).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_goes_with_its_content() {
        let parent = tempfile::tempdir().unwrap();
        let directory = TempDir::create_in(parent.path(), 0o755).unwrap();
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o7777, 0o755);
        fs::create_dir(directory.path().join("below")).unwrap();
        fs::write(directory.path().join("below/file"), "x").unwrap();
        symlink("/", directory.path().join("link")).unwrap();
        drop(directory);
        assert!(names(parent.path()).is_empty());
    }

    #[test]
    fn only_stale_directories_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let held = TempDir::create_in(parent.path(), 0o700).unwrap();
        let location = |name: &str| parent.path().join(name);
        for name in ["qus-tmp-aB345678", "qus-tmp-short", "qus-tmp-a.345678", "qus-aB3456"] {
            fs::create_dir(location(name)).unwrap();
        }
        fs::write(location("qus-tmp-aB345678/probe"), "x").unwrap();
        fs::write(location("qus-tmp-ordinary"), "a file").unwrap();
        symlink("qus-aB3456", location("qus-tmp-linked00")).unwrap();
        fs::write(location("qus-aB3456/kept"), "x").unwrap();
        let second = TempDir::create_in(parent.path(), 0o700).unwrap();
        assert!(held.path().exists() && second.path().exists());
        drop((held, second));
        let present =
            ["qus-aB3456", "qus-tmp-a.345678", "qus-tmp-linked00", "qus-tmp-ordinary", "qus-tmp-short"];
        assert_eq!(names(parent.path()), present);
        assert!(location("qus-aB3456/kept").exists());
    }

    #[test]
    fn a_directory_that_becomes_stale_meanwhile_is_swept() {
        // A child of another test has a copy of the lock between fork and execve. So one of a few attempts must succeed.
        let is_swept = |_| {
            let parent = tempfile::tempdir().unwrap();
            let stale = parent.path().join("qus-tmp-aB345678");
            fs::create_dir(&stale).unwrap();
            let held = open(&stale).unwrap();
            assert_eq!(lock(&held), Lock::Taken);
            let directory = TempDir::create_in(parent.path(), 0o700).unwrap();
            assert!(stale.exists());
            drop(held);
            drop(directory);
            names(parent.path()).is_empty()
        };
        assert!((0..4).any(is_swept));
    }

    #[test]
    fn a_directory_that_was_exchanged_is_left() {
        let parent = tempfile::tempdir().unwrap();
        let directory = TempDir::create_in(parent.path(), 0o700).unwrap();
        let path = directory.path().to_owned();
        fs::write(path.join("own"), "x").unwrap();
        fs::rename(&path, parent.path().join("moved")).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("other"), "x").unwrap();
        let held = open(&path).unwrap();
        assert_eq!(lock(&held), Lock::Taken);
        drop(directory);
        assert!(path.join("other").exists());
        assert_eq!(names(&parent.path().join("moved")).len(), 0);
    }

    #[test]
    fn many_processes_at_once_do_not_remove_each_others() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let directory = TempDir::create_in(parent.path(), 0o700).unwrap();
                        fs::write(directory.path().join("file"), "x").unwrap();
                        assert!(directory.path().join("file").exists());
                    }
                });
            }
        });
        assert!(names(parent.path()).is_empty());
    }
}
