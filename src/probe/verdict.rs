//! Decides from the outcomes of a probe whether a handler works. All functions here are pure.

use std::io;

use nix::errno::Errno;
use serde::Serialize;
use thiserror::Error;

use super::{End, Outcome, ProbeResult, STATUS_ARGV0, STATUS_PATH};
use crate::system::file_id::FileId;

/// Expected behaviour of a handler whose probe was executed.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// True if the handler has the flag `P`.
    pub preserve_argv0: bool,
    /// File of the interpreter that the kernel should have started; `None` if it is not known.
    pub interpreter: Option<FileId>,
    /// Name of another handler that, according to the prediction, the kernel uses for the probe instead; `None` if
    /// there is none.
    pub in_front: Option<&'a str>,
}

/// Result of a successful verification of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// True if the probe received the `argv[0]` of its caller. False if it received its path instead.
    pub argv0: bool,
    /// True if the probe also worked in an empty root directory, as in a container. False if this could not be tested.
    pub empty_root: bool,
    /// The interpreter file that the kernel started.
    #[serde(skip)]
    pub interpreter: Option<FileId>,
}

/// Reason why a handler does not work, as the execution of its probe showed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    /// No enabled handler matches the probe (K40).
    #[error("the kernel starts no interpreter for its programs (Exec format error)")]
    NoHandler,
    /// Another handler, which was registered later, also matches the probe, and the kernel used it (K31). The value is
    /// the name of that handler, if known.
    #[error("another handler comes first and matches its programs{}", named(.0.as_ref()))]
    Shadowed(Option<String>),
    /// The kernel could not start the interpreter. The value explains the errno of `execve(2)`.
    #[error("its interpreter cannot be started: {0}")]
    NotStarted(String),
    /// The probe works in the host's root directory, but not in an empty one. There the interpreter, its loader or its
    /// libraries do not exist (K39, K52).
    #[error(
        "it works on this host, but not in an empty root directory, as in a container: \
         the interpreter is not static, or the handler has no F flag"
    )]
    NotInEmptyRoot,
    /// A signal killed the interpreter.
    #[error("its interpreter crashed (signal {signal}){}", after(.output))]
    Crashed {
        /// Number of the signal that killed the interpreter.
        signal: i32,
        /// First line of the output of the interpreter and the probe.
        output: String,
    },
    /// The handler has the flag `P`, but the program received its path as `argv[0]`. The interpreter does not support
    /// the flag, so the program receives all arguments shifted by one.
    #[error("its interpreter does not support the flag P: programs get shifted arguments")]
    Argv0NotPreserved,
    /// The probe exited with an unexpected status.
    #[error("its probe ended with status {status}, not {STATUS_ARGV0}{}", after(.output))]
    WrongStatus {
        /// Exit status of the probe.
        status: i32,
        /// First line of the output of the interpreter and the probe.
        output: String,
    },
    /// The probe did not end within the time limit.
    #[error("its probe did not end in time")]
    TimedOut,
}

fn named(name: Option<&String>) -> String {
    name.map_or_else(String::new, |name| format!(": {name}"))
}

