//! `qus verify`: lets the kernel execute probes, and reports the result of each handler.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::arch::Arch;
use crate::base::order;
use crate::base::table::{Cell, Table};
use crate::base::terminal::{BAD, GOOD, NOTABLE, TextWriter};
use anstyle::Style;

use crate::base::error::{Advice, Diagnostic};
use crate::base::escape::{display_path, escape};
use crate::base::output::{Output, Status};
use crate::binfmt::{Flags, Handler, HandlerName};
use crate::commands::args::{Common, HandlerArg, Words, flat, parse_handlers};
use crate::commands::instance::{open_instance, print_scope};
use crate::commands::report::Report;
use crate::commands::selection::{Selection, select};
use crate::commands::suggestion::{self, Available};
use crate::handler::classify::{emulator_path, main_arch, name_lossy};
use crate::handler::condition::{BrokenInterpreter, covered_by};
use crate::handler::preset::{PRESETS, handler_of};
use crate::handler::table;
use crate::interpreter::memfd;
use crate::interpreter::{self_exe_header, versions_of};
use crate::probe::{
    self, End, Expected, Failure, ProbeResult, ProbeTarget, STATUS_ARGV0, Verification, judge, run_sample,
};
use crate::system::file_id::FileId;
use crate::system::namespace::Scope;
use crate::system::ownership::changeable_by_others;
use clap::Args;

/// Arguments of `qus verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Architectures, or names of handlers [default: all]
    ///
    /// An architecture selects its handlers. The name of a handler, or a pattern such as 'qemu-*', selects handlers of any
    /// tool. The default is every architecture that has a handler.
    #[arg(value_name = "HANDLER", value_parser = parse_handlers)]
    pub handlers: Vec<Words<HandlerArg>>,
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
    /// qus has no probe for the files of the handler. No other fault was found.
    Unverified,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Broken => "broken",
            Self::Native => "native",
            Self::Unverified => "unverified",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Working | Self::Native => GOOD,
            Self::Broken => BAD,
            Self::Unverified => NOTABLE,
        }
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
                ", but not verified in an empty root directory".to_owned()
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

