//! Executes probes: writes them into a directory and starts helper processes, which execute them.

use std::env;
use std::io::{Read, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;

use super::execution::CHECK_INTERVAL;
use super::helper::{HELPER, Report, Root, Session, file_name, write_probes};
use super::{End, Outcome, ProbeResult, ProbeTarget, STATUS_ARGV0, Sample};
use crate::arch::Arch;
use crate::base::error::Advise;
use crate::binfmt::Handler;
use crate::system::signals::end_is_requested;
use crate::system::temp_dir::TempDir;

/// Maximum size of a helper's report, in bytes.
const REPORT_MAX: u64 = 16 << 20;
/// Directories in which qus tries to create the directory of the probes, in this order, after `$TMPDIR`. Directories in
/// memory come first: on a disk, creating and removing a directory takes longer than executing the probes.
const DIRECTORIES: [&str; 5] = ["/dev/shm", "/run", "/tmp", "/var/tmp", "."];

/// Failure to execute probes. It says nothing about whether a handler works.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// No directory for temporary files permits the execution of programs. The value lists each tried directory with
    /// the reason.
    #[error("cannot run probes: no directory for temporary files permits execution ({0})")]
    NoDirectory(String),
    /// A helper process could not be started, or the communication with it failed.
    #[error("cannot run probes: cannot start a process: {0}")]
    Helper(#[from] std::io::Error),
    /// A helper process failed. The value is the reason that it reported.
    #[error("cannot run probes: {0}")]
    Failed(String),
    /// A signal asked qus to end. It says nothing about a handler either.
    #[error("interrupted by a signal")]
    Interrupted,
    /// qus has no probe for the architecture.
    #[error("qus has no probe for {arch}")]
    NoProbe {
        /// Name of the architecture without a probe.
        arch: &'static str,
    },
    /// The probe that was to show whether the host runs an architecture natively ended in an unexpected way. It does
    /// not answer the question.
    #[error("the probe of {arch} {end}")]
    Undecided {
        /// Name of the probe's architecture.
        arch: &'static str,
        /// Text that describes how the probe ended.
        end: String,
    },
}

impl Advise for ProbeError {}

/// Executes the probe of each target twice: in the root directory of this process and in an empty root directory. The
/// results have the order of the targets.
///
/// Probes always run without privileges ([`crate::system::rights::give_up_all`]).
pub fn run(targets: &[ProbeTarget]) -> Result<Vec<ProbeResult>, ProbeError> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let begin = Instant::now();
    tracing::info!("start {} probes", targets.len());
    let results = run_in_both_roots(&named(targets.iter().map(|target| target.image())))?;
    log(targets, &results);
    tracing::debug!("the probes took {:?}", begin.elapsed());
    Ok(results)
}

/// Returns the content of `sample` for this host. Returns `None` if there is no such sample for it.
#[must_use]
pub fn sample_image(sample: Sample) -> Option<Vec<u8>> {
    own_arch().and_then(|own| sample.image(own))
}

/// Executes `sample` in both root directories, as [`run`] executes a probe. Returns `None` if there is no such sample for
/// this host.
pub fn run_sample(sample: Sample) -> Result<Option<ProbeResult>, ProbeError> {
    let Some(image) = sample_image(sample) else { return Ok(None) };
    let results = run_in_both_roots(&[(sample.file_name().to_owned(), image)])?;
    for ProbeResult { host, empty_root } in &results {
        tracing::info!("{} {}", sample.file_name(), host.end);
        tracing::debug!("the kernel started {:?}; output: {:?}", host.started, host.output);
        if let Some(empty_root) = empty_root {
            tracing::info!("{} in an empty root directory {}", sample.file_name(), empty_root.end);
        }
    }
    Ok(results.into_iter().next())
}

/// Returns the contents of probes with their file names.
fn named(images: impl Iterator<Item = Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    images.enumerate().map(|(index, image)| (file_name(index), image)).collect()
}

