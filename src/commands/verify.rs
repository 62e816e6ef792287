//! `qus verify`: lets the kernel execute probes, and reports the result of each handler.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::arch::Arch;
use crate::base::table::{Cell, Table};
use crate::base::terminal::{BAD, GOOD, TextWriter};
use anstyle::Style;

use crate::base::error::{Advice, Diagnostic};
use crate::base::escape::{display_path, escape};
use crate::base::output::{Output, Status};
use crate::binfmt::{Flags, Handler, HandlerName};
use crate::commands::args::{ArchArg, Common, named, parse_arch};
use crate::commands::instance::{open_instance, print_scope};
use crate::commands::report::Report;
use crate::commands::suggestion::{self, Available};
use crate::handler::classify;
use crate::handler::classify::{emulator_path, name_lossy};
use crate::interpreter::memfd;
use crate::interpreter::versions_of;
use crate::probe::{
    self, End, Expected, Failure, ProbeResult, ProbeTarget, STATUS_ARGV0, Verification, judge,
};
use crate::system::file_id::FileId;
use crate::system::namespace::Scope;
use clap::Args;

/// Arguments of `qus verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Architectures [default: all]
    ///
    /// Architectures by any name. The default is every architecture that has a handler.
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch)]
    pub arches: Vec<ArchArg>,
}

/// State of the programs of an architecture: they run, or they fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// The programs run through a handler.
    Working,
    /// The programs fail.
    Broken,
    /// The host runs the programs natively, and no handler matches them.
    Native,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Broken => "broken",
            Self::Native => "native",
        }
    }

    fn style(self) -> Style {
        if self == Self::Broken { BAD } else { GOOD }
    }

    fn cell(self) -> Cell {
        Cell::styled(self.word(), self.style())
    }
}

/// Result of the probe of a handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Health {
    pub(crate) state: State,
    /// True if the kernel gives the handler's programs to another handler first.
    #[serde(skip)]
    pub(super) is_shadowed: bool,
    /// Reason why the handler is broken.
    pub(super) reason: Option<String>,
    /// Version of the interpreter at the handler's path, if the file contains a version.
    pub(super) version: Option<String>,
    /// Evidence from the probe that the handler works.
    pub(super) verification: Option<Verification>,
}

impl Health {
    fn of(state: State) -> Self {
        Self { state, is_shadowed: false, reason: None, version: None, verification: None }
    }

    fn broken(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::of(State::Broken) }
    }

    /// Describes the result. The text is printed after the path of the interpreter.
    fn detail(&self) -> String {
        let version = self.version.as_ref().map(|version| format!(" (QEMU {version})")).unwrap_or_default();
        let seen = match (&self.reason, &self.verification) {
            (Some(reason), _) => format!(": {reason}"),
            (None, Some(verification)) if !verification.empty_root => {
                ", but not tried in an empty root directory".to_owned()
            }
            (None, _) => String::new(),
        };
        format!("{version}{seen}")
    }
}

impl Health {
    /// Returns the state and its details as a cell of a table.
    pub(super) fn cell(&self) -> Cell {
        Cell::styled(self.to_string(), self.state.style())
    }
}

impl fmt::Display for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.state.word(), self.detail())
    }
}

/// Executes a probe for every handler that is for one architecture, and returns the results by the name of the handler.
/// Skips all other handlers. `enabled` is false if the whole instance is disabled.
pub(super) fn health(
    handlers: &[Handler],
    enabled: bool,
) -> Result<BTreeMap<HandlerName, Health>, Diagnostic> {
    let judged: Vec<(&Handler, Option<ProbeTarget>)> = handlers
        .iter()
        .filter_map(|handler| main_arch(handler).map(|arch| (handler, target(handler, arch))))
        .collect();
    let mut targets: Vec<ProbeTarget> = judged.iter().filter_map(|(_, target)| *target).collect();
    targets.dedup();
    let versions = versions_of(judged.iter().filter_map(|(handler, _)| emulator_path(handler)));
    let results = probe::run(&targets).map_err(Diagnostic::from)?;
    let mut health = BTreeMap::new();
    for (handler, target) in &judged {
        let result =
            target.and_then(|target| results.get(targets.iter().position(|other| *other == target)?));
        let path = handler.entry.interpreter.as_deref();
        let version = path.and_then(|path| versions.get(path)).cloned();
        let judged = judge_handler(handler, target.zip(result), handlers, enabled);
        let description = path.and_then(memfd::parse_description).map(|description| description.version);
        health.insert(
            handler.name.clone(),
            Health { version: version.map(|version| version.to_string()).or(description), ..judged },
        );
    }
    Ok(health)
}

fn judge_handler(
    handler: &Handler,
    executed: Option<(ProbeTarget, &ProbeResult)>,
    handlers: &[Handler],
    enabled: bool,
) -> Health {
    let Some((target, result)) = executed else {
        return Health::broken("its pattern matches no program");
    };
    let matched_by = if enabled { target.matched_by(handlers) } else { None };
    if matched_by.is_none() && result.host.end == End::Exited(STATUS_ARGV0) {
        return Health::of(State::Native);
    }
    if !handler.entry.enabled {
        return Health::broken("it is disabled");
    }
    if !enabled {
        return Health::broken("the whole instance is disabled");
    }
    let in_front = matched_by
        .filter(|matched_by| matched_by.name != handler.name)
        .map(|matched_by| matched_by.name.to_string());
    if in_front.is_some() {
        let reason = Failure::Shadowed(in_front).to_string();
        return Health { is_shadowed: true, ..Health::broken(reason) };
    }
    let expected = Expected {
        preserve_argv0: handler.entry.flags.contains(Flags::PRESERVE_ARGV0),
        interpreter: pinned(handler),
        in_front: None,
    };
    match judge(result, &expected) {
        Ok(verification) => Health { verification: Some(verification), ..Health::of(State::Working) },
        Err(failure) => Health::broken(failure.to_string()),
    }
}

