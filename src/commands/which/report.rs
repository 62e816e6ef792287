//! How `qus which` says it.

use std::cell::Cell;
use std::io::{self, Write};

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use super::explain::{Answer, explain};
use super::files::Files;
use super::known::{Certainty, Known};
use crate::base::output::{Output, Status, escape, escaped, format_table};
use crate::binfmt::{Handler, Matcher};
use crate::commands::report::Report;
use crate::handler::exec_target::ExecTarget;
use crate::handler::predict::Table;

/// Answers about files. Each is printed before the next file is read: there may be a hundred thousand.
pub(super) struct WhichReport<'a> {
    pub(super) files: &'a Files<'a>,
    pub(super) table: &'a Table<'a>,
    pub(super) known: &'a Known,
    /// Handlers that are compared with each file, byte by byte.
    pub(super) compared: &'a [Handler],
    /// Whether every file so far can be run.
    pub(super) all_run: Cell<bool>,
}

impl<'a> WhichReport<'a> {
    fn answers(&self) -> impl Iterator<Item = (ExecTarget, Answer<'a>)> {
        let (table, known) = (self.table, self.known);
        self.files.iter().map(move |file| {
            let target = ExecTarget::inspect(file);
            let answer = explain(&target, &table.predict(&target), table, known);
            self.all_run.set(self.all_run.get() && answer.runs);
            (target, answer)
        })
    }
}

impl Serialize for WhichReport<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("WhichReport", 1)?;
        report.serialize_field("answers", &Answers(self))?;
        report.end()
    }
}

struct Answers<'a>(&'a WhichReport<'a>);

impl Serialize for Answers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.answers().map(|(_, answer)| answer))
    }
}

impl Report for WhichReport<'_> {
    fn write_text(&self, text: &mut dyn Write) -> io::Result<()> {
        let mut answer_text = String::new();
        for (target, answer) in self.answers() {
            answer_text.clear();
            answer.write_lines(&mut answer_text);
            for handler in self.compared {
                answer_text.push_str(&format!("  {}\n", comparison(handler, &target)));
            }
            text.write_all(answer_text.as_bytes())?;
        }
        Ok(())
    }

    fn conclude(&self, _: &mut Output<'_>) -> anyhow::Result<Status> {
        Ok(if self.all_run.get() { Status::Done } else { Status::No })
    }
}

impl Answer<'_> {
    /// Appends the lines of the answer.
    fn write_lines(&self, text: &mut String) {
        let mut line = |words: &[&str]| {
            text.extend(words.iter().copied());
            text.push('\n');
        };
        line(&[&escaped(&self.file), ": ", &escaped(&self.kind)]);
        if let Some(handler) = &self.handler {
            let version = handler.version.as_ref().map(|version| format!("QEMU {version}"));
            let origin =
                handler.provenance.as_ref().map(|record| format!("from {}", escape(&record.short())));
            let description: Vec<String> = version.into_iter().chain(origin).collect();
            let description =
                if description.is_empty() { String::new() } else { format!(" ({})", description.join(", ")) };
            let (name, interpreter) = (escaped(&handler.name), escaped(&handler.interpreter));
            let flags = if handler.flags.is_empty() { "none" } else { &escaped(&handler.flags) };
            let likely = if self.certainty == Certainty::Likely { " probably" } else { "" };
            line(&["  ", &name, likely, " takes it: ", &interpreter, &description, ", flags ", flags]);
        }
        line(&["  ", &self.text]);
        for other in &self.others {
            line(&["  ", &escaped(&other.name), " matches too, but ", other.why]);
        }
        for advice in self.advice.lines() {
            line(&["  ", &advice]);
        }
    }
}

/// Whether and where a handler's rule differs from a file.
fn comparison(handler: &Handler, file: &ExecTarget) -> String {
    let name = escape(&handler.name.to_string());
    match &handler.entry.matcher {
        None => format!("{name}: it does not say which files it takes"),
        Some(Matcher::Extension(extension)) => {
            let extension = escape(&String::from_utf8_lossy(extension.as_bytes()));
            let verdict =
                if handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.matches(&[], &file.path)) {
                    "as its name ends"
                } else {
                    "which its name does not end in"
                };
            format!("{name}: takes names in .{extension}, {verdict}")
        }
        Some(Matcher::Magic(pattern)) => {
            let differs = pattern.differences(&file.header);
            if differs.is_empty() {
                return format!("{name}: every byte that it compares is as it asks");
            }
            let rows = differs.iter().map(|difference| {
                vec![
                    format!("    byte {}", difference.position),
                    format!("file {:02x}", difference.file),
                    format!("magic {:02x}", difference.magic),
                    format!("mask {:02x}", difference.mask),
                ]
            });
            let table = format_table(&rows.collect::<Vec<_>>());
            format!("{name}: differs in\n{}", table.trim_end())
        }
    }
}
