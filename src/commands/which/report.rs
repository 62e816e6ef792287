//! Report of `qus which`.

use std::cell::Cell;
use std::io::{self, Write as _};

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use super::explain::{Answer, explain};
use super::files::Files;
use super::known::{Certainty, Known};
use crate::base::escape::{escape, escaped};
use crate::base::order;
use crate::base::output::{ADVICE_INDENT, Output, Status};
use crate::base::table::Table;
use crate::base::terminal::TextWriter;
use crate::binfmt::{Difference, Handler, Matcher};
use crate::commands::report::Report;
use crate::handler::exec_target::ExecTarget;
use crate::handler::predict;

/// Answers about files. Each answer is printed before the next file is read, because a list may have many thousand
/// files.
pub(super) struct WhichReport<'a> {
    pub(super) files: &'a Files<'a>,
    pub(super) table: &'a predict::Table<'a>,
    pub(super) known: &'a Known,
    /// Handlers whose rules the report compares with each file, byte by byte. Empty without `--verbose` and `--handler`.
    pub(super) compared: &'a [&'a Handler],
    /// Number of files of which an answer says that they run.
    pub(super) running: Cell<usize>,
}

impl<'a> WhichReport<'a> {
    fn answers(&self) -> impl Iterator<Item = (ExecTarget, Answer<'a>)> {
        let (table, known) = (self.table, self.known);
        self.files.iter().map(move |file| {
            let target = ExecTarget::inspect(file);
            let answer = explain(&target, &table.predict(&target), table, known);
            self.running.set(self.running.get() + usize::from(answer.runs == Some(true)));
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
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        for (target, answer) in self.answers() {
            answer.write(text)?;
            compare(self.compared, &target, text)?;
        }
        Ok(())
    }

    fn conclude(&self, _: &mut Output<'_>) -> anyhow::Result<Status> {
        // If the reader of the answers stopped early, there is no answer about the other files.
        Ok(if self.running.get() == self.files.iter().count() { Status::Done } else { Status::No })
    }
}

impl Answer<'_> {
    fn write(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let mut line = |words: &[&str]| text.write_wrapped(&words.concat(), 4);
        line(&[&escaped(&self.file), ": ", &escaped(&self.kind)])?;
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
            line(&["  ", &name, likely, " takes it: ", &interpreter, &description, ", flags ", flags])?;
        }
        line(&["  ", &self.text])?;
        for other in &self.others {
            line(&["  ", &escaped(&other.name), " matches too, but ", other.why])?;
        }
        for advice in self.advice.lines() {
            if advice.is_command {
                writeln!(text, "  {}", advice.text)?;
            } else {
                text.write_wrapped(&format!("  {}", advice.text), ADVICE_INDENT)?;
            }
        }
        Ok(())
    }
}

/// Writes, for each handler, which bytes of `file` do not match the handler's rule. Handlers that match the file come
/// first. The others are ordered by the number of different bytes.
fn compare(handlers: &[&Handler], file: &ExecTarget, text: &mut TextWriter<'_>) -> io::Result<()> {
    let differences = |handler: &Handler| match &handler.entry.matcher {
        Some(Matcher::Magic(pattern)) => pattern.differences(&file.header),
        _ => Vec::new(),
    };
    let mut compared: Vec<_> = handlers.iter().map(|handler| (*handler, differences(handler))).collect();
    // Handlers without a magic are ordered only by whether they match.
    order::sort_by_key(&mut compared, |(handler, differences)| match &handler.entry.matcher {
        Some(Matcher::Magic(_)) => differences.len(),
        Some(matcher) if matcher.matches(&[], &file.path) => 0,
        _ => usize::MAX,
    });
    compared.iter().try_for_each(|(handler, differences)| write_comparison(handler, differences, file, text))
}

/// Writes whether the rule of `handler` matches `file`, and which bytes differ.
fn write_comparison(
    handler: &Handler,
    differences: &[Difference],
    file: &ExecTarget,
    text: &mut TextWriter<'_>,
) -> io::Result<()> {
    let name = escape(&handler.name.to_string());
    match &handler.entry.matcher {
        None => writeln!(text, "  {name}: its pattern cannot be read"),
        Some(Matcher::Extension(extension)) => {
            let extension = escape(&String::from_utf8_lossy(extension.as_bytes()));
            let is_match =
                handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.matches(&[], &file.path));
            let verdict = if is_match { "matches" } else { "does not match" };
            writeln!(text, "  {name}: {verdict} by its extension .{extension}")
        }
        Some(Matcher::Magic(_)) if differences.is_empty() => writeln!(text, "  {name}: matches"),
        Some(Matcher::Magic(_)) => {
            writeln!(text, "  {name}: differs in")?;
            let mut table = Table::new().indent(4);
            for difference in differences {
                table.push([
                    format!("byte {}", difference.position).into(),
                    field(&file.header, difference.position).into(),
                    format!("file {:02x}", difference.file).into(),
                    format!("magic {:02x}", difference.magic).into(),
                    format!("mask {:02x}", difference.mask).into(),
                ]);
            }
            table.write(text)
        }
    }
}

/// Returns the name (`elf(5)`) of the ELF header field that contains the byte at `position`. Returns an empty name if
/// `header` is not that of an ELF file.
fn field(header: &[u8], position: usize) -> &'static str {
    if !header.starts_with(b"\x7fELF") {
        return "";
    }
    let flags = if header.get(4) == Some(&1) { 36 } else { 48 };
    match position {
        0..4 => "ELF",
        4 => "EI_CLASS",
        5 => "EI_DATA",
        6 => "EI_VERSION",
        7 => "EI_OSABI",
        8 => "EI_ABIVERSION",
        9..16 => "padding",
        16..18 => "e_type",
        18..20 => "e_machine",
        20..24 => "e_version",
        // Three addresses come before the flags.
        24.. if position < flags => match 3 * (position - 24) / (flags - 24) {
            0 => "e_entry",
            1 => "e_phoff",
            _ => "e_shoff",
        },
        _ if (flags..flags + 4).contains(&position) => "e_flags",
        _ => "",
    }
}
