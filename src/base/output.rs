//! Output of the commands of qus: the data on standard output, as text or as one JSON object, and messages on standard
//! error.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use crate::base::error::{Advice, Diagnostic};
use crate::base::escape::{escape, escape_json, escape_lines};
use crate::base::terminal::{Terminal, TextWriter, hang};

/// Version of the format of the JSON output. The number increases when a field is removed or changes its meaning.
const JSON_VERSION: u32 = 1;
/// Beginning of every message on standard error.
pub(super) const PREFIX: &str = "qus: ";
/// Indentation of the second and further lines of a hint, in columns. It is the width of `  hint: `.
pub(crate) const ADVICE_INDENT: usize = 8;
/// Size of the blocks in which data are written, in bytes.
const BLOCK: usize = 32 << 10;

/// Exit status of a command of qus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Exit status 0: the command succeeded.
    Done,
    /// Exit status 1: the command worked, but something that it checked is not in order.
    No,
    /// Exit status 2: the command failed, completely or for one of several items. The cause can be the command line,
    /// permissions or the environment.
    Failed,
    /// Exit status 125 to 127: `qus run` did not start the program. `env(1)` uses the same numbers.
    NotRun(NotRun),
}

/// Reason why `qus run` did not start the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotRun {
    /// Exit status 125: qus itself failed.
    Qus,
    /// Exit status 126: the program was found but could not be started.
    Unrunnable,
    /// Exit status 127: the program was not found.
    NotFound,
}

impl Status {
    /// Returns the exit status as a number for `exit(2)`.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Failed => 2,
            Self::NotRun(NotRun::Qus) => 125,
            Self::NotRun(NotRun::Unrunnable) => 126,
            Self::NotRun(NotRun::NotFound) => 127,
        }
    }
}

/// Destination of the data and the messages of a command.
pub struct Output<'a> {
    data: &'a mut dyn Write,
    messages: &'a mut dyn Write,
    json: bool,
    quiet: bool,
    terminal: Terminal,
    /// Width of the terminal that shows the messages; `None` in a pipe or a file.
    message_width: Option<usize>,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    value: &'a T,
}

#[derive(Serialize)]
struct ErrorView<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    message: &'a str,
    #[serde(flatten)]
    advice: &'a Advice,
}

impl<'a> Output<'a> {
    /// Creates an output that writes the data to `data` and the messages to `messages`. If `json` is true, the data are
    /// one JSON object. If `quiet` is true, no messages are printed except errors.
    pub fn new(data: &'a mut dyn Write, messages: &'a mut dyn Write, json: bool, quiet: bool) -> Self {
        Self { data, messages, json, quiet, terminal: Terminal::default(), message_width: None }
    }

    /// Sets the terminal that shows the data. Its width determines the layout of the data.
    #[must_use]
    pub fn on(self, terminal: Terminal) -> Self {
        Self { terminal, ..self }
    }

    /// Sets the width of the terminal that shows the messages. Longer messages are wrapped.
    #[must_use]
    pub fn with_message_width(self, message_width: Option<usize>) -> Self {
        Self { message_width, ..self }
    }

