//! [`Dir`]: a directory into which qus writes files. The path of the directory is resolved once, and the directory
//! stays open.
//!
//! Other users may be able to rename directories on the path, for example if root writes into a user's directory, or a
//! user into a directory in `/tmp`. After such a rename, files are still written into the same directory, because it is open. A
//! symbolic link of another user is not followed, because its owner could redirect a process that has more rights than
//! the owner.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use tempfile::NamedTempFile;

use crate::system::ownership::is_trusted;

/// Mode of new directories: all users may read them, only the owner may change them.
const MODE: u32 = 0o755;
/// Maximum number of symbolic links in one path, as in the kernel (`path_resolution(7)`).
const LINKS_MAX: u32 = 40;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    directory: OwnedFd,
}

impl Dir {
    /// Opens the directory at `path`; an empty path means the working directory.
    ///
    /// # Errors
    /// Fails if the kernel cannot open the directory, or if the path contains a symbolic link of another user than root
    /// and the caller.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut walk = Walk::new(path)?;
        while walk.step(|_, _| Err(Errno::ENOENT.into()))? {}
        Ok(Self { directory: walk.directory })
    }

    /// Opens the directory at `path`. Creates missing directories on the path with mode 0755, whatever the umask is,
    /// and adds the paths of the new directories to `made`, outermost first. An error contains the path of the
    /// directory that could not be opened or created.
    pub fn make(path: &Path, made: &mut Vec<PathBuf>) -> Result<Self, (PathBuf, io::Error)> {
        let mut walk = Walk::new(path).map_err(|error| (path.to_owned(), error))?;
        loop {
            let stepped = walk.step(make);
            made.extend(walk.made.take());
            match stepped {
                Ok(true) => {}
                Ok(false) => return Ok(Self { directory: walk.directory }),
                Err(error) => return Err((walk.shown, error)),
            }
        }
    }

    /// Returns a path that leads to this directory even if it was renamed. The path works only in this process, while
    /// the directory is open.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.directory.as_raw_fd()).into()
    }

    /// Creates a temporary file in the directory. The file's name is `prefix`, followed by `random` random letters and
    /// digits. An error does not contain [`path`](Self::path), because this path would not help the user.
    pub fn temporary(&self, prefix: &str, random: usize) -> io::Result<NamedTempFile> {
        let made = tempfile::Builder::new().prefix(prefix).rand_bytes(random).tempfile_in(self.path());
        made.map_err(|error| without_path(&error))
    }

    /// Checks that files can be created in the directory.
    pub fn check_writable(&self) -> io::Result<()> {
        tempfile::tempfile_in(self.path()).map(drop).map_err(|error| without_path(&error))
    }

    /// Writes the entries of the directory to the disk (`fsync(2)`), so that new file names survive a crash.
    pub fn sync(&self) -> io::Result<()> {
        fs::File::open(self.path())?.sync_all()
    }
}

/// Removes the file path from the text of an error. The library `tempfile` adds the path to its errors.
fn without_path(error: &io::Error) -> io::Error {
    let text = error.to_string();
    let cause = text.split_once(" at path ").map_or(text.as_str(), |(cause, _)| cause);
    io::Error::new(error.kind(), cause)
}

/// Returns the parent directory of `path`.
#[must_use]
pub fn parent_dir(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// State of resolving a path, one component at a time.
struct Walk {
    /// Open directory to which the components resolved so far lead.
    directory: OwnedFd,
    /// Path of `directory`, for error messages.
    shown: PathBuf,
    /// Components that are not resolved yet, in reverse order.
    rest: Vec<OsString>,
    links: u32,
    /// Path of the directory that the last step created.
    made: Option<PathBuf>,
}

impl Walk {
    fn new(path: &Path) -> io::Result<Self> {
        let begin = if path.is_absolute() { Path::new("/") } else { Path::new(".") };
        let mut walk = Self {
            directory: open(begin, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?,
            shown: if path.is_absolute() { "/".into() } else { PathBuf::new() },
            rest: Vec::new(),
            links: 0,
            made: None,
        };
        walk.push(path);
        Ok(walk)
    }

    fn push(&mut self, path: &Path) {
        let parts = path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        });
        self.rest.extend(parts);
    }

    /// Resolves the next component of the path. Calls `missing` to create a directory that does not exist. Returns
    /// `false` if no component is left.
    fn step(&mut self, missing: impl Fn(&OwnedFd, &OsStr) -> io::Result<OwnedFd>) -> io::Result<bool> {
        let Some(part) = self.rest.pop() else { return Ok(false) };
        let before = self.shown.clone();
        self.shown.push(&part);
        let next = match enter(&self.directory, &part) {
            Ok(next) => next,
            Err(Errno::ENOENT) => match missing(&self.directory, &part) {
                Ok(next) => {
                    self.made = Some(self.shown.clone());
                    next
                }
                // Another process has created the name first, as a directory or as something else.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => enter(&self.directory, &part)?,
                Err(error) => return Err(error),
            },
            Err(errno) => return Err(errno.into()),
        };
        let found = fstat(&next)?;
        match kind(&found) {
            SFlag::S_IFDIR => self.directory = next,
            SFlag::S_IFLNK => {
                let target = PathBuf::from(readlinkat(&next, "")?);
                if !is_trusted(found.st_uid) {
                    return Err(io::Error::other(format!(
                        "{} is a symbolic link to {} that user {} created, and is not followed",
                        self.shown.display(),
                        target.display(),
                        found.st_uid
                    )));
                }
                self.links += 1;
                if self.links > LINKS_MAX {
                    return Err(Errno::ELOOP.into());
                }
                self.shown = before;
                if target.is_absolute() {
                    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                    self.directory = open("/", flags, Mode::empty())?;
                    self.shown = "/".into();
                }
                self.push(&target);
            }
            _ => return Err(Errno::ENOTDIR.into()),
        }
        Ok(true)
    }
}

