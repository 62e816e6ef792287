//! Where this process is: which user namespace an instance belongs to, and so who sees what is registered in it.

use std::fmt;
use std::os::unix::fs::MetadataExt;

use nix::unistd::geteuid;
use serde::Serialize;

/// Inode of the initial user namespace, `PROC_USER_INIT_INO` in `include/linux/proc_ns.h` (K73).
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;

/// Who sees what is registered from here (K65).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The initial user namespace: everything on this host that has no instance of its own.
    Host,
    /// A user namespace, by its inode: only what runs inside it, until it ends.
    UserNamespace(u64),
}

impl Scope {
    /// The scope of this process.
    #[must_use]
    pub fn here() -> Self {
        match std::fs::metadata("/proc/self/ns/user").map(|metadata| metadata.ino()) {
            Ok(inode) if inode != INITIAL_USER_NAMESPACE => Self::UserNamespace(inode),
            // Kernels without user namespaces have no such file, and only one scope.
            _ => Self::Host,
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
        }
    }
}
