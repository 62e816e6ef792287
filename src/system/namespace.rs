//! Linux namespaces: the namespaces of this process, the processes that see a handler, the lifetime of handlers, and
//! entering other namespaces.

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

/// Inode of the initial user namespace: `PROC_USER_INIT_INO` in `include/linux/proc_ns.h` (K73).
const INITIAL_USER: u64 = 0xefff_fffd;
/// Inode of the initial pid namespace: `PROC_PID_INIT_INO` in `include/linux/proc_ns.h`.
const INITIAL_PID: u64 = 0xefff_fffc;
/// Inode of the initial mount namespace on kernels where this number is fixed, such as 6.18 (observed). No other mount
/// namespace has this number on any kernel.
const INITIAL_MOUNT: u64 = 0xefff_fff8;

/// Lifetime of the handlers that qus registers now: the event after which they disappear (K67).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// Until the host restarts: the host has mounted the instance, or another mount uses the same instance.
    Boot,
    /// Until the user namespace ends, or the last mount of its instance is removed.
    UserNamespace,
    /// Until the instance of an outer user namespace ends. The handlers remain when the user namespace of this process
    /// ends.
    Outer,
    /// The lifetime is unknown.
    Unknown,
    /// Until the last process in the mount namespace of this process ends, for example in a container or in a shell of
    /// `podman unshare`.
    MountNamespace,
    /// Until this process ends: no other process is in its mount namespace, and nothing else uses the instance.
    Process,
}

impl Lifetime {
    /// Returns the lifetime of handlers in an instance that was mounted before qus started. `scope` is the scope of
    /// this instance.
    #[must_use]
    pub fn of_existing_mount(scope: Scope) -> Self {
        match scope {
            Scope::Host => Self::Boot,
            Scope::UserNamespace(_) => Self::UserNamespace,
            Scope::Outer => Self::Outer,
            Scope::Other | Scope::Unknown => Self::Unknown,
        }
    }

    /// Returns the lifetime of handlers in an instance that this process mounted on the path `instance` at time
    /// `since`.
    ///
    /// If the instance is older than this mount, another process uses the instance (K68). An instance with a time in
    /// the future counts as older, because the clock was ahead when the instance was created.
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

/// Reports whether the time `made` is between `since` and `until`, two readings of the clock. If the clock was set back
/// between these readings, returns true, because the times cannot be compared. `made` is the time of a file. The clock
/// of the file system has steps of up to 20 ms (K68).
fn is_between(made: SystemTime, since: SystemTime, until: SystemTime) -> bool {
    const TICK: Duration = Duration::from_millis(20);
    until < since || made + TICK >= since && made <= until + TICK
}

/// Reports whether this process is in the mount namespace of the host, so that the host sees the mounts of this
/// process. Newer kernels give the initial mount namespace a fixed number. On older kernels, this process must be in
/// the host's pid namespace and in the mount namespace of process 1. A process in another pid namespace is in a
/// container.
#[must_use]
pub fn is_hosts_mount_namespace() -> bool {
    let own = inode("self", "mnt");
    own == Some(INITIAL_MOUNT)
        || own.is_some() && inode("self", "pid") == Some(INITIAL_PID) && inode("1", "mnt") == own
}

/// Reports whether `/proc` shows another process in the mount namespace of this process.
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

/// Returns the inode number of a namespace of `process`, which is a process ID or `self`. `kind` is the kind of the
/// namespace, such as `mnt`.
pub(crate) fn inode(process: &str, kind: &str) -> Option<u64> {
    let path = Path::new("/proc").join(process).join("ns").join(kind);
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_made_between_two_readings_of_the_clock_is_new() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let tick = Duration::from_millis(20);
        assert!(is_between(at(10), at(10), at(10)));
        assert!(is_between(at(10) - tick, at(10), at(11)));
        assert!(!is_between(at(9), at(10), at(11)));
        // The clock was ahead when the file was created.
        assert!(!is_between(at(12), at(10), at(11)));
        // The clock was set in between, so the times show nothing.
        assert!(is_between(at(10), at(10), at(1_000_000)));
        assert!(is_between(at(1_000_000), at(10), at(1_000_001)));
        for made in [at(2), at(10), at(99)] {
            assert!(is_between(made, at(10), at(2)));
        }
    }
}
