//! Rights of a process, and giving them up before another user's program may run.

use std::fs;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use thiserror::Error;

/// User and group without rights of their own (`nobody` and `nogroup`); the kernel's overflow ids.
pub const NOBODY: u32 = 65534;

/// A right that could not be given up.
#[derive(Debug, Error)]
pub enum RightsError {
    /// A system call of a process attribute or of user ids failed.
    #[error("cannot give up the rights of this process: {0}")]
    System(#[from] Errno),
    /// A capability set could not be changed.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(String),
    /// An exec by root would give every capability back (`capabilities(7)`).
    #[error("cannot give up capabilities: this process may not change its bounding set (CAP_SETPCAP)")]
    BoundingSet,
}

/// Gives up all rights of this process and of what it executes: user `nobody` if that is possible, no supplementary
/// groups, no capabilities in any set, and no new privileges by exec.
///
/// A user other than root stays the same user, and so does root of a user namespace without the ids of `nobody`.
/// Another process of the same user cannot trace this one. Must be called before there are threads: capabilities belong
/// to one.
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
    // An emulated kernel may not have it; nothing depends on it there.
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

/// Reports whether the ids of `nobody` exist in this user namespace, and groups may be given up there
/// (`user_namespaces(7)`).
fn has_nobody() -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    maps(&read("uid_map"), NOBODY) && maps(&read("gid_map"), NOBODY) && read("setgroups").trim() != "deny"
}

/// Reports whether an id map has `id`: lines of first id inside, first id outside, count.
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