    /// Prints the data of a command. With `--json` this is `value` as JSON, otherwise the text that the function `text`
    /// writes. Control characters are escaped. The data are written in blocks and never stored as a whole.
    pub fn print_data<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&mut TextWriter<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let terminal = self.terminal;
        self.blocks(value, |data| text(&mut TextWriter::new(data, terminal)))
    }

    /// Prints a document that another program reads. With `--json` this is `value` as JSON, otherwise the exact bytes
    /// that the function `text` writes.
    pub fn print_document<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&mut TextWriter<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.blocks(value, |data| text(&mut TextWriter::document(data)))
    }

    /// Writes `value` as JSON, or what `text` writes, in blocks, so that not every line needs a system call.
    fn blocks<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut data = BufWriter::with_capacity(BLOCK, &mut *self.data);
        if self.json {
            write_json(&mut data, value)?;
        } else {
            text(&mut data)?;
        }
        data.flush()
    }

    /// Returns `value` as the JSON object that a command would print.
    pub fn json<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
        let mut json = Vec::new();
        write_json(&mut json, value)?;
        Ok(json)
    }

    /// Prints a message that is not an error, with one write. With `--quiet`, prints nothing.
    pub fn info(&mut self, text: &str) -> io::Result<()> {
        if self.quiet {
            return Ok(());
        }
        let mut lines = String::new();
        for (index, line) in escape_lines(text).lines().enumerate() {
            let prefix = if index == 0 { PREFIX } else { "" };
            lines.push_str(&hang(&format!("{prefix}{line}"), self.message_width, PREFIX.len()));
            lines.push('\n');
        }
        self.messages.write_all(lines.as_bytes())
    }

    /// Prints an error message and its advice to standard error, with one write.
    pub fn problem(&mut self, problem: &Diagnostic) -> io::Result<()> {
        let mut text = String::new();
        for (index, line) in problem.message.lines().enumerate() {
            let (prefix, indent) = if index == 0 { (PREFIX, PREFIX.len()) } else { ("  ", 4) };
            text.push_str(&hang(&format!("{prefix}{}", escape(line)), self.message_width, indent));
            text.push('\n');
        }
        for line in problem.advice.lines() {
            let width = self.message_width.filter(|_| !line.is_command);
            text.push_str(&hang(&format!("  {}", escape(&line.text)), width, ADVICE_INDENT));
            text.push('\n');
        }
        self.messages.write_all(text.as_bytes())
    }

    /// Prints the error that ended the command, in the same way as [`problem`](Self::problem). With `--json`, also
    /// prints the error as a JSON object to standard output.
    pub fn failure(&mut self, problem: &Diagnostic) -> io::Result<()> {
        if self.json {
            let error = ErrorDetail { message: &problem.message, advice: &problem.advice };
            let printed = self.print_data(&ErrorView { error }, |_| Ok(()));
            // If the data cannot be printed, at least the message is.
            return self.problem(problem).and(printed);
        }
        self.problem(problem)
    }
}

/// Writes `value` as JSON to `writer`. The parameter is `dyn`, so that the compiler does not copy this function for
/// each type of writer.
fn write_json<T: Serialize>(writer: &mut dyn Write, value: &T) -> io::Result<()> {
    let mut json = EscapedJson(writer);
    serde_json::to_writer_pretty(&mut json as &mut dyn Write, &Versioned { version: JSON_VERSION, value })?;
    json.write_all(b"\n")
}

/// Writer that escapes control characters in the JSON text written to it. serde_json never splits a character between
/// two writes.
struct EscapedJson<'a>(&'a mut dyn Write);

impl Write for EscapedJson<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.write_all(escape_json(&String::from_utf8_lossy(text)).as_bytes())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::escape::needs_escape;

    #[test]
    fn json_is_the_same_value_and_plain_text() {
        let name = "\x1b[2J\u{9b}\u{202e}\u{7f}\nü";
        let json = Output::json(&serde_json::json!({ "name": name })).unwrap();
        let text = std::str::from_utf8(&json).unwrap();
        assert!(!text.contains(|letter: char| letter != '\n' && needs_escape(letter)), "{text}");
        assert!(text.contains('ü'));
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(value["name"], name);
    }

    #[test]
    fn a_failure_is_an_object_too() {
        let (mut data, mut messages) = (Vec::new(), Vec::new());
        let problem = Diagnostic::new("no\nreally").with_command("do").with_hint("or wait");
        Output::new(&mut data, &mut messages, true, true).failure(&problem).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&data).unwrap();
        assert_eq!(value["version"], 1);
        assert_eq!((&value["error"]["try"], &value["error"]["hint"]), (&"do".into(), &"or wait".into()));
        assert_eq!(String::from_utf8(messages).unwrap(), "qus: no\n  really\n  try: do\n  hint: or wait\n");
    }

    #[test]
    fn messages_are_wrapped_on_a_terminal() {
        struct Writes(Vec<String>);
        impl Write for Writes {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                self.0.push(String::from_utf8(text.to_vec()).unwrap());
                Ok(text.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut data, mut messages) = (Vec::new(), Writes(Vec::new()));
        let problem = Diagnostic::new("one two three four five six\nseven eight nine ten eleven")
            .with_command("a command that is longer than the line")
            .with_hint("some words of advice");
        let mut output = Output::new(&mut data, &mut messages, false, false).with_message_width(Some(24));
        output.info("one two three four five").unwrap();
        output.problem(&problem).unwrap();
        let expected = [
            "qus: one two three four\n     five\n",
            "qus: one two three four\n     five six\n  seven eight nine ten\n    eleven\n  \
             try: a command that is longer than the line\n  hint: some words of\n        advice\n",
        ];
        assert_eq!(messages.0, expected);
    }

    #[test]
    fn the_worse_status_wins() {
        assert_eq!(Status::No.max(Status::Failed).code(), 2);
        assert_eq!(Status::Done.max(Status::No).code(), 1);
    }
}