/// Executes each of `probes`, which are file names and contents, in the root directory of this process and in an empty
/// one.
fn run_in_both_roots(probes: &[(String, Vec<u8>)]) -> Result<Vec<ProbeResult>, ProbeError> {
    in_directory(probes, |session| {
        let empty_root = Helper::start(&Session { root: Root::Empty, ..session.clone() })?;
        let host = match Helper::start(session)?.report()? {
            Report::Executed(outcomes) => outcomes,
            Report::DirectoryUnusable(reason) => return Ok(Err(reason)),
            Report::RootNotEntered => {
                return Err(ProbeError::Failed("a helper sent an unexpected report".to_owned()));
            }
        };
        let again: Vec<Option<Outcome>> = match empty_root.report()? {
            Report::Executed(outcomes) => outcomes.into_iter().map(Some).collect(),
            Report::DirectoryUnusable(reason) => return Ok(Err(reason)),
            Report::RootNotEntered => vec![None; host.len()],
        };
        if host.len() != probes.len() || again.len() != probes.len() {
            return Err(ProbeError::Failed("a helper reported a wrong number of outcomes".to_owned()));
        }
        Ok(Ok(host
            .into_iter()
            .zip(again)
            .map(|(host, empty_root)| ProbeResult { host, empty_root })
            .collect()))
    })
}

fn log(targets: &[ProbeTarget], results: &[ProbeResult]) {
    for (target, ProbeResult { host, empty_root }) in targets.iter().zip(results) {
        let _arch = tracing::info_span!("arch", name = target.arch.name).entered();
        tracing::info!("the probe {}", host.end);
        tracing::debug!("the kernel started {:?}; output: {:?}", host.started, host.output);
        if let Some(empty_root) = empty_root {
            tracing::info!("the probe in an empty root directory {}", empty_root.end);
        }
    }
}

/// Executes a probe to determine whether the kernel runs the programs of `arch` without any handler.
///
/// `handlers` are the handlers of the host. If one of them matches the probe, the probe is executed in a new user
/// namespace without handlers.
///
/// # Errors
/// It could not be determined. Callers must not treat the error as "no".
pub fn runs_natively(arch: &'static Arch, handlers: &[Handler]) -> Result<bool, ProbeError> {
    let target = ProbeTarget::all_of(arch).next().ok_or(ProbeError::NoProbe { arch: arch.name })?;
    let root = if target.matched_by(handlers).is_some() { Root::WithoutHandlers } else { Root::Host };
    let outcomes = run_in(root, vec![target.image()])?;
    match outcomes.first().map(|outcome| outcome.end) {
        Some(End::Exited(STATUS_ARGV0)) => Ok(true),
        Some(End::NotStarted(errno)) if errno == nix::libc::ENOEXEC => Ok(false),
        end => Err(ProbeError::Undecided {
            arch: arch.name,
            end: end.map_or_else(|| "was not executed".to_owned(), |end| end.to_string()),
        }),
    }
}

/// Executes each of `images` once, in the root directory of this process.
pub(super) fn run_on_host(images: Vec<Vec<u8>>) -> Result<Vec<Outcome>, ProbeError> {
    run_in(Root::Host, images)
}

fn run_in(root: Root, images: Vec<Vec<u8>>) -> Result<Vec<Outcome>, ProbeError> {
    in_directory(&named(images.into_iter()), |session| {
        match Helper::start(&Session { root, ..session.clone() })?.report()? {
            Report::Executed(outcomes) => Ok(Ok(outcomes)),
            Report::DirectoryUnusable(reason) => Ok(Err(reason)),
            Report::RootNotEntered => {
                Err(ProbeError::Failed("a helper sent an unexpected report".to_owned()))
            }
        }
    })
}

