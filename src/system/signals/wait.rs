//! Waits for a signal that asks qus to end.

use nix::sys::signal::{SigSet, Signal};

use super::was_ignored;

/// SIGTERM and SIGINT. Both signals are blocked from the creation of this value on, so a signal that arrives before
/// [`wait`](Self::wait) is not lost.
pub struct EndSignals(SigSet);

impl EndSignals {
    /// Blocks SIGTERM and SIGINT, but not a signal that this process ignores. A shell starts background jobs with
    /// SIGINT ignored. If SIGINT were blocked in such a job, `sigwait(3)` would receive it.
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

    /// Waits for SIGTERM or SIGINT.
    ///
    /// # Errors
    ///
    /// `sigwait(3)` fails only if a security policy forbids the call.
    pub fn wait(&self) -> nix::Result<()> {
        self.0.wait().map(drop)
    }
}
