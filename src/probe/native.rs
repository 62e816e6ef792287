//! Native architectures: those whose programs the host runs without a handler.

use super::runs_natively;
use crate::arch::Arch;
use crate::binfmt::Handler;

/// Answer to the question whether this host runs the programs of an architecture itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Nativeness {
    /// It does: a handler would take the host's own programs.
    Native,
    /// It does not.
    #[default]
    Foreign,
    /// The question could not be answered; the reason. It is not "no".
    Unknown(String),
    /// A dry run, which executes nothing, did not ask.
    NotAsked,
}

impl Nativeness {
    /// Asks the kernel, by execution.
    #[must_use]
    pub fn of(arch: &'static Arch, handlers: &[Handler]) -> Self {
        match runs_natively(arch, handlers) {
            Ok(true) => Self::Native,
            Ok(false) => Self::Foreign,
            Err(error) => Self::Unknown(error.to_string()),
        }
    }

    /// True only where the host certainly runs the programs itself.
    #[must_use]
    pub fn is_native(&self) -> bool {
        *self == Self::Native
    }
}

/// Architectures that a host of `own` may run besides its own; only an execution shows whether it does.
pub fn same_family(own: &'static Arch) -> impl Iterator<Item = &'static Arch> {
    own.same_family().iter().filter_map(|name| Arch::from_qemu_target(name)).filter(move |arch| *arch != own)
}
