//! What a command says: data on standard output, as text or as one JSON object, and prose on standard error.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::problem::Problem;

/// Version of the JSON that is printed; it changes when a field changes its meaning or goes.
const JSON_VERSION: u32 = 1;

/// How a command ended, as exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// 0: done, or yes.
    Done,
    /// 1: the answer is no; a probe failed.
    No,
    /// 2: could not: usage, permission, the environment, or an item of a batch failed.
    Failed,
    /// 125 to 127: `qus run` did not get to start the program, as `env(1)` has it.
    NotRun(NotRun),
}

/// Why `qus run` did not start the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotRun {
    /// 125: qus itself failed.
    Qus,
    /// 126: the program was found, and cannot be started.
    Unrunnable,
    /// 127: there is no such program.
    NotFound,
}

impl Status {
    /// The number for `exit(2)`.
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

/// Where a command's words go.
pub struct Output<'a> {
    data: &'a mut dyn Write,
    prose: &'a mut dyn Write,
    json: bool,
    quiet: bool,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    view: &'a T,
}

#[derive(Serialize)]
struct ErrorView<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    message: &'a str,
    cure: Option<&'a str>,
}

impl<'a> Output<'a> {
    /// Data go to `data`, everything else to `prose`; with `json` the data are one JSON object, with `quiet` only
    /// problems are told.
    pub fn new(data: &'a mut dyn Write, prose: &'a mut dyn Write, json: bool, quiet: bool) -> Self {
        Self { data, prose, json, quiet }
    }

    /// Prints the data of a command: `view` as JSON, or `text`.
    pub fn data<T: Serialize, D: AsRef<[u8]>>(
        &mut self,
        view: &T,
        text: impl FnOnce() -> D,
    ) -> io::Result<()> {
        if self.json {
            write_json(&mut *self.data, view)?;
        } else {
            self.data.write_all(text().as_ref())?;
        }
        self.data.flush()
    }

    /// `view` as the JSON object that every command prints.
    pub fn json<T: Serialize>(view: &T) -> io::Result<Vec<u8>> {
        let mut json = Vec::new();
        write_json(&mut json, view)?;
        Ok(json)
    }

    /// Tells a person something in passing.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        if self.quiet { Ok(()) } else { writeln!(self.prose, "qus: {text}") }
    }

    /// Tells what failed, and the cure.
    pub fn problem(&mut self, problem: &Problem) -> io::Result<()> {
        let message: Vec<String> = problem.message.lines().map(escape).collect();
        writeln!(self.prose, "qus: {}", message.join("\n     "))?;
        let mut cure = problem.cure.iter().flat_map(|cure| cure.lines().map(escape)).enumerate();
        cure.try_for_each(|(index, line)| {
            writeln!(self.prose, "     {}{line}", if index == 0 { "cure: " } else { "      " })
        })
    }

    /// Tells what made the whole command fail: as [`problem`](Self::problem), and as the JSON object that is promised.
    pub fn failure(&mut self, problem: &Problem) -> io::Result<()> {
        if self.json {
            let error = ErrorDetail { message: &problem.message, cure: problem.cure.as_deref() };
            self.data(&ErrorView { error }, String::new)?;
        }
        self.problem(problem)
    }
}

/// One kind of writer alone, so that the code for a view is there once.
fn write_json<T: Serialize>(writer: &mut dyn Write, view: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *writer, &Versioned { version: JSON_VERSION, view })?;
    writer.write_all(b"\n")
}

/// Rows with their columns lined up, two spaces between them; the last column is as long as it likes.
#[must_use]
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            let padding = width.saturating_sub(cell.chars().count()) + 2;
            line.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A path for one line of text: control characters, which a terminal would act on, are escaped.
#[must_use]
pub fn path_text(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

/// Untrusted text for one line: control characters are escaped.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows =
            [vec!["a".into(), "bb".into(), "c c".into()], vec!["aaa".into(), String::new(), "d".into()]];
        assert_eq!(columns(&rows), "a    bb  c c\naaa      d\n");
    }

    #[test]
    fn names_cannot_command_a_terminal() {
        assert_eq!(escape("a\x1b[2Jb\nc\u{9b}ü"), "a\\u{1b}[2Jb\\nc\\u{9b}ü");
    }

    #[test]
    fn a_failure_is_an_object_too() {
        let (mut data, mut prose) = (Vec::new(), Vec::new());
        let problem = Problem::new("no\nreally").cure("do");
        Output::new(&mut data, &mut prose, true, true).failure(&problem).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&data).unwrap();
        assert_eq!(value["version"], 1);
        assert_eq!(value["error"]["cure"], "do");
        assert_eq!(String::from_utf8(prose).unwrap(), "qus: no\n     really\n     cure: do\n");
    }

    #[test]
    fn the_worse_status_wins() {
        assert_eq!(Status::No.max(Status::Failed).code(), 2);
        assert_eq!(Status::Done.max(Status::No).code(), 1);
    }
}
