//! [`Terminal`]: width and colours of the device that shows the output of qus. [`TextWriter`]: a writer of text for
//! such a device.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use anstyle::{AnsiColor, Style};

use super::escape::escape_lines;

/// Text style for a good state, such as a working handler.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Text style for a state that deserves attention.
pub const NOTABLE: Style = AnsiColor::Yellow.on_default();
/// Text style for a bad state, such as a failed check.
pub const BAD: Style = AnsiColor::Red.on_default();
/// Text style for the header of a table.
pub const HEADER: Style = Style::new().bold();

/// Properties of the device that shows the output. The default value is for a pipe: unlimited width, no colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    /// Width of the terminal, in columns; `None` for a pipe or a file.
    pub width: Option<usize>,
    /// True if the text may have colours.
    pub color: bool,
}

impl Terminal {
    /// Returns the properties of standard output. Respects the environment variables `NO_COLOR`, `CLICOLOR`,
    /// `CLICOLOR_FORCE` and `TERM=dumb` (<https://no-color.org>, <https://bixense.com/clicolors>).
    #[must_use]
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        let color = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
        Self { width: width_of(&stdout), color }
    }
}

/// Returns the width of the terminal to which `stream` writes, in columns; `None` if `stream` is a pipe or a file.
#[must_use]
pub fn width_of<S: AsFd + IsTerminal>(stream: &S) -> Option<usize> {
    let size = stream.is_terminal().then(|| terminal_size::terminal_size_of(stream)).flatten();
    size.map(|(width, _)| usize::from(width.0))
}

/// Reports whether standard error is a terminal on which a progress bar can be drawn, because it can move its cursor.
#[must_use]
pub fn draws_on_stderr() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

/// Writer for the text that a command prints. It escapes control characters, except in a document that another program
/// reads.
pub struct TextWriter<'a> {
    data: &'a mut dyn Write,
    /// Properties of the device that shows the text.
    pub terminal: Terminal,
    is_document: bool,
}

impl<'a> TextWriter<'a> {
    /// Creates a writer for text that a person reads on `terminal`.
    pub fn new(data: &'a mut dyn Write, terminal: Terminal) -> Self {
        Self { data, terminal, is_document: false }
    }

    /// Creates a writer for a document that another program reads. It escapes nothing.
    pub fn document(data: &'a mut dyn Write) -> Self {
        Self { data, terminal: Terminal::default(), is_document: true }
    }

    /// Writes `text`. If the terminal has colours, the text is printed in `style`.
    pub fn write_styled(&mut self, style: Style, text: &str) -> io::Result<()> {
        if !self.terminal.color || text.is_empty() || style.is_plain() {
            return self.write_all(text.as_bytes());
        }
        write!(self.data, "{style}")?;
        self.write_all(text.as_bytes())?;
        write!(self.data, "{style:#}")
    }

    /// Writes a line. If the terminal is narrower than the line, the line is wrapped, and each further line begins with
    /// `indent` spaces.
    pub fn write_wrapped(&mut self, line: &str, indent: usize) -> io::Result<()> {
        let line = hang(line, self.terminal.width, indent);
        writeln!(self, "{line}")
    }
}

impl Write for TextWriter<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.is_document {
            return self.data.write(text);
        }
        // The formatting macros never split a character between two writes.
        self.data.write_all(escape_lines(&String::from_utf8_lossy(text)).as_bytes())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.data.flush()
    }
}

/// Minimum width to which text is wrapped, in columns. On a narrower terminal, lines are longer than the terminal.
pub(super) const NARROWEST: usize = 20;

/// Breaks a line at spaces, so that it fits a terminal of `width` columns, and joins the parts with newlines. Each part
/// but the first begins with `indent` spaces.
#[must_use]
pub fn hang(line: &str, width: Option<usize>, indent: usize) -> String {
    let Some(width) = width else { return line.to_owned() };
    wrap(line, width, width.saturating_sub(indent)).join(&format!("\n{:indent$}", ""))
}

/// Breaks a line at spaces and returns the parts. The first part has at most `first` columns, each other part at most
/// `other` columns. A word that is longer stays whole, so that a path or a command can be copied.
#[must_use]
pub fn wrap(line: &str, first: usize, other: usize) -> Vec<String> {
    let (first, other) = (first.max(NARROWEST), other.max(NARROWEST));
    let indent: String = line.chars().take_while(|character| *character == ' ').collect();
    let words = line.trim_start_matches(' ');
    let mut lines = vec![indent];
    // Number of spaces before the next word.
    let mut spaces = 0;
    for (index, word) in words.split(' ').enumerate() {
        spaces += usize::from(index > 0);
        if word.is_empty() {
            continue;
        }
        let width = if lines.len() == 1 { first } else { other };
        let Some(last) = lines.last_mut() else { break };
        if spaces > 0 && columns(last) + spaces + columns(word) > width {
            lines.push(word.to_owned());
        } else {
            last.push_str(&" ".repeat(spaces));
            last.push_str(word);
        }
        spaces = 0;
    }
    lines
}

/// Returns the width of the longest word of `text`, in columns.
pub(super) fn longest_word(text: &str) -> usize {
    text.split(' ').map(columns).max().unwrap_or(0)
}

/// Returns the width of `text` in columns. Each character counts as one column.
pub(super) fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOR: Terminal = Terminal { width: None, color: true };

    #[test]
    fn only_a_style_reaches_the_terminal_unescaped() {
        let mut data = Vec::new();
        let mut writer = TextWriter::new(&mut data, COLOR);
        writer.write_styled(BAD, "a\x1b[2J").unwrap();
        writer.write_styled(GOOD, "").unwrap();
        writer.write_all(b"\x1b[2J\n").unwrap();
        assert_eq!(data, b"\x1b[31ma\\u{1b}[2J\x1b[0m\\u{1b}[2J\n");
        let mut data = Vec::new();
        TextWriter::new(&mut data, Terminal::default()).write_styled(BAD, "a").unwrap();
        TextWriter::document(&mut data).write_all(b"\x1b").unwrap();
        assert_eq!(data, b"a\x1b");
    }

    #[test]
    fn a_line_is_broken_at_spaces() {
        let line = "  one two three four five six seven";
        assert_eq!(wrap(line, 20, 20), ["  one two three four", "five six seven"]);
        let path = "/a/path/that/is/longer/than/the/line";
        assert_eq!(wrap(&format!("see {path} there"), 20, 20), ["see", path, "there"]);
        assert_eq!(wrap("", 20, 20), [""]);
        // A name may have several spaces.
        assert_eq!(wrap("see /a  b and others, ", 20, 20), ["see /a  b and", "others,"]);
        assert_eq!(hang("one two three four five", Some(20), 4), "one two three four\n    five");
        assert_eq!(hang("one two three four five", None, 4), "one two three four five");
        let mut data = Vec::new();
        let narrow = Terminal { width: Some(24), color: false };
        TextWriter::new(&mut data, narrow).write_wrapped(line, 4).unwrap();
        assert_eq!(data, b"  one two three four\n    five six seven\n");
    }
}
