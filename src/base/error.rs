//! [`Diagnostic`]: an error message for the user, with [`Advice`] on how to fix the cause.

use std::ffi::{OsStr, OsString};
use std::ops::{Deref, DerefMut};
use std::path::Path;

use serde::ser::{Serialize, SerializeStruct as _, Serializer};
use thiserror::Error;

use super::reader::{Download, Reader};
use super::shell::{shell_line, shell_word, without_sudo};

/// Advice that is printed after an error message. A string converts into advice whose command is the string.
///
/// A command that needs root begins with `sudo`, and one that downloads emulators with a package manager has `--fetch`.
/// Before the advice is printed, it is adapted to what its [`Reader`] can do. For root, `sudo` is removed: containers do
/// not have it, and it does not work in a user namespace.
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
        if Reader::of_this_process().is_root {
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

    /// Returns the advice for this reader. A command that the reader cannot use moves into the hint, after the reason.
    #[must_use]
    pub fn for_reader(&self, reader: &Reader<'_>) -> Self {
        let Self { mut command, mut hint } = self.clone();
        if let Some(instance) = reader.instance {
            command = command.map(|command| with_instance(&command, instance));
            hint = hint.map(|hint| with_instance(&hint, instance));
        }
        let from_source = |text: &str| {
            let changed = without_packages(text)?;
            let reason = match (reader.download)() {
                Download::Possible => return None,
                Download::NoManager => "qus knows no package manager of this system; name a source",
                Download::NoNetwork => "there is no network here; name a source",
            };
            Some((changed, reason))
        };
        let lacks_sudo = |text: &str| !reader.is_root && text.contains("sudo ") && !(reader.has_sudo)();
        hint = hint.map(|hint| from_source(&hint).map_or(hint, |(changed, _)| changed));
        if hint.as_deref().is_some_and(lacks_sudo) {
            hint = hint.map(|hint| hint.replace("sudo ", "") + " (as root)");
        }
        if let Some(line) = &command {
            let (reason, changed) = match (from_source(line), lacks_sudo(line)) {
                (None, false) => (String::new(), line.clone()),
                (None, true) => ("as root".to_owned(), without_sudo(line)),
                (Some((changed, reason)), false) => (reason.to_owned(), changed),
                (Some((changed, reason)), true) => (format!("{reason} as root"), without_sudo(&changed)),
            };
            if !reason.is_empty() {
                hint = Some(joined(format!("{reason}: {}", changed.replace('\n', " && ")), hint));
                command = None;
            }
        }
        if reader.is_root {
            command = command.as_deref().map(without_sudo);
            hint = hint.map(|hint| hint.replace("sudo ", ""));
        }
        Self { command, hint }
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
        let Self { command, hint } = self.for_reader(&Reader::of_this_process());
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
        let Self { command, hint } = self.for_reader(&Reader::of_this_process());
        let mut keys = serializer.serialize_struct("Advice", 2)?;
        keys.serialize_field("try", &command)?;
        keys.serialize_field("hint", &hint)?;
        keys.end()
    }
}

/// Returns a sentence with `more` after it.
fn joined(sentence: String, more: Option<String>) -> String {
    more.into_iter().fold(sentence, |sentence, more| sentence + "; " + &more)
}

/// Returns a text whose `qus` commands name a source of emulators instead of the package manager. Returns `None` if none
/// of them uses the package manager.
fn without_packages(text: &str) -> Option<String> {
    if text.contains(" --fetch") {
        return Some(text.replace(" --fetch", " --from SRC"));
    }
    let fetches =
        text.contains("qus fetch ") && ![" --from", " --prune"].iter().any(|word| text.contains(word));
    fetches.then(|| text.replace("qus fetch ", "qus fetch --from SRC "))
}

/// Subcommands of qus that show or change handlers of an instance.
const OF_AN_INSTANCE: [&str; 9] =
    ["apply", "disable", "doctor", "enable", "list", "register", "reset", "verify", "which"];

