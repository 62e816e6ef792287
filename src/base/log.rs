//! The log: warnings, and with `-v` what is done, on standard error, a line for each event.

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

/// Installs the logger: warnings; with `verbose` 1 each step as it happens; above that every detail, with the time
/// since the start.
///
/// A second call changes nothing.
pub fn install(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let begin = (verbose > 1).then(Instant::now);
    let _installed_before =
        tracing_subscriber::registry().with(Lines { begin }.with_filter(level)).try_init();
}

/// Prints events as lines: `qus: [warning: ][SPAN: ]MESSAGE`, where a span is printed as the value of its field.
struct Lines {
    /// The start, if lines have the time since then.
    begin: Option<Instant>,
}

/// The field of a span.
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
        let mut line = String::from("qus: ");
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
        // If standard error is closed, there is no place for the reason either.
        let _ = writeln!(io::stderr(), "{line}{}", escape(&message.0));
    }
}

/// A field as text.
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, _: &Field, value: &str) {
        self.0.push_str(value);
    }

    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        // A string takes it all.
        let _ = write!(self.0, "{value:?}");
    }
}
