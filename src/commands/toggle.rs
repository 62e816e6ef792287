//! `qus enable` and `qus disable`: enable or disable handlers without removing them.

use anyhow::Result;
use serde::Serialize;
use std::io;

use crate::arch::Arch;
use crate::base::error::{Advice, Diagnostic};
use crate::base::escape::escape;
use crate::base::output::{Output, Status};
use crate::base::table::{Cell, Table};
use crate::base::terminal::{BAD, GOOD, NOTABLE, TextWriter};
use crate::binfmt::Handler;
use crate::binfmt::instance::Instance;
use crate::commands::args::{Common, HandlerArg, Words, flat, parse_handlers};
use crate::commands::instance::{open_instance, switched_off};
use crate::commands::report::Report;
use crate::commands::selection::{select, word_for};
use crate::commands::suggestion;
use crate::handler::classify::{emulated_arch, is_emulator_of, main_arch, name_lossy};
use crate::handler::table;
use crate::interpreter::self_exe_header;
use crate::probe::Nativeness;
use crate::system::namespace::Scope;
use clap::Args;

/// Arguments of `qus enable` and `qus disable`.
#[derive(Debug, Args)]
pub struct Toggle {
    /// Architectures, names of handlers, or `all`
    ///
    /// An architecture selects its handlers of QEMU's emulators, `all` selects those of every architecture. The name of a
    /// handler, or a pattern such as 'python*', selects handlers of any tool.
    #[arg(value_name = "HANDLER", value_parser = parse_handlers, required = true)]
    pub handlers: Vec<Words<HandlerArg>>,
}

/// Results of `qus enable` or `qus disable`.
#[derive(Serialize)]
pub(crate) struct ToggleReport {
    scope: Scope,
    items: Vec<ToggledHandler>,
    #[serde(skip)]
    enables: bool,
    /// Error that the whole instance is disabled, so that no enabled handler is active.
    #[serde(skip)]
    switched_off: Option<Diagnostic>,
}

#[derive(Serialize)]
struct ToggledHandler {
    /// Architecture of the handler; `None` if its programs belong to no known architecture.
    arch: Option<&'static str>,
    outcome: Outcome,
    name: Option<String>,
    error: Option<String>,
    /// Advice for an architecture whose programs only other tools' handlers take.
    #[serde(flatten)]
    other: Advice,
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
    /// The architecture has no handler and needs none, because the host runs its programs natively.
    Native,
}

impl Outcome {
    fn cell(self) -> Cell {
        let (word, style) = match self {
            Self::Unchanged => ("unchanged", GOOD),
            Self::Enabled => ("enabled", GOOD),
            Self::Disabled => ("disabled", NOTABLE),
            Self::Failed => ("failed", BAD),
            Self::Missing => ("missing", BAD),
            Self::Native => ("native", GOOD),
        };
        Cell::styled(word, style)
    }
}

/// Enables or disables the handlers that `args` selects.
pub(crate) fn execute(args: &Toggle, enable: bool, common: &Common) -> Result<ToggleReport> {
    let instance = open_instance(common)?;
    let handlers = table::handlers(&instance).map_err(Diagnostic::from)?;
    let is_default = |handler: &Handler| emulated_arch(handler).is_some();
    let selection = select(&handlers, &flat(&args.handlers), &[], is_default, is_emulator_of)?;
    if selection.handlers.iter().any(|handler| handler.entry.enabled != enable) {
        instance.check_writable().map_err(Diagnostic::from)?;
    }
    let mut items: Vec<ToggledHandler> =
        selection.handlers.iter().map(|handler| toggle(&instance, handler, enable)).collect();
    for arch in selection.unserved {
        let is_native = enable && runs_natively(arch, &handlers);
        items.push(if is_native { native(arch) } else { missing(arch, &handlers, enable) });
    }
    let is_off = enable && !instance.is_enabled().map_err(Diagnostic::from)?;
    let switched_off = is_off.then(|| switched_off(&instance));
    Ok(ToggleReport { scope: Scope::of(instance.path()), items, enables: enable, switched_off })
}

/// Reports whether a probe shows that the host runs the programs of `arch` without a handler.
fn runs_natively(arch: &'static Arch, handlers: &[Handler]) -> bool {
    let own = self_exe_header().ok().and_then(|header| Arch::from_header(&header));
    let is_of_family = own.is_some_and(|own| own == arch || own.same_family().contains(&arch.name));
    is_of_family && Nativeness::of(arch, handlers).is_native()
}

fn native(arch: &'static Arch) -> ToggledHandler {
    let other = Advice::default();
    ToggledHandler { arch: Some(arch.name), outcome: Outcome::Native, name: None, error: None, other }
}

/// Describes that no QEMU handler is registered for `arch`. Suggests to name a handler of another tool, if one runs the
/// programs of `arch`.
fn missing(arch: &'static Arch, handlers: &[Handler], enable: bool) -> ToggledHandler {
    let others: Vec<&Handler> = handlers.iter().filter(|handler| main_arch(handler) == Some(arch)).collect();
    let words: Vec<String> = others.iter().filter_map(|handler| word_for(&handler.name)).collect();
    let verb = if enable { "enable" } else { "disable" };
    let command = (!words.is_empty()).then(|| format!("sudo qus {verb} {}", words.join(" ")));
    let whose = if others.is_empty() { "no handler" } else { "no handler of a QEMU emulator" };
    ToggledHandler {
        arch: Some(arch.name),
        outcome: Outcome::Missing,
        name: None,
        error: Some(format!("{whose} is registered for {}", arch.name)),
        other: command.into(),
    }
}

fn toggle(instance: &Instance, handler: &Handler, enable: bool) -> ToggledHandler {
    let (outcome, error) = if handler.entry.enabled == enable {
        (Outcome::Unchanged, None)
    } else {
        match instance.set_enabled(&handler.name, enable) {
            Ok(()) => (if enable { Outcome::Enabled } else { Outcome::Disabled }, None),
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        }
    };
    let arch = main_arch(handler).map(|arch| arch.name);
    let name = Some(name_lossy(&handler.name));
    ToggledHandler { arch, outcome, name, error, other: Advice::default() }
}

impl Report for ToggleReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let mut table = Table::new();
        for item in &self.items {
            let detail = item.error.clone().or_else(|| item.name.as_deref().map(escape)).unwrap_or_default();
            table.push([item.arch.unwrap_or("-").into(), item.outcome.cell(), detail.into()]);
        }
        table.write(text)
    }

    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        let missing = self.items.iter().filter(|item| item.outcome == Outcome::Missing);
        let (unserved, others): (Vec<_>, Vec<_>) = missing.partition(|item| item.other.is_empty());
        let unserved = unserved.iter().filter_map(|item| item.arch);
        // `qus disable` suggests no registration: it would add a handler instead of disabling one.
        suggestion::print_missing(unserved, self.enables, output)?;
        for item in others {
            let problem = Diagnostic::new(item.error.clone().unwrap_or_default());
            output.problem(&problem.with_advice(item.other.clone()))?;
        }
        if self.items.is_empty() {
            output.info("no handler of a QEMU emulator is registered")?;
        }
        if let Some(problem) = &self.switched_off {
            output.problem(problem)?;
        }
        let has_failed = self.switched_off.is_some() || self.items.iter().any(|item| item.error.is_some());
        Ok(if has_failed { Status::Failed } else { Status::Done })
    }
}
