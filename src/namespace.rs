//! Namespaces: where this process is, who sees what is registered from here and how long it lasts, and the way into
//! others.

mod engine;
mod enter;
mod helper;
mod root;

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::unistd::geteuid;
use serde::Serialize;

pub use engine::{Engine, EngineError, UnknownEngine};
pub use enter::{Ids, NamespaceError, become_caller, enter_as_root, forbidding_setting, join};
pub use helper::{MAP_HELPER, MapFailure, serve_map};
pub use root::{RootError, enter_root, find_in_root};

/// Inode of the initial user namespace, `PROC_USER_INIT_INO` in `include/linux/proc_ns.h` (K73).
const INITIAL_USER: u64 = 0xefff_fffd;
/// Inode of the initial pid namespace, `PROC_PID_INIT_INO` there.
const INITIAL_PID: u64 = 0xefff_fffc;
/// Inode of the initial mount namespace on kernels that give it a fixed one, as 6.18 does (observed); no other mount
/// namespace has this number on any kernel.
const INITIAL_MOUNT: u64 = 0xefff_fff8;

/// Who sees what is registered from here (K65).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The initial user namespace: everything on this host that has no instance of its own.
    Host,
    /// A user namespace, by its inode: only what runs inside it, until it ends.
    UserNamespace(u64),
    /// A user namespace around this one, most likely that of the host: its mount of its instance is seen from here, and
    /// what is registered in this namespace does not go there.
    Outer,
}

impl Scope {
    /// The scope of this process.
    #[must_use]
    pub fn here() -> Self {
        match inode("self", "user") {
            Some(inode) if inode != INITIAL_USER => Self::UserNamespace(inode),
            // Kernels without user namespaces have no such file, and only one scope.
            _ => Self::Host,
        }
    }

    /// Whose handlers are in the instance that is mounted on `path`, as this process sees it.
    ///
    /// A mount namespace inherits the mounts of the one around it. In an instance of this user namespace everything
    /// belongs to its root (K70); what belongs to an id that is not mapped here, or to another one, is not its own.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let owner = fs::metadata(path.join("register")).map(|metadata| metadata.uid());
        match Self::here() {
            Self::UserNamespace(_) if owner.is_ok_and(|owner| owner != 0) => Self::Outer,
            scope => scope,
        }
    }

    /// Whether this process is the host's root, not that of a user namespace.
    #[must_use]
    pub fn is_host_root(self) -> bool {
        self == Self::Host && geteuid().is_root()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => formatter.write_str("this host"),
            Self::UserNamespace(inode) => write!(formatter, "user namespace {inode}, not the host"),
            Self::Outer => formatter.write_str("a user namespace around this one, most likely the host's"),
        }
    }
}

/// How long handlers last that were registered through a mount which this process made (K67).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// Until the host restarts: the mount is the host's, or another one holds the instance.
    Boot,
    /// Until the last process of this mount namespace ends: a container, a shell of `podman unshare`.
    MountNamespace,
    /// Until this very process ends: it is alone in its mount namespace, and nothing else holds the instance.
    Process,
}

impl Lifetime {
    /// The lifetime of handlers in the instance that was mounted on `instance` at `since`, by this process.
    ///
    /// An instance that is older than its mount is held by somebody else (K68); so is one that comes from the future, as the
    /// clock was ahead when it was made.
    #[must_use]
    pub fn of_new_mount(instance: &Path, since: SystemTime) -> Self {
        let made = fs::metadata(instance.join("register")).ok().and_then(|metadata| {
            let seconds = u64::try_from(metadata.ctime()).ok()?;
            let nanoseconds = u32::try_from(metadata.ctime_nsec()).ok()?;
            Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
        });
        let is_new = made.is_none_or(|made| is_between(made, since, SystemTime::now()));
        if !is_new || is_hosts_mount_namespace() {
            Self::Boot
        } else if shares_mount_namespace() {
            Self::MountNamespace
        } else {
            Self::Process
        }
    }
}

/// Whether a file was made between two readings of the clock, as far as they tell: not where it was set back meanwhile.
/// The clock of the file system ticks in steps of up to 20 ms (K68).
fn is_between(made: SystemTime, since: SystemTime, until: SystemTime) -> bool {
    const TICK: Duration = Duration::from_millis(20);
    until < since || made + TICK >= since && made <= until + TICK
}

/// Whether mounts made here are the host's: the initial mount namespace has a number of its own on newer kernels; on
/// others it is that of pid 1, as long as that is the host's. In another pid namespace than the host's this is a container.
#[must_use]
pub fn is_hosts_mount_namespace() -> bool {
    let own = inode("self", "mnt");
    own == Some(INITIAL_MOUNT)
        || own.is_some() && inode("self", "pid") == Some(INITIAL_PID) && inode("1", "mnt") == own
}

/// Whether any other process that is seen from here lives in this mount namespace.
fn shares_mount_namespace() -> bool {
    let own = inode("self", "mnt");
    let me = std::process::id().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    own.is_some()
        && processes
            .filter_map(|process| process.file_name().into_string().ok())
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != me)
            .any(|process| inode(&process, "mnt") == own)
}

/// The inode of a namespace of a process.
pub(crate) fn inode(process: &str, kind: &str) -> Option<u64> {
    let path = Path::new("/proc").join(process).join("ns").join(kind);
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_between_two_readings_of_the_clock_is_new() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let tick = Duration::from_millis(20);
        assert!(is_between(at(10), at(10), at(10)));
        assert!(is_between(at(10) - tick, at(10), at(11)));
        assert!(!is_between(at(9), at(10), at(11)));
        // The clock was ahead when it was made.
        assert!(!is_between(at(12), at(10), at(11)));
        // It was set ahead, or back, meanwhile: there is nothing to be promised.
        assert!(is_between(at(10), at(10), at(1_000_000)));
        assert!(is_between(at(1_000_000), at(10), at(1_000_001)));
        for made in [at(2), at(10), at(99)] {
            assert!(is_between(made, at(10), at(2)));
        }
    }
}
