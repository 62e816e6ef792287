//! Between the first registration and its proof nothing is to stop, nor between the copy of an interpreter that is to last
//! and the file that says so: who is told to end does so afterwards.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Signals that a person or a service manager ends a program with.
const SIGNALS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// As long as it lives, such signals wait. What is started meanwhile inherits that; probes have little time, and are killed
/// when it is up.
pub(super) struct Calm(Option<SigSet>);

impl Calm {
    /// From now on.
    pub(super) fn begin() -> Self {
        let signals: SigSet = SIGNALS.into_iter().collect();
        Self(signals.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for Calm {
    fn drop(&mut self) {
        // One that came meanwhile ends this process here.
        let _restored = self.0.map(|before| before.thread_set_mask());
    }
}
