//! `qus man`: manual pages, made from the command line itself.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap_mangen::Man as Page;
use serde::Serialize;

use crate::base::error::Diagnostic;
use crate::base::escape::display_path;
use crate::base::terminal::TextWriter;
use crate::commands::report::Report;
use crate::system::atomic_file;
use clap::Args;

/// `qus man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write the pages into this directory
    ///
    /// Writes qus.1 and a page for each command into this directory.
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// Manual pages.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum ManReport {
    /// The page of qus itself.
    Page { page: String },
    /// The files that were written.
    Files { files: Vec<PathBuf> },
}

/// Makes the page of qus, or writes the pages of all commands where a directory is named.
pub(super) fn execute(args: &Man, program: clap::Command) -> Result<ManReport> {
    // `qus help register` is no page: it prints what `qus register --help` prints.
    let mut command = program.disable_help_subcommand(true);
    command.build();
    let Some(directory) = args.output.as_ref().filter(|output| *output != Path::new("-")) else {
        return Ok(ManReport::Page { page: String::from_utf8(page(command)?.1)? });
    };
    let commands = [command.clone()].into_iter().chain(command.get_subcommands().cloned());
    let mut files = Vec::new();
    for command in commands {
        let (name, page) = page(command)?;
        let path = directory.join(name);
        write(&path, &page)?;
        files.push(path);
    }
    Ok(ManReport::Files { files })
}

impl Report for ManReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        match self {
            Self::Page { page } => text.write_all(page.as_bytes()),
            Self::Files { files } => {
                files.iter().try_for_each(|path| writeln!(text, "{}", display_path(path)))
            }
        }
    }

    fn is_document(&self) -> bool {
        matches!(self, Self::Page { .. })
    }
}

/// The file name and the text of the page of `command`.
fn page(command: clap::Command) -> Result<(String, Vec<u8>)> {
    let page = Page::new(command).source(concat!("qus ", env!("CARGO_PKG_VERSION"))).manual("qus");
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok((page.get_filename(), text))
}

fn write(path: &Path, page: &[u8]) -> Result<(), Diagnostic> {
    let written = atomic_file::write_atomic(path, page, 0o644);
    written
        .map(drop)
        .map_err(|error| Diagnostic::new(format!("cannot write {}: {error}", display_path(path))))
}
