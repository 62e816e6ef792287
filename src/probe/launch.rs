//! Starting probes in helper processes.

use std::env;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use thiserror::Error;

use super::helper::{HELPER, Report, Root, Session, write_probes};
use super::{End, Outcome, ProbeResult, ProbeTarget, STATUS_ARGV0};
use crate::arch::Arch;
use crate::base::error::Advise;
use crate::binfmt::Handler;
use crate::system::temp_dir::TempDir;

/// Largest report of a helper, in bytes.
const REPORT_MAX: u64 = 16 << 20;
/// Directories for probes, after `$TMPDIR`: in memory first, as making and removing a directory on a disk takes longer
/// than executing its programs.
const DIRECTORIES: [&str; 5] = ["/dev/shm", "/run", "/tmp", "/var/tmp", "."];

/// A failure to execute probes. It is no verdict on a handler.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// No directory lets programs run; each with its reason.
    #[error("cannot run probes: no directory for temporary files permits execution ({0})")]
    NoDirectory(String),
    /// A helper process could not be started or spoken to.
    #[error("cannot run probes: cannot start a process: {0}")]
    Helper(#[from] std::io::Error),
    /// A helper process failed.
    #[error("cannot run probes: {0}")]
    Failed(String),
    /// An architecture has no probe.
    #[error("there is no probe of {arch}")]
    NoProbe {
        /// The architecture.
        arch: &'static str,
    },
    /// The host's probe of an architecture ended in a way that answers nothing.
    #[error("the probe of {arch} {end}")]
    Undecided {
        /// The architecture.
        arch: &'static str,
        /// End of the probe.
        end: String,
    },
}

impl Advise for ProbeError {}

/// Executes the probe of each subject, in the root directory of this process and in an empty one. Results are in the
/// order of the subjects.
///
/// Probes always run without rights: see [`crate::system::rights::give_up_all`].
pub fn run(targets: &[ProbeTarget]) -> Result<Vec<ProbeResult>, ProbeError> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let images: Vec<Vec<u8>> = targets.iter().map(|target| target.image()).collect();
    let begin = Instant::now();
    tracing::info!("start {} probes", images.len());
    let results: Vec<ProbeResult> = in_directory(&images, |session| {
        let empty_root = Helper::start(&Session { root: Root::Empty, ..session.clone() })?;
        let host = match Helper::start(session)?.report()? {
            Report::Executed(outcomes) => outcomes,
            Report::DirectoryUnusable(reason) => return Ok(Err(reason)),
            Report::RootNotEntered => {
                return Err(ProbeError::Failed("the helper changed its root".to_owned()));
            }
        };
        let again: Vec<Option<Outcome>> = match empty_root.report()? {
            Report::Executed(outcomes) => outcomes.into_iter().map(Some).collect(),
            Report::DirectoryUnusable(reason) => return Ok(Err(reason)),
            Report::RootNotEntered => vec![None; host.len()],
        };
        if host.len() != images.len() || again.len() != images.len() {
            return Err(ProbeError::Failed("a helper reported another number of probes".to_owned()));
        }
        Ok(Ok(host
            .into_iter()
            .zip(again)
            .map(|(host, empty_root)| ProbeResult { host, empty_root })
            .collect()))
    })?;
    log(targets, &results);
    tracing::debug!("the probes took {:?}", begin.elapsed());
    Ok(results)
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

/// Asks the kernel, by execution, whether it runs the programs of `arch` without any handler.
///
/// Where one of `handlers` would take the probe, a fresh instance is made to ask in.
///
/// # Errors
/// The answer is unknown; it is not "no".
pub fn runs_natively(arch: &'static Arch, handlers: &[Handler]) -> Result<bool, ProbeError> {
    let target = ProbeTarget::all_of(arch).next().ok_or(ProbeError::NoProbe { arch: arch.name })?;
    let root = if target.matched_by(handlers).is_some() { Root::WithoutHandlers } else { Root::Host };
    let outcomes = in_directory(&[target.image()], |session| {
        match Helper::start(&Session { root, ..session.clone() })?.report()? {
            Report::Executed(outcomes) => Ok(Ok(outcomes)),
            Report::DirectoryUnusable(reason) => Ok(Err(reason)),
            Report::RootNotEntered => Err(ProbeError::Failed("the helper changed its root".to_owned())),
        }
    })?;
    match outcomes.first().map(|outcome| outcome.end) {
        Some(End::Exited(STATUS_ARGV0)) => Ok(true),
        Some(End::NotStarted(errno)) if errno == nix::libc::ENOEXEC => Ok(false),
        end => Err(ProbeError::Undecided {
            arch: arch.name,
            end: end.map_or_else(|| "was not executed".to_owned(), |end| end.to_string()),
        }),
    }
}

/// Writes probes into the first directory where `execute` finds that programs run; its inner error is the reason why
/// they do not.
fn in_directory<T>(
    images: &[Vec<u8>],
    mut execute: impl FnMut(&Session) -> Result<Result<T, String>, ProbeError>,
) -> Result<T, ProbeError> {
    let canary = own_arch().and_then(|arch| ProbeTarget::all_of(arch).next()).map(ProbeTarget::image);
    let mut reasons = Vec::new();
    let named = env::var_os("TMPDIR").map(PathBuf::from);
    for parent in named.into_iter().chain(DIRECTORIES.map(PathBuf::from)) {
        // Probes run as a user who must be able to enter it.
        let prepared = TempDir::create_in(&parent, 0o755).and_then(|directory| {
            write_probes(directory.path(), images, canary.as_deref())?;
            Ok(directory)
        });
        let reason = match prepared {
            Err(error) => error.to_string(),
            Ok(directory) => {
                let session = Session {
                    directory: directory.path().into(),
                    root: Root::Host,
                    count: images.len(),
                    has_canary: canary.is_some(),
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

/// Architecture of this executable, which is one that the host runs.
fn own_arch() -> Option<&'static Arch> {
    let mut header = vec![0; crate::binfmt::HEADER_LEN];
    std::fs::File::open("/proc/self/exe").and_then(|mut file| file.read_exact(&mut header)).ok()?;
    Arch::from_header(&header)
}

/// A helper process that works. One that is dropped is killed.
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
        // A helper that ends early gives its reason on standard error, so a failure to write is not reported here.
        let _reason_follows = process.stdin.take().map_or(Ok(()), |mut input| input.write_all(&request));
        Ok(Self { process })
    }

    fn report(mut self) -> Result<Report, ProbeError> {
        // Not `wait_with_output`, which panics where a pipe cannot be read. Reading one pipe after the other is enough: the
        // reason fits into a pipe.
        let (mut report, mut reason) = (Vec::new(), Vec::new());
        read_all(self.process.stdout.take(), &mut report)
            .and(read_all(self.process.stderr.take(), &mut reason))?;
        let status = self.process.wait()?;
        if !status.success() {
            let reason = String::from_utf8_lossy(&reason).trim().to_owned();
            return Err(ProbeError::Failed(if reason.is_empty() { status.to_string() } else { reason }));
        }
        serde_json::from_slice(&report)
            .map_err(|error| ProbeError::Failed(format!("cannot read the report of a helper: {error}")))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Both fail for a process that was waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_all(pipe: Option<impl Read>, content: &mut Vec<u8>) -> std::io::Result<()> {
    // A helper runs as a user who may be able to write a report of any size.
    pipe.map_or(Ok(0), |pipe| pipe.take(REPORT_MAX).read_to_end(content)).map(|_| ())
}
