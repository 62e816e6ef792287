//! Probes: tiny programs that the kernel executes to verify that a handler works.
//!
//! A probe exits with the first byte of its `argv[0]` as status. qus starts it with `*` as `argv[0]`. Status 42 (`*`)
//! means that `argv[0]` arrived. Status 47 (`/`) means that the kernel replaced it by the path, which it does without
//! the flag `P` (K58).
//!
//! [`image()`] generates a probe. [`run`] executes a batch in two helper processes: one in the host's root directory, one
//! in an empty root directory, similar to that of a container. [`judge`] derives the verdict from the outcomes.

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
/// Exit status of a probe whose `argv[0]` is [`ARGV0`]: the first byte.
pub const STATUS_ARGV0: i32 = 42;
/// Exit status of a probe whose `argv[0]` is its absolute path.
pub const STATUS_PATH: i32 = 47;

/// Architecture and machine number for which a probe is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProbeTarget {
    /// The architecture.
    pub arch: &'static Arch,
    /// `e_machine`.
    pub machine: u16,
    /// Header fields that do not depend on the architecture.
    pub variant: Variant,
}

impl ProbeTarget {
    /// Returns the targets of `arch`. The first target is for the programs of today's toolchains.
    pub fn all_of(arch: &'static Arch) -> impl Iterator<Item = Self> {
        arch.identity.machines.iter().map(move |&machine| Self { arch, machine, variant: Variant::default() })
    }

    /// Returns the probe's ELF file.
    #[must_use]
    pub fn image(self) -> Vec<u8> {
        image(self.arch, self.machine, self.variant)
    }

    /// Predicts the handler that matches the probe. `handlers` has the newest handler first.
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
    /// File that the kernel started: the interpreter or the probe itself. `None` if that could not be determined.
    pub started: Option<FileId>,
    /// The first bytes of the output. A failing emulator prints the reason.
    pub output: String,
}

/// End of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The process exited with this status.
    Exited(i32),
    /// This signal killed the process.
    Killed(i32),
    /// `execve(2)` failed with this errno.
    NotStarted(i32),
    /// The process was still running at the end of the time limit.
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

/// Outcomes of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Outcome in the root directory of this process.
    pub host: Outcome,
    /// Outcome in an empty root directory; `None` if this process may not change its root directory.
    pub empty_root: Option<Outcome>,
}