/// Returns the identity of the file that the kernel must run for `handler`: the file at the path of its interpreter.
/// Returns `None` for a handler with the flag `F`, because another file may be at the path by now (K49).
fn pinned(handler: &Handler) -> Option<FileId> {
    if handler.entry.flags.contains(Flags::FIX_BINARY) {
        return None;
    }
    let path = handler.entry.interpreter.as_deref()?;
    fs::metadata(path).ok().map(|metadata| FileId::of(&metadata))
}

/// Returns the architecture of a QEMU handler. For all other handlers, returns the only architecture whose programs the
/// handler's pattern matches.
fn main_arch(handler: &Handler) -> Option<&'static Arch> {
    classify::emulated_arch(handler).or_else(|| {
        match Arch::matching_pattern(handler.entry.pattern()?).as_slice() {
            [arch] => Some(*arch),
            _ => None,
        }
    })
}

/// Returns the first probe of `arch` that the handler's pattern matches.
fn target(handler: &Handler, arch: &'static Arch) -> Option<ProbeTarget> {
    let pattern = handler.entry.pattern()?;
    ProbeTarget::all_of(arch).find(|target| pattern.matches(&target.image()))
}

/// Results of `qus verify`.
#[derive(Serialize)]
pub(crate) struct VerifyReport {
    scope: Scope,
    pub(crate) items: Vec<VerifiedArch>,
}

/// Result of a handler, or of an architecture without a handler.
#[derive(Serialize)]
pub(crate) struct VerifiedArch {
    pub(crate) arch: &'static str,
    name: Option<String>,
    interpreter: Option<String>,
    #[serde(flatten)]
    pub(crate) health: Health,
    /// Advice for an architecture without a handler.
    #[serde(flatten)]
    advice: Advice,
}

impl VerifiedArch {
    /// Reports whether the architecture needs a handler and has none.
    fn is_missing(&self) -> bool {
        self.name.is_none() && self.health.state == State::Broken
    }
}

/// Executes the probes of all handlers, or of the handlers for the architectures that the command line names.
pub(crate) fn execute(args: &Verify, common: &Common) -> Result<VerifyReport> {
    let instance = open_instance(common)?;
    let handlers = instance.handlers().map_err(Diagnostic::from)?;
    let enabled = instance.is_enabled().map_err(Diagnostic::from)?;
    let named = named(&args.arches);
    let mut health = health(&handlers, enabled)?;
    let mut items = Vec::new();
    let requested =
        |arch: &Arch| named.as_ref().is_none_or(|named| named.iter().any(|named| **named == *arch));
    for handler in &handlers {
        let Some(arch) = main_arch(handler).filter(|arch| requested(arch)) else { continue };
        if let Some(health) = health.remove(&handler.name) {
            let interpreter = handler.entry.interpreter.as_deref().map(Path::to_string_lossy).map(Into::into);
            let name = Some(name_lossy(&handler.name));
            let advice = Advice::default();
            items.push(VerifiedArch { arch: arch.name, name, interpreter, health, advice });
        }
    }
    let mut unserved: Vec<&'static Arch> = named.into_iter().flatten().collect();
    unserved.retain(|arch| items.iter().all(|item| item.arch != arch.name));
    items.extend(without_handler(&unserved)?);
    items.sort_by_key(|item| item.arch);
    Ok(VerifyReport { scope: Scope::of(instance.path()), items })
}

impl Report for VerifyReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let mut table = Table::new();
        for item in &self.items {
            let interpreter =
                item.interpreter.as_deref().map(|path| display_path(Path::new(path))).unwrap_or_default();
            let name = item.name.as_deref().map_or_else(|| "-".to_owned(), escape);
            let detail = format!("{interpreter}{}", item.health.detail());
            let detail = detail.strip_prefix(": ").unwrap_or(&detail).to_owned();
            table.push([item.arch.into(), item.health.state.cell(), name.into(), detail.into()]);
        }
        table.write(text)
    }

    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        print_scope(self.scope, output)?;
        if self.items.is_empty() {
            output.info("no handler for an architecture is registered")?;
        }
        let missing = self.items.iter().filter(|item| item.is_missing());
        suggestion::print_missing(missing.map(|item| item.arch), output)?;
        let is_broken = self.items.iter().any(|item| item.health.state == State::Broken);
        Ok(if is_broken { Status::No } else { Status::Done })
    }
}

/// Executes probes of `arches`, which have no handler. The state of each architecture is then `Native` or `Broken`.
fn without_handler(arches: &[&'static Arch]) -> Result<Vec<VerifiedArch>, Diagnostic> {
    if arches.is_empty() {
        return Ok(Vec::new());
    }
    let targets: Vec<ProbeTarget> =
        arches.iter().filter_map(|arch| ProbeTarget::all_of(arch).next()).collect();
    let results = probe::run(&targets).map_err(Diagnostic::from)?;
    let available = Available::default();
    let items = arches.iter().zip(results).map(|(arch, result)| {
        let (health, advice) = if result.host.end == End::Exited(STATUS_ARGV0) {
            (Health::of(State::Native), Advice::default())
        } else {
            let command = suggestion::register([*arch], false, |arch| available.has(arch));
            (Health::broken("no handler matches its programs"), command.into())
        };
        VerifiedArch { arch: arch.name, name: None, interpreter: None, health, advice }
    });
    Ok(items.collect())
}
