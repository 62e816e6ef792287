//! [`Diagnostic`]: an error message for the user, with [`Advice`] on how to fix the cause.

use std::ffi::{OsStr, OsString};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::OnceLock;

use nix::unistd::getuid;
use serde::ser::{Serialize, SerializeStruct as _, Serializer};
use thiserror::Error;

use super::shell::{shell_line, without_sudo};

/// Advice that is printed after an error message. A string converts into advice whose command is the string.
///
/// A command that needs root begins with `sudo`. If root runs qus, `sudo` is removed before the advice is printed:
/// containers do not have `sudo`, and it does not work in a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// Shell command that the user can paste; `None` if there is none. Each line is one command.
    pub command: Option<String>,
    /// One sentence of advice; `None` if there is none.
    pub hint: Option<String>,
}

impl Advice {
    /// Creates advice that consists of one sentence and no command.
    #[must_use]
    pub fn hint(sentence: impl Into<String>) -> Self {
        Self { command: None, hint: Some(sentence.into()) }
    }

    /// Returns the advice to type the command line of this process again, with `sudo` before it.
    ///
    /// If the first word is the path of an executable called `qus`, the advice contains only `qus`, as all other advice
    /// does. Any other first word stays as it was typed. It can be a link that makes qus accept the command line of
    /// another tool.
    #[must_use]
    pub fn this_command_as_root() -> Self {
        let mut words = std::env::args_os();
        let is_qus = |name: &OsString| Path::new(name).file_name() == Some(OsStr::new("qus"));
        let name = words.next().filter(|name| !is_qus(name)).unwrap_or_else(|| "qus".into());
        Self::as_root(&shell_line([name].into_iter().chain(words)))
    }

    /// Returns the advice to type `command`, which failed for lack of rights, with `sudo` before it. If root runs qus,
    /// `sudo` gives no more rights. The advice is then to start qus where root has them.
    #[must_use]
    pub fn as_root(command: &str) -> Self {
        if reader_is_root() {
            return Self::hint(
                "root has no such right here: start qus outside of this container, or with all capabilities",
            );
        }
        format!("sudo {command}").into()
    }

    /// Returns this advice with `sentence` as its hint.
    #[must_use]
    pub fn with_hint(self, sentence: impl Into<String>) -> Self {
        Self { hint: Some(sentence.into()), ..self }
    }

    /// Returns the advice for a reader who is root or another user: for root, `sudo` is removed from the commands.
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

    /// Formats the advice as text that can be appended to a one-line message. Each part of it begins with a semicolon.
    #[must_use]
    pub fn inline(&self) -> String {
        self.lines().fold(String::new(), |text, line| text + "; " + &line.text)
    }

    /// Returns the advice as lines to print: a line `try: …` for each command, then a line `hint: …` for the sentence.
    pub fn lines(&self) -> impl Iterator<Item = AdviceLine> + use<> {
        let Self { command, hint } = self.for_reader(reader_is_root());
        let command = command.unwrap_or_default();
        let line = |text: String, is_command| AdviceLine { text, is_command };
        let commands = command.lines().map(|command| line(format!("try: {command}"), true));
        let commands: Vec<AdviceLine> = commands.collect();
        commands.into_iter().chain(hint.map(|hint| line(format!("hint: {hint}"), false)))
    }
}

/// In JSON, advice is an object with the keys `try` and `hint`. Each value is a string or null.
impl Serialize for Advice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { command, hint } = self.for_reader(reader_is_root());
        let mut keys = serializer.serialize_struct("Advice", 2)?;
        keys.serialize_field("try", &command)?;
        keys.serialize_field("hint", &hint)?;
        keys.end()
    }
}

/// Reports whether root runs qus. The user of a process that prints messages never changes, so the kernel is asked only
/// once: `which` prints advice for each of thousands of files.
fn reader_is_root() -> bool {
    static IS_ROOT: OnceLock<bool> = OnceLock::new();
    *IS_ROOT.get_or_init(|| getuid().is_root())
}

/// One line of advice, as it is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdviceLine {
    /// Text of the line.
    pub text: String,
    /// True for a command. A command is never broken into lines, so that it can be copied.
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

/// An error message for the user, with advice.
///
/// The message is on the heap, so that a result which may be such an error is small.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.0.message)]
pub struct Diagnostic(Box<Content>);

/// Parts of a [`Diagnostic`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The first line names the failed operation, its object and the cause. Further lines explain the cause.
    pub message: String,
    /// Advice on how to fix the cause of the failure.
    pub advice: Advice,
}

impl Deref for Diagnostic {
    type Target = Content;

    fn deref(&self) -> &Content {
        &self.0
    }
}

impl DerefMut for Diagnostic {
    fn deref_mut(&mut self) -> &mut Content {
        &mut self.0
    }
}

impl Diagnostic {
    /// Returns the parts of this error message.
    #[must_use]
    pub fn into_content(self) -> Content {
        *self.0
    }

    /// Creates an error message without advice.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Content { message: message.into(), advice: Advice::default() }))
    }

    /// Replaces the message of this error by `message`.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// Replaces the advice of this error message by `advice`.
    #[must_use]
    pub fn with_advice(mut self, advice: impl Into<Advice>) -> Self {
        self.advice = advice.into();
        self
    }

    /// Sets the command of the advice: a shell command that the user can paste.
    #[must_use]
    pub fn with_command(mut self, command: impl Into<String>) -> Self {
        self.advice.command = Some(command.into());
        self
    }

    /// Sets the hint of the advice, which is one sentence.
    #[must_use]
    pub fn with_hint(mut self, sentence: impl Into<String>) -> Self {
        self.advice.hint = Some(sentence.into());
        self
    }
}

/// Error type whose values may have advice on how to fix the cause of the error.
pub trait Advise: std::error::Error {
    /// Returns advice for the user who sees this error; empty advice if there is none.
    fn advice(&self) -> Advice {
        Advice::default()
    }
}

impl<E: Advise> From<E> for Diagnostic {
    fn from(error: E) -> Self {
        Self::new(error.to_string()).with_advice(error.advice())
    }
}
