//! Runs other programs and waits until they end.

use std::io;
use std::process::{Command, Output};
use std::time::Instant;

use crate::base::shell::shell_line;

/// Runs a program until it ends, and returns its output. Logs its command line, exit status and run time.
///
/// # Errors
/// Fails if the program cannot be started.
pub fn output(command: &mut Command) -> io::Result<Output> {
    let words = || std::iter::once(command.get_program()).chain(command.get_args());
    tracing::info!("run {}", shell_line(words()));
    let begin = Instant::now();
    let output = command.output();
    let program = command.get_program().display();
    match &output {
        Ok(output) => {
            let messages = String::from_utf8_lossy(&output.stderr);
            tracing::debug!("{program}: {} after {:?}: {}", output.status, begin.elapsed(), messages.trim());
        }
        Err(error) => tracing::debug!("cannot start {program}: {error}"),
    }
    output
}
