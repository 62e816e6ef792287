//! Namespaces: where this process is, who sees what is registered from here and how long it lasts, and the way into
//! others.

mod engine;
mod enter;
mod helper;
mod root;
mod scope;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

pub use engine::{Engine, EngineError, Target, UnknownTarget};
pub(crate) use enter::map_one;
pub use enter::{Ids, NamespaceError, blocking_sysctl, enter, enter_as_root, restore_caller_ids};
pub use helper::{MAP_HELPER, MapFailure, serve_map};
pub use root::{RootError, enter_root, find_in_root};
pub use scope::{Scope, UserNamespace};

/// Inode of the initial user namespace, `PROC_USER_INIT_INO` in `include/linux/proc_ns.h` (K73).
const INITIAL_USER: u64 = 0xefff_fffd;
/// Inode of the initial pid namespace, `PROC_PID_INIT_INO` there.
const INITIAL_PID: u64 = 0xefff_fffc;
/// Inode of the initial mount namespace on kernels that give it a fixed one, as 6.18 does (observed); no other mount
/// namespace has this number on any kernel.
const INITIAL_MOUNT: u64 = 0xefff_fff8;

/// Lifetime of handlers that are registered now (K67).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// Until the host restarts: the mount is the host's, or another one holds its instance.
    Boot,
    /// Until the user namespace ends, or its last mount of the instance goes.
    UserNamespace,
    /// As long as the instance of an outer user namespace: they stay when this user namespace ends.
    Outer,
    /// Not found out.
    Unknown,
    /// Until the last process of this mount namespace ends: a container, a shell of `podman unshare`.
    MountNamespace,
    /// Until this very process ends: it is alone in its mount namespace, and nothing else holds the instance.
    Process,
}

impl Lifetime {
    /// The lifetime of handlers in an instance of `scope` that was mounted before.
    #[must_use]
    pub fn of_existing_mount(scope: Scope) -> Self {
        match scope {
            Scope::Host => Self::Boot,
            Scope::UserNamespace(_) => Self::UserNamespace,
            Scope::Outer => Self::Outer,
            Scope::Other | Scope::Unknown => Self::Unknown,
        }
    }

    /// The lifetime of handlers in the instance that was mounted on `instance` at `since`, by this process.
    ///
    /// An instance that is older than its mount is held by another process (K68). So is one from the future: the clock
    /// was ahead when it was created.
    #[must_use]
    pub fn of_new_mount(instance: &Path, since: SystemTime) -> Self {
        let made = fs::metadata(instance.join("register")).ok().and_then(|metadata| {
            let seconds = u64::try_from(metadata.ctime()).ok()?;
            let nanoseconds = u32::try_from(metadata.ctime_nsec()).ok()?;
            Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
        });
        let is_new = made.is_none_or(|made| is_between(made, since, SystemTime::now()));
        if !is_new || is_hosts_mount_namespace() {
            Self::of_existing_mount(Scope::of_own_mount())
        } else if shares_mount_namespace() {
            Self::MountNamespace
        } else {
            Self::Process
        }
    }
}

/// Reports whether a file was created between two readings of the clock; false if the clock was set back. The clock of
/// the file system ticks in steps of up to 20 ms (K68).
fn is_between(made: SystemTime, since: SystemTime, until: SystemTime) -> bool {
    const TICK: Duration = Duration::from_millis(20);
    until < since || made + TICK >= since && made <= until + TICK
}

/// Reports whether mounts made here are the host's: the initial mount namespace has a number of its own on newer
/// kernels; on others it is that of pid 1, as long as that is the host's. In another pid namespace than the host's this
/// is a container.
#[must_use]
pub fn is_hosts_mount_namespace() -> bool {
    let own = inode("self", "mnt");
    own == Some(INITIAL_MOUNT)
        || own.is_some() && inode("self", "pid") == Some(INITIAL_PID) && inode("1", "mnt") == own
}

/// Reports whether any other process that is seen from here lives in this mount namespace.
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
        // The clock was set meanwhile, so nothing can be said.
        assert!(is_between(at(10), at(10), at(1_000_000)));
        assert!(is_between(at(1_000_000), at(10), at(1_000_001)));
        for made in [at(2), at(10), at(99)] {
            assert!(is_between(made, at(10), at(2)));
        }
    }
}
