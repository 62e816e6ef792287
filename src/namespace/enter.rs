//! Into namespaces: new ones, and those of another process. For ever: there is no way back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid};
use thiserror::Error;

use super::helper::MapHelper;

/// Who the caller was before a namespace was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Effective user.
    pub uid: Uid,
    /// Effective group.
    pub gid: Gid,
    /// Whether all ids there are were mapped, as for the host's root, or a whole range of them.
    pub many: bool,
}

/// Why a namespace could not be entered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// A setting keeps user namespaces from this user.
    #[error("user namespaces are forbidden here by {setting}")]
    Forbidden {
        /// The setting, as `sysctl(8)` names it.
        setting: &'static str,
        /// The value that permits them.
        permits: &'static str,
    },
    /// Something else keeps them from this user: a security module, a container's seccomp filter.
    #[error(
        "user namespaces are not permitted here, by a security module or the container that this runs in: {0}"
    )]
    NotPermitted(#[source] Errno),
    /// The ids of a new user namespace could not be set.
    #[error("cannot map users into a new user namespace: {0}")]
    Map(String),
    /// The namespaces of a process could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The namespace's file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The namespaces of a process could not be entered.
    #[error("cannot enter the {kind} namespace of process {pid}: {source}")]
    Join {
        /// Which kind.
        kind: &'static str,
        /// Whose.
        pid: u32,
        /// What the kernel said.
        source: Errno,
    },
}

impl NamespaceError {
    /// What to do about it.
    #[must_use]
    pub fn cure(&self) -> Option<String> {
        match self {
            Self::Forbidden { setting, permits } => Some(format!("sudo sysctl -w {setting}={permits}")),
            Self::NotPermitted(_) => Some("start it outside of the container, or with --direct".to_owned()),
            Self::Join { source: Errno::EPERM, .. } | Self::Open { .. } => {
                Some("as root, or as the user it belongs to".to_owned())
            }
            Self::Join { .. } | Self::Map(_) => None,
        }
    }
}

/// Settings that forbid user namespaces: name, the value that forbids, a value that permits.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("user.max_user_namespaces", "0", "65536"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
];

fn diagnose(errno: Errno) -> NamespaceError {
    let forbids = |(name, forbids, _): &(&str, &str, &str)| {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::read_to_string(file).is_ok_and(|value| value.trim() == *forbids)
    };
    match SETTINGS.into_iter().find(forbids) {
        Some((setting, _, permits)) => NamespaceError::Forbidden { setting, permits },
        None => NamespaceError::NotPermitted(errno),
    }
}

/// A new user and mount namespace, in which this process is root, and may register handlers (K70).
///
/// The host's root keeps all ids; others keep their own one as 0 and, with `range`, their subordinate ids above it,
/// where they have some. This process must have no other thread.
pub fn enter_as_root(range: bool) -> Result<Ids, NamespaceError> {
    let (uid, gid) = (geteuid(), getegid());
    // Only a process outside may map more than one id.
    let helper = if range || uid.is_root() { MapHelper::start() } else { None };
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(diagnose)?;
    if let Some(helper) = helper {
        match helper.map() {
            Ok(()) => return Ok(Ids { uid, gid, many: true }),
            Err(reason) => tracing::info!("only one user is mapped: {reason}"),
        }
    }
    map_one((0, uid.as_raw()), (0, gid.as_raw()))?;
    Ok(Ids { uid, gid, many: false })
}

/// A new user namespace inside of that of [`enter_as_root`], in which the caller is who he was before.
pub fn become_caller(ids: Ids) -> Result<(), NamespaceError> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(diagnose)?;
    map_one((ids.uid.as_raw(), 0), (ids.gid.as_raw(), 0))
}

/// Maps one user and one group: each pair is the id inside, and the one outside that this process has.
fn map_one(user: (u32, u32), group: (u32, u32)) -> Result<(), NamespaceError> {
    let write = |file: &str, text: String| {
        let failed = |error: io::Error| NamespaceError::Map(format!("{file}: {error}"));
        fs::write(Path::new("/proc/self").join(file), text).map_err(failed)
    };
    // Otherwise an unprivileged process may not map its group.
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{} {} 1", user.0, user.1))?;
    write("gid_map", format!("{} {} 1", group.0, group.1))
}

/// Enters the user and mount namespace of process `pid`, and its root directory: what is registered then is what that
/// process sees.
pub fn join(pid: u32) -> Result<(), NamespaceError> {
    let open = |kind: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
        fs::File::open(&path).map_err(|source| NamespaceError::Open { path, source })
    };
    let is_same = |kind: &str| super::inode("self", kind) == super::inode(&pid.to_string(), kind);
    // All are opened before the first is entered: afterwards /proc may be another one.
    let user = if is_same("user") { None } else { Some(open("user")?) };
    let mount = if is_same("mnt") { None } else { Some(open("mnt")?) };
    let enter = |kind: &'static str, file: Option<fs::File>, flag: CloneFlags| match file {
        Some(file) => setns(file, flag).map_err(|source| NamespaceError::Join { kind, pid, source }),
        None => Ok(()),
    };
    enter("user", user, CloneFlags::CLONE_NEWUSER)?;
    enter("mount", mount, CloneFlags::CLONE_NEWNS)
}