/// Writes `probes`, which are file names and contents, into a temporary directory and calls `execute`. The inner error of `execute` is the
/// reason why no program can be executed in that directory; then the next directory is tried.
fn in_directory<T>(
    probes: &[(String, Vec<u8>)],
    mut execute: impl FnMut(&Session) -> Result<Result<T, String>, ProbeError>,
) -> Result<T, ProbeError> {
    let canary = own_arch().and_then(|arch| ProbeTarget::all_of(arch).next()).map(ProbeTarget::image);
    let mut reasons = Vec::new();
    let named = env::var_os("TMPDIR").map(PathBuf::from);
    for parent in named.into_iter().chain(DIRECTORIES.map(PathBuf::from)) {
        // Probes run as another user, who must be able to enter the directory.
        let prepared = TempDir::create_in(&parent, 0o755).and_then(|directory| {
            write_probes(directory.path(), probes, canary.as_deref())?;
            Ok(directory)
        });
        let reason = match prepared {
            Err(error) => error.to_string(),
            Ok(directory) => {
                let session = Session {
                    directory: directory.path().into(),
                    root: Root::Host,
                    names: probes.iter().map(|(name, _)| name.clone()).collect(),
                    has_canary: canary.is_some(),
                    parent: std::process::id(),
                };
                match execute(&session)? {
                    Ok(done) => return Ok(done),
                    Err(reason) => reason,
                }
            }
        };
        reasons.push(format!("{}: {reason}", parent.display()));
    }
    Err(ProbeError::NoDirectory(reasons.join("; ")))
}

/// Returns the architecture of qus's own executable, which the host runs natively.
fn own_arch() -> Option<&'static Arch> {
    let mut header = vec![0; crate::binfmt::HEADER_LEN];
    std::fs::File::open("/proc/self/exe").and_then(|mut file| file.read_exact(&mut header)).ok()?;
    Arch::from_header(&header)
}

/// Time after which a helper that was asked to end is killed.
const END_TIME: Duration = Duration::from_secs(2);

/// Running helper process. Dropping the value ends the process and the programs that it executes.
struct Helper {
    process: Child,
}

impl Helper {
    fn start(session: &Session) -> Result<Self, ProbeError> {
        let request = serde_json::to_vec(session).map_err(std::io::Error::from)?;
        let mut process = Command::new("/proc/self/exe")
            .arg(HELPER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // A helper that exits early prints its reason to standard error, so a write error is ignored here.
        let _ignored = process.stdin.take().map_or(Ok(()), |mut input| input.write_all(&request));
        Ok(Self { process })
    }

    fn report(mut self) -> Result<Report, ProbeError> {
        self.wait_for_report()?;
        // `wait_with_output` would panic on a read error. The two pipes can be read one after the other, because a
        // reason always fits into a pipe.
        let (mut report, mut reason) = (Vec::new(), Vec::new());
        read_all(self.process.stdout.take(), &mut report)
            .and(read_all(self.process.stderr.take(), &mut reason))?;
        let status = self.process.wait()?;
        if !status.success() && end_is_requested() {
            return Err(ProbeError::Interrupted);
        }
        if !status.success() {
            let reason = String::from_utf8_lossy(&reason).trim().to_owned();
            return Err(ProbeError::Failed(if reason.is_empty() { status.to_string() } else { reason }));
        }
        serde_json::from_slice(&report)
            .map_err(|error| ProbeError::Failed(format!("cannot read the report of a helper: {error}")))
    }

    /// Waits until the helper writes its report or ends.
    fn wait_for_report(&self) -> Result<(), ProbeError> {
        let Some(output) = &self.process.stdout else { return Ok(()) };
        let timeout = PollTimeout::try_from(CHECK_INTERVAL).unwrap_or(PollTimeout::MAX);
        while let Ok(0) | Err(Errno::EINTR) =
            poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], timeout)
        {
            if end_is_requested() {
                return Err(ProbeError::Interrupted);
            }
        }
        Ok(())
    }

    /// Reports whether the process has ended. It is then reaped, and its number may belong to another process.
    fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        let asked = Instant::now();
        let _ = kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap_or(i32::MAX)), Signal::SIGTERM);
        while !self.has_ended() && asked.elapsed() < END_TIME {
            thread::sleep(CHECK_INTERVAL / 10);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_all(pipe: Option<impl Read>, content: &mut Vec<u8>) -> std::io::Result<()> {
    // The helper runs as another user, who may be able to write a report of any size.
    pipe.map_or(Ok(0), |pipe| pipe.take(REPORT_MAX).read_to_end(content)).map(|_| ())
}
