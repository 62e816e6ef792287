//! A helper process that maps ids into the user namespace that its parent has entered.
//!
//! Only a process outside of a user namespace may map more than one id into it (`user_namespaces(7)`). The helper
//! process executes the file of qus with the argument [`MAP_HELPER`], and is started before the parent enters the
//! namespace. The helper waits for a byte on its standard input, and then maps the ids. Root's helper maps them itself;
//! the helper of another user runs `newuidmap(1)` and `newgidmap(1)`.

use std::fs;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::system::process;
use crate::system::users;
use nix::unistd::{getegid, geteuid, getppid};

/// The only command-line argument of the helper process.
pub const MAP_HELPER: &str = "__map-ids";
/// Number of all user ids or group ids: every 32-bit number except -1 (`user_namespaces(7)`).
const ALL: u32 = u32::MAX;
/// Exit status of the helper process if the user has no subordinate ids.
const NO_RANGE: u8 = 3;

/// A helper process that waits until [`map`](Self::map) is called.
pub(super) struct MapHelper(Child);

impl MapHelper {
    /// Starts the helper process; `None` if it cannot be started.
    pub(super) fn start() -> Option<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(MAP_HELPER).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().ok().map(Self)
    }

    /// Makes the helper process map ids into the user namespace that this process has entered. Waits until the helper
    /// ends.
    pub(super) fn map(mut self) -> Result<(), MapFailure> {
        let go = self.0.stdin.take().map(|mut input| input.write_all(b"."));
        let output = self.0.wait_with_output().map_err(|error| MapFailure::Failed(error.to_string()))?;
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match output.status.code() {
            Some(0) if matches!(go, Some(Ok(()))) => Ok(()),
            Some(code) if code == i32::from(NO_RANGE) => Err(MapFailure::NoRange(reason)),
            _ => Err(MapFailure::Failed(reason)),
        }
    }
}

/// Failure of the helper process to map ids. The value is a text for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapFailure {
    /// This user has no subordinate ids.
    NoRange(String),
    /// This user has subordinate ids, but they could not be mapped.
    Failed(String),
}

impl MapFailure {
    /// Returns the text for the user, and the exit status with which the helper process reports the failure.
    #[must_use]
    pub fn report(&self) -> (&str, u8) {
        match self {
            Self::NoRange(reason) => (reason, NO_RANGE),
            Self::Failed(reason) => (reason, 2),
        }
    }
}

/// Runs in the helper process: waits for a byte from `input`, and then maps ids into the user namespace of the parent.
pub fn serve_map(input: &mut dyn Read) -> Result<(), MapFailure> {
    // Read before the wait: if the parent ends during the wait, this process gets another parent.
    let parent = getppid().to_string();
    let mut go = [0];
    input.read_exact(&mut go).map_err(|_| MapFailure::Failed("the parent process has ended".to_owned()))?;
    if geteuid().is_root() {
        for file in ["uid_map", "gid_map"] {
            let path = Path::new("/proc").join(&parent).join(file);
            // Maps all ids of this namespace. A user namespace does not have all ids of the host.
            let text = whole_map(file).unwrap_or_else(|| format!("0 0 {ALL}\n"));
            let failed = |error| MapFailure::Failed(format!("{}: {error}", path.display()));
            fs::write(&path, text).map_err(failed)?;
        }
        return Ok(());
    }
    let name = users::name_of(geteuid()).unwrap_or_default();
    let range = |file: &str| {
        let no_range = || MapFailure::NoRange(format!("{file} has no range for this user"));
        users::subordinate_ids(Path::new(file), &name, geteuid()).ok_or_else(no_range)
    };
    // Both ranges are found before the first is mapped, because a map cannot be removed.
    let (users, groups) = (range("/etc/subuid")?, range("/etc/subgid")?);
    map_range("newuidmap", &parent, geteuid().as_raw(), users)?;
    map_range("newgidmap", &parent, getegid().as_raw(), groups)
}

/// Runs `program`, which is `newuidmap` or `newgidmap`, to map ids into the user namespace of process `pid`. The id
/// `own` becomes 0. The `count` subordinate ids from `start` on become the ids from 1 on.
fn map_range(program: &str, pid: &str, own: u32, (start, count): (u32, u32)) -> Result<(), MapFailure> {
    let words =
        [pid, "0", &own.to_string(), "1", "1", &start.to_string(), &count.to_string()].map(str::to_owned);
    let failed = |reason: &str| MapFailure::Failed(format!("{program}: {reason}"));
    let output =
        process::output(Command::new(program).args(words)).map_err(|error| failed(&error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim()))
}

/// Returns an id map that maps every id of this user namespace to itself. `file` is the current map, `uid_map` or
/// `gid_map`. Returns `None` if it cannot be read.
fn whole_map(file: &str) -> Option<String> {
    let own = fs::read_to_string(Path::new("/proc/self").join(file)).ok()?;
    let lines = own.lines().map(|line| {
        let mut words = line.split_whitespace();
        let (inside, _, count) = (words.next()?, words.next()?, words.next()?);
        Some(format!("{inside} {inside} {count}\n"))
    });
    lines.collect()
}
