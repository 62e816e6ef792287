//! Enters new namespaces, or the namespaces of another process. A process cannot return to its former namespaces.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid, setgid, setgroups, setuid};
use thiserror::Error;

use super::helper::{MapFailure, MapHelper};
use crate::base::error::{Advice, Advise};

/// Ids of this process before it entered a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Effective user id.
    pub uid: Uid,
    /// Effective group id.
    pub gid: Gid,
    /// True if more than one id is mapped into the user namespace: all ids for the host's root, subordinate ids for
    /// other users.
    pub full_range: bool,
}

/// Failure to enter a namespace.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// A setting forbids user namespaces for this user.
    #[error("user namespaces are forbidden here by {setting}")]
    Forbidden {
        /// Name of the setting, as `sysctl(8)` prints it.
        setting: &'static str,
        /// Value of the setting that permits user namespaces.
        permits: &'static str,
    },
    /// `ENOSPC`: the user has reached the limit of user namespaces, or 32 are nested (`user_namespaces(7)`).
    #[error(
        "no more user namespaces are available here: they are nested too deeply, or the limit \
         user.max_user_namespaces or user.max_mnt_namespaces is reached"
    )]
    TooMany,
    /// Something else forbids user namespaces: a security module, a container's seccomp filter, or a `chroot(2)`.
    #[error(
        "user namespaces are not permitted here, because of a security module, a container or a chroot: {0}"
    )]
    NotPermitted(#[source] io::Error),
    /// The ids of a new user namespace could not be mapped.
    #[error("cannot map users into a new user namespace: {0}")]
    Map(String),
    /// `/proc` has no directory for the process: the process has ended, or `/proc` hides the processes of other users.
    #[error("/proc has no process {0}")]
    NoProcess(u32),
    /// The namespaces of a process could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// Path of the namespace's file in `/proc`.
        path: PathBuf,
        /// Error that the kernel returned.
        source: io::Error,
    },
    /// The namespaces of a process could not be entered.
    #[error("cannot enter the {kind} namespace of process {pid}: {source}")]
    Join {
        /// Kind of the namespace, such as `user`.
        kind: &'static str,
        /// ID of the process.
        pid: u32,
        /// Error that the kernel returned.
        source: io::Error,
    },
}

impl Advise for NamespaceError {
    fn advice(&self) -> Advice {
        match self {
            Self::Forbidden { setting, permits } => format!("sudo sysctl -w {setting}={permits}").into(),
            Self::NotPermitted(_) => Advice::hint("start qus outside of the container"),
            Self::Join { source, .. } if source.kind() != io::ErrorKind::PermissionDenied => {
                Advice::default()
            }
            // Only root of an outer user namespace has more rights.
            Self::Join { .. } | Self::Open { .. } if geteuid().is_root() => {
                Advice::hint("root has no such right here: start qus outside of this container")
            }
            Self::Join { .. } | Self::Open { .. } => {
                Advice::hint("start qus as root, or as the user who owns the process")
            }
            Self::Map(_) | Self::TooMany | Self::NoProcess(_) => Advice::default(),
        }
    }
}

/// Kernel settings that forbid user namespaces: name of the setting, value that forbids them, value that permits them.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("user.max_user_namespaces", "0", "65536"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
];

/// Returns an error with the kernel setting that forbids ordinary users to create user namespaces, or to have rights in
/// them. Returns `None` if no setting does.
///
/// AppArmor's setting permits ordinary users to create user namespaces, but forbids them to map ids and to mount file
/// systems there.
#[must_use]
pub fn blocking_sysctl() -> Option<NamespaceError> {
    forbidding_setting_in(Path::new("/proc/sys"))
}

fn forbidding_setting_in(directory: &Path) -> Option<NamespaceError> {
    let forbids = |(name, forbids, _): &(&str, &str, &str)| {
        let file = directory.join(name.replace('.', "/"));
        fs::read_to_string(file).is_ok_and(|value| value.trim() == *forbids)
    };
    let (setting, _, permits) = SETTINGS.into_iter().find(forbids)?;
    Some(NamespaceError::Forbidden { setting, permits })
}

fn diagnose(errno: Errno) -> NamespaceError {
    blocking_sysctl().unwrap_or(match errno {
        Errno::ENOSPC | Errno::EUSERS => NamespaceError::TooMany,
        errno => NamespaceError::NotPermitted(errno.into()),
    })
}

