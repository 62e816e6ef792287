//! Reports: what a command found and did, and printing that.

use anyhow::Result;
use serde::Serialize;

use crate::base::output::{Output, Status};

/// What a command found and did. As JSON it is the serialised value.
pub(crate) trait Report: Serialize {
    /// The report as text for standard output.
    fn text(&self) -> String;

    /// Prints the messages for a person, and returns the status.
    fn conclude(&self, output: &mut Output<'_>) -> Result<Status>;
}

/// Prints a report, as text or as JSON, and its messages.
pub(crate) fn print(report: &impl Report, output: &mut Output<'_>) -> Result<Status> {
    output.print_data(report, || report.text())?;
    report.conclude(output)
}