/// Opens the file or directory `name` in `directory` without following symbolic links. Opens a directory for reading if
/// the kernel permits it, because an open with `O_PATH` does not trigger an automount (K77).
fn enter(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(directory, name, flags | OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()) {
        Err(Errno::EACCES | Errno::ELOOP | Errno::ENOTDIR) => {
            openat(directory, name, flags | OFlag::O_PATH, Mode::empty())
        }
        other => other,
    }
}

/// Creates the directory `name` in `directory` and sets its mode. Another process may replace the new directory before
/// its mode is set, so the mode is set only on a directory of this user.
fn make(directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let readable = Mode::from_bits_truncate(MODE);
    mkdirat(directory, name, readable)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = || -> Result<OwnedFd, Errno> {
        let made = openat(directory, name, flags, Mode::empty())?;
        if fstat(&made)?.st_uid == geteuid().as_raw() {
            fchmod(&made, readable)?;
        }
        Ok(made)
    };
    opened().map_err(|errno| {
        let _not_empty_or_not_a_folder = unlinkat(directory, name, UnlinkatFlags::RemoveDir);
        errno.into()
    })
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_directory_is_found_as_the_kernel_finds_it() {
        let directory = tempfile::tempdir().unwrap();
        let location = |name: &str| directory.path().join(name);
        fs::create_dir_all(location("a/b")).unwrap();
        symlink("a/../a/./b", location("relative")).unwrap();
        symlink(location("relative"), location("absolute")).unwrap();
        symlink("circle", location("circle")).unwrap();
        symlink("nowhere", location("dangling")).unwrap();
        fs::write(location("a/b/file"), "here").unwrap();
        for name in ["a/b", "a/b/", "relative", "absolute", "absolute/../b", "a/../relative/."] {
            let held = Dir::open(&location(name)).unwrap();
            assert_eq!(fs::read(held.path().join("file")).unwrap(), b"here", "{name}");
        }
        for name in ["circle", "dangling", "a/b/file", "a/b/file/x", "none/b"] {
            let error = Dir::open(&location(name)).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                fs::read_dir(location(name)).unwrap_err().raw_os_error(),
                "{name}"
            );
        }
        assert!(Dir::open(Path::new("")).unwrap().path().join("Cargo.toml").exists());
    }

    #[test]
    fn missing_directories_are_created_and_listed() {
        let directory = tempfile::tempdir().unwrap();
        let location = |name: &str| directory.path().join(name);
        fs::create_dir(location("there")).unwrap();
        symlink("there", location("link")).unwrap();
        let mut made = Vec::new();
        Dir::make(&location("link/one/two"), &mut made).unwrap();
        assert_eq!(made, [location("there/one"), location("there/one/two")]);
        assert_eq!(fs::metadata(&made[1]).unwrap().permissions().mode() & 0o7777, 0o755);
        Dir::make(&location("link/one/two"), &mut made).unwrap();
        assert_eq!(made.len(), 2);
        fs::write(location("file"), "").unwrap();
        let (path, error) = Dir::make(&location("file/below"), &mut made).unwrap_err();
        assert_eq!((path, error.raw_os_error()), (location("file"), Some(Errno::ENOTDIR as i32)));
    }

    #[test]
    fn an_open_directory_stays_when_another_gets_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let location = |name: &str| directory.path().join(name);
        fs::create_dir(location("it")).unwrap();
        let held = Dir::open(&location("it")).unwrap();
        fs::rename(location("it"), location("moved")).unwrap();
        symlink("/", location("it")).unwrap();
        fs::write(held.path().join("file"), "here").unwrap();
        held.sync().unwrap();
        assert_eq!(fs::read(location("moved/file")).unwrap(), b"here");
        fs::remove_dir_all(location("moved")).unwrap();
        let error = held.temporary(".test-", 6).unwrap_err();
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
    }
}
