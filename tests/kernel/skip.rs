//! Skips a running test, with a reason, if the machine lacks something that the test needs.

use std::panic::{UnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Exit status of a test process that was skipped. Its standard output is the reason.
pub(crate) const STATUS: u8 = 77;

/// Reason of a skip: the payload that [`catch`] receives.
struct Skip(String);

/// Ends this test as skipped. Destructors run.
pub(crate) fn skip(reason: impl Into<String>) -> ! {
    resume_unwind(Box::new(Skip(reason.into())))
}

/// Runs a test. The error is the reason of a skip.
pub(crate) fn catch(test: impl FnOnce() + UnwindSafe) -> Result<(), String> {
    match catch_unwind(test) {
        Ok(()) => Ok(()),
        Err(panic) => match panic.downcast::<Skip>() {
            Ok(skip) => Err(skip.0),
            Err(panic) => resume_unwind(panic),
        },
    }
}

/// Reports whether a skip is a failure here.
pub(crate) fn is_forbidden() -> bool {
    std::env::var_os("QUS_REQUIRE_KERNEL").is_some()
}

/// Reports whether a program of this name is installed. A name with a slash counts as installed.
pub(crate) fn has_program(name: &str) -> bool {
    let directories = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"];
    name.contains('/') || directories.iter().any(|directory| Path::new(directory).join(name).exists())
}

/// Skips this test if a shell did not find the program of a command line because it is not installed.
pub(crate) fn without_programs_of(line: &str, status: i32) {
    let mut words = line.split_whitespace().filter(|word| *word != "sudo" && !word.contains('='));
    if status == 127
        && let Some(name) = words.next()
        && name != "qus"
        && !has_program(name)
    {
        skip(format!("{name} is not installed"));
    }
}
