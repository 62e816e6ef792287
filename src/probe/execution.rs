//! Executes a probe once and observes it. The result does not depend on the load of the machine.
//!
//! Two pipes make the result independent of time. `execve(2)` closes the first pipe in the probe's process. As soon as
//! qus reads the end of file from this pipe, `/proc/PID/exe` is the file that the kernel started. Earlier,
//! `/proc/PID/exe` may still be the file of qus. The second pipe is the standard input of the probe. The probe reads
//! from this pipe before it exits, so it waits until qus has inspected the process.

use std::fs::{self, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::fstatat;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::{ARGV0, End, Outcome};
use crate::system::file_id::FileId;
use crate::system::signals::end_is_requested;

/// Shortest and longest time limit of one execution. An emulator starts in milliseconds, or in seconds on a host that
/// is itself emulated.
const TIME_LIMITS: [Duration; 2] = [Duration::from_secs(20), Duration::from_mins(10)];
/// Time limit of an execution with an emulator, as a multiple of the time that a native program takes to start and
/// exit.
const TIME_FACTOR: u32 = 2000;
/// When a probe has reached its time limit, qus measures for this time how fast the machine runs programs now. A slow
/// machine gets a longer limit.
const MEASURE_TIME: Duration = Duration::from_secs(2);
/// Maximum time between two checks of whether the executed process still lives.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum size of the output that is stored for one execution, in bytes. The rest is dropped.
const OUTPUT_MAX: usize = 2048;

/// Executes probes. It opens `/proc` in advance, because the helper process may then enter a root directory that has no
/// `/proc`.
pub(super) struct Executor {
    proc: OwnedFd,
    /// Device and inode number of qus's own executable. A forked process still executes this file until its `execve(2)`
    /// succeeds.
    own: Option<FileId>,
    limit: Limit,
}

/// Time limit of the executions of programs.
#[derive(Debug)]
struct Limit {
    /// Present limit. It grows when the machine turns out to be slow.
    time: Mutex<Duration>,
    /// Path of a native program. Before an execution counts as too late, the time that this program takes shows how
    /// fast the machine is now.
    canary: Option<PathBuf>,
}

impl Limit {
    fn new(time: Duration, canary: Option<PathBuf>) -> Self {
        Self { time: Mutex::new(time), canary }
    }
}

impl Executor {
    /// Prepares executions. `canary` is the path of a native program, if there is one. It is executed only if a probe
    /// does not start or takes long.
    pub(super) fn new(canary: Option<PathBuf>) -> io::Result<Self> {
        let proc = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open("/proc")?;
        let own = fs::metadata("/proc/self/exe").ok().map(|metadata| FileId::of(&metadata));
        Ok(Self { proc: proc.into(), own, limit: Limit::new(TIME_LIMITS[0], canary) })
    }

    /// Returns the reason why no program can be executed in the directory of the probes, whose outcomes are `outcomes`.
    /// Returns `None` if programs can be executed there.
    ///
    /// If a probe could not be started, the native program is executed. If a handler matches the native program or the
    /// kernel cannot run it, the directory is not the cause.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub(super) fn obstacle(&self, outcomes: &[Outcome]) -> io::Result<Option<io::Error>> {
        let (Some(canary), true) =
            (&self.limit.canary, outcomes.iter().any(|outcome| refused(outcome).is_some()))
        else {
            return Ok(None);
        };
        Ok(refused(&self.execute(canary)?).map(io::Error::from_raw_os_error))
    }

    /// Executes the program at `path` with an empty environment, in its own process group.
    ///
    /// # Errors
    /// This process has reached a limit of processes, memory or file descriptors. The error says nothing about a
    /// handler.
    pub(super) fn execute(&self, path: &Path) -> io::Result<Outcome> {
        self.execute_within(path, &self.limit)
    }

    fn execute_within(&self, path: &Path, limit: &Limit) -> io::Result<Outcome> {
        let (exec, before_exec) = io::pipe()?;
        let (input, release) = io::pipe()?;
        let (output, writer) = io::pipe()?;
        let mut command = Command::new(path);
        command.arg0(ARGV0).env_clear().process_group(0);
        command.stdin(input).stdout(writer.try_clone()?).stderr(writer);
        let began = Instant::now();
        let spawned = command.spawn();
        // Open copies of the descriptors in this process would prevent the end of file.
        drop((command, before_exec));
        match spawned {
            Ok(child) => Running { executor: self, limit, child, output, began, text: Vec::new() }
                .watch(&exec, release),
            Err(error) => not_started(error),
        }
    }

    /// Returns the file that the process `pid` executes. Returns `None` if the process has not yet called `execve(2)`
    /// successfully.
    fn program_of(&self, pid: u32) -> Option<FileId> {
        let stat = fstatat(&self.proc, format!("{pid}/exe").as_str(), AtFlags::empty()).ok()?;
        #[allow(clippy::useless_conversion, reason = "narrower on some hosts")]
        let program = FileId { device: stat.st_dev.into(), inode: stat.st_ino.into() };
        Some(program).filter(|program| Some(*program) != self.own)
    }

    /// Reports whether an execution that began at `began` takes too long for the present speed of the machine, or a
    /// signal asks this process to end.
    fn is_late(&self, began: Instant, limit: &Limit) -> bool {
        if end_is_requested() {
            return true;
        }
        // Other executions wait here while the machine is measured.
        let mut time = limit.time.lock().unwrap_or_else(PoisonError::into_inner);
        if began.elapsed() < *time {
            return false;
        }
        // The machine may be slow, or slower than at the last measurement.
        let Some(canary) = &limit.canary else { return true };
        let Some(start) = self.slowest_start(canary) else { return true };
        *time = time_limit(start).max(*time);
        began.elapsed() >= *time
    }

    /// Executes the native program at `canary` repeatedly during [`MEASURE_TIME`], and returns the longest time that
    /// one execution took. One start is not enough: on a machine that is repeatedly paused and resumed, a short program
    /// can run at full speed between two pauses.
    fn slowest_start(&self, canary: &Path) -> Option<Duration> {
        let longest = Limit::new(TIME_LIMITS[1], None);
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        while began.elapsed() < MEASURE_TIME && !end_is_requested() {
            let before = Instant::now();
            self.execute_within(canary, &longest).ok()?;
            slowest = slowest.max(before.elapsed());
        }
        Some(slowest)
    }
}

