//! [`Diagnostic`]: an error message for a person, with [`Advice`] on what may fix the failure.

use serde::Serialize;
use thiserror::Error;

/// Advice that follows a message. A string alone, converted into one, is a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// A command that can be pasted into a shell. Several lines are several commands.
    #[serde(rename = "try")]
    pub command: Option<String>,
    /// One sentence.
    pub hint: Option<String>,
}

impl Advice {
    /// Returns advice that is one sentence.
    #[must_use]
    pub fn hint(sentence: impl Into<String>) -> Self {
        Self { command: None, hint: Some(sentence.into()) }
    }

    /// Adds a sentence to the command.
    #[must_use]
    pub fn with_hint(self, sentence: impl Into<String>) -> Self {
        Self { hint: Some(sentence.into()), ..self }
    }

    /// Changes the command, if there is one.
    #[must_use]
    pub fn map_command(self, change: impl FnOnce(String) -> String) -> Self {
        Self { command: self.command.map(change), ..self }
    }

    /// Reports whether there is neither a command nor a sentence.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.command.is_none() && self.hint.is_none()
    }

    /// Returns the advice for the line of a message, each part after a semicolon.
    #[must_use]
    pub fn inline(&self) -> String {
        self.lines().fold(String::new(), |text, line| text + "; " + &line)
    }

    /// Returns the lines that are printed: a `try:` for each command, then the `hint:`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let commands = self.command.iter().flat_map(|command| command.lines());
        let commands = commands.map(|command| format!("try: {command}"));
        commands.chain(self.hint.iter().map(|hint| format!("hint: {hint}")))
    }
}

impl From<Option<String>> for Advice {
    fn from(command: Option<String>) -> Self {
        Self { command, hint: None }
    }
}

impl From<String> for Advice {
    fn from(command: String) -> Self {
        Some(command).into()
    }
}

impl From<&str> for Advice {
    fn from(command: &str) -> Self {
        command.to_owned().into()
    }
}

/// An error message for a person.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Diagnostic {
    /// The failed operation, the object, and the cause. Lines after the first explain.
    pub message: String,
    /// Advice that may fix the failure.
    pub advice: Advice,
}

impl Diagnostic {
    /// Returns a message without advice.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), advice: Advice::default() }
    }

    /// Replaces the advice.
    #[must_use]
    pub fn with_advice(self, advice: impl Into<Advice>) -> Self {
        Self { advice: advice.into(), ..self }
    }

    /// Adds a command that can be pasted into a shell.
    #[must_use]
    pub fn with_command(mut self, command: impl Into<String>) -> Self {
        self.advice.command = Some(command.into());
        self
    }

    /// Adds one sentence of advice.
    #[must_use]
    pub fn with_hint(mut self, sentence: impl Into<String>) -> Self {
        self.advice.hint = Some(sentence.into());
        self
    }
}

/// An error that may know how the failure is fixed.
pub trait Advise: std::error::Error {
    /// Returns advice for this error.
    fn advice(&self) -> Advice {
        Advice::default()
    }
}

impl<E: Advise> From<E> for Diagnostic {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), advice: error.advice() }
    }
}
