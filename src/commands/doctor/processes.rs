//! Facts about other processes: BuildKit daemons that started before the handlers were registered, and mounts that keep
//! the instance alive.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::stat::{major, minor};
use nix::unistd::{SysconfVar, sysconf};

use crate::system::namespace::{inode, is_hosts_mount_namespace};

/// Inaccuracy of a comparison between the start time of a process and the time of a file. The kernel counts the start
/// time in ticks since boot. It updates the clock for file times only every few milliseconds (K68).
pub(super) const CLOCK_SKEW: Duration = Duration::from_millis(100);

/// A running BuildKit daemon. It detects the platforms of the host's handlers when it starts, and later only when a
/// client lists its workers. For a platform that it has not detected, it uses its own emulator or none.
pub(super) struct BuildkitDaemon {
    pub(super) pid: u32,
    pub(super) started: SystemTime,
    /// Control groups of the daemon: the text of `/proc/PID/cgroup`.
    pub(super) groups: String,
}

/// Finds the running BuildKit daemons in the user namespace of this process. Daemons of other user namespaces use other
/// handlers.
pub(super) fn buildkit_daemons() -> Vec<BuildkitDaemon> {
    let here = inode("self", "user");
    let daemons = processes().into_iter().filter(|pid| read(*pid, "comm").trim_end() == "buildkitd");
    let own = daemons.filter(|pid| inode(&pid.to_string(), "user") == here);
    own.filter_map(|pid| Some(BuildkitDaemon { pid, started: started(pid)?, groups: read(pid, "cgroup") }))
        .collect()
}

/// Mounts of the instance outside the mount namespace of this process. The kernel removes all handlers of an instance
/// with its last mount (K67).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MountHolder {
    /// The host or another mount namespace has mounted the instance. The instance therefore outlasts this mount
    /// namespace.
    Others,
    /// No other mount namespace has mounted the instance. The value is the id of a process in the outer mount namespace
    /// of the same user namespace.
    Inside(u32),
    /// No other visible mount namespace has mounted the instance. Outer processes are hidden, as in a container, and
    /// the instance is not older than process 1.
    InsideAsFarAsSeen,
    /// The mounts of the instance cannot be determined.
    Unknown,
}

impl MountHolder {
    /// Determines which mounts hold the instance that is mounted on `path`, and so keep its handlers alive.
    pub(super) fn of(path: &Path) -> Self {
        let Ok(register) = fs::metadata(path.join("register")) else { return Self::Unknown };
        if is_hosts_mount_namespace() {
            return Self::Others;
        }
        let device = format!("{}:{}", major(register.dev()), minor(register.dev()));
        if is_mounted_elsewhere(&device) {
            return Self::Others;
        }
        if let Some(pid) = outer_process() {
            return Self::Inside(pid);
        }
        // Process 1 is in another mount namespace, so its start time does not matter here.
        if inode("1", "mnt") != inode("self", "mnt") {
            return Self::Unknown;
        }
        // An instance that is older than process 1 was not created here (K68).
        match register.modified().ok().zip(started(1)) {
            Some((made, first)) if made + CLOCK_SKEW < first => Self::Others,
            Some(_) => Self::InsideAsFarAsSeen,
            None => Self::Unknown,
        }
    }
}

/// Reports whether another mount namespace has mounted the file system with the device number `device`, written as
/// `MAJOR:MINOR`.
fn is_mounted_elsewhere(device: &str) -> bool {
    let mut looked_at: Vec<u64> = inode("self", "mnt").into_iter().collect();
    processes().into_iter().any(|pid| {
        // The mounts of a process may be readable even if its namespace is not.
        if let Some(namespace) = inode(&pid.to_string(), "mnt") {
            if looked_at.contains(&namespace) {
                return false;
            }
            looked_at.push(namespace);
        }
        read(pid, "mountinfo").lines().any(|mount| mount.split(' ').nth(2) == Some(device))
    })
}

/// Returns the id of the nearest ancestor of this process that is in the same user namespace but in another mount
/// namespace.
fn outer_process() -> Option<u32> {
    let (user, mount) = (inode("self", "user")?, inode("self", "mnt")?);
    let mut pid = std::process::id();
    loop {
        pid = parent(pid).filter(|parent| *parent != 0)?;
        let process = pid.to_string();
        // The namespaces of another user's process cannot be read.
        if inode(&process, "user")? != user {
            return None;
        }
        if inode(&process, "mnt")? != mount {
            return Some(pid);
        }
    }
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Reads `/proc/PID/FILE`. Returns an empty string if that fails.
fn read(pid: u32, file: &str) -> String {
    let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join(file)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns field `number` of `/proc/PID/stat`, as proc(5) numbers the fields. The second field, the name of the
/// program, may contain any characters. So the fields after it are counted from 3.
fn field(pid: u32, number: usize) -> Option<u64> {
    let stat = read(pid, "stat");
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
}

fn parent(pid: u32) -> Option<u32> {
    field(pid, 4)?.try_into().ok()
}

/// Returns the time at which the process `pid` started.
fn started(pid: u32) -> Option<SystemTime> {
    let ticks = field(pid, 22)?;
    let rate = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok().filter(|rate| *rate != 0)?;
    let since_boot = Duration::from_millis(ticks.saturating_mul(1000) / rate);
    // Both times count from the same moment, also in a time namespace.
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = uptime.split(' ').next()?.split_once('.')?;
    let uptime =
        Duration::new(seconds.parse().ok()?, hundredths.parse::<u32>().ok()?.checked_mul(10_000_000)?);
    SystemTime::now().checked_sub(uptime.checked_sub(since_boot)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_and_the_parent_of_a_process_are_found() {
        let before = SystemTime::now();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let (after, pid) = (SystemTime::now(), child.id());
        let began = started(pid).unwrap();
        assert!(before - CLOCK_SKEW < began && began < after + CLOCK_SKEW, "{before:?} {began:?} {after:?}");
        assert_eq!(parent(pid), Some(std::process::id()));
        assert!(processes().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(started(pid), None);
    }
}
