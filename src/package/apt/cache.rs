//! The private directory of apt's lists and downloads, and who may write there.

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

/// Age after which an unlocked download belongs to a killed process. A younger one may be in use on a file system
/// without locks.
const DOWNLOAD_SERVES: Duration = Duration::from_hours(24);

const DOWNLOAD_PREFIX: &str = "download-";

/// Read by apt after the machine's configuration.
///
/// Options of an update. Its hooks are for the machine's own lists: they delete archives in container images and notify
/// desktops. Only the index of binary packages is needed. For apt an unreachable repository is a warning; here it is an
/// error, so that lists are not taken to be up to date.
const CONFIGURATION: &str = "\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode \"any\";
Acquire::Languages \"none\";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";
Acquire::IndexTargets::deb-src::Sources::DefaultEnabled \"false\";
";

/// The private directory, locked against other processes.
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
        // As root apt makes only the last of these, and as anybody else none.
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

    /// Reports whether apt can give up its rights as it wants to.
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

    /// The time of this file is when the lists were fetched.
    pub(super) fn stamp(&self) -> PathBuf {
        self.path.join("updated")
    }

    /// A directory for one package. As root apt downloads as the user `_apt` if this one may write there.
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

    /// Removes what killed processes left behind. Nothing depends on it.
    ///
    /// The clock may have been set meanwhile: a directory from the future is as old as any, and one that is held is in
    /// use.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let ours = entry.file_name().to_string_lossy().starts_with(DOWNLOAD_PREFIX);
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|time| time.elapsed().ok());
            if ours && age.is_none_or(|age| age > DOWNLOAD_SERVES) && !is_held(&entry.path()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// A directory that is held, and goes with this.
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

fn is_held(directory: &Path) -> bool {
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

/// True if apt gives up its rights for downloading, which it does when root started it.
enum Sandbox {
    /// It has none to give up.
    NotNeeded,
    /// It becomes this user.
    User(Uid),
    /// It would fail to: this root is one of a user namespace that has no other users.
    Impossible,
}

impl Sandbox {
    /// Finds out on the directory `partial`, which belongs to apt's user where there is one.
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

/// Gives a directory to a user, if that is permitted.
pub(super) fn chown_if_permitted(directory: &Path, user: Uid) -> bool {
    let result = chown(directory, Some(user), None);
    if let Err(errno) = result {
        tracing::debug!("cannot give {} to user {user}: {}", directory.display(), io::Error::from(errno));
    }
    result.is_ok()
}
