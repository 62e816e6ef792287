//! Finds files that other users can change, directly or through their paths.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::geteuid;

use crate::base::shell::shell_word;
use crate::system::namespace::UserNamespace;

/// Maximum number of symbolic links in one path, as in the kernel (`path_resolution(7)`).
const LINKS_MAX: u32 = 40;
/// User id that the kernel shows for the owner of a file if the owner has no id in this user namespace.
const UNMAPPED: u32 = 65534;
/// Permission bits for writing by the group and by others.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Sticky bit: only the owner of an entry in such a directory may rename or remove it (`inode(7)`).
const STICKY: u32 = 0o1000;

/// Finds a part of `path` that users other than root and the caller can change: the file, or a directory where they can
/// replace or create a part of the path. Returns `None` if there is no such part.
///
/// Follows symbolic links and checks each directory on the way. A file that its group may write counts as changeable by
/// other users; the kernel also shows access control lists as group permission.
///
/// # Errors
/// Fails if a part of the path cannot be inspected. Also fails if a part is missing and no other user could create it.
pub fn changeable_by_others(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut first = None;
    let walked = walk(path, &mut |part| {
        first = Some(part.to_owned());
        ControlFlow::Break(())
    });
    if first.is_none() {
        walked?;
    }
    Ok(first)
}

/// Finds every part of `path` that users other than root and the caller can change. See [`changeable_by_others`].
///
/// # Errors
/// Fails if a part of the path cannot be inspected.
pub fn all_changeable_by_others(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut parts: Vec<PathBuf> = Vec::new();
    walk(path, &mut |part| {
        if !parts.iter().any(|other| other == part) {
            parts.push(part.to_owned());
        }
        ControlFlow::Continue(())
    })?;
    Ok(parts)
}

/// Walks along `path`, and calls `visit` for each part that other users can change, until it returns `Break`.
fn walk(path: &Path, visit: &mut dyn FnMut(&Path) -> ControlFlow<()>) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let mut rest: Vec<OsString> = Vec::new();
    push(&mut rest, &path);
    let (mut directory, mut links) = (PathBuf::from("/"), 0);
    // The metadata of `directory`, if it was read already.
    let mut read = None;
    while let Some(part) = rest.pop() {
        if part == ".." {
            directory.pop();
            read = None;
            continue;
        }
        let above = read.take().map_or_else(|| fs::metadata(&directory), Ok)?;
        let here = directory.join(&part);
        let found = match fs::symlink_metadata(&here) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_changeable(&above) => {
                let _nothing_follows = visit(&directory);
                return Ok(());
            }
            found => found?,
        };
        let is_protected = above.mode() & STICKY != 0 && is_trusted(above.uid()) && is_trusted(found.uid());
        if is_changeable(&above) && !is_protected && visit(&directory).is_break() {
            return Ok(());
        }
        if found.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::ELOOP.into());
            }
            let target = fs::read_link(&here)?;
            if target.is_absolute() {
                directory = PathBuf::from("/");
            }
            push(&mut rest, &target);
            continue;
        }
        if rest.is_empty() && is_changeable(&found) && visit(&here).is_break() {
            return Ok(());
        }
        (directory, read) = (here, Some(found));
    }
    Ok(())
}

/// Returns the shell command after which other users can no longer change `parts`, the parts of a path. Returns `None`
/// if a part belongs to another user, or is a directory that all users share, such as `/tmp`.
#[must_use]
pub fn protecting_command(parts: &[PathBuf]) -> Option<String> {
    let can_be_protected = |part: &PathBuf| {
        fs::metadata(part).is_ok_and(|metadata| {
            is_trusted(metadata.uid()) && !(metadata.is_dir() && metadata.mode() & STICKY != 0)
        })
    };
    let words: Vec<String> = parts.iter().map(shell_word).collect();
    (!parts.is_empty() && parts.iter().all(can_be_protected))
        .then(|| format!("chmod go-w {}", words.join(" ")))
}

/// Reports whether root owns a file or directory and no other user may write to it. Unlike [`changeable_by_others`],
/// this function treats the caller as another user, because the file serves all users.
#[must_use]
pub fn is_roots_alone(metadata: &Metadata) -> bool {
    metadata.uid() == 0 && metadata.mode() & WRITABLE_BY_OTHERS == 0
}

/// Adds the components of `path` to `rest`, in reverse order.
fn push(rest: &mut Vec<OsString>, path: &Path) {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    rest.extend(parts);
}

/// Reports whether users other than root and the caller may write to a file or directory.
fn is_changeable(metadata: &Metadata) -> bool {
    metadata.mode() & WRITABLE_BY_OTHERS != 0 || !is_trusted(metadata.uid())
}

/// Reports whether `owner`, the user id of a file's owner, is trusted. Root and the caller are trusted. In a user
/// namespace, root of the host is trusted too, although it has no id there.
pub(crate) fn is_trusted(owner: u32) -> bool {
    owner == 0
        || owner == geteuid().as_raw()
        || owner == UNMAPPED && matches!(UserNamespace::own(), UserNamespace::Other(_))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// Creates a directory with a file `file`, both owned by the caller and not writable for others.
    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "x").unwrap();
        mode(&directory.path().join("file"), 0o755);
        directory
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_of_root_and_of_the_caller_are_trusted() {
        assert_eq!(changeable_by_others(Path::new("/bin/sh")).unwrap(), None);
        let directory = directory();
        assert_eq!(changeable_by_others(&directory.path().join("file")).unwrap(), None);
        let missing = changeable_by_others(&directory.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_writable_file_or_directory_is_found() {
        let directory = directory();
        let file = directory.path().join("file");
        mode(&file, 0o775);
        assert_eq!(changeable_by_others(&file).unwrap(), Some(file.clone()));
        mode(&file, 0o755);
        mode(directory.path(), 0o777);
        assert_eq!(changeable_by_others(&file).unwrap(), Some(directory.path().to_owned()));
        mode(&file, 0o775);
        let parts = all_changeable_by_others(&file).unwrap();
        assert_eq!(parts, [directory.path().to_owned(), file.clone()]);
        let words = format!("chmod go-w {} {}", directory.path().display(), file.display());
        assert_eq!(protecting_command(&parts), Some(words));
        mode(&file, 0o755);
        let missing = directory.path().join("missing");
        assert_eq!(changeable_by_others(&missing).unwrap(), Some(directory.path().to_owned()));
        // Other users may not rename the caller's file in this directory, but they may create a missing one.
        mode(directory.path(), 0o1777);
        assert_eq!(changeable_by_others(&file).unwrap(), None);
        assert_eq!(changeable_by_others(&missing).unwrap(), Some(directory.path().to_owned()));
        assert_eq!(protecting_command(&[directory.path().to_owned()]), None);
    }

    #[test]
    fn every_directory_on_the_way_of_a_link_counts() {
        let (directory, other) = (directory(), tempfile::tempdir().unwrap());
        let link = other.path().join("link");
        symlink(directory.path().join("file"), &link).unwrap();
        assert_eq!(changeable_by_others(&link).unwrap(), None);
        mode(other.path(), 0o777);
        assert_eq!(changeable_by_others(&link).unwrap(), Some(other.path().to_owned()));
        mode(other.path(), 0o755);
        mode(directory.path(), 0o777);
        assert_eq!(changeable_by_others(&link).unwrap(), Some(directory.path().to_owned()));
        symlink("loop", other.path().join("loop")).unwrap();
        assert!(changeable_by_others(&other.path().join("loop")).is_err());
    }
}
