//! Progress of long operations: a bar on a terminal, one line per step in a pipe.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::base::escape::escape;
use crate::package::Progress;

/// Bar for a step of known size.
const WITH_SIZE: &str = "{msg} {bar:20} {bytes}/{total_bytes} {bytes_per_sec}";
/// Line for a step of unknown size.
const WITHOUT_SIZE: &str = "{msg} {bytes} {bytes_per_sec}";

/// Progress output on standard error.
pub(crate) struct StepProgress {
    bar: ProgressBar,
    /// True if nothing is printed.
    pub(crate) quiet: bool,
    is_terminal: bool,
    /// The last printed step.
    step: Cell<Option<String>>,
}

impl StepProgress {
    /// Creates a progress output. It prints nothing if `quiet` is true.
    pub(crate) fn new(quiet: bool) -> Self {
        let is_terminal = stderr().is_terminal();
        let is_drawn = is_terminal && !quiet;
        let target = if is_drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bar: ProgressBar::with_draw_target(None, target), quiet, is_terminal, step: Cell::new(None) }
    }

    /// Removes the bar from the terminal.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Returns a function that advances the bar from any thread.
    pub(crate) fn advance_shared(&self) -> impl Fn(u64) + Sync + use<> {
        let bar = self.bar.clone();
        move |bytes| bar.inc(bytes)
    }

    fn style(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }
}

impl Progress for StepProgress {
    fn total(&self, bytes: u64) {
        self.style(WITH_SIZE);
        self.bar.set_length(bytes);
        self.bar.set_position(0);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn message(&self, text: &str) {
        let step = Some(escape(text));
        let last = self.step.take();
        if step != last {
            self.style(WITHOUT_SIZE);
            self.bar.reset();
            if !self.is_terminal && !self.quiet {
                // A failure to print progress is not a failure of the operation.
                let _ignored = stderr().write_all(format!("qus: {}\n", escape(text)).as_bytes());
            }
        }
        self.step.set(step);
        self.bar.set_message(escape(text));
        self.bar.tick();
    }
}
