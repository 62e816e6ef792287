//! Defers the signals that end a program until a change is complete.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Signals that users and service managers send to end a program.
const SIGNALS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// Defers SIGHUP, SIGINT and SIGTERM while this value exists. Programs that are started meanwhile inherit the mask.
pub struct DeferredSignals(Option<SigSet>);

impl DeferredSignals {
    /// Defers the signals from now on.
    #[must_use]
    pub fn begin() -> Self {
        let signals: SigSet = SIGNALS.into_iter().collect();
        Self(signals.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for DeferredSignals {
    fn drop(&mut self) {
        // A signal that arrived in the meantime ends this process here.
        let _restored = self.0.map(|before| before.thread_set_mask());
    }
}