/// Returns the time limit of probes on a machine that needs the time `start` to start and end a native program.
fn time_limit(start: Duration) -> Duration {
    let [shortest, longest] = TIME_LIMITS;
    start.saturating_mul(TIME_FACTOR).clamp(shortest, longest)
}

/// Returns the error number with which `execve(2)` refused a program, unless the format of its file is the reason.
fn refused(outcome: &Outcome) -> Option<i32> {
    match outcome.end {
        End::NotStarted(errno) if errno != Errno::ENOEXEC as i32 => Some(errno),
        _ => None,
    }
}

/// Converts the error of a failed process start. If `execve(2)` failed, this is the outcome of the probe. A lack of
/// resources is an error.
fn not_started(error: io::Error) -> io::Result<Outcome> {
    match error.raw_os_error().map(Errno::from_raw) {
        None | Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => Err(error),
        Some(errno) => {
            Ok(Outcome { end: End::NotStarted(errno as i32), started: None, output: String::new() })
        }
    }
}

/// Started process of a probe, and the output that was read from it.
struct Running<'a> {
    executor: &'a Executor,
    limit: &'a Limit,
    child: Child,
    output: PipeReader,
    began: Instant,
    text: Vec<u8>,
}

impl Running<'_> {
    /// Waits until the kernel has started the program, determines which file the kernel started, lets the program
    /// continue, and waits for its end.
    fn watch(mut self, exec: &PipeReader, release: PipeWriter) -> io::Result<Outcome> {
        let reached_exec = self.wait_for(exec);
        let started = if reached_exec { self.executor.program_of(self.child.id()) } else { None };
        drop(release);
        let in_time = reached_exec && self.read_output() && self.wait_for_end();
        // The process is not reaped yet, so no other process group can have its number.
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        let _no_process_left = killpg(group, Signal::SIGKILL);
        let status = self.child.wait()?;
        let end = if in_time { end_of(status) } else { End::TimedOut };
        Ok(Outcome { end, started, output: String::from_utf8_lossy(&self.text).into_owned() })
    }

    fn is_late(&self) -> bool {
        self.executor.is_late(self.began, self.limit)
    }

    /// Waits until data arrives on `pipe` or its other end is closed. Returns false if the time limit is reached first.
    fn wait_for(&self, pipe: &PipeReader) -> bool {
        loop {
            let timeout = PollTimeout::try_from(CHECK_INTERVAL).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) | Err(Errno::EINTR) if self.is_late() => return false,
                Ok(0) | Err(Errno::EINTR) => {}
                _ => return true,
            }
        }
    }

    /// Reads the program's output until the program closes it or exits. After the exit, a child may still have the
    /// output open. Returns false if the time limit is reached first.
    fn read_output(&mut self) -> bool {
        let mut buffer = [0; 512];
        loop {
            let timeout = PollTimeout::try_from(CHECK_INTERVAL).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) if self.has_ended() => return true,
                Ok(0) | Err(Errno::EINTR) if self.is_late() => return false,
                Ok(0) | Err(Errno::EINTR) => continue,
                _ => {}
            }
            match self.output.read(&mut buffer) {
                Ok(0) => return true,
                Ok(count) => {
                    let room = OUTPUT_MAX.saturating_sub(self.text.len()).min(count);
                    self.text.extend_from_slice(buffer.get(..room).unwrap_or_default());
                    // A program that never stops writing must reach the time limit as well.
                    if self.is_late() {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
    }

    /// Waits until the program, which has closed its output, exits. Returns false if the time limit is reached first.
    fn wait_for_end(&self) -> bool {
        let mut pause = Duration::from_micros(100);
        while !self.has_ended() {
            if self.is_late() {
                return false;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(CHECK_INTERVAL);
        }
        true
    }

    /// Reports whether the process has ended. The process is not reaped, so its number stays in use.
    fn has_ended(&self) -> bool {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, signal) => End::Killed(signal.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executor(time: Duration) -> Executor {
        Executor { limit: Limit::new(time, None), ..Executor::new(None).unwrap() }
    }

    fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        (directory, path)
    }

    fn run(text: &str, time_limit: Duration) -> Outcome {
        let (_directory, path) = script(text);
        // Another thread may have forked while the script was open for writing; `execve(2)` then fails with ETXTBSY.
        loop {
            let outcome = executor(time_limit).execute(&path).unwrap();
            if outcome.end != End::NotStarted(Errno::ETXTBSY as i32) {
                return outcome;
            }
        }
    }

    #[test]
    fn a_program_waits_until_it_is_inspected() {
        let outcome = run("read line; exit 5", TIME_LIMITS[0]);
        assert_eq!(outcome.end, End::Exited(5));
        let shell = fs::metadata("/bin/sh").unwrap();
        assert_eq!(outcome.started, Some(FileId::of(&shell)));
    }

    #[test]
    fn the_time_limit_ends_a_program_and_its_children() {
        let limit = Duration::from_millis(200);
        assert_eq!(run("echo working on it; sleep 1000", limit).end, End::TimedOut);
        assert_eq!(run("exec >&- 2>&-; sleep 1000", limit).end, End::TimedOut);
        assert_eq!(run("while :; do echo x; done", limit).end, End::TimedOut);
        let outcome = run("echo working on it; sleep 1000", limit);
        assert_eq!(outcome.output, "working on it\n");
    }

    #[test]
    fn a_remaining_child_does_not_delay_the_outcome() {
        assert_eq!(run("sleep 1000 & exit 3", TIME_LIMITS[0]).end, End::Exited(3));
    }

    #[test]
    fn a_part_of_the_output_is_kept() {
        let outcome = run("head -c 100000 /dev/zero | tr '\\0' x", TIME_LIMITS[0]);
        assert_eq!((outcome.end, outcome.output.len()), (End::Exited(0), OUTPUT_MAX));
    }

    #[test]
    fn the_time_limit_follows_the_machine() {
        assert_eq!(time_limit(Duration::from_micros(300)), TIME_LIMITS[0]);
        assert_eq!(time_limit(Duration::from_millis(50)), Duration::from_secs(100));
        assert_eq!(time_limit(Duration::from_secs(5)), TIME_LIMITS[1]);
    }

    fn not_started_with(errno: Errno) -> [Outcome; 1] {
        [Outcome { end: End::NotStarted(errno as i32), started: None, output: String::new() }]
    }

    #[test]
    fn the_native_program_shows_whether_the_directory_is_the_cause() {
        let (_directory, canary) = script("exit 0");
        let executor = Executor::new(Some(canary.clone())).unwrap();
        let obstacle = |outcomes: &[Outcome]| loop {
            match executor.obstacle(outcomes).unwrap().and_then(|error| error.raw_os_error()) {
                Some(errno) if errno == Errno::ETXTBSY as i32 => {}
                other => return other,
            }
        };
        assert_eq!(obstacle(&not_started_with(Errno::ENOEXEC)), None);
        assert_eq!(obstacle(&not_started_with(Errno::EACCES)), None);
        fs::set_permissions(&canary, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(obstacle(&not_started_with(Errno::ENOEXEC)), None);
        assert_eq!(obstacle(&not_started_with(Errno::EACCES)), Some(Errno::EACCES as i32));
        let without = Executor::new(None).unwrap();
        assert!(without.obstacle(&not_started_with(Errno::EACCES)).unwrap().is_none());
    }

    #[test]
    fn the_time_limit_grows_on_a_slow_machine() {
        let (_directory, canary) = script("sleep 0.1");
        let limit = Limit::new(Duration::ZERO, Some(canary));
        let began = Instant::now();
        let executor = Executor::new(None).unwrap();
        assert!(!executor.is_late(began, &limit));
        assert!(*limit.time.lock().unwrap() >= Duration::from_secs(200));
    }

    #[test]
    fn a_lack_of_resources_is_no_outcome() {
        for errno in [Errno::EAGAIN, Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM] {
            assert!(not_started(io::Error::from_raw_os_error(errno as i32)).is_err());
        }
        let outcome = not_started(io::Error::from_raw_os_error(Errno::ENOEXEC as i32)).unwrap();
        assert_eq!(outcome.end, End::NotStarted(Errno::ENOEXEC as i32));
    }
}
