//! Starting probes: in a helper process, or right here where nothing but an execution is asked for.

use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use thiserror::Error;

use super::runner::{HELPER, Report, Session};
use super::{End, STATUS_ARGV0, Subject, Trial};
use crate::arch::Arch;
use crate::binfmt::Handler;
use crate::folders;

/// Why nothing was executed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// No directory for temporary files lets programs run.
    #[error("cannot run probes: none of the directories for temporary files lets programs run ({0})")]
    NoPlace(String),
    /// The helper process could not be started or spoken to.
    #[error("cannot run probes: {0}")]
    Helper(#[from] std::io::Error),
    /// The helper process gave up.
    #[error("cannot run probes: {0}")]
    Failed(String),
}

/// Executes the probe of each subject, in the root directory of this process and in an empty one, and asks each of
/// `versions` for its version. Results are in the order of the arguments; a version that cannot be had is `None`.
pub fn run(
    subjects: &[Subject],
    versions: &[&Path],
) -> Result<(Vec<Trial>, Vec<Option<String>>), ProbeError> {
    let report = in_helper(Session {
        directory: PathBuf::new(),
        without_handlers: false,
        empty_root: true,
        see: true,
        images: subjects.iter().map(|subject| subject.image()).collect(),
        versions: versions.iter().map(|path| path.to_path_buf()).collect(),
    })?;
    Ok((report.trials, report.versions.iter().map(|said| version_in(said)).collect()))
}

/// The kernel itself, asked by execution: whether it runs the programs of `arch` with no handler in the way (U4).
///
/// Where one of `handlers` would take the probe, a fresh instance is made to ask in; the error says why that was not
/// possible.
pub fn runs_natively(arch: &'static Arch, handlers: &[Handler]) -> Result<bool, ProbeError> {
    let Some(subject) = Subject::all_of(arch).next() else { return Ok(false) };
    let in_the_way = subject.taker(handlers).is_some();
    let session = Session {
        directory: PathBuf::new(),
        without_handlers: in_the_way,
        empty_root: false,
        // With no handler in the way it is the kernel; its program ends in microseconds, often before anybody can look.
        see: false,
        images: vec![subject.image()],
        versions: Vec::new(),
    };
    let report = if in_the_way { in_helper(session) } else { in_this_process(session) }?;
    Ok(report.trials.iter().all(|trial| trial.host.end == End::Exited(STATUS_ARGV0)))
}

/// "7.2.22" out of "qemu-arm version 7.2.22 (Debian …)\nCopyright …".
fn version_in(said: &str) -> Option<String> {
    let (_, rest) = said.lines().next()?.split_once(" version ")?;
    let version = rest.split_whitespace().next()?.trim_end_matches(',');
    (!version.is_empty() && version.len() <= 40).then(|| version.escape_default().to_string())
}

fn in_this_process(mut session: Session) -> Result<Report, ProbeError> {
    let directory = executable_directory()?;
    session.directory.push(directory.path());
    session.run().map_err(ProbeError::Failed)
}

fn in_helper(mut session: Session) -> Result<Report, ProbeError> {
    let directory = executable_directory()?;
    session.directory.push(directory.path());
    let request = serde_json::to_vec(&session).map_err(std::io::Error::from)?;
    let mut helper = Command::new("/proc/self/exe")
        .arg(HELPER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // A helper that ends early says why on its standard error.
    let sent = helper.stdin.take().map_or(Ok(()), |mut input| input.write_all(&request));
    // Not `wait_with_output`, which panics where a pipe cannot be read. One pipe after the other is enough: the reason fits
    // into one.
    let (mut report, mut reason) = (Vec::new(), Vec::new());
    let read = read_all(helper.stdout.take(), &mut report).and(read_all(helper.stderr.take(), &mut reason));
    if read.is_err() {
        let _it_ends_by_itself = helper.kill();
    }
    let status = helper.wait()?;
    read?;
    if !status.success() {
        let reason = String::from_utf8_lossy(&reason).trim().to_owned();
        return Err(ProbeError::Failed(if reason.is_empty() { status.to_string() } else { reason }));
    }
    sent?;
    serde_json::from_slice(&report).map_err(|error| ProbeError::Failed(error.to_string()))
}

fn read_all(pipe: Option<impl Read>, content: &mut Vec<u8>) -> std::io::Result<()> {
    pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(content)).map(|_| ())
}

/// Where probes are put.
fn executable_directory() -> Result<TempDir, ProbeError> {
    folders::for_probes().map_err(ProbeError::NoPlace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_what_follows_the_word() {
        let said = "qemu-arm version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c) 2003";
        assert_eq!(version_in(said).as_deref(), Some("7.2.22"));
        assert_eq!(version_in("qemu-arm version 10.0.2\n").as_deref(), Some("10.0.2"));
        assert_eq!(version_in("usage: foo"), None);
        assert_eq!(version_in(""), None);
    }
}
