//! `qus reset`: remove the handlers of QEMU's emulators, whatever their names, and nobody else's.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::{emulators, open_to_look, plain, tell_scope};
use crate::binfmt::HandlerName;
use crate::cli::{Common, Reset, named};
use crate::kernel::HandlerError;
use crate::namespace::Scope;
use crate::output::{Output, Status, columns, escape, path_text};
use crate::problem::Problem;

#[derive(Serialize)]
struct View {
    scope: Scope,
    dry_run: bool,
    items: Vec<Item>,
    /// Handlers that were left alone.
    left: Vec<String>,
}

#[derive(Serialize)]
struct Item {
    arch: &'static str,
    outcome: &'static str,
    name: String,
    interpreter: Option<String>,
    error: Option<String>,
}

pub(super) fn run(args: &Reset, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    let Some(instance) = open_to_look(common)? else {
        let view = View { scope: Scope::here(), dry_run: args.dry_run, items: Vec::new(), left: Vec::new() };
        output.data(&view, String::new)?;
        output.note(&format!(
            "binfmt_misc is not mounted on {}: there is nothing to remove",
            common.instance.display()
        ))?;
        return Ok(Status::Done);
    };
    let handlers = instance.handlers().map_err(Problem::from)?;
    let doomed = emulators(&handlers, named(&args.arches).as_deref());
    if !args.dry_run && !doomed.is_empty() {
        instance.check_writable().map_err(Problem::from)?;
    }
    let mut status = Status::Done;
    let mut items = Vec::new();
    for (handler, arch) in &doomed {
        let removed = if args.dry_run { Ok(()) } else { instance.remove(&handler.name) };
        let (outcome, error) = match removed {
            Ok(()) if args.dry_run => ("would remove", None),
            // Somebody else was faster: it is gone all the same.
            Ok(()) | Err(HandlerError::Missing(_)) => ("removed", None),
            Err(error) => {
                status = Status::Failed;
                ("failed", Some(error.to_string()))
            }
        };
        let name = plain(&handler.name);
        let interpreter = handler.entry.interpreter.as_deref().map(Path::to_string_lossy).map(Into::into);
        items.push(Item { arch: arch.name, outcome, name, interpreter, error });
    }
    let is_doomed = |name: &HandlerName| doomed.iter().any(|(handler, _)| handler.name == *name);
    let left = handlers.iter().filter(|handler| !is_doomed(&handler.name));
    let left: Vec<String> = left.map(|handler| plain(&handler.name)).collect();
    let view = View { scope: Scope::of(instance.path()), dry_run: args.dry_run, items, left };
    output.data(&view, || text(&view))?;
    tell_scope(view.scope, output)?;
    if view.items.is_empty() {
        output.note("no handler of QEMU's emulators is there")?;
    }
    Ok(status)
}

fn text(view: &View) -> String {
    let rows: Vec<_> = view
        .items
        .iter()
        .map(|item| {
            let interpreter = item.interpreter.as_ref().map(|path| path_text(Path::new(path)));
            let detail = item.error.clone().or(interpreter).unwrap_or_default();
            vec![item.arch.to_owned(), item.outcome.to_owned(), escape(&item.name), detail]
        })
        .collect();
    columns(&rows)
}
