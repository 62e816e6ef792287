//! Defers signals that would end qus in the middle of a change to the system.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Signals with which users and service managers end a program.
const SIGNALS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// Defers SIGHUP, SIGINT and SIGTERM while this value exists. Programs that qus starts meanwhile inherit the signal
/// mask.
pub struct DeferredSignals(Option<SigSet>);

impl DeferredSignals {
    /// Defers SIGHUP, SIGINT and SIGTERM until the returned value is dropped.
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
