//! How `qus which` says it.

use std::io::{self, Write};

use serde::{Serialize, Serializer};

use super::explain::Answer;
use super::known::Certainty;
use crate::base::output::{escape, escaped, format_table};
use crate::binfmt::{Handler, Matcher};
use crate::handler::exec_target::ExecTarget;

#[derive(Serialize)]
pub(super) struct WhichReport<A> {
    pub(super) answers: A,
}

/// Answers that are given one after the other, and not kept.
pub(super) struct Answers<F>(pub(super) F);

impl<'a, I: Iterator<Item = Answer<'a>>, F: Fn() -> I> Serialize for Answers<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// Tells a person the answers; how each of `compared` differs from the file, byte by byte.
pub(super) fn write_text<'a>(
    answers: impl Iterator<Item = (ExecTarget, Answer<'a>)>,
    compared: &[Handler],
    data: &mut dyn Write,
) -> io::Result<()> {
    let mut text = String::new();
    for (candidate, answer) in answers {
        text.clear();
        answer.tell(&mut text);
        for handler in compared {
            text.push_str(&format!("  {}\n", comparison(handler, &candidate)));
        }
        data.write_all(text.as_bytes())?;
    }
    Ok(())
}

impl Answer<'_> {
    /// Appends the lines of the answer.
    fn tell(&self, text: &mut String) {
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
        if let Some(hint) = &self.hint {
            line(&["  cure: ", hint]);
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
