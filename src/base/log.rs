//! Log on standard error, with one line for each event. It contains the warnings, and with the option `-v` also each
//! step of qus.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::base::escape::escape;
use crate::base::output::PREFIX;
use crate::base::terminal::hang;

/// Installs the logger of this process. `verbose` is the number of options `-v`. With 0, the logger prints only
/// warnings. With 1, it also prints each step. With a higher number, it also prints details, and the time since the
/// start of the program. Lines are wrapped to `width` columns.
///
/// A second call of this function has no effect.
pub fn install(verbose: u8, width: Option<usize>) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let begin = (verbose > 1).then(Instant::now);
    let _installed_before =
        tracing_subscriber::registry().with(Lines { begin, width }.with_filter(level)).try_init();
}

/// Prints each event as a line `qus: [warning: ][SPAN: ]MESSAGE`. `SPAN` is the value of the field of the span in which
/// the event occurred, for example an architecture.
struct Lines {
    /// Start time of the program. If set, each line begins with the time since then.
    begin: Option<Instant>,
    /// Width of the terminal; `None` in a pipe or a file.
    width: Option<usize>,
}

/// Value of the field of a tracing span, stored together with the span.
struct Name(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut name = Text(String::new());
        attributes.record(&mut name);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Name(name.0));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = String::from(PREFIX);
        if let Some(begin) = self.begin {
            let _ = write!(line, "[{:8.4} s] ", begin.elapsed().as_secs_f64());
        }
        if *event.metadata().level() <= Level::WARN {
            line.push_str("warning: ");
        }
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(Name(name)) = span.extensions().get() {
                let _ = write!(line, "{name}: ");
            }
        }
        let mut message = Text(String::new());
        event.record(&mut message);
        line.push_str(&escape(&message.0));
        let mut line = hang(&line, self.width, PREFIX.len());
        line.push('\n');
        // If standard error is closed, this failure cannot be reported. A formatting macro would write in parts, between
        // which another process could write.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// Collects the values of tracing fields as one text.
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, _: &Field, value: &str) {
        self.0.push_str(value);
    }

    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{value:?}");
    }
}
