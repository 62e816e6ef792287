//! A helper process that maps ids into the user namespace that its parent has entered.
//!
//! Only a process outside of a user namespace may map more than one id into it (`user_namespaces(7)`). The helper is
//! the same executable, started with [`MAP_HELPER`] before the parent enters the namespace. It waits for a byte on its
//! standard input, and then maps the ids: root maps them itself, other users through `newuidmap(1)` and `newgidmap(1)`.

use std::fs;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::system::process;
use crate::system::users;
use nix::unistd::{getegid, geteuid, getppid};

/// The only argument of the helper process.
pub const MAP_HELPER: &str = "__map-ids";
/// Number of all ids: every number except -1 (`user_namespaces(7)`).
const ALL: u32 = u32::MAX;
/// Exit status of a helper that found no subordinate ids.
const NO_RANGE: u8 = 3;

/// A waiting helper process.
pub(super) struct MapHelper(Child);

impl MapHelper {
    /// Starts a helper; `None` if this fails.
    pub(super) fn start() -> Option<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(MAP_HELPER).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().ok().map(Self)
    }

    /// Lets the helper map the ids of this process, which has entered the new namespace.
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

/// Failure of a helper to map ids, with a text for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapFailure {
    /// This user has no subordinate ids.
    NoRange(String),
    /// This user has subordinate ids, but they could not be mapped.
    Failed(String),
}

impl MapFailure {
    /// Returns the text, and the exit status that identifies the failure.
    #[must_use]
    pub fn report(&self) -> (&str, u8) {
        match self {
            Self::NoRange(reason) => (reason, NO_RANGE),
            Self::Failed(reason) => (reason, 2),
        }
    }
}

/// Runs the helper process until it ends.
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

/// Runs `program`, which may map ids: `own` becomes 0, and the range follows it.
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

/// Returns a map of every id of this namespace to itself; `None` if the current map cannot be read.
fn whole_map(file: &str) -> Option<String> {
    let own = fs::read_to_string(Path::new("/proc/self").join(file)).ok()?;
    let lines = own.lines().map(|line| {
        let mut words = line.split_whitespace();
        let (inside, _, count) = (words.next()?, words.next()?, words.next()?);
        Some(format!("{inside} {inside} {count}\n"))
    });
    lines.collect()
}
