//! `qus enable` and `qus disable`: enable or disable handlers without removing them.

use anyhow::Result;
use serde::Serialize;
use std::io;

use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::escape::escape;
use crate::base::output::{Output, Status};
use crate::base::table::{Cell, Table};
use crate::base::terminal::{BAD, GOOD, NOTABLE, TextWriter};
use crate::binfmt::Handler;
use crate::binfmt::instance::Instance;
use crate::commands::args::{ArchArg, Common, named, parse_arch};
use crate::commands::instance::open_instance;
use crate::commands::report::Report;
use crate::commands::suggestion;
use crate::handler::classify::{emulators, name_lossy};
use crate::system::namespace::Scope;
use clap::Args;

/// Arguments of `qus enable` and `qus disable`.
#[derive(Debug, Args)]
pub struct Toggle {
    /// Architectures, or `all`
    ///
    /// Architectures by any name, or `all` for every architecture with a handler of a QEMU emulator.
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch, required = true)]
    pub arches: Vec<ArchArg>,
}

/// Results of `qus enable` or `qus disable`.
#[derive(Serialize)]
pub(crate) struct ToggleReport {
    scope: Scope,
    items: Vec<ToggledHandler>,
}

#[derive(Serialize)]
struct ToggledHandler {
    arch: &'static str,
    outcome: Outcome,
    name: Option<String>,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Unchanged,
    Enabled,
    Disabled,
    /// The kernel refused to enable or disable the handler.
    Failed,
    /// The architecture has no handler.
    Missing,
}

impl Outcome {
    fn cell(self) -> Cell {
        let (word, style) = match self {
            Self::Unchanged => ("unchanged", GOOD),
            Self::Enabled => ("enabled", GOOD),
            Self::Disabled => ("disabled", NOTABLE),
            Self::Failed => ("failed", BAD),
            Self::Missing => ("missing", BAD),
        };
        Cell::styled(word, style)
    }
}

/// Enables or disables the handlers of the architectures that `args` selects.
pub(crate) fn execute(args: &Toggle, enable: bool, common: &Common) -> Result<ToggleReport> {
    let instance = open_instance(common)?;
    let handlers = instance.handlers().map_err(Diagnostic::from)?;
    let arches = named(&args.arches);
    let chosen = emulators(&handlers, arches.as_deref());
    if chosen.iter().any(|(handler, _)| handler.entry.enabled != enable) {
        instance.check_writable().map_err(Diagnostic::from)?;
    }
    let mut items: Vec<ToggledHandler> =
        chosen.iter().map(|(handler, arch)| toggle(&instance, handler, arch, enable)).collect();
    for arch in arches.unwrap_or_default() {
        if !chosen.iter().any(|(_, served)| *served == arch) {
            let error = Some(format!("no handler is registered for {}", arch.name));
            items.push(ToggledHandler { arch: arch.name, outcome: Outcome::Missing, name: None, error });
        }
    }
    Ok(ToggleReport { scope: Scope::of(instance.path()), items })
}

fn toggle(instance: &Instance, handler: &Handler, arch: &Arch, enable: bool) -> ToggledHandler {
    let (outcome, error) = if handler.entry.enabled == enable {
        (Outcome::Unchanged, None)
    } else {
        match instance.set_enabled(&handler.name, enable) {
            Ok(()) => (if enable { Outcome::Enabled } else { Outcome::Disabled }, None),
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        }
    };
    ToggledHandler { arch: arch.name, outcome, name: Some(name_lossy(&handler.name)), error }
}

impl Report for ToggleReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let mut table = Table::new();
        for item in &self.items {
            let detail = item.error.clone().or_else(|| item.name.as_deref().map(escape)).unwrap_or_default();
            table.push([item.arch.into(), item.outcome.cell(), detail.into()]);
        }
        table.write(text)
    }

    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        let missing = self.items.iter().filter(|item| item.outcome == Outcome::Missing);
        suggestion::print_missing(missing.map(|item| item.arch), output)?;
        if self.items.is_empty() {
            output.info("no handler of a QEMU emulator is registered")?;
        }
        let has_failed = self.items.iter().any(|item| item.error.is_some());
        Ok(if has_failed { Status::Failed } else { Status::Done })
    }
}