fn after(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// Decides from the results of all probes of one architecture whether the handler works. Returns the verification by
/// the first probe, or the first failure.
pub fn judge_all(results: &[ProbeResult], expected: &Expected<'_>) -> Result<Verification, Failure> {
    let mut verifications =
        results.iter().map(|result| judge(result, expected)).collect::<Result<Vec<_>, _>>()?;
    if verifications.is_empty() { Err(Failure::NoHandler) } else { Ok(verifications.swap_remove(0)) }
}

/// Decides from the result of one probe whether the handler works.
pub fn judge(result: &ProbeResult, expected: &Expected<'_>) -> Result<Verification, Failure> {
    let argv0 = judge_outcome(&result.host, expected)?;
    let Some(again) = &result.empty_root else {
        return Ok(Verification { argv0, empty_root: false, interpreter: result.host.started });
    };
    match judge_outcome(again, expected) {
        Ok(_) => Ok(Verification { argv0, empty_root: true, interpreter: result.host.started }),
        // Status 127 means "error while loading shared libraries": the loader exists, but the libraries do not (K52).
        Err(Failure::NotStarted(_) | Failure::WrongStatus { status: 127, .. }) => {
            Err(Failure::NotInEmptyRoot)
        }
        Err(failure) => Err(failure),
    }
}

/// Decides from one execution of a probe whether the handler works. Returns true if the probe received the `argv[0]` of
/// its caller, and false if it received its path instead.
fn judge_outcome(outcome: &Outcome, expected: &Expected<'_>) -> Result<bool, Failure> {
    let output = first_line(&outcome.output);
    // If the started file could not be determined, the comparison gives no result. That is not evidence of another
    // handler.
    let is_expected = outcome.started.zip(expected.interpreter).map(|(started, own)| started == own);
    let failure = match outcome.end {
        End::TimedOut => return Err(Failure::TimedOut),
        End::NotStarted(errno) if errno == Errno::ENOEXEC as i32 => Failure::NoHandler,
        End::NotStarted(errno) => Failure::NotStarted(reason(Errno::from_raw(errno))),
        End::Killed(signal) => Failure::Crashed { signal, output },
        End::Exited(STATUS_ARGV0) if is_expected != Some(false) => return Ok(true),
        End::Exited(STATUS_PATH) if is_expected != Some(false) && !expected.preserve_argv0 => {
            return Ok(false);
        }
        End::Exited(STATUS_PATH) => Failure::Argv0NotPreserved,
        End::Exited(status) => Failure::WrongStatus { status, output },
    };
    if is_expected == Some(false) || is_expected.is_none() && expected.in_front.is_some() {
        return Err(Failure::Shadowed(expected.in_front.map(str::to_owned)));
    }
    Err(failure)
}

/// Explains why `execve(2)` failed with `errno` for a file that a handler matched (errno table in docs/kernel.md).
fn reason(errno: Errno) -> String {
    let reason = match errno {
        Errno::ENOENT => "it, or the loader it needs, does not exist",
        Errno::EACCES => "it is not executable, or is on a noexec mount",
        Errno::ELOOP => "the handler matches its own interpreter",
        Errno::ELIBBAD => "its loader is of another architecture",
        Errno::ETXTBSY => "a process has it open for writing",
        other => return io::Error::from(other).to_string(),
    };
    reason.to_owned()
}

fn first_line(output: &str) -> String {
    let line = output.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let mut shown = String::new();
    for character in line.chars().take(200) {
        match character {
            '\'' | '"' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: FileId = FileId { device: 1, inode: 2 };
    const OTHER: FileId = FileId { device: 1, inode: 3 };

    fn outcome(end: End, started: FileId) -> Outcome {
        Outcome { end, started: Some(started), output: String::new() }
    }

    fn verdict(
        host: End,
        empty_root: Option<End>,
        preserve_argv0: bool,
        started: FileId,
    ) -> Result<Verification, Failure> {
        let empty_root = empty_root.map(|end| outcome(end, started));
        let result = ProbeResult { host: outcome(host, started), empty_root };
        judge(&result, &Expected { preserve_argv0, interpreter: Some(OURS), in_front: None })
    }

    #[test]
    fn a_verification_reports_the_outcome() {
        let verification = verdict(End::Exited(42), Some(End::Exited(42)), true, OURS).unwrap();
        assert!(verification.argv0 && verification.empty_root);
        let verification = verdict(End::Exited(47), None, false, OURS).unwrap();
        assert!(!verification.argv0 && !verification.empty_root);
    }

    #[test]
    fn the_output_cannot_control_a_terminal() {
        assert_eq!(first_line("\n  \nno 'such' \"file\"\x1b[2J\nmore"), r#"no 'such' "file"\u{1b}[2J"#);
        assert_eq!(first_line(&"x".repeat(300)).len(), 200);
    }

    #[test]
    fn both_executions_count() {
        // Failures in the empty root directory alone: ENOEXEC and a crash. Then a known handler that comes first.
        let enoexec = End::NotStarted(Errno::ENOEXEC as i32);
        assert_eq!(verdict(End::Exited(42), Some(enoexec), true, OURS), Err(Failure::NoHandler));
        let crashed = Failure::Crashed { signal: 4, output: String::new() };
        assert_eq!(verdict(End::Exited(42), Some(End::Killed(4)), true, OURS), Err(crashed));
        let result = ProbeResult { host: outcome(End::Exited(1), OTHER), empty_root: None };
        let expected = Expected { preserve_argv0: true, interpreter: Some(OURS), in_front: Some("box") };
        assert_eq!(judge(&result, &expected), Err(Failure::Shadowed(Some("box".to_owned()))));
        assert_eq!(judge_all(&[], &expected), Err(Failure::NoHandler));
    }

    #[test]
    fn each_failure_has_its_own_verdict() {
        let enoent = End::NotStarted(Errno::ENOENT as i32);
        let cases = [
            (End::NotStarted(Errno::ENOEXEC as i32), None, Failure::NoHandler),
            (End::Exited(42), Some(enoent), Failure::NotInEmptyRoot),
            (End::Exited(42), Some(End::Exited(127)), Failure::NotInEmptyRoot),
            (End::Killed(11), None, Failure::Crashed { signal: 11, output: String::new() }),
            (End::Exited(47), None, Failure::Argv0NotPreserved),
            (End::Exited(1), None, Failure::WrongStatus { status: 1, output: String::new() }),
            (End::TimedOut, None, Failure::TimedOut),
            (End::Exited(42), Some(End::TimedOut), Failure::TimedOut),
        ];
        for (host, empty_root, failure) in cases {
            assert_eq!(verdict(host, empty_root, true, OURS), Err(failure));
        }
        assert_eq!(verdict(End::Exited(42), None, true, OTHER), Err(Failure::Shadowed(None)));
        // A time-out stays a time-out, whichever file was started.
        assert_eq!(verdict(End::TimedOut, None, true, OTHER), Err(Failure::TimedOut));
    }

    #[test]
    fn an_undetermined_file_is_not_another_handler() {
        let judge = |end: End, in_front: Option<&str>| {
            let result =
                ProbeResult { host: Outcome { end, started: None, output: String::new() }, empty_root: None };
            judge(&result, &Expected { preserve_argv0: true, interpreter: Some(OURS), in_front })
        };
        assert!(judge(End::Exited(42), None).is_ok());
        assert!(judge(End::Exited(42), Some("box")).is_ok());
        assert_eq!(judge(End::TimedOut, Some("box")), Err(Failure::TimedOut));
        let crashed = Failure::Crashed { signal: 11, output: String::new() };
        assert_eq!(judge(End::Killed(11), None), Err(crashed));
        assert_eq!(judge(End::Killed(11), Some("box")), Err(Failure::Shadowed(Some("box".to_owned()))));
    }
}
