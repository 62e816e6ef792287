//! Gives up the rights of this process before it executes a program of another user.

use std::fs;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use thiserror::Error;

/// User id of `nobody` and group id of `nogroup`, which have no rights of their own. The kernel also shows this number
/// for an id that is not mapped (overflow id).
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
    /// The capability bounding set could not be emptied. Every program that root executes would then get all
    /// capabilities back (`capabilities(7)`).
    #[error("cannot give up capabilities: this process may not change its bounding set (CAP_SETPCAP)")]
    BoundingSet,
}

/// Gives up all rights of this process and of the programs that it executes. Changes the user to `nobody` if possible.
/// Removes the supplementary groups, all capabilities, and the possibility to gain privileges by executing a program.
///
/// The user stays the same if it is not root, or if it is root in a user namespace without the ids of `nobody`. Other
/// processes of the same user can no longer trace this process. Must be called before this process starts threads,
/// because capabilities belong to a single thread.
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

/// Removes every capability from the capability bounding set of this thread. Returns true.
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

/// Reports whether the ids of `nobody` and `nogroup` exist in this user namespace, and processes in it may give up
/// their supplementary groups (`user_namespaces(7)`).
fn has_nobody() -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    maps(&read("uid_map"), NOBODY) && maps(&read("gid_map"), NOBODY) && read("setgroups").trim() != "deny"
}

/// Reports whether the id map `map` contains the inner id `id`. Each line of a map has the first inner id, the first
/// outer id, and the number of ids.
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