/// Returns a text whose `qus` commands name the instance that is mounted at `instance`. A quoted word stays as it is.
fn with_instance(text: &str, instance: &Path) -> String {
    let option = format!("qus --instance {} ", shell_word(instance));
    let mut changed = String::new();
    let mut parts = text.split("qus ");
    changed.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let is_begin = changed.is_empty() || changed.ends_with([' ', '\n', '`']);
        let is_quoted = changed.matches('\'').count() % 2 == 1;
        let verb = part.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or_default();
        let is_command = is_begin && !is_quoted && OF_AN_INSTANCE.contains(&verb);
        changed.push_str(if is_command { &option } else { "qus " });
        changed.push_str(part);
    }
    changed
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

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Reader<'_> = Reader { is_root: true, has_sudo: || false, ..USER };
    const USER: Reader<'_> =
        Reader { is_root: false, has_sudo: || true, download: || Download::Possible, instance: None };
    const WITHOUT_SUDO: Reader<'_> = Reader { has_sudo: || false, ..USER };
    const WITHOUT_NETWORK: Reader<'_> = Reader { download: || Download::NoNetwork, ..USER };
    const WITHOUT_PACKAGES: Reader<'_> = Reader { download: || Download::NoManager, ..USER };

    fn advice(command: &str, hint: &str) -> Advice {
        Advice {
            command: Some(command.to_owned()).filter(|text| !text.is_empty()),
            hint: Some(hint.to_owned()),
        }
    }

    #[test]
    fn advice_is_what_its_reader_can_use() {
        let register = advice("sudo qus register --fetch arm", "or, without root: qus run --fetch x");
        assert_eq!(register.for_reader(&USER), register);
        let as_root = advice("qus register --fetch arm", "or, without root: qus run --fetch x");
        assert_eq!(register.for_reader(&ROOT), as_root);
        let hint = "as root: qus register --fetch arm; or, without root: qus run --fetch x";
        assert_eq!(register.for_reader(&WITHOUT_SUDO), advice("", hint));
        let hint = "qus knows no package manager of this system; name a source: sudo qus register --from SRC arm; \
                    or, without root: qus run --from SRC x";
        assert_eq!(register.for_reader(&WITHOUT_PACKAGES), advice("", hint));
    }

    #[test]
    fn commands_name_the_instance() {
        let elsewhere = Reader { instance: Some(Path::new("/x y")), ..USER };
        let two = advice(
            "sudo qus register arm\nqus verify arm",
            "or type `qus list`; qus knows more, as qus show",
        );
        let command = "sudo qus --instance '/x y' register arm\nqus --instance '/x y' verify arm";
        let hint = "or type `qus --instance '/x y' list`; qus knows more, as qus show";
        assert_eq!(two.for_reader(&elsewhere), advice(command, hint));
        let apply = Advice::from("sudo qus apply '/a qus list b'").for_reader(&elsewhere);
        assert_eq!(apply.command.unwrap(), "sudo qus --instance '/x y' apply '/a qus list b'");
    }

    #[test]
    fn several_commands_become_one_line() {
        let two = Advice::from("sudo qus register arm\nsudo qus enable arm");
        let hint = "as root: qus register arm && qus enable arm";
        assert_eq!(two.for_reader(&WITHOUT_SUDO), advice("", hint));
        assert_eq!(two.for_reader(&ROOT).command.unwrap(), "qus register arm\nqus enable arm");
        let fetched = Advice::from("sudo qus register --fetch arm\nqus verify arm");
        let hint = "qus knows no package manager of this system; name a source as root: \
                    qus register --from SRC arm && qus verify arm";
        let without_both = Reader { download: || Download::NoManager, ..WITHOUT_SUDO };
        assert_eq!(fetched.for_reader(&without_both), advice("", hint));
        let sentence = Advice::hint("to change that: sudo qus register arm").for_reader(&WITHOUT_SUDO);
        assert_eq!(sentence, advice("", "to change that: qus register arm (as root)"));
    }

    #[test]
    fn a_download_needs_a_package_manager() {
        let fetch = |command: &str| Advice::from(command).for_reader(&WITHOUT_PACKAGES);
        let hint =
            "qus knows no package manager of this system; name a source: qus fetch --from SRC --dest x arm";
        assert_eq!(fetch("qus fetch --dest x arm"), advice("", hint));
        for command in ["qus fetch --from a.deb arm", "qus fetch --prune", "qus register arm"] {
            assert_eq!(fetch(command), command.into());
        }
        let hint = "there is no network here; name a source: sudo qus register --from SRC arm";
        assert_eq!(
            Advice::from("sudo qus register --fetch arm").for_reader(&WITHOUT_NETWORK),
            advice("", hint)
        );
        let run = Advice::hint("without root: qus run --fetch PROGRAM").for_reader(&WITHOUT_PACKAGES);
        assert_eq!(run, advice("", "without root: qus run --from SRC PROGRAM"));
    }
}
