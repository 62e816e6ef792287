//! [`Diagnostic`]: an error message for the user, with [`Advice`] on how to fix the failure.

use serde::Serialize;
use thiserror::Error;

/// Advice that follows a message. A plain string converts into a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// Command that can be pasted into a shell. Each line is one command.
    #[serde(rename = "try")]
    pub command: Option<String>,
    /// One sentence of advice.
    pub hint: Option<String>,
}

impl Advice {
    /// Creates advice that is one sentence.
    #[must_use]
    pub fn hint(sentence: impl Into<String>) -> Self {
        Self { command: None, hint: Some(sentence.into()) }
    }

    /// Adds a sentence to this advice.
    #[must_use]
    pub fn with_hint(self, sentence: impl Into<String>) -> Self {
        Self { hint: Some(sentence.into()), ..self }
    }

    /// Applies `change` to the command, if there is one.
    #[must_use]
    pub fn map_command(self, change: impl FnOnce(String) -> String) -> Self {
        Self { command: self.command.map(change), ..self }
    }

    /// Reports whether the advice has neither a command nor a sentence.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.command.is_none() && self.hint.is_none()
    }

    /// Formats the advice for the end of a one-line message: each part follows a semicolon.
    #[must_use]
    pub fn inline(&self) -> String {
        self.lines().fold(String::new(), |text, line| text + "; " + &line)
    }

    /// Returns the lines to print: a `try:` line for each command, then the `hint:` line.
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

/// An error message for the user.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Diagnostic {
    /// The failed operation, the object and the cause. Further lines explain the cause.
    pub message: String,
    /// Advice that may fix the failure.
    pub advice: Advice,
}

impl Diagnostic {
    /// Creates a message without advice.
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

/// An error that may have advice on how to fix the failure.
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
