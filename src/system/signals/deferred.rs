//! Defers signals that would end qus in the middle of a change to the system.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use super::{is_ignored, is_pending};

/// Signals with which users and service managers end a program.
const SIGNALS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// Reports whether a deferred signal has arrived. Work that takes long should stop then, so that this process can roll
/// its change back and end.
#[must_use]
pub fn end_is_requested() -> bool {
    // Even an ignored signal stays pending while it is blocked.
    SIGNALS.into_iter().any(|signal| is_pending(signal) && !is_ignored(signal as i32))
}

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
