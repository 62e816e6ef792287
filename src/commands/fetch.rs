//! `qus fetch`: unpacks static interpreters from the distribution's package or from the source of `--from`.

mod stored;
mod users;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use anyhow::Result;

use crate::base::escape::display_path;
use crate::base::output::{Output, Status};
use crate::base::table::{Cell, Table};
use crate::base::terminal::TextWriter;
use crate::commands::args::{
    ArchArg, Common, INTERPRETERS, RequiredArgs, SELECTION, Words, named, parse_arches,
};
use crate::commands::report::{Report, print};
use crate::interpreter::fetch::{FetchRequest, Fetched, fetch};
use crate::interpreter::store::destination;
use clap::Args;

/// Arguments of `qus fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Architectures, or `all` for every one in the package
    ///
    /// Architectures by any name, or `all` for every architecture in the package.
    #[arg(value_name = "ARCH", value_parser = parse_arches, required_unless_present_any = ["list", "prune"])]
    pub arches: Vec<Words<ArchArg>>,
    /// Package, archive, image, directory, URL
    ///
    /// A package, an archive, a container image in a file, a directory, an interpreter, `-` for standard input, or an
    /// http(s) address. The default is the package of the distribution.
    #[arg(help_heading = INTERPRETERS, long, value_name = "SRC")]
    pub from: Option<PathBuf>,
    /// Requirements for interpreters.
    #[command(flatten)]
    pub required: RequiredArgs,
    /// Directory to write to
    ///
    /// Directory to write to. The default is /usr/local/lib/qus/VERSION for root, and $XDG_DATA_HOME/qus/VERSION for
    /// other users. VERSION is that of QEMU.
    #[arg(help_heading = INTERPRETERS, long, value_name = "DIR")]
    pub dest: Option<PathBuf>,
    /// List fetched interpreters
    ///
    /// Lists fetched interpreters, their origin, and the handlers that use them.
    #[arg(help_heading = SELECTION, long, conflicts_with_all = ["from", "prune"])]
    pub list: bool,
    /// Remove unused interpreters
    ///
    /// Removes fetched interpreters that no handler, no configuration and no process uses. Those that `qus run` chooses
    /// stay, unless ARCH or --qemu-version selects them.
    #[arg(help_heading = SELECTION, long, conflicts_with = "from")]
    pub prune: bool,
    /// With --prune: remove nothing
    ///
    /// With --prune: prints what would be removed, and removes nothing.
    #[arg(help_heading = SELECTION, short = 'n', long, requires = "prune")]
    pub dry_run: bool,
}

pub(super) fn run(args: &Fetch, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    if args.list {
        return print(&stored::list(args, destination(args.dest.as_deref())?, common)?, output);
    }
    if args.prune {
        return print(&stored::prune(args, destination(args.dest.as_deref())?, common)?, output);
    }
    let request = FetchRequest {
        arches: named(&args.arches),
        from: args.from.as_deref(),
        sha256: args.required.sha256,
        dest: args.dest.as_deref(),
        is_dest_named: true,
        version: args.required.qemu_version.as_ref(),
    };
    print(&fetch(&request, common.quiet)?, output)
}

/// Returns the names of the architectures that the command line selects. Returns `None` if it selects all.
fn arches(args: &Fetch) -> Option<BTreeSet<&'static str>> {
    Some(named(&args.arches)?.into_iter().map(|arch| arch.name).collect())
}

impl Report for Fetched {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let mut table = Table::new().shorten(2);
        for file in &self.files {
            let from = file.package.as_ref().zip(file.version.as_ref());
            let from = from.map(|(name, version)| format!("from {name} {version}")).unwrap_or_default();
            table.push([file.arch, file.outcome, &display_path(&file.path), &from].map(Cell::from));
        }
        table.write(text)
    }

    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        match self.problem() {
            Some(problem) => {
                output.problem(&problem)?;
                Ok(Status::Failed)
            }
            None => Ok(Status::Done),
        }
    }
}
