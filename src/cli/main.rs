//! The `qus` command.

use std::process::ExitCode;

use qus::base::error::Diagnostic;
use qus::cli::start;
use qus::system::{secure_exec, signals};

fn main() -> ExitCode {
    let normalised = signals::normalise()
        .map_err(|error| Diagnostic::new(format!("cannot set SIGCHLD to its default: {error}")));
    // A setuid qus is refused before any input of the caller is used.
    if let Err(problem) = normalised.and_then(|()| secure_exec::check()) {
        return start::refuse(&problem);
    }
    start::serve_as_helper().unwrap_or_else(start::run)
}
