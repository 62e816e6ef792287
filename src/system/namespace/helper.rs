//! A helper process that maps ids into a user namespace which its parent has entered.
//!
//! Only a process outside of a user namespace may map more than one id into it (`user_namespaces(7)`). The helper is this
//! very executable, started with [`MAP_HELPER`] before the namespace is entered; it waits for a byte on its standard
//! input, and then maps: as root itself, otherwise through `newuidmap(1)` and `newgidmap(1)`.

use std::fs;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::system::process;
use crate::system::users;
use nix::unistd::{getegid, geteuid, getppid};

/// The only argument of the helper process.
pub const MAP_HELPER: &str = "__map-ids";
/// As many ids as there are: all but -1 (`user_namespaces(7)`).
const ALL: u32 = u32::MAX;
/// Exit status of a helper that found no subordinate ids.
const NO_RANGE: u8 = 3;

/// A helper that waits.
pub(super) struct MapHelper(Child);

impl MapHelper {
    /// Starts one; `None` where that is not possible.
    pub(super) fn start() -> Option<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(MAP_HELPER).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().ok().map(Self)
    }

    /// Has it map the ids of this process, which is in the new namespace now.
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

/// Failure of a helper to map ids, with a text for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapFailure {
    /// This user has no subordinate ids.
    NoRange(String),
    /// He has, and they could not be mapped.
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

/// The whole life of a helper process.
pub fn serve_map(input: &mut dyn Read) -> Result<(), MapFailure> {
    // Checked before the wait: if the parent has died meanwhile, this process has another parent.
    let parent = getppid().to_string();
    let mut go = [0];
    input.read_exact(&mut go).map_err(|_| MapFailure::Failed("no process waits for it".to_owned()))?;
    if geteuid().is_root() {
        for file in ["uid_map", "gid_map"] {
            let path = Path::new("/proc").join(&parent).join(file);
            // All ids of this namespace. In a user namespace these are not all that exist.
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
    // Both are known before the first is mapped: a map cannot be taken back.
    let (users, groups) = (range("/etc/subuid")?, range("/etc/subgid")?);
    map_range("newuidmap", &parent, geteuid().as_raw(), users)?;
    map_range("newgidmap", &parent, getegid().as_raw(), groups)
}

/// Maps `own` as 0 and the range above it, by the program that may.
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

/// Every id of this namespace, mapped to itself.
fn whole_map(file: &str) -> Option<String> {
    let own = fs::read_to_string(Path::new("/proc/self").join(file)).ok()?;
    let lines = own.lines().map(|line| {
        let mut words = line.split_whitespace();
        let (inside, _, count) = (words.next()?, words.next()?, words.next()?);
        Some(format!("{inside} {inside} {count}\n"))
    });
    lines.collect()
}
