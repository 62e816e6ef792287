//! Reports of commands, and printing them.

use std::io;

use anyhow::Result;
use serde::Serialize;

use crate::base::output::{Output, Status};
use crate::base::terminal::TextWriter;

/// Results of a command. As JSON it is the serialised value.
pub(crate) trait Report: Serialize {
    /// Writes the report as text for standard output, whole characters at a time.
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()>;

    /// Reports whether the text is a document for another program, which gets every byte as it is. In all other text,
    /// control characters are escaped.
    fn is_document(&self) -> bool {
        false
    }

    /// Prints the messages for a person, and returns the status.
    fn conclude(&self, _: &mut Output<'_>) -> Result<Status> {
        Ok(Status::Done)
    }
}

/// Prints a report, as text or as JSON, and its messages.
pub(crate) fn print(report: &impl Report, output: &mut Output<'_>) -> Result<Status> {
    if report.is_document() {
        output.print_document(report, |text| report.write_text(text))?;
    } else {
        output.print_data(report, |text| report.write_text(text))?;
    }
    report.conclude(output)
}
