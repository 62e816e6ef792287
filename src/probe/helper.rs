//! The helper process that executes probes.
//!
//! It is this very executable, started anew with [`HELPER`] as its only argument: entering a user namespace or another
//! root directory is for ever, and must not happen to the process that registers. It reads a [`Session`] from standard
//! input and writes a [`Report`] to standard output, both as JSON.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::fstatat;
use nix::unistd::{chdir, chroot, getegid, geteuid};
use serde::{Deserialize, Serialize};

use super::{ARGV0, End, Outcome, Trial};
use crate::kernel::{DEFAULT_PATH, Instance};
use crate::system::file_id::FileId;

/// The only argument of a helper process.
pub const HELPER: &str = "__probe";

/// How long one execution may take: an emulator starts in milliseconds, on a host that is itself emulated in seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a probe is run at most, until it is seen what runs it: on a busy host it may end before we get to look.
const LOOKS: usize = 50;
/// How long to sleep before another look: who has slept is scheduled before who has not.
const NAP: Duration = Duration::from_millis(3);
/// How much is kept of what an execution prints, in bytes.
const SAID_MAX: usize = 2048;

/// What a helper is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Session {
    /// Where the probes are put: an empty directory of its own on a file system that lets programs run.
    pub(super) directory: PathBuf,
    /// Enter a fresh user namespace with an instance of its own first, in which there is no handler.
    pub(super) without_handlers: bool,
    /// Run all of them once more with the directory as root.
    pub(super) empty_root: bool,
    /// See what runs each, and run it again until that is seen. How it ends is known at once.
    pub(super) see: bool,
    /// Contents of the probes.
    pub(super) images: Vec<Vec<u8>>,
    /// Interpreters to be asked for their version.
    pub(super) versions: Vec<PathBuf>,
}

/// What a helper found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// For each image, in order.
    pub(super) trials: Vec<Trial>,
    /// For each interpreter, in order: what `--version` printed.
    pub(super) versions: Vec<String>,
}

/// Serves one session: the whole life of a helper process. The error is for a person.
pub fn serve(input: &mut dyn io::Read, output: &mut dyn io::Write) -> Result<(), String> {
    let mut text = Vec::new();
    input.read_to_end(&mut text).map_err(|error| format!("cannot read the session: {error}"))?;
    let session: Session = serde_json::from_slice(&text).map_err(|error| format!("no session: {error}"))?;
    // A crashing emulator must not leave a core file behind.
    let _unlimited_without = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if session.without_handlers {
        leave_handlers()?;
    }
    let report = session.run()?;
    serde_json::to_writer(&mut *output, &report).map_err(|error| error.to_string())?;
    output.flush().map_err(|error| error.to_string())
}

/// A user namespace that never mounted an instance sees its ancestor's handlers; one that has just mounted a fresh one
/// has none (K65, K66).
fn leave_handlers() -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what}: {error}");
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| failed("enter a user namespace", &errno))?;
    let write = |file: &str, text: String| {
        fs::write(Path::new("/proc/self").join(file), text).map_err(|error| failed(file, &error))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))?;
    Instance::mount(Path::new(DEFAULT_PATH)).map_err(|error| error.to_string())
}

impl Session {
    pub(super) fn run(&self) -> Result<Report, String> {
        let io = |error: io::Error| format!("cannot prepare probes in {}: {error}", self.directory.display());
        let means = Means::open().map_err(|error| format!("cannot open /proc: {error}"))?;
        for (index, image) in self.images.iter().enumerate() {
            write_executable(&self.directory.join(file_name(index)), image).map_err(io)?;
        }
        let host = parallel(self.images.len(), |index| {
            means.probe(&self.directory.join(file_name(index)), self.see)
        });
        let versions = parallel(self.versions.len(), |index| {
            self.versions.get(index).map(|path| means.version(path)).unwrap_or_default()
        });
        let empty_root = self.enter_empty_root();
        let root = if empty_root { Path::new("/") } else { self.directory.as_path() };
        let again = if empty_root {
            parallel(self.images.len(), |index| Some(means.probe(&root.join(file_name(index)), self.see)))
        } else {
            vec![None; host.len()]
        };
        for index in 0..self.images.len() {
            fs::remove_file(root.join(file_name(index))).map_err(io)?;
        }
        let trials =
            host.into_iter().zip(again).map(|(host, empty_root)| Trial { host, empty_root }).collect();
        Ok(Report { trials, versions })
    }

    /// Whether the directory is now the root directory. Where `chroot(2)` is not permitted, a user namespace permits it.
    fn enter_empty_root(&self) -> bool {
        if !self.empty_root {
            return false;
        }
        let entered = match chroot(&self.directory) {
            Err(Errno::EPERM) => unshare(CloneFlags::CLONE_NEWUSER).and_then(|()| chroot(&self.directory)),
            other => other,
        };
        entered.and_then(|()| chdir("/")).is_ok()
    }
}

fn file_name(index: usize) -> String {
    format!("probe-{index}")
}

fn write_executable(path: &Path, image: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
    file.write_all(image)?;
    // The mode above is subject to the umask.
    file.set_permissions(fs::Permissions::from_mode(0o755))
}

