//! How far a download or an extraction is.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::base::escape::escape;
use crate::package::Progress;

/// A bar on a terminal; nothing in a pipe.
pub(super) struct Bar {
    progress: ProgressBar,
    /// Whether nothing is to be said.
    pub(super) quiet: bool,
}

impl Bar {
    pub(super) fn new(quiet: bool) -> Self {
        let hidden = quiet || !std::io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let progress = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}") {
            progress.set_style(style);
        }
        Self { progress, quiet }
    }

    pub(super) fn finish(&self) {
        self.progress.finish_and_clear();
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.progress.set_length(bytes);
        self.progress.set_position(0);
    }

    fn advance(&self, bytes: u64) {
        self.progress.inc(bytes);
    }

    fn message(&self, text: &str) {
        self.progress.set_message(escape(text));
        self.progress.tick();
    }
}
