//! What is said in passing, by whatever part of qus: a line each on standard error.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::base::output::escape;

/// Starts telling: warnings, with `verbose` 1 what is being done, above that every detail.
///
/// Somebody who tells already goes on: a test may have begun.
pub fn install(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let _already_told = tracing_subscriber::registry().with(Lines.with_filter(level)).try_init();
}

/// Events as lines. qus has no spans, and events with nothing but a message.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = event.metadata().level();
        let warning = if *level <= Level::WARN { "warning: " } else { "" };
        // There is nobody left to tell it to when this fails.
        let _ = writeln!(io::stderr(), "qus: {warning}{}", escape(&message.0));
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        // A string takes it all.
        let _ = write!(self.0, "{value:?}");
    }
}
