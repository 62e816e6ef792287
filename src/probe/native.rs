//! Determines which architectures are native: the host runs their programs without a handler.

use super::runs_natively;
use crate::arch::Arch;
use crate::binfmt::Handler;

/// Answer to the question whether the host runs the programs of an architecture natively, that is, without a handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Nativeness {
    /// The host runs the programs natively. A handler for the architecture would match the host's own programs.
    Native,
    /// The host does not run the programs natively.
    #[default]
    Foreign,
    /// The probe gave no answer. The value is the reason. Callers must not treat this as `Foreign`.
    Unknown(String),
    /// No probe was executed, because the command is a dry run.
    NotAsked,
}

impl Nativeness {
    /// Executes a probe of `arch` to find out whether the host runs it natively. `handlers` are the handlers of the
    /// host.
    #[must_use]
    pub fn of(arch: &'static Arch, handlers: &[Handler]) -> Self {
        match runs_natively(arch, handlers) {
            Ok(true) => Self::Native,
            Ok(false) => Self::Foreign,
            Err(error) => Self::Unknown(error.to_string()),
        }
    }

    /// Returns true only if a probe has shown that the host runs the programs natively.
    #[must_use]
    pub fn is_native(&self) -> bool {
        *self == Self::Native
    }
}

/// Returns the other architectures whose programs a host of architecture `own` may run natively, such as `i386` on
/// `x86_64`. Only a probe shows whether the host does.
pub fn same_family(own: &'static Arch) -> impl Iterator<Item = &'static Arch> {
    own.same_family().iter().filter_map(|name| Arch::from_qemu_target(name)).filter(move |arch| *arch != own)
}