/// Executes a probe for every handler in `selected` that is for one architecture, and returns the results by the name of
/// the handler. Skips all other handlers. `handlers` are all handlers of the instance. `enabled` is false if the whole
/// instance is disabled.
pub(super) fn health(
    handlers: &[Handler],
    selected: &[&Handler],
    enabled: bool,
) -> Result<BTreeMap<HandlerName, Health>, Diagnostic> {
    let judged: Vec<(&Handler, Option<ProbeTarget>)> = selected
        .iter()
        .copied()
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
    if let Some(problem) = switched_off(handler, enabled) {
        return problem;
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
    /// Architecture of the handler; `None` if its programs belong to no known architecture.
    pub(crate) arch: Option<&'static str>,
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

/// Executes the probes of all handlers that have one, or of the handlers that the command line names.
pub(crate) fn execute(args: &Verify, common: &Common) -> Result<VerifyReport> {
    let instance = open_instance(common)?;
    let handlers = table::handlers(&instance).map_err(Diagnostic::from)?;
    let enabled = instance.is_enabled().map_err(Diagnostic::from)?;
    let is_default = |handler: &Handler| main_arch(handler).is_some();
    let is_of = |handler: &Handler, arch| main_arch(handler) == Some(arch);
    let Selection { handlers: selected, unserved } =
        select(&handlers, &flat(&args.handlers), &[], is_default, is_of)?;
    let mut health = health(&handlers, &selected, enabled)?;
    let host = self_exe_header()?;
    let mut items = Vec::new();
    for handler in selected {
        let interpreter = handler.entry.interpreter.as_deref().map(Path::to_string_lossy).map(Into::into);
        let health =
            health.remove(&handler.name).unwrap_or_else(|| without_probe(handler, &handlers, enabled, &host));
        items.push(VerifiedArch {
            arch: main_arch(handler).map(|arch| arch.name),
            name: Some(name_lossy(&handler.name)),
            interpreter,
            health,
            advice: Advice::default(),
        });
    }
    items.extend(without_handler(&unserved)?);
    order::sort_by_key(&mut items, |item| item.arch);
    Ok(VerifyReport { scope: Scope::of(instance.path()), items })
}

/// Judges a handler for whose files qus has no probe. Executes nothing.
fn without_probe(handler: &Handler, handlers: &[Handler], enabled: bool, host: &[u8]) -> Health {
    if let Some(problem) = switched_off(handler, enabled) {
        return problem;
    }
    if let Some(broken) = BrokenInterpreter::find(handler, handlers, host) {
        return Health::broken(format!("its interpreter {}", broken.reason));
    }
    if let Some(other) = covered_by(handler, handlers) {
        return Health::broken(Failure::Shadowed(Some(other.name.to_string())).to_string());
    }
    by_sample(handler, handlers).unwrap_or_else(|| unverified("qus has no test program for its files"))
}

fn unverified(reason: impl Into<String>) -> Health {
    Health { reason: Some(reason.into()), ..Health::of(State::Unverified) }
}

/// Executes the sample of a preset that has the same rule as `handler`, which the user has named. Returns `None` if there
/// is no such preset. A handler that only matches the sample is for other files, and is not executed.
fn by_sample(handler: &Handler, handlers: &[Handler]) -> Option<Health> {
    let (path, matcher) = handler.entry.interpreter.as_deref().zip(handler.entry.matcher.as_ref())?;
    let preset = PRESETS.iter().find(|preset| {
        let rules = preset.rules(path, Flags::empty()).unwrap_or_default();
        rules.iter().any(|rule| rule.matcher().equivalent(matcher))
    })?;
    if let Some(other) = handler_of(preset.sample, handlers).filter(|first| first.name != handler.name) {
        // The sample may have the magic of another handler of the preset.
        let is_own = preset.has_handler(&other.name);
        let shadowed = || Health::broken(Failure::Shadowed(Some(other.name.to_string())).to_string());
        return Some(if is_own { unverified("qus has no test program for its files") } else { shadowed() });
    }
    if !matches!(changeable_by_others(path), Ok(None)) {
        return Some(unverified("other users can change its interpreter, so it is not executed"));
    }
    Some(match run_sample(preset.sample) {
        Ok(Some(ProbeResult { host, empty_root })) => {
            let runs = |end: End| matches!(end, End::Exited(status) if preset.sample.is_success(status));
            if !runs(host.end) {
                return Some(Health::broken(format!("a test file of this kind {}", host.end)));
            }
            let empty_root = empty_root.is_some_and(|outcome| runs(outcome.end));
            let verification = Verification { argv0: false, empty_root, interpreter: host.started };
            Health { verification: Some(verification), ..Health::of(State::Working) }
        }
        Ok(None) => return None,
        Err(error) => unverified(error.to_string()),
    })
}

/// Returns the result for a handler that is disabled, or whose whole instance is.
fn switched_off(handler: &Handler, enabled: bool) -> Option<Health> {
    match (handler.entry.enabled, enabled) {
        (false, _) => Some(Health::broken("it is disabled")),
        (true, false) => Some(Health::broken("the whole instance is disabled")),
        (true, true) => None,
    }
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
            table.push([
                item.arch.unwrap_or("-").into(),
                item.health.state.cell(),
                name.into(),
                detail.into(),
            ]);
        }
        table.write(text)
    }

    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        print_scope(self.scope, output)?;
        if self.items.is_empty() {
            output.info("no handler for an architecture is registered")?;
        }
        let missing = self.items.iter().filter(|item| item.is_missing());
        suggestion::print_missing(missing.filter_map(|item| item.arch), true, output)?;
        let is_any = |state: State| self.items.iter().any(|item| item.health.state == state);
        Ok(match (is_any(State::Unverified), is_any(State::Broken)) {
            // The command line names a handler that cannot be verified.
            (true, _) => Status::Failed,
            (false, true) => Status::No,
            (false, false) => Status::Done,
        })
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
        VerifiedArch { arch: Some(arch.name), name: None, interpreter: None, health, advice }
    });
    Ok(items.collect())
}
