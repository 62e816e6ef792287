//! Probes: tiny programs that the kernel executes to verify that a handler works.
//!
//! A probe exits with the first byte of its `argv[0]` as status. qus starts it with `*` as `argv[0]`. Status 42 (`*`)
//! means that the probe received this `argv[0]`. Status 47 (`/`) means that the probe received its path as `argv[0]`.
//! The kernel passes the path if the handler has no flag `P` (K58).
//!
//! [`image()`] generates a probe. [`run`] executes several probes in two helper processes: one in the host's root
//! directory, one in an empty root directory, similar to that of a container. [`judge`] derives from the outcomes
//! whether a handler works.

mod execution;
mod helper;
mod image;
mod launch;
mod level;
mod native;
mod sample;
mod verdict;

pub use helper::{HELPER, serve};
pub use image::{Variant, image};
pub use launch::{ProbeError, run, run_sample, runs_natively, sample_image};
pub use level::x86_64_level;
pub use native::{Nativeness, same_family};
pub use sample::Sample;
pub use verdict::{Expected, Failure, Verification, judge, judge_all};

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::binfmt::{Handler, first_match};
use crate::system::file_id::FileId;

/// Value that qus passes to every probe as `argv[0]`.
pub const ARGV0: &str = "*";
/// Exit status of a probe that received [`ARGV0`] as `argv[0]`. It is the first byte of that string, `*`.
pub const STATUS_ARGV0: i32 = 42;
/// Exit status of a probe that received its absolute path as `argv[0]`. It is the first byte of that string, `/`.
pub const STATUS_PATH: i32 = 47;

/// Architecture and ELF header fields for which a probe is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProbeTarget {
    /// Architecture of the probe.
    pub arch: &'static Arch,
    /// ELF machine number of the probe (`e_machine`).
    pub machine: u16,
    /// Other fields of the probe's ELF header.
    pub variant: Variant,
}

impl ProbeTarget {
    /// Returns one target for each ELF machine number of `arch`. The first one has the number that today's compilers
    /// write.
    pub fn all_of(arch: &'static Arch) -> impl Iterator<Item = Self> {
        arch.identity.machines.iter().map(move |&machine| Self { arch, machine, variant: Variant::default() })
    }

    /// Returns the content of the probe's ELF file.
    #[must_use]
    pub fn image(self) -> Vec<u8> {
        image(self.arch, self.machine, self.variant)
    }

    /// Predicts which of `handlers` the kernel uses for the probe. `handlers` has the newest handler first.
    #[must_use]
    pub fn matched_by(self, handlers: &[Handler]) -> Option<&Handler> {
        first_match(handlers, &self.image(), std::path::Path::new(""))
    }
}

/// Outcome of one execution of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// End of the execution.
    pub end: End,
    /// File that the kernel started: the interpreter, or the probe itself if it runs natively. `None` if the file could
    /// not be determined.
    pub started: Option<FileId>,
    /// The first bytes of the output. If an emulator fails, its output contains the reason.
    pub output: String,
}

/// End of an execution of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The process exited with this status.
    Exited(i32),
    /// The signal with this number killed the process.
    Killed(i32),
    /// `execve(2)` failed with this errno.
    NotStarted(i32),
    /// The process was still running when the time limit was reached.
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

/// Outcomes of the two executions of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Outcome in the root directory of this process.
    pub host: Outcome,
    /// Outcome in an empty root directory; `None` if qus has no permission to change the root directory.
    pub empty_root: Option<Outcome>,
}
