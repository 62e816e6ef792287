//! Waiting for the signal that ends a program.

use nix::sys::signal::{SigSet, Signal};

use super::was_ignored;

/// SIGTERM and SIGINT, blocked since this value was made: one that comes early is not lost.
pub struct EndSignals(SigSet);

impl EndSignals {
    /// Blocks both, except those that are ignored. A shell has its background jobs ignore SIGINT, and a blocked signal
    /// would arrive all the same.
    ///
    /// # Errors
    ///
    /// `sigprocmask(2)` fails only where something forbids the call.
    pub fn block() -> nix::Result<Self> {
        let ends = [Signal::SIGTERM, Signal::SIGINT];
        let signals: SigSet = ends.into_iter().filter(|signal| !was_ignored(*signal)).collect();
        signals.thread_block()?;
        Ok(Self(signals))
    }

    /// Waits for one of them.
    ///
    /// # Errors
    ///
    /// `sigwait(3)` fails only where something forbids the call.
    pub fn wait(&self) -> nix::Result<()> {
        self.0.wait().map(drop)
    }
}
