//! Probes: tiny programs that the kernel executes, to verify that a handler works.
//!
//! A probe ends with the first byte of its `argv[0]` as exit status. It is started as `*`, so 42 means that `argv[0]`
//! arrived, and 47 (`/`) that the kernel put the path there, as it does without the flag `P` (K58).
//!
//! [`image`] builds one, [`run`] executes a batch in two helper processes (in the host's root directory and in an empty
//! one, as a container has it), and [`judge`] reads the outcomes.

mod execution;
mod helper;
mod image;
mod launch;
mod native;
mod verdict;

pub use helper::{HELPER, serve};
pub use image::{Variant, image};
pub use launch::{ProbeError, run, runs_natively};
pub use native::{Nativeness, same_family};
pub use verdict::{Expected, Failure, Verification, judge, judge_all};

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::binfmt::{Handler, first_match};
use crate::system::file_id::FileId;

/// `argv[0]` of every probe.
pub const ARGV0: &str = "*";
/// Exit status of a probe that got [`ARGV0`]: its first byte.
pub const STATUS_ARGV0: i32 = 42;
/// Exit status of a probe that got its absolute path instead.
pub const STATUS_PATH: i32 = 47;

/// An architecture under one of its machine numbers, for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProbeTarget {
    /// The architecture.
    pub arch: &'static Arch,
    /// `e_machine`.
    pub machine: u16,
    /// Other fields of its header.
    pub variant: Variant,
}

impl ProbeTarget {
    /// The subjects of `arch`, first the one that today's toolchains write.
    pub fn all_of(arch: &'static Arch) -> impl Iterator<Item = Self> {
        arch.identity.machines.iter().map(move |&machine| Self { arch, machine, variant: Variant::default() })
    }

    /// The probe.
    #[must_use]
    pub fn image(self) -> Vec<u8> {
        image(self.arch, self.machine, self.variant)
    }

    /// The handler that is predicted to take the probe; `handlers` are newest first.
    #[must_use]
    pub fn matched_by(self, handlers: &[Handler]) -> Option<&Handler> {
        first_match(handlers, &self.image(), std::path::Path::new(""))
    }
}

/// Outcome of one execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// End of the execution.
    pub end: End,
    /// File that the kernel started: the interpreter that took the probe, or the probe itself. `None` where that could
    /// not be seen.
    pub started: Option<FileId>,
    /// The first bytes of its output. A failing emulator prints the reason.
    pub output: String,
}

/// End of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It exited with this status.
    Exited(i32),
    /// A signal killed it.
    Killed(i32),
    /// `execve(2)` failed with this errno.
    NotStarted(i32),
    /// It was still running when time was up.
    TimedOut,
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(status) => write!(formatter, "ended with status {status}"),
            Self::Killed(signal) => write!(formatter, "was killed by signal {signal}"),
            Self::NotStarted(errno) => {
                write!(formatter, "cannot be started: {}", io::Error::from_raw_os_error(errno))
            }
            Self::TimedOut => formatter.write_str("did not end in time"),
        }
    }
}

/// Outcomes of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// In the root directory of this process.
    pub host: Outcome,
    /// In an empty root directory; `None` where this process may not enter one.
    pub empty_root: Option<Outcome>,
}