/// Enters a new user namespace and a new mount namespace. In them, this process is root and may register handlers
/// (K70).
///
/// If the host's root calls the function, all ids stay the same. For another user, the user's own id becomes 0. If
/// `range` is true and the user has subordinate ids, these become the ids from 1 on. This process must have no other
/// thread.
pub fn enter_as_root(range: bool) -> Result<Ids, NamespaceError> {
    let (uid, gid) = (geteuid(), getegid());
    // Only a process outside of the namespace may map more than one id.
    let helper = if range || uid.is_root() { MapHelper::start() } else { None };
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(diagnose)?;
    if let Some(helper) = helper {
        match helper.map() {
            Ok(()) => return Ok(Ids { uid, gid, full_range: true }),
            Err(MapFailure::NoRange(reason)) => tracing::info!("only one user is mapped: {reason}"),
            Err(MapFailure::Failed(reason)) => tracing::warn!("only one user is mapped: {reason}"),
        }
    }
    map_one((0, uid.as_raw()), (0, gid.as_raw()))?;
    Ok(Ids { uid, gid, full_range: false })
}

/// Enters a new user namespace inside the namespace of [`enter_as_root`]. There this process has its original ids
/// again.
pub fn restore_caller_ids(ids: Ids) -> Result<(), NamespaceError> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(diagnose)?;
    map_one((ids.uid.as_raw(), 0), (ids.gid.as_raw(), 0))
}

/// Maps one user id and one group id into the user namespace of this process. Each pair has the id inside the
/// namespace, and the id outside of it, which is the id of this process.
pub(crate) fn map_one(user: (u32, u32), group: (u32, u32)) -> Result<(), NamespaceError> {
    let write = |file: &str, text: String| {
        let failed =
            |error: io::Error| blocking_sysctl().unwrap_or(NamespaceError::Map(format!("{file}: {error}")));
        fs::write(Path::new("/proc/self").join(file), text).map_err(failed)
    };
    let line = |(inside, outside): (u32, u32)| format!("{inside} {outside} 1");
    // Without this, an unprivileged process may not map its group.
    write("setgroups", "deny".to_owned())?;
    write("uid_map", line(user))?;
    write("gid_map", line(group))
}

/// Enters the user namespace, the mount namespace and the root directory of process `pid`. That process sees the
/// handlers that this process registers afterwards.
pub fn enter(pid: u32) -> Result<(), NamespaceError> {
    let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    if fs::symlink_metadata(format!("/proc/{pid}")).is_err_and(is_missing) {
        return Err(NamespaceError::NoProcess(pid));
    }
    let open = |kind: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
        fs::File::open(&path).map_err(|source| NamespaceError::Open { path, source })
    };
    let is_same = |kind: &str| super::inode("self", kind) == super::inode(&pid.to_string(), kind);
    // All files are opened before the first namespace is entered, because `/proc` may be another one afterwards.
    let user = if is_same("user") { None } else { Some(open("user")?) };
    let mount = if is_same("mnt") { None } else { Some(open("mnt")?) };
    let enter = |kind: &'static str, file: Option<fs::File>, flag: CloneFlags| match file {
        Some(file) => {
            setns(file, flag).map_err(|errno| NamespaceError::Join { kind, pid, source: errno.into() })
        }
        None => Ok(()),
    };
    let is_other_user_namespace = user.is_some();
    enter("user", user, CloneFlags::CLONE_NEWUSER)?;
    enter("mount", mount, CloneFlags::CLONE_NEWNS)?;
    if is_other_user_namespace && !geteuid().is_root() {
        become_root();
    }
    Ok(())
}

/// Changes the ids of this process to root of the user namespace that it has entered. A process from outside has all
/// capabilities in the namespace, but its ids may not be mapped there. Root owns the binfmt_misc instance (K70), and
/// will own the files that this process creates.
fn become_root() {
    // If the groups cannot be set, or the namespace has no root, the process keeps its ids. Later operations then
    // report their own errors.
    let _groups_are_fixed = setgroups(&[]);
    let _no_root_group = setgid(Gid::from_raw(0));
    let _no_root = setuid(Uid::from_raw(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &str| {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, value).unwrap();
        };
        let found = || forbidding_setting_in(directory.path()).map(|error| error.advice().command.unwrap());
        assert_eq!(found(), None);
        write("user/max_user_namespaces", "96365\n");
        write("kernel/apparmor_restrict_unprivileged_userns", "0\n");
        assert_eq!(found(), None);
        write("kernel/apparmor_restrict_unprivileged_userns", "1\n");
        let hint = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";
        assert_eq!(found().as_deref(), Some(hint));
        write("user/max_user_namespaces", "0\n");
        assert_eq!(found().as_deref(), Some("sudo sysctl -w user.max_user_namespaces=65536"));
    }
}
