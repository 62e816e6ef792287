//! What is said in passing, by whatever part of qus: a line each on standard error.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::output::escape;

/// Starts telling: warnings, with `verbose` 1 what is being done, above that every detail.
///
/// Somebody who tells already goes on: a test may have begun.
pub fn start(verbose: u8) {
    let level = match verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::DEBUG,
    };
    let _already_told = tracing::subscriber::set_global_default(Lines(level));
}

/// Events as lines. qus has no spans, and events with nothing but a message.
struct Lines(Level);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.0
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.into())
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = event.metadata().level();
        let warning = if *level <= Level::WARN { "warning: " } else { "" };
        // There is nobody left to tell it to when this fails.
        let _ = writeln!(io::stderr(), "qus: {warning}{}", escape(&message.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        // A string takes it all.
        let _ = write!(self.0, "{value:?}");
    }
}
