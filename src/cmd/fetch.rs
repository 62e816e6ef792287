//! `qus fetch`: static interpreters, from the distribution's package or from a source that was named, into a folder.

mod bar;
mod get;
mod store;
mod wanted;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use self::get::Fetched;
pub(super) use self::get::{File, Order, fetch};
use crate::base::error::Problem;
use crate::base::output::{Output, Status, columns, path_text};
use crate::cli::{Common, Fetch, named};
use crate::folders;

pub(super) fn run(args: &Fetch, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    if args.list {
        return store::list(args, folder(args.dest.as_deref())?, common, output);
    }
    if args.prune {
        return store::prune(args, folder(args.dest.as_deref())?, common, output);
    }
    let order = Order {
        arches: named(&args.arches),
        from: args.from.as_deref(),
        sha256: args.sha256,
        dest: args.dest.as_deref(),
        version: args.qemu_version.as_ref(),
    };
    let fetched = fetch(&order, common.quiet)?;
    output.data(&fetched, || text(&fetched))?;
    if let Some(problem) = fetched.problem() {
        output.problem(&problem)?;
        return Ok(Status::Failed);
    }
    Ok(Status::Done)
}

/// The folder that was named, or that of this user.
fn folder(dest: Option<&Path>) -> Result<PathBuf, Problem> {
    let home = || Problem::new("this user has no home to put interpreters in").cure("qus fetch --dest DIR …");
    match dest {
        Some(dest) => {
            std::path::absolute(dest).map_err(|error| Problem::new(format!("{}: {error}", dest.display())))
        }
        None => folders::fetched().ok_or_else(home),
    }
}

/// The architectures that were named; `None` for all.
fn arches(args: &Fetch) -> Option<BTreeSet<&'static str>> {
    Some(named(&args.arches)?.into_iter().map(|arch| arch.name).collect())
}

fn text(fetched: &Fetched) -> String {
    let row = |file: &File| {
        let from = file.package.as_ref().zip(file.version.as_ref());
        let from = from.map(|(name, version)| format!("from {name} {version}")).unwrap_or_default();
        vec![file.arch.to_owned(), file.outcome.to_owned(), path_text(&file.path), from]
    };
    columns(&fetched.files.iter().map(row).collect::<Vec<_>>())
}
