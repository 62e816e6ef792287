//! The trait that the reports of all commands implement, and the function that prints a report.

use std::io;

use anyhow::Result;
use serde::Serialize;

use crate::base::error::Diagnostic;
use crate::base::output::{Output, Status};
use crate::base::terminal::TextWriter;

/// Results of a command. JSON output is the serialised report.
pub(crate) trait Report: Serialize {
    /// Writes the report as text for standard output. No single write ends inside of a character.
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()>;

    /// Reports whether the text is a document for another program. A document is printed unchanged. In all other text,
    /// control characters are escaped.
    fn is_document(&self) -> bool {
        false
    }

    /// Prints the messages of the report to standard error, and returns the exit status of the command.
    fn conclude(&self, _: &mut Output<'_>) -> Result<Status> {
        Ok(Status::Done)
    }
}

/// Prints `report` to standard output, as text or JSON. Then prints its messages to standard error.
///
/// If the reader of a pipe has closed it, the remaining output is not needed, but the exit status is.
pub(crate) fn print(report: &impl Report, output: &mut Output<'_>) -> Result<Status> {
    let printed = if report.is_document() {
        output.print_document(report, |text| report.write_text(text))
    } else {
        output.print_data(report, |text| report.write_text(text))
    };
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Diagnostic::new(format!("cannot print the results: {error}")).into())
        }
        _ => report.conclude(output),
    }
}
