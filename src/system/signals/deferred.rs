//! Deferring the signals that end a program, while a change is half made.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Signals with which a person or a service manager ends a program.
const SIGNALS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// While this value lives, SIGHUP, SIGINT and SIGTERM wait. Programs that are started in that time inherit the mask.
pub struct DeferredSignals(Option<SigSet>);

impl DeferredSignals {
    /// Defers them from now on.
    #[must_use]
    pub fn begin() -> Self {
        let signals: SigSet = SIGNALS.into_iter().collect();
        Self(signals.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for DeferredSignals {
    fn drop(&mut self) {
        // A signal that came meanwhile ends this process here.
        let _restored = self.0.map(|before| before.thread_set_mask());
    }
}
