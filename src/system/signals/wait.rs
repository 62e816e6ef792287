//! Waits for the signal that ends a program.

use nix::sys::signal::{SigSet, Signal};

use super::was_ignored;

/// SIGTERM and SIGINT, blocked since this value was created, so that an early signal is not lost.
pub struct EndSignals(SigSet);

impl EndSignals {
    /// Blocks both signals, except ignored ones. A shell starts background jobs with SIGINT ignored, but `sigwait(3)`
    /// would still receive a blocked signal.
    ///
    /// # Errors
    ///
    /// `sigprocmask(2)` fails only if a security policy forbids the call.
    pub fn block() -> nix::Result<Self> {
        let ends = [Signal::SIGTERM, Signal::SIGINT];
        let signals: SigSet = ends.into_iter().filter(|signal| !was_ignored(*signal)).collect();
        signals.thread_block()?;
        Ok(Self(signals))
    }

    /// Waits for one of the signals.
    ///
    /// # Errors
    ///
    /// `sigwait(3)` fails only if a security policy forbids the call.
    pub fn wait(&self) -> nix::Result<()> {
        self.0.wait().map(drop)
    }
}
