//! The private directory in which apt stores package lists and downloads, and its permissions.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, chown};
use tempfile::TempDir;

use super::AptError;
use crate::system::dir::Dir;
use crate::system::users;

/// Age after which an unlocked download directory counts as a leftover of a killed process. On a file system without
/// locks, a process may still use a younger directory.
const DOWNLOAD_MAX_AGE: Duration = Duration::from_hours(24);

const DOWNLOAD_PREFIX: &str = "download-";

/// Content of the configuration file that apt reads after the host's configuration.
///
/// The host's update hooks are disabled. They are meant for the host's own package lists: they delete archives in
/// container images, and notify desktops. Only the index of binary packages is fetched. By default, apt only warns
/// about an unreachable repository. This configuration makes it an error, so that incomplete lists do not count as up
/// to date.
const CONFIGURATION: &str = "\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode \"any\";
Acquire::Languages \"none\";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";
Acquire::IndexTargets::deb-src::Sources::DefaultEnabled \"false\";
";

/// The private directory of apt's package lists and downloads, locked against other processes.
pub(super) struct Cache {
    path: PathBuf,
    sandbox: Sandbox,
    _lock: Flock<File>,
}

impl Cache {
    pub(super) fn open(path: &Path) -> Result<Self, AptError> {
        let path = absolute(path)?;
        make_dir(&path)?;
        let lock = path.join("lock");
        let cannot_lock = |source| AptError::Cache { path: lock.clone(), source };
        let file = File::options().create(true).append(true).open(&lock).map_err(cannot_lock)?;
        let mut cache =
            Self { _lock: wait_for(file).map_err(cannot_lock)?, path, sandbox: Sandbox::NotNeeded };
        // apt creates only the last of these directories, and only as root.
        let partial = cache.lists().join("partial");
        make_dir(&partial)?;
        make_dir(&cache.archives().join("archives/partial"))?;
        cache.sandbox = Sandbox::of(&partial);
        let configuration = cache.configuration();
        fs::write(&configuration, CONFIGURATION)
            .map_err(|source| AptError::Cache { path: configuration, source })?;
        cache.sweep();
        Ok(cache)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns false if apt would fail to switch to its own user `_apt` for downloads.
    pub(super) fn sandbox_works(&self) -> bool {
        !matches!(self.sandbox, Sandbox::Impossible)
    }

    pub(super) fn lists(&self) -> PathBuf {
        self.path.join("lists")
    }

    pub(super) fn archives(&self) -> PathBuf {
        self.path.join("cache")
    }

    pub(super) fn configuration(&self) -> PathBuf {
        self.path.join("apt.conf")
    }

    /// Returns the path of a file whose modification time is the time of the last successful `apt-get update`.
    pub(super) fn stamp(&self) -> PathBuf {
        self.path.join("updated")
    }

    /// Creates a directory into which apt downloads one package. If root starts apt, apt downloads as the user `_apt`,
    /// provided that this user may write to the directory.
    pub(super) fn download_dir(&self) -> Result<DownloadDir, AptError> {
        let cannot_make = |source| AptError::Cache { path: self.path.clone(), source };
        let directory = tempfile::Builder::new().prefix(DOWNLOAD_PREFIX).tempdir_in(&self.path);
        let directory = directory.map_err(cannot_make)?;
        let lock = File::open(directory.path()).map_err(cannot_make)?;
        let _unlocked = lock.lock_shared();
        if let Sandbox::User(user) = self.sandbox {
            chown_if_permitted(directory.path(), user);
        }
        Ok(DownloadDir { directory, _lock: lock })
    }

    /// Removes download directories that killed processes left behind. Errors are ignored.
    ///
    /// The host's clock may have been changed. Therefore a directory with a modification time in the future counts as
    /// old. A locked directory counts as in use.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let is_download = entry.file_name().to_string_lossy().starts_with(DOWNLOAD_PREFIX);
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|time| time.elapsed().ok());
            if is_download && age.is_none_or(|age| age > DOWNLOAD_MAX_AGE) && !is_locked(&entry.path()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Locked directory for one download. The directory is removed when this value is dropped.
#[derive(Debug)]
pub(super) struct DownloadDir {
    directory: TempDir,
    _lock: File,
}

impl DownloadDir {
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn is_locked(directory: &Path) -> bool {
    let lock = File::open(directory).map(|directory| directory.try_lock());
    matches!(lock, Ok(Err(TryLockError::WouldBlock)))
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, AptError> {
    std::path::absolute(path).map_err(|source| AptError::Cache { path: path.to_owned(), source })
}

fn make_dir(path: &Path) -> Result<(), AptError> {
    let made = Dir::make(path, &mut Vec::new());
    made.map(drop).map_err(|(path, source)| AptError::Cache { path, source })
}

fn wait_for(mut file: File) -> io::Result<Flock<File>> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Ability of apt to switch to its own user `_apt` for downloads. apt does so if root started it.
enum Sandbox {
    /// apt does not run as root, or the host has no user `_apt`.
    NotNeeded,
    /// apt switches to this user.
    User(Uid),
    /// apt would fail to switch, because this user namespace does not contain the user `_apt`.
    Impossible,
}

impl Sandbox {
    /// Finds out whether apt can switch to its user, by giving the directory `partial` to this user.
    fn of(partial: &Path) -> Self {
        if !Uid::effective().is_root() {
            return Self::NotNeeded;
        }
        match users::uid_of("_apt") {
            None => Self::NotNeeded,
            Some(user) if chown_if_permitted(partial, user) => Self::User(user),
            Some(_) => Self::Impossible,
        }
    }
}

/// Makes `user` the owner of `directory`. Returns false if this is not permitted.
pub(super) fn chown_if_permitted(directory: &Path, user: Uid) -> bool {
    let result = chown(directory, Some(user), None);
    if let Err(errno) = result {
        tracing::debug!(
            "cannot change the owner of {} to {user}: {}",
            directory.display(),
            io::Error::from(errno)
        );
    }
    result.is_ok()
}
