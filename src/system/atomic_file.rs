//! Atomic writing of files: a new file has a temporary name in its directory until its content is complete. Temporary
//! files that killed processes left are removed.
//!
//! A killed process cannot remove its temporary file. So each process locks its temporary file (`flock(2)`), and the
//! kernel releases the lock when the process ends. The next process that writes into the directory removes temporary
//! files that are not locked.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt as _};
use std::path::Path;

use nix::unistd::geteuid;
use tempfile::{NamedTempFile, TempPath};

use crate::system::dir::{Dir, parent_dir};
use crate::system::file_id::{FileId, open_no_follow};
use crate::system::output_file::special_type;

/// Prefix of the name of every temporary file.
const PREFIX: &str = ".qus-new-";
/// Number of random letters and digits after [`PREFIX`] in the name of a temporary file.
const RANDOM: usize = 6;

/// A temporary file with complete content. It is no longer open for writing, so the kernel can execute it.
#[derive(Debug)]
pub(crate) struct PendingFile {
    path: TempPath,
    _lock: File,
}

/// Creates a temporary file in `directory` and locks it.
pub(crate) fn create(directory: &Dir) -> io::Result<NamedTempFile> {
    loop {
        let pending = directory.temporary(PREFIX, RANDOM)?;
        lock(pending.as_file());
        // Another process may have removed the file before it was locked.
        if pending.as_file().metadata()?.nlink() > 0 {
            return Ok(pending);
        }
    }
}

/// Closes the complete temporary file `pending` for writing, and opens it again by its name for reading. Fails if the
/// name leads to another file now, because another process has changed the directory.
pub(crate) fn finish(pending: NamedTempFile) -> io::Result<PendingFile> {
    let held = open_no_follow(pending.path())?;
    if FileId::of(&held.metadata()?) != FileId::of(&pending.as_file().metadata()?) {
        return Err(io::Error::other("another process has changed the directory"));
    }
    lock(&held);
    Ok(PendingFile { path: pending.into_temp_path(), _lock: held })
}

impl PendingFile {
    /// Returns the path of the temporary file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the temporary file. Dropping the value also removes it, but does not report an error.
    pub(crate) fn remove(self) -> io::Result<()> {
        self.path.close()
    }

    /// Renames the temporary file to `path`, where it may replace a regular file or a symbolic link. Fails if `path` is
    /// a file of another type, such as a pipe or a device.
    pub(crate) fn persist(self, path: &Path) -> io::Result<()> {
        if let Ok(metadata) = fs::symlink_metadata(path)
            && let Some(name) = special_type(&metadata)
        {
            return Err(io::Error::other(format!("it is {name}")));
        }
        self.path.persist(path).map_err(|error| error.error)
    }
}

/// Writes a file with `content` and `mode` at `path`, and replaces an existing file there. The content is on the disk
/// before the file gets its name, and the name is on the disk when the function returns. A symbolic link at `path` is
/// replaced, not followed. Other programs ignore the temporary file, because it is hidden and its name has no suffix.
/// Returns the metadata of the new file.
pub(crate) fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<Metadata> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let directory = Dir::open(parent_dir(path))?;
    remove_stale(&directory.path());
    let mut pending = create(&directory)?;
    pending.write_all(content)?;
    pending.as_file().set_permissions(Permissions::from_mode(mode))?;
    pending.as_file().sync_all()?;
    let metadata = pending.as_file().metadata()?;
    // Closed before the rename, because the kernel does not execute a file that is open for writing (K51).
    finish(pending)?.persist(&directory.path().join(name))?;
    directory.sync()?;
    Ok(metadata)
}

/// Creates a hard link with a temporary name to the file at `path`. If another file replaces the file at `path`, the
/// caller can restore the old file from this link.
pub(crate) fn backup(path: &Path) -> io::Result<PendingFile> {
    let held = File::open(path)?;
    lock(&held);
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut name = tempfile::Builder::new();
    let linked =
        name.prefix(PREFIX).rand_bytes(RANDOM).make_in(directory, |pending| fs::hard_link(path, pending))?;
    Ok(PendingFile { path: linked.into_temp_path(), _lock: held })
}

/// Locks a temporary file, so that no other process removes the file as stale. Ignores errors: on a file system without
/// locks, other processes cannot lock the file either, so they do not remove it.
fn lock(file: &File) {
    let _unlocked = file.lock_shared();
}

/// Reports whether the file name in `path` is the temporary name of a file that is not complete yet.
pub(crate) fn is_pending(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let random = name.strip_prefix(PREFIX.as_bytes());
    random.is_some_and(|random| random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric))
}

/// Removes the stale temporary files in `directory`: files that belong to this user and that no process has locked.
/// Errors are ignored.
pub(crate) fn remove_stale(directory: &Path) {
    for file in fs::read_dir(directory).into_iter().flatten().flatten() {
        if is_pending(&file.path()) {
            let _ = remove_if_left(&file.path());
        }
    }
}

fn remove_if_left(path: &Path) -> io::Result<()> {
    let pending = open_no_follow(path)?;
    let metadata = pending.metadata()?;
    if !metadata.is_file() || metadata.uid() != geteuid().as_raw() {
        return Ok(());
    }
    pending.try_lock()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let files = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_unlocked_files_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let location = |name: &str| directory.path().join(name);
        for name in [".qus-new-aB3456", ".qus-new-short", ".qus-new-1234567", ".qus-new-a.3456", "other"] {
            fs::write(location(name), "half").unwrap();
        }
        symlink("other", location(".qus-new-linked")).unwrap();
        fs::create_dir(location(".qus-new-directory")).unwrap();
        remove_stale(directory.path());
        let present = [
            ".qus-new-1234567",
            ".qus-new-a.3456",
            ".qus-new-directory",
            ".qus-new-linked",
            ".qus-new-short",
            "other",
        ];
        assert_eq!(names(directory.path()), present);
    }

    #[test]
    fn a_pending_file_is_locked_until_it_has_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let held = Dir::open(directory.path()).unwrap();
        let mut pending = create(&held).unwrap();
        remove_stale(directory.path());
        pending.write_all(b"whole").unwrap();
        let pending = finish(pending).unwrap();
        remove_stale(directory.path());
        assert_eq!(fs::read(pending.path()).unwrap(), b"whole");
        pending.persist(&directory.path().join("name")).unwrap();
        assert_eq!(names(directory.path()), ["name"]);
    }

    #[test]
    fn a_backup_restores_the_same_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, newer) = (directory.path().join("name"), directory.path().join("newer"));
        fs::write(&path, "old").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        let aside = backup(&path).unwrap();
        fs::write(&newer, "new").unwrap();
        fs::rename(&newer, &path).unwrap();
        remove_stale(directory.path());
        aside.persist(&path).unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::metadata(&path).unwrap().ino()), (b"old".to_vec(), inode));
        assert_eq!(names(directory.path()), ["name"]);
        drop(backup(&path).unwrap());
        assert_eq!(names(directory.path()), ["name"]);
    }
}
