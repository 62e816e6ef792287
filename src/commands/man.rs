//! `qus man`: manual pages, made from the command line itself.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap_mangen::Man as Page;
use serde::Serialize;

use crate::base::error::Diagnostic;
use crate::base::output::{Output, Status, display_path};
use crate::system::atomic_file;
use clap::Args;

/// `qus man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write qus.1 and a page for each command into this directory
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[derive(Serialize)]
struct PageView {
    page: String,
}

#[derive(Serialize)]
struct FilesView {
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &Man, program: clap::Command, output: &mut Output<'_>) -> Result<Status> {
    // `qus help register` is no page: it prints what `qus register --help` prints.
    let mut command = program.disable_help_subcommand(true);
    command.build();
    let Some(directory) = args.output.as_ref().filter(|output| *output != Path::new("-")) else {
        let view = PageView { page: String::from_utf8(page(command)?.1)? };
        output.document(&view, || view.page.clone())?;
        return Ok(Status::Done);
    };
    let commands = [command.clone()].into_iter().chain(command.get_subcommands().cloned());
    let mut files = Vec::new();
    for command in commands {
        let (name, page) = page(command)?;
        let path = directory.join(name);
        write(&path, &page)?;
        files.push(path);
    }
    let view = FilesView { files };
    output
        .print_data(&view, || view.files.iter().map(|path| display_path(path) + "\n").collect::<String>())?;
    Ok(Status::Done)
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
