//! Gives up the rights of a process before it runs a program of another user.

use std::fs;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use thiserror::Error;

/// Ids of `nobody` and `nogroup`, which have no rights of their own. They are also the kernel's overflow ids.
pub const NOBODY: u32 = 65534;

/// Failure to give up rights.
#[derive(Debug, Error)]
pub enum RightsError {
    /// A system call that changes ids or process attributes failed.
    #[error("cannot give up the rights of this process: {0}")]
    System(#[from] Errno),
    /// A capability set could not be changed.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(String),
    /// The bounding set could not be emptied. An exec by root would then restore every capability (`capabilities(7)`).
    #[error("cannot give up capabilities: this process may not change its bounding set (CAP_SETPCAP)")]
    BoundingSet,
}

/// Gives up all rights of this process and of the programs that it executes. Sets user `nobody` if possible, and
/// removes supplementary groups, all capabilities, and the ability to gain privileges by exec.
///
/// Keeps the user if it is not root, or if it is root in a user namespace without the ids of `nobody`. Another process
/// of the same user cannot trace this one. Must be called before threads are started, because capabilities belong to a
/// single thread.
pub fn give_up_all() -> Result<(), RightsError> {
    prctl::set_no_new_privs()?;
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    let bounded = !has(Capability::CAP_SETPCAP) || empty_bounding_set()?;
    if geteuid().is_root() && has(Capability::CAP_SETUID) && has(Capability::CAP_SETGID) && has_nobody() {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setgroups(&[])?;
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(|error| RightsError::Capabilities(error.to_string()))?;
    }
    if geteuid().is_root() && (!bounded || !bounding_set_is_empty()) {
        return Err(RightsError::BoundingSet);
    }
    // An emulated kernel may not support this call, and nothing depends on it there.
    let _ = prctl::set_dumpable(false);
    Ok(())
}

/// Drops every capability from the bounding set.
fn empty_bounding_set() -> Result<bool, RightsError> {
    for capability in caps::runtime::thread_all_supported() {
        caps::drop(None, CapSet::Bounding, capability)
            .map_err(|error| RightsError::Capabilities(error.to_string()))?;
    }
    Ok(true)
}

fn bounding_set_is_empty() -> bool {
    caps::read(None, CapSet::Bounding).is_ok_and(|set| set.is_empty())
}

/// Reports whether this user namespace has the ids of `nobody` and permits giving up groups (`user_namespaces(7)`).
fn has_nobody() -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    maps(&read("uid_map"), NOBODY) && maps(&read("gid_map"), NOBODY) && read("setgroups").trim() != "deny"
}

/// Reports whether an id map contains `id`. Its lines have the first inner id, the first outer id, and the count.
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<u64>().ok());
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        first.zip(count).is_some_and(|(first, count)| (first..first + count).contains(&u64::from(id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_map_is_read_by_ranges() {
        assert!(maps("         0          0 4294967295\n", NOBODY));
        assert!(maps("0 1000 1\n1 100000 65536\n", NOBODY));
        assert!(!maps("0 1000 1\n", NOBODY));
        assert!(!maps("0 1000 65534\n", NOBODY));
        assert!(!maps("", NOBODY));
    }
}
