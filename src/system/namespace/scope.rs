//! The scope of a binfmt_misc instance: the user namespace to which the instance belongs. Its handlers serve the
//! processes in this namespace.
//!
//! The scope may differ from the user namespace of this process. Before Linux 6.7 the whole host has one instance.
//! Since Linux 6.7 an instance belongs to the user namespace that mounted it (K64). A process often sees the mount of
//! another user namespace: mount namespaces inherit mounts, and a process can enter a user namespace without the
//! matching mount namespace.
//!
//! The kernel never shows which user namespace owns an instance. But only a process with CAP_SYS_ADMIN in the owning
//! namespace may reconfigure the superblock of the instance (`fs/fsopen.c: vfs_cmd_reconfigure`). [`may_reconfigure`]
//! tries to reconfigure the superblock without any option, which changes nothing. A comparison with a new mount would
//! be simpler. But in a user namespace without an instance, a new mount would permanently hide the handlers in use
//! there (K66).

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{major, minor};
use nix::unistd::geteuid;
use rustix::io::Errno;
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fspick};
use serde::Serialize;

use super::{INITIAL_USER, inode, is_hosts_mount_namespace};
use crate::system::kernel_version::KernelVersion;

/// The user namespace of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserNamespace {
    /// The host's user namespace. On kernels without user namespaces, every process counts as being in it.
    Initial,
    /// Another user namespace. The value is its inode number.
    Other(u64),
    /// `/proc` does not show the user namespace.
    Unknown,
}

impl UserNamespace {
    /// Returns the user namespace of this process.
    #[must_use]
    pub fn own() -> Self {
        match fs::metadata("/proc/self/ns/user").map(|metadata| metadata.ino()) {
            Ok(INITIAL_USER) => Self::Initial,
            Ok(inode) => Self::Other(inode),
            // A kernel without user namespaces has the other files.
            Err(error) if error.kind() == io::ErrorKind::NotFound && inode("self", "mnt").is_some() => {
                Self::Initial
            }
            Err(_) => Self::Unknown,
        }
    }

    /// Reports whether this process is root of the host, and not only root of a user namespace.
    #[must_use]
    pub fn is_host_root() -> bool {
        Self::own() == Self::Initial && geteuid().is_root()
    }
}

/// The user namespace of an instance. The handlers of the instance serve the processes inside of this namespace (K65).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The initial user namespace: the handlers serve all processes of the host that have no instance of their own.
    Host,
    /// The user namespace of this process. The value is its inode number.
    UserNamespace(u64),
    /// A user namespace that contains the user namespace of this process. The kernel does not show which namespace it
    /// is.
    Outer,
    /// A user namespace that neither is nor contains the user namespace of this process.
    Other,
    /// The user namespace is unknown.
    Unknown,
}

impl Scope {
    /// Returns the scope of the instance that is mounted on `path`.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let (kernel, process) = (KernelVersion::running(), UserNamespace::own());
        if !kernel.has_per_userns_instances() {
            return Self::Host;
        }
        decide(kernel, process, Facts::gather(path, process))
    }

    /// Returns the scope of an instance that this process mounts itself.
    #[must_use]
    pub fn of_own_mount() -> Self {
        match UserNamespace::own() {
            _ if !KernelVersion::running().has_per_userns_instances() => Self::Host,
            UserNamespace::Initial => Self::Host,
            UserNamespace::Other(inode) => Self::UserNamespace(inode),
            UserNamespace::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => formatter.write_str("this host"),
            Self::UserNamespace(inode) => write!(formatter, "user namespace {inode}, not the host"),
            Self::Outer => formatter.write_str("an outer user namespace, usually the host's"),
            Self::Other => formatter.write_str("another user namespace, not the host's"),
            Self::Unknown => formatter.write_str("a user namespace that could not be determined"),
        }
    }
}

/// Facts about a mounted instance, which determine its scope. Facts that are not needed stay unset.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    /// True if the mount namespace of this process has a mount of the instance. Otherwise the instance's path leads
    /// into another mount namespace.
    is_mounted_here: bool,
    /// True if root of this process's user namespace owns the files of the instance; `None` if the namespace has no
    /// root.
    is_owned_by_root: Option<bool>,
    /// True if the instance has the same device number as an instance that this process mounts for comparison.
    is_own_device: Option<bool>,
    /// True if this process has CAP_SYS_ADMIN in the user namespace of the instance.
    may_reconfigure: Option<bool>,
}

fn decide(kernel: KernelVersion, process: UserNamespace, facts: Facts) -> Scope {
    if !kernel.has_per_userns_instances() {
        return Scope::Host;
    }
    match process {
        UserNamespace::Initial => match (facts.is_owned_by_root, facts.is_own_device) {
            (_, Some(true)) => Scope::Host,
            (_, Some(false)) | (Some(false), None) => Scope::Other,
            // Entering a mount namespace of another user namespace requires CAP_SYS_ADMIN, with which the devices are
            // compared.
            _ if facts.is_mounted_here => Scope::Host,
            _ => Scope::Unknown,
        },
        // The instance may belong to a user namespace inside of this one.
        UserNamespace::Other(_) if !facts.is_mounted_here => Scope::Unknown,
        UserNamespace::Other(own) => match (facts.may_reconfigure, facts.is_owned_by_root) {
            (Some(true), _) => Scope::UserNamespace(own),
            (Some(false), _) | (None, Some(false)) => Scope::Outer,
            (None, _) => Scope::Unknown,
        },
        UserNamespace::Unknown => Scope::Unknown,
    }
}

