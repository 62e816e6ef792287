//! Native architectures: architectures whose programs the host runs without a handler.

use super::runs_natively;
use crate::arch::Arch;
use crate::binfmt::Handler;

/// Whether the host runs the programs of an architecture natively.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Nativeness {
    /// The host runs them natively. A handler would match the host's own programs.
    Native,
    /// The host does not run them natively.
    #[default]
    Foreign,
    /// The probe gave no result. The value is the reason. This must not be treated as "no".
    Unknown(String),
    /// No probe was executed, because this is a dry run.
    NotAsked,
}

impl Nativeness {
    /// Executes a probe of `arch` to find the answer.
    #[must_use]
    pub fn of(arch: &'static Arch, handlers: &[Handler]) -> Self {
        match runs_natively(arch, handlers) {
            Ok(true) => Self::Native,
            Ok(false) => Self::Foreign,
            Err(error) => Self::Unknown(error.to_string()),
        }
    }

    /// Returns true only if the host certainly runs the programs natively.
    #[must_use]
    pub fn is_native(&self) -> bool {
        *self == Self::Native
    }
}

/// Returns the other architectures that a host of architecture `own` may run natively. Only a probe shows whether it
/// does.
pub fn same_family(own: &'static Arch) -> impl Iterator<Item = &'static Arch> {
    own.same_family().iter().filter_map(|name| Arch::from_qemu_target(name)).filter(move |arch| *arch != own)
}
