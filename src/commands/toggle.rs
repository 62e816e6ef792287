//! `qus enable` and `qus disable`: switch handlers without removing them.

use anyhow::Result;
use serde::Serialize;

use crate::base::error::Diagnostic;
use crate::base::output::{Output, Status, escape, format_table};
use crate::commands::args::{ArchArg, Common, named, parse_arch};
use crate::commands::instance::open_instance;
use crate::handler::classify::{emulators, name_lossy};
use crate::system::namespace::Scope;
use clap::Args;

/// `qus enable` and `qus disable`.
#[derive(Debug, Args)]
pub struct Toggle {
    /// Architectures, or `all` that have a handler
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch, required = true)]
    pub arches: Vec<ArchArg>,
}

#[derive(Serialize)]
struct ToggleReport {
    scope: Scope,
    items: Vec<ToggledHandler>,
}

#[derive(Serialize)]
struct ToggledHandler {
    arch: &'static str,
    outcome: &'static str,
    name: Option<String>,
    error: Option<String>,
}

pub(super) fn run(args: &Toggle, enable: bool, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    let instance = open_instance(common)?;
    let handlers = instance.handlers().map_err(Diagnostic::from)?;
    let arches = named(&args.arches);
    let chosen = emulators(&handlers, arches.as_deref());
    if chosen.iter().any(|(handler, _)| handler.entry.enabled != enable) {
        instance.check_writable().map_err(Diagnostic::from)?;
    }
    let mut status = Status::Done;
    let mut items = Vec::new();
    for (handler, arch) in &chosen {
        let (outcome, error) = if handler.entry.enabled == enable {
            ("unchanged", None)
        } else {
            match instance.set_enabled(&handler.name, enable) {
                Ok(()) => (if enable { "enabled" } else { "disabled" }, None),
                Err(error) => {
                    status = Status::Failed;
                    ("failed", Some(error.to_string()))
                }
            }
        };
        items.push(ToggledHandler { arch: arch.name, outcome, name: Some(name_lossy(&handler.name)), error });
    }
    for arch in arches.unwrap_or_default() {
        if !chosen.iter().any(|(_, served)| *served == arch) {
            status = Status::Failed;
            let error = Some(format!("there is no handler for {}", arch.name));
            items.push(ToggledHandler { arch: arch.name, outcome: "missing", name: None, error });
        }
    }
    let view = ToggleReport { scope: Scope::of(instance.path()), items };
    output.data(&view, || {
        let row = |item: &ToggledHandler| {
            let detail = item.error.clone().or_else(|| item.name.as_deref().map(escape)).unwrap_or_default();
            vec![item.arch.to_owned(), item.outcome.to_owned(), detail]
        };
        format_table(&view.items.iter().map(row).collect::<Vec<_>>())
    })?;
    let missing: Vec<_> =
        view.items.iter().filter(|item| item.outcome == "missing").map(|item| item.arch).collect();
    if !missing.is_empty() {
        let problem = Diagnostic::new(format!(
            "{} of {} architectures have no handler",
            missing.len(),
            view.items.len()
        ));
        output.problem(&problem.with_hint(format!("sudo qus register {}", missing.join(" "))))?;
    }
    if view.items.is_empty() {
        output.note("no handler of QEMU's emulators is there")?;
    }
    Ok(status)
}
