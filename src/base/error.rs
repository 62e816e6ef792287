//! [`Diagnostic`]: what a person is told when something does not work.

use thiserror::Error;

/// What failed and why, and the command that mends it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Diagnostic {
    /// The failed operation, the path, and the cause; lines after the first explain.
    pub message: String,
    /// What to type instead, or to do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A problem without a cure that could be named.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// The same problem with its cure.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// An error that may know how the failure is fixed.
pub trait Hint: std::error::Error {
    /// A command that can be pasted into a shell, or one sentence.
    fn hint(&self) -> Option<String> {
        None
    }
}

impl<E: Hint> From<E> for Diagnostic {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), hint: error.hint() }
    }
}
