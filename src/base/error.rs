//! [`Diagnostic`]: an error message for the user, with [`Advice`] on how to fix the failure.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use nix::unistd::getuid;
use serde::ser::{Serialize, SerializeStruct as _, Serializer};
use thiserror::Error;

use super::shell::{shell_line, without_sudo};

/// Advice that follows a message. A plain string converts into a command.
///
/// A command that only root may type begins with `sudo`. Where qus prints advice to root, `sudo` is removed: containers
/// do not have it, and it does not work in a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// Command that can be pasted into a shell. Each line is one command.
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

    /// Advises the user to type the command line of this process again, with `sudo` before it.
    ///
    /// The first word becomes `qus`, without its directory, as in all other hints. If the executable, or the link to it,
    /// has another name, the first word is printed as it was typed. Such a link makes qus accept the command line of
    /// another tool.
    #[must_use]
    pub fn this_command_as_root() -> Self {
        let mut words = std::env::args_os();
        let is_qus = |name: &OsString| Path::new(name).file_name() == Some(OsStr::new("qus"));
        let name = words.next().filter(|name| !is_qus(name)).unwrap_or_else(|| "qus".into());
        Self::as_root(&shell_line([name].into_iter().chain(words)))
    }

    /// Advises the user to type `command`, which failed for lack of rights, with `sudo` before it. Root needs a place
    /// where it has more rights instead.
    #[must_use]
    pub fn as_root(command: &str) -> Self {
        if getuid().is_root() {
            return Self::hint(
                "root has no such right here: start qus outside of this container, or with all capabilities",
            );
        }
        format!("sudo {command}").into()
    }

    /// Adds a sentence to this advice.
    #[must_use]
    pub fn with_hint(self, sentence: impl Into<String>) -> Self {
        Self { hint: Some(sentence.into()), ..self }
    }

    /// Returns the advice as its reader types it: root types no `sudo`.
    #[must_use]
    pub fn for_reader(&self, is_root: bool) -> Self {
        if !is_root {
            return self.clone();
        }
        Self {
            command: self.command.as_deref().map(without_sudo),
            hint: self.hint.as_deref().map(|hint| hint.replace("sudo qus ", "qus ")),
        }
    }

    /// Reports whether the advice has neither a command nor a sentence.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.command.is_none() && self.hint.is_none()
    }

    /// Formats the advice for the end of a one-line message: each part follows a semicolon.
    #[must_use]
    pub fn inline(&self) -> String {
        self.lines().fold(String::new(), |text, line| text + "; " + &line.text)
    }

    /// Returns the lines to print: a `try:` line for each command, then the `hint:` line.
    pub fn lines(&self) -> impl Iterator<Item = AdviceLine> + use<> {
        let Self { command, hint } = self.for_reader(getuid().is_root());
        let command = command.unwrap_or_default();
        let line = |text: String, is_command| AdviceLine { text, is_command };
        let commands = command.lines().map(|command| line(format!("try: {command}"), true));
        let commands: Vec<AdviceLine> = commands.collect();
        commands.into_iter().chain(hint.map(|hint| line(format!("hint: {hint}"), false)))
    }
}

/// The keys `try` and `hint`, each a string or null.
impl Serialize for Advice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { command, hint } = self.for_reader(getuid().is_root());
        let mut keys = serializer.serialize_struct("Advice", 2)?;
        keys.serialize_field("try", &command)?;
        keys.serialize_field("hint", &hint)?;
        keys.end()
    }
}

/// A printed line of advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdviceLine {
    /// The line.
    pub text: String,
    /// True for a command, which is never broken into lines, so that it can be copied.
    pub is_command: bool,
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