/// The results of `task` for `0..count`, from as many threads as there are processors.
fn parallel<T: Send + Default + Clone>(count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results = Mutex::new(vec![T::default(); count]);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let result = task(index);
            if let Ok(mut results) = results.lock()
                && let Some(slot) = results.get_mut(index)
            {
                *slot = result;
            }
        }
    };
    // To know how many processors there are, half a dozen files are read: not for a single task.
    let threads =
        if count > 1 { thread::available_parallelism().map_or(1, NonZero::get).min(count) } else { 1 };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    results.into_inner().unwrap_or_default()
}

/// What an execution needs from outside the empty root directory, opened beforehand.
struct Means {
    proc: OwnedFd,
    /// Standard input of what is executed: a pipe that nobody writes to. A bare root directory has no `/dev/null`.
    nothing: io::PipeReader,
}

impl Means {
    fn open() -> io::Result<Self> {
        let proc = fs::OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open("/proc")?;
        let (nothing, _) = io::pipe()?;
        Ok(Self { proc: proc.into(), nothing })
    }

    /// Runs the probe at `path`; with `see` again where it had ended before it could be seen what runs it.
    fn probe(&self, path: &Path, see: bool) -> Outcome {
        let execute = || {
            let mut command = Command::new(path);
            command.arg0(ARGV0);
            self.execute(command)
        };
        let unseen =
            |outcome: &Outcome| see && outcome.started.is_none() && matches!(outcome.end, End::Exited(_));
        let mut outcome = execute();
        for _ in 1..LOOKS {
            if !unseen(&outcome) {
                break;
            }
            thread::sleep(NAP);
            outcome = execute();
        }
        outcome
    }

    fn version(&self, path: &Path) -> String {
        let mut command = Command::new(path);
        command.arg("--version");
        self.execute(command).said
    }

    /// Runs `command` with nothing of this process's surroundings but its root directory.
    fn execute(&self, mut command: Command) -> Outcome {
        let nothing = Outcome::default();
        let Ok((reader, writer)) = io::pipe() else { return nothing };
        let (Ok(errors), Ok(input)) = (writer.try_clone(), self.nothing.try_clone()) else { return nothing };
        command.env_clear().stdin(input).stdout(writer).stderr(errors);
        let spawned = command.spawn();
        // Our ends of the pipe go with the command: then the end of its output is the end of the program.
        drop(command);
        match spawned {
            Ok(child) => self.watch(child, reader),
            Err(error) => Outcome { end: End::NotStarted(error.raw_os_error().unwrap_or(0)), ..nothing },
        }
    }

    fn watch(&self, mut child: Child, mut reader: io::PipeReader) -> Outcome {
        // The program has begun, as execve(2) has succeeded, and an emulator takes milliseconds to get anywhere.
        let exe = PathBuf::from(format!("{}/exe", child.id()));
        let started = fstatat(&self.proc, &exe, AtFlags::empty()).ok();
        #[allow(clippy::useless_conversion, reason = "narrower on some hosts")]
        let started = started.map(|stat| FileId { device: stat.st_dev.into(), inode: stat.st_ino.into() });
        let deadline = Instant::now() + PATIENCE;
        let (said, in_time) = read_until(&mut reader, deadline);
        if !in_time {
            let _gone_already = child.kill();
        }
        let end = match child.wait() {
            Ok(_) if !in_time => End::TimedOut,
            Ok(status) => end_of(status),
            Err(error) => End::NotStarted(error.raw_os_error().unwrap_or(0)),
        };
        Outcome { end, started, said }
    }
}

impl Default for Outcome {
    fn default() -> Self {
        Self { end: End::NotStarted(Errno::EMFILE as i32), started: None, said: String::new() }
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, signal) => End::Killed(signal.unwrap_or(0)),
    }
}

/// What comes out of the pipe until its other end is closed, and whether that was before `deadline`.
fn read_until(reader: &mut io::PipeReader, deadline: Instant) -> (String, bool) {
    let mut said = Vec::new();
    let mut buffer = [0; 512];
    let in_time = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break false;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => break true,
        }
        match reader.read(&mut buffer) {
            Ok(0) => break true,
            Ok(count) => {
                let room = SAID_MAX.saturating_sub(said.len()).min(count);
                said.extend_from_slice(buffer.get(..room).unwrap_or_default());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break true,
        }
    };
    (String::from_utf8_lossy(&said).into_owned(), in_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_while_a_program_goes_on() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"working on it").unwrap();
        let (said, in_time) = read_until(&mut reader, Instant::now() + Duration::from_millis(50));
        assert_eq!((said.as_str(), in_time), ("working on it", false));
        drop(writer);
        assert_eq!(read_until(&mut reader, Instant::now() + PATIENCE), (String::new(), true));
    }

    #[test]
    fn not_everything_that_a_program_says_is_kept() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&[b'x'; 3 * SAID_MAX]).unwrap();
        drop(writer);
        let (said, in_time) = read_until(&mut reader, Instant::now() + PATIENCE);
        assert_eq!((said.len(), in_time), (SAID_MAX, true));
    }
}
