//! Shows the progress of long operations on standard error: as a bar if it is a terminal, otherwise as one line per
//! step.

use std::cell::Cell;
use std::io::{Write as _, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::base::escape::escape;
use crate::base::terminal::{draws_on_stderr, width_of};
use crate::package::Progress;

/// Layout with a bar: the text of the current step, the bar, the processed bytes and the speed. A long text is cut, so
/// that the line fits the terminal.
const WITH_SIZE: &str = "{wide_msg} {bar:20} {bytes}/{total_bytes} {bytes_per_sec}";
/// Layout for a narrow terminal. It has no bar, so that the text of the step has more space.
const NARROW: &str = "{wide_msg} {bytes}/{total_bytes} {bytes_per_sec}";
/// Layout for a step of unknown size.
const WITHOUT_SIZE: &str = "{wide_msg} {bytes} {bytes_per_sec}";
/// Minimum width of a terminal on which the bar is drawn, in columns.
const WIDE: usize = 80;

/// Progress of an operation, shown on standard error.
pub(crate) struct StepProgress {
    bar: ProgressBar,
    /// True if no progress is printed.
    pub(crate) quiet: bool,
    is_terminal: bool,
    /// Text of the step that was printed last.
    step: Cell<Option<String>>,
}

impl StepProgress {
    /// Creates the progress of an operation. It prints nothing if `quiet` is true.
    pub(crate) fn new(quiet: bool) -> Self {
        let is_terminal = draws_on_stderr();
        let is_drawn = is_terminal && !quiet;
        let target = if is_drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bar: ProgressBar::with_draw_target(None, target), quiet, is_terminal, step: Cell::new(None) }
    }

    /// Removes the progress bar from the terminal.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Returns a function that any thread can call to advance the progress bar by a number of bytes.
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
        let is_wide = width_of(&stderr()).is_none_or(|width| width >= WIDE);
        self.style(if is_wide { WITH_SIZE } else { NARROW });
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