impl Facts {
    fn gather(path: &Path, process: UserNamespace) -> Self {
        let Ok(register) = fs::metadata(path.join("register")) else { return Self::default() };
        let is_mounted_here = is_mounted_here(register.dev());
        let is_owned_by_root = has_root().then(|| register.uid() == 0);
        let mut facts = Self { is_mounted_here, is_owned_by_root, ..Self::default() };
        if process != UserNamespace::Initial {
            facts.may_reconfigure = may_reconfigure(path);
        } else if !(is_mounted_here && is_hosts_mount_namespace()) {
            facts.is_own_device = own_device().map(|own| own == register.dev());
        }
        facts
    }
}

/// Reports whether the file system with the device number `device` is mounted in the mount namespace of this process.
fn is_mounted_here(device: u64) -> bool {
    let device = format!("{}:{}", major(device), minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|mount| mount.split(' ').nth(2) == Some(&device))
}

/// Reports whether the user namespace of this process has a root (id 0). Without a root, the owner of an instance's
/// files does not show to which user namespace the instance belongs.
fn has_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().any(|line| line.split_whitespace().next() == Some("0"))
}

/// Reports whether this process has CAP_SYS_ADMIN in the user namespace of the instance on `path`. This namespace is
/// then the user namespace of this process, or is inside of it. Returns `None` if the answer is unknown.
fn may_reconfigure(path: &Path) -> Option<bool> {
    if !has_sys_admin() {
        return None;
    }
    let reconfigure = || {
        let picked = fspick(rustix::fs::CWD, path, FsPickFlags::FSPICK_CLOEXEC)?;
        match fsconfig_reconfigure(picked) {
            Ok(()) => Ok(true),
            Err(Errno::PERM) => Ok(false),
            Err(errno) => Err(errno),
        }
    };
    match reconfigure() {
        // The mount namespace belongs to an outer user namespace, where this process lacks the right to call
        // `fspick(2)`.
        Err(Errno::PERM) => in_new_mount_namespace(|| reconfigure().ok()),
        done => done.ok(),
    }
}

/// Mounts an instance where no other process sees it, and returns its device number. Used only in the initial user
/// namespace, which always has an instance.
fn own_device() -> Option<u64> {
    if !has_sys_admin() {
        return None;
    }
    in_new_mount_namespace(|| {
        // This directory always exists. Other processes do not see the mount.
        let point = Path::new("/proc");
        mount(Some("none"), point, Some("binfmt_misc"), MsFlags::empty(), None::<&str>).ok()?;
        fs::metadata(point.join("register")).ok().map(|metadata| metadata.dev())
    })
}

/// Runs `body` on a new thread, which is in a new mount namespace and ends afterwards. The user namespace stays the
/// same.
fn in_new_mount_namespace<T: Send>(body: impl FnOnce() -> Option<T> + Send) -> Option<T> {
    let enter = || {
        unshare(CloneFlags::CLONE_NEWNS).ok()?;
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).ok()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, || enter().and_then(|()| body()));
        thread.ok()?.join().ok()?
    })
}

/// Reports whether this process has CAP_SYS_ADMIN in its user namespace (`capabilities(7)`, `proc_pid_status(5)`).
fn has_sys_admin() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    effective.is_some_and(|effective| effective & CAP_SYS_ADMIN != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: KernelVersion = KernelVersion { major: 6, minor: 7 };
    const OLD: KernelVersion = KernelVersion { major: 6, minor: 6 };
    const ANSWERS: [Option<bool>; 3] = [None, Some(false), Some(true)];

    /// Returns every combination of facts.
    fn all_facts() -> impl Iterator<Item = Facts> {
        let here = [false, true].into_iter();
        here.flat_map(|is_mounted_here| {
            ANSWERS.into_iter().flat_map(move |is_owned_by_root| {
                ANSWERS.into_iter().flat_map(move |is_own_device| {
                    ANSWERS.into_iter().map(move |may_reconfigure| Facts {
                        is_mounted_here,
                        is_owned_by_root,
                        is_own_device,
                        may_reconfigure,
                    })
                })
            })
        })
    }

    #[test]
    fn before_linux_6_7_every_instance_is_the_hosts() {
        for facts in all_facts() {
            for process in [UserNamespace::Initial, UserNamespace::Other(7), UserNamespace::Unknown] {
                assert_eq!(decide(OLD, process, facts), Scope::Host, "{process:?} {facts:?}");
            }
        }
    }

    #[test]
    fn an_instance_is_of_this_namespace_only_if_verified() {
        for facts in all_facts() {
            let scope = decide(NEW, UserNamespace::Other(7), facts);
            let is_shown = facts.is_mounted_here && facts.may_reconfigure == Some(true);
            assert_eq!(scope == Scope::UserNamespace(7), is_shown, "{facts:?}");
            assert_ne!(scope, Scope::Host, "{facts:?}");
            assert_eq!(decide(NEW, UserNamespace::Unknown, facts), Scope::Unknown);
        }
    }

    #[test]
    fn the_hosts_root_sees_other_instances() {
        let host = |facts| decide(NEW, UserNamespace::Initial, facts);
        let here = Facts { is_mounted_here: true, is_owned_by_root: Some(true), ..Facts::default() };
        assert_eq!(host(here), Scope::Host);
        assert_eq!(host(Facts { is_own_device: Some(false), ..here }), Scope::Other);
        assert_eq!(host(Facts { is_owned_by_root: Some(false), ..here }), Scope::Other);
        assert_eq!(host(Facts { is_mounted_here: false, ..here }), Scope::Unknown);
        assert_eq!(host(Facts { is_mounted_here: false, is_own_device: Some(true), ..here }), Scope::Host);
    }
}
