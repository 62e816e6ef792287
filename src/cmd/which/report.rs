//! How `qus which` says it.

use std::path::Path;

use serde::Serialize;

use super::explain::{Answer, Certainty};
use crate::binfmt::{Handler, Matcher};
use crate::file::Candidate;
use crate::output::{columns, escape, path_text};

#[derive(Serialize)]
pub(super) struct View {
    pub(super) answers: Vec<Answer>,
}

impl View {
    /// `verbose` explains every handler byte by byte.
    pub(super) fn text(&self, verbose: bool, candidates: &[Candidate], handlers: &[Handler]) -> String {
        let mut text = String::new();
        for (answer, candidate) in self.answers.iter().zip(candidates) {
            text.push_str(&answer.text());
            if verbose {
                for handler in handlers {
                    text.push_str(&format!("  {}\n", comparison(handler, candidate)));
                }
            }
        }
        text
    }
}

impl Answer {
    fn text(&self) -> String {
        let mut text = format!("{}: {}\n", path_text(Path::new(&self.file)), escape(&self.kind));
        if let Some(handler) = &self.handler {
            let version = handler.version.as_ref().map(|version| format!("QEMU {version}"));
            let origin =
                handler.provenance.as_ref().map(|record| format!("from {}", escape(&record.short())));
            let told: Vec<String> = version.into_iter().chain(origin).collect();
            let told = if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) };
            let flags = if handler.flags.is_empty() { "none".to_owned() } else { escape(&handler.flags) };
            let likely = if self.certainty == Certainty::Likely { "probably takes" } else { "takes" };
            text.push_str(&format!(
                "  {} {likely} it: {}{told}, flags {flags}\n",
                escape(&handler.name),
                escape(&handler.interpreter)
            ));
        }
        text.push_str(&format!("  {}\n", self.text));
        for other in &self.others {
            text.push_str(&format!("  {} matches too, but {}\n", escape(&other.name), other.why));
        }
        if let Some(cure) = &self.cure {
            text.push_str(&format!("  cure: {cure}\n"));
        }
        text
    }
}

/// Whether and where a handler's rule differs from a file.
fn comparison(handler: &Handler, file: &Candidate) -> String {
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
            let differs = pattern.differences(&file.head);
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
            let table = columns(&rows.collect::<Vec<_>>());
            format!("{name}: differs in\n{}", table.trim_end())
        }
    }
}
