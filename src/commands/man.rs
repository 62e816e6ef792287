//! `qus man`: generates manual pages from clap's definition of the command line.

mod page;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use self::page::page;
use crate::base::error::Diagnostic;
use crate::base::escape::display_path;
use crate::base::terminal::TextWriter;
use crate::commands::report::Report;
use crate::system::atomic_file;

/// Arguments of `qus man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write the pages into this directory
    ///
    /// Writes qus.1 and a page for each command into this directory.
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// Results of `qus man`.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum ManReport {
    /// The text of the manual page qus(1).
    Page { page: String },
    /// The files of manual pages that were written.
    Files { files: Vec<PathBuf> },
}

/// Returns the manual page of qus, or writes the pages of all commands into the directory of `--output`.
pub(super) fn execute(args: &Man, program: clap::Command) -> Result<ManReport> {
    // `qus help` has no page: `qus help register` prints the same as `qus register --help`.
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let Some(directory) = args.output.as_ref().filter(|output| *output != Path::new("-")) else {
        return Ok(ManReport::Page { page: page(&program) });
    };
    let mut files = Vec::new();
    for command in [&program].into_iter().chain(program.get_subcommands()) {
        let path = directory.join(format!("{}.1", page::name(command)));
        write(&path, &page(command))?;
        files.push(path);
    }
    Ok(ManReport::Files { files })
}

fn write(path: &Path, page: &str) -> Result<(), Diagnostic> {
    let written = atomic_file::write_atomic(path, page.as_bytes(), 0o644);
    written
        .map(drop)
        .map_err(|error| Diagnostic::new(format!("cannot write {}: {error}", display_path(path))))
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
