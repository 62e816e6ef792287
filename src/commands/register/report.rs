//! Report of `qus register`: a line for each architecture, and a summary.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::gather::{Download, Inputs, first_line};
use crate::arch::Arch;
use crate::base::error::{Advice, Content, Diagnostic};
use crate::base::escape::{display_path, escape};
use crate::base::order;
use crate::base::output::{Output, Status};
use crate::base::table::{Cell, Table};
use crate::base::terminal::{BAD, GOOD, TextWriter};
use crate::binfmt::{Flags, Handler, HandlerName, Rule};
use crate::boot::formats::Subject;
use crate::boot::persist::{self, InitSystem};
use crate::commands::instance::lifetime_warning;
use crate::commands::report::Report;
use crate::handler::classify;
use crate::handler::classify::name_lossy;
use crate::handler::plan::{Decision, Registration};
use crate::interpreter::memfd;
use crate::probe::{Nativeness, Verification};
use crate::system::namespace::{Lifetime, Scope};

/// Outcome of `qus register` for one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// A new handler was registered.
    Registered,
    /// A new handler replaced an old one.
    Replaced,
    /// The same handlers were registered before.
    Unchanged,
    /// A working QEMU handler of another tool was left in place.
    Existing,
    /// The host runs programs of the architecture natively.
    Native,
    /// The handler would be unsafe on this host.
    Refused,
    /// A handler of another tool or interpreter already takes the programs of this architecture.
    Conflict,
    /// No interpreter was found.
    Missing,
    /// Verification failed; the previous state was restored.
    VerificationFailed,
    /// The kernel or the system refused an operation.
    Failed,
}

impl Outcome {
    fn cell(self, dry_run: bool) -> Cell {
        let word = match self {
            Self::Registered if dry_run => "would register",
            Self::Replaced if dry_run => "would replace",
            _ => self.word(),
        };
        let style = if self.status() == Status::Done { GOOD } else { BAD };
        Cell::styled(word, style)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Replaced => "replaced",
            Self::Unchanged => "unchanged",
            Self::Existing => "existing",
            Self::Native => "native",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Missing => "missing",
            Self::VerificationFailed => "verification failed",
            Self::Failed => "failed",
        }
    }

    fn status(self) -> Status {
        match self {
            Self::Registered | Self::Replaced | Self::Unchanged | Self::Existing | Self::Native => {
                Status::Done
            }
            Self::VerificationFailed => Status::No,
            Self::Refused | Self::Conflict | Self::Missing | Self::Failed => Status::Failed,
        }
    }
}

/// Result of `qus register` for one architecture, preset or rule.
#[derive(Debug, Serialize)]
pub(crate) struct ArchResult {
    /// Name of the architecture; `None` for a rule or a preset.
    pub(crate) arch: Option<&'static str>,
    /// Name of the architecture, of the preset, or of the handler of a rule.
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) handlers: Vec<String>,
    flags: Option<String>,
    pub(crate) interpreter: Option<String>,
    /// QEMU version of the interpreter, if it is known.
    pub(super) version: Option<String>,
    /// True if a probe verified the handler.
    verified: bool,
    verification: Option<Verification>,
    message: Option<String>,
    #[serde(flatten)]
    advice: Advice,
    /// With `--persist`: the file that registers the handler at boot.
    persisted: Option<PathBuf>,
}

impl ArchResult {
    /// Creates the result of `arch` from the decision about it. `flags` are those of a new handler.
    pub(super) fn new(
        arch: &'static Arch,
        decision: &Decision,
        inputs: &Inputs,
        flags: Flags,
        dry_run: bool,
    ) -> Self {
        let mut item = Self { arch: Some(arch.name), ..Self::named(arch.name) };
        match decision {
            Decision::Unchanged(names) => item.record_existing(Outcome::Unchanged, names, arch, inputs),
            Decision::LeaveExisting(name) => {
                item.record_existing(Outcome::Existing, std::slice::from_ref(name), arch, inputs);
                item.message = Some("this handler already works".to_owned());
            }
            Decision::Register(registration) => {
                item.planned(registration, &inputs.handlers, dry_run);
                if *inputs.facts(arch).native == Nativeness::NotAsked {
                    item.remark("a dry run does not determine whether this host runs it natively");
                }
            }
            Decision::Refused { reason, advice } => {
                item.outcome = Outcome::Refused;
                item.message = Some(reason.clone());
                item.advice.clone_from(advice);
            }
            Decision::Conflict { with } => item.conflict(arch, with, inputs, flags),
            Decision::NoInterpreter => item.missing(arch, inputs),
        }
        item
    }

    /// Creates the result of the preset or rule `name`, which failed so far.
    pub(super) fn named(name: impl Into<String>) -> Self {
        Self {
            arch: None,
            name: name.into(),
            outcome: Outcome::Failed,
            handlers: Vec::new(),
            flags: None,
            interpreter: None,
            version: None,
            verified: false,
            verification: None,
            message: None,
            advice: Advice::default(),
            persisted: None,
        }
    }

    /// Creates the result of the preset or rule `name` from the decision about its `rules`. `handlers` are all handlers,
    /// and `replace` is the command that replaces handlers which are in the way.
    pub(super) fn of_rules(
        name: &str,
        decision: &Decision,
        rules: &[Rule],
        handlers: &[Handler],
        replace: String,
    ) -> Self {
        let mut item = Self::named(name);
        match decision {
            Decision::Unchanged(names) => {
                item.outcome = Outcome::Unchanged;
                item.handlers = names.iter().map(name_lossy).collect();
                item.flags = rules.first().map(|rule| rule.flags().to_string());
                item.interpreter = rules.first().map(|rule| rule.interpreter().to_string_lossy().into());
            }
            Decision::LeaveExisting(existing) => {
                item.outcome = Outcome::Existing;
                item.handlers = vec![name_lossy(existing)];
                let handler = handlers.iter().find(|handler| handler.name == *existing);
                item.flags = handler.map(|handler| handler.entry.flag_letters());
                item.interpreter = rules.first().map(|rule| rule.interpreter().to_string_lossy().into());
                item.message = Some("this handler already has this interpreter".to_owned());
            }
            Decision::Register(registration) => item.planned(registration, handlers, false),
            Decision::Refused { reason, advice } => {
                item.outcome = Outcome::Refused;
                item.message = Some(reason.clone());
                item.advice = advice.clone();
            }
            Decision::Conflict { with } => {
                item.outcome = Outcome::Conflict;
                let (namesakes, others): (Vec<_>, Vec<_>) =
                    with.iter().partition(|name| rules.iter().any(|rule| rule.name() == *name));
                let mut reasons = Vec::new();
                let join = |names: &[&HandlerName]| {
                    names.iter().map(|name| describe(name, handlers)).collect::<Vec<_>>().join(" and ")
                };
                if !others.is_empty() {
                    reasons.push(format!("{} already handles such files", join(&others)));
                }
                if !namesakes.is_empty() {
                    reasons.push(format!("the name is taken by another handler, {}", join(&namesakes)));
                }
                item.message = Some(reasons.join("; "));
                item.advice = replace.into();
            }
            Decision::NoInterpreter => item.outcome = Outcome::Missing,
        }
        item
    }

    /// Records that no interpreter was found.
    pub(super) fn set_missing(&mut self, message: String, advice: Advice) {
        self.outcome = Outcome::Missing;
        self.message = Some(message);
        self.advice = advice;
    }

    fn record_existing(&mut self, outcome: Outcome, names: &[HandlerName], arch: &Arch, inputs: &Inputs) {
        self.outcome = outcome;
        self.handlers = names.iter().map(name_lossy).collect();
        let handler = inputs.handlers.iter().find(|handler| Some(&handler.name) == names.first());
        self.flags = handler.map(|handler| handler.entry.flag_letters());
        let path = handler.and_then(|handler| handler.entry.interpreter.as_deref());
        self.interpreter = path.map(|path| path.to_string_lossy().into());
        let description = path.and_then(memfd::parse_description).map(|description| description.version);
        self.version = path.and_then(|path| inputs.version(path)).map(ToString::to_string).or(description);
        self.verified = inputs.verify;
        self.verification = inputs.facts(arch).verdict.and_then(|verdict| verdict.as_ref().ok()).copied();
    }

    fn planned(&mut self, registration: &Registration, handlers: &[Handler], dry_run: bool) {
        self.outcome = if registration.removes.is_empty() { Outcome::Registered } else { Outcome::Replaced };
        self.handlers = registration.rules.iter().map(|rule| rule.name().to_string()).collect();
        let rule = registration.rules.first();
        self.flags = rule.map(|rule| rule.flags().to_string());
        self.interpreter = rule.map(Rule::interpreter).map(|path| path.to_string_lossy().into());
        let displaced =
            registration.displaced.iter().map(|name| format!("the kernel now tries {name} after it"));
        let narrowed =
            registration.narrowed.iter().map(|name| format!("it now also takes files that {name} matches"));
        let reason = registration.reason.clone().into_iter();
        let lost = lost_flags(registration, handlers);
        let remarks: Vec<String> = reason.chain(lost).chain(displaced).chain(narrowed).collect();
        self.message = (!remarks.is_empty()).then(|| remarks.join("; "));
        if dry_run {
            self.verified = false;
        }
    }

    fn conflict(&mut self, arch: &'static Arch, with: &[HandlerName], inputs: &Inputs, flags: Flags) {
        self.outcome = Outcome::Conflict;
        let has_programs = |name: &&HandlerName| {
            let handler = inputs.handlers.iter().find(|handler| handler.name == **name);
            handler.is_some_and(|handler| handler.entry.enabled && classify::overlaps_arch(handler, arch))
        };
        let (matching, namesakes): (Vec<_>, Vec<_>) = with.iter().partition(has_programs);
        let all = |names: &[&HandlerName]| {
            names.iter().map(|name| describe(name, &inputs.handlers)).collect::<Vec<_>>().join(" and ")
        };
        let mut reasons = Vec::new();
        if let Some(first) = matching.first() {
            let handler = inputs.handlers.iter().find(|handler| handler.name == **first);
            let difference = handler.and_then(|handler| difference(arch, handler, inputs, flags));
            let difference = difference.unwrap_or_default();
            reasons.push(format!("{} already handles these programs{difference}", all(&matching)));
        }
        if !namesakes.is_empty() {
            reasons.push(format!("the name is taken by another handler, {}", all(&namesakes)));
        }
        self.message = Some(reasons.join("; "));
        self.advice = format!("{} --replace {}{}", inputs.register, inputs.selection, arch.name).into();
    }

    fn missing(&mut self, arch: &Arch, inputs: &Inputs) {
        self.outcome = Outcome::Missing;
        let rejected = inputs.rejected(arch).iter();
        let rejected: Vec<String> =
            rejected.map(|(path, fault)| format!("{} {}", display_path(path), first_line(fault))).collect();
        self.message = Some(if let Some(reason) = inputs.not_in_source(arch) {
            reason
        } else if rejected.is_empty() {
            inputs.no_interpreter()
        } else {
            rejected.join("; ")
        });
        if inputs.download == Download::Omitted {
            self.remark("a dry run downloads nothing");
        }
        self.advice = inputs.fetch_advice(arch.name);
    }

    /// Records the flags of the new handler, and what the probe has shown, if one was executed.
    pub(super) fn done(&mut self, flags: Flags, verification: Option<Verification>) {
        if verification.is_some()
            && self.flags.as_ref().is_some_and(|planned| planned.contains('P'))
            && !flags.contains(Flags::PRESERVE_ARGV0)
        {
            self.remark("without the flag P, which its interpreter does not support");
        }
        self.flags = Some(flags.to_string());
        self.verified = verification.is_some();
        self.verification = verification;
    }

    /// Records that a sample was executed.
    pub(super) fn verified_by_sample(&mut self, verification: Verification) {
        self.verified = true;
        self.verification = Some(verification);
    }

    /// Returns the reason why the architecture was not registered, with advice, on one line.
    pub(crate) fn reason(&self) -> String {
        let reason = self.message.as_deref().unwrap_or(self.outcome.word()).replace('\n', " ");
        reason + &self.advice.inline()
    }

    /// Adds `remark` to the message about this architecture.
    pub(super) fn remark(&mut self, remark: &str) {
        let message = self.message.take();
        self.message = Some(message.map_or_else(|| remark.to_owned(), |text| format!("{text}; {remark}")));
    }

    /// Records that the architecture was not registered, with the reason.
    pub(super) fn fail(&mut self, outcome: Outcome, problem: Diagnostic) {
        self.outcome = outcome;
        let Content { message, advice } = problem.into_content();
        self.message = Some(message);
        self.advice = advice;
        self.handlers.clear();
    }

    /// Records that the host runs the architecture natively.
    pub(super) fn set_native(&mut self) {
        self.outcome = Outcome::Native;
        self.message = Some("this host runs it natively".to_owned());
        self.advice = Advice::default();
    }

    /// Records that `file` registers the handler at boot.
    pub(super) fn persisted_by(&mut self, file: PathBuf) {
        self.persisted = Some(file);
    }

    /// Records, for a dry run, the file that would register the handler at boot.
    pub(super) fn would_be_persisted(&mut self, subject: &Subject) {
        let own = matches!(self.outcome, Outcome::Registered | Outcome::Replaced | Outcome::Unchanged);
        self.persisted = own.then(|| persist::file_of(subject));
    }

    /// Records that the handler is registered now, but not at boot.
    pub(super) fn not_persisted(&mut self, problem: Diagnostic) {
        self.outcome = Outcome::Failed;
        let Content { message, advice } = problem.into_content();
        self.message = Some(format!("registered until the next reboot only: {message}"));
        self.advice = advice;
    }

    /// Reports whether the handler is registered at boot.
    pub(super) fn is_persisted(&self) -> bool {
        self.persisted.is_some()
    }

    /// Reports whether this is the result of the architecture named `arch`.
    pub(super) fn is_of(&self, arch: &str) -> bool {
        self.arch == Some(arch)
    }

    /// Reports whether the architecture has a handler.
    pub(super) fn is_served(&self) -> bool {
        self.outcome.status() == Status::Done && self.outcome != Outcome::Native
    }

    /// Reports whether the host runs the architecture natively.
    fn is_native(&self) -> bool {
        self.outcome == Outcome::Native
    }

    /// Reports whether the probe of the handler also ran in an empty root directory, as it would in a container.
    fn works_in_containers(&self) -> bool {
        self.verification.is_some_and(|verification| verification.empty_root)
    }

    /// Reports whether this run has left an existing handler with the name `name` in place.
    pub(super) fn has_existing(&self, name: &HandlerName) -> bool {
        self.outcome == Outcome::Existing && self.names().contains(name)
    }

    /// Returns the names of the architecture's handlers.
    pub(super) fn names(&self) -> Vec<HandlerName> {
        self.handlers.iter().filter_map(|name| HandlerName::new(name.as_bytes()).ok()).collect()
    }

    /// Returns the path of the interpreter for this architecture.
    pub(super) fn interpreter_path(&self) -> Option<&Path> {
        self.interpreter.as_deref().map(Path::new)
    }

    /// Reports whether the architecture's handlers existed before this run and were left in place.
    pub(super) fn has_existing_handler(&self) -> bool {
        matches!(self.outcome, Outcome::Unchanged | Outcome::Existing)
    }

    fn is_new(&self) -> bool {
        matches!(self.outcome, Outcome::Registered | Outcome::Replaced)
    }

    /// Reports whether a short report has a line for this result, because it is a failure or has a remark.
    fn is_exceptional(&self) -> bool {
        let is_remarked =
            self.message.is_some() && !matches!(self.outcome, Outcome::Existing | Outcome::Native);
        self.outcome.status() != Status::Done || is_remarked
    }

    fn cells(&self, dry_run: bool) -> [Cell; 4] {
        let flags = if self.is_served() { self.flags.clone().unwrap_or_default() } else { String::new() };
        let detail = if self.is_served() {
            self.served_by(dry_run)
        } else {
            self.message.as_deref().map(|text| escape(&text.replace('\n', " "))).unwrap_or_default()
        };
        [escape(&self.name).into(), self.outcome.cell(dry_run), flags.into(), detail.into()]
    }

    /// Describes the interpreter, the verification of the handler, and the file that registers the handler at boot.
    fn served_by(&self, dry_run: bool) -> String {
        let mut text = self.interpreter.as_deref().map(escape).unwrap_or_default();
        if let Some(version) = &self.version {
            text.push_str(&format!(" (QEMU {version})"));
        }
        let is_registered = !dry_run || matches!(self.outcome, Outcome::Unchanged | Outcome::Existing);
        match self.verification {
            None if is_registered => text.push_str(", unverified"),
            Some(verification) if is_registered && !verification.empty_root => {
                text.push_str(", verified on this host only");
            }
            _ => {}
        }
        if let Some(message) = &self.message
            && self.outcome != Outcome::Existing
        {
            text.push_str(&format!("; {}", escape(message)));
        }
        if let Some(file) = &self.persisted {
            text.push_str(&format!("; at boot by {}", display_path(file)));
        }
        text
    }
}

/// Describes the flags of the handlers that `registration` replaces and that its rules do not have. `None` if there are
/// none.
fn lost_flags(registration: &Registration, handlers: &[Handler]) -> Option<String> {
    let new = registration.rules.first()?.flags().to_string();
    let is_replaced = |handler: &&Handler| {
        let names = registration.removes.iter().chain(&registration.displaced);
        handler.entry.enabled && names.into_iter().any(|name| *name == handler.name)
    };
    let old: String =
        handlers.iter().filter(is_replaced).map(|handler| handler.entry.flag_letters()).collect();
    let mut lost: Vec<char> = old.chars().filter(|letter| !new.contains(*letter)).collect();
    order::sort(&mut lost);
    lost.dedup();
    let (first, others) = lost.split_first()?;
    let plural = if others.is_empty() { "" } else { "s" };
    let option = if lost.contains(&'C') { " (--credentials sets C)" } else { "" };
    let letters = others.iter().fold(first.to_string(), |text, letter| format!("{text}, {letter}"));
    Some(format!("without its flag{plural} {letters}{option}"))
}

/// Describes the difference of `handler`, which is in the way of a rule for `arch`, from this rule. `flags` are those of
/// the rule. Returns `None` if there is no interpreter for the rule.
fn difference(arch: &'static Arch, handler: &Handler, inputs: &Inputs, flags: Flags) -> Option<String> {
    let interpreter = inputs.interpreter(arch)?;
    if handler.entry.interpreter.as_deref() != Some(&interpreter.path) {
        return Some(format!(", not {}", display_path(&interpreter.path)));
    }
    if handler.entry.flag_letters() != flags.to_string() {
        return Some(format!(", not with the flags {flags}"));
    }
    Some(format!("; its magic or mask differs from that of `qus show {}`", arch.name))
}

/// Describes the handler `name`, which is one of `handlers`.
fn describe(name: &HandlerName, handlers: &[Handler]) -> String {
    let entry = handlers.iter().find(|handler| handler.name == *name).map(|handler| &handler.entry);
    let path = entry.and_then(|entry| entry.interpreter.as_deref()).unwrap_or(Path::new("a BPF program"));
    let flags = entry.map(crate::binfmt::Entry::flag_letters).unwrap_or_default();
    format!("{name} ({}, flags {})", display_path(path), if flags.is_empty() { "none" } else { &flags })
}

/// Amount of text that the report prints about each architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// Only failures and results with a remark have a line. All others are counted.
    Exceptions,
    /// Each architecture has a line.
    Lines,
}

/// Results of `qus register`.
#[derive(Serialize)]
pub(crate) struct RegisterReport {
    pub(super) scope: Scope,
    /// Lifetime of the handlers, for example until the next reboot.
    pub(super) lifetime: Lifetime,
    /// True if this process keeps running after the report, with the instance open (`--hold`).
    pub(super) held: bool,
    /// The init system that registers the handlers at boot. `None` without `--persist`.
    #[serde(rename = "init-system")]
    pub(super) init_system: Option<InitSystem>,
    pub(super) dry_run: bool,
    pub(crate) items: Vec<ArchResult>,
    /// Amount of text that the report prints about each architecture.
    #[serde(skip)]
    pub(super) detail: Detail,
    /// Reason why the files that register the handlers at boot could not be written.
    #[serde(skip)]
    pub(super) not_persisted: Option<Diagnostic>,
}

impl RegisterReport {
    /// Returns the names of the handlers that this run registered, as far as `known` is true for them.
    pub(super) fn new_handlers(&self, known: impl Fn(&HandlerName) -> bool) -> Vec<HandlerName> {
        let names = self.items.iter().filter(|item| item.is_new()).flat_map(|item| &item.handlers);
        names.filter_map(|name| HandlerName::new(name.as_bytes()).ok()).filter(known).collect()
    }

    /// Returns an error about the architectures that were not registered, with advice. Returns `None` if all were
    /// registered.
    fn failures(&self) -> Option<Diagnostic> {
        let failed: Vec<&ArchResult> =
            self.items.iter().filter(|item| item.outcome.status() != Status::Done).collect();
        let (first, others) = failed.split_first()?;
        let message = if others.is_empty() && self.items.len() == 1 {
            format!("{} was not registered", escape(&first.name))
        } else {
            let mut words: Vec<&str> = failed.iter().map(|item| item.outcome.word()).collect();
            order::sort(&mut words);
            words.dedup();
            let (count, all) = (failed.len(), self.items.len());
            let summary = self.summary().map(|summary| format!("; {summary}")).unwrap_or_default();
            format!("{count} of {all} {} were not registered ({}){summary}", self.noun(2), words.join(", "))
        };
        let mut commands: Vec<&str> =
            failed.iter().filter_map(|item| item.advice.command.as_deref()).collect();
        commands.dedup();
        let hint = failed.iter().find_map(|item| item.advice.hint.clone());
        Some(Diagnostic::new(message).with_advice(Advice { command: as_one(&commands), hint }))
    }

    /// Reports whether any architecture has a handler now.
    pub(super) fn has_any(&self) -> bool {
        self.items.iter().any(ArchResult::is_served)
    }

    /// Reports whether all handlers are also registered at boot.
    fn is_persisted(&self) -> bool {
        if self.init_system.is_none_or(|init_system| init_system.blocker().is_some()) {
            return false;
        }
        let mut well = self.items.iter().filter(|item| item.is_served()).peekable();
        well.peek().is_some() && well.all(ArchResult::is_persisted)
    }

    /// Returns a sentence about how many architectures work, where, and until when. Returns `None` for a dry run, or if
    /// no architecture has a handler.
    fn summary(&self) -> Option<String> {
        let served = || self.items.iter().filter(|item| item.is_served());
        let (count, all) = (served().count(), self.items.iter().filter(|item| !item.is_native()).count());
        if self.dry_run || count == 0 {
            return None;
        }
        let noun = self.noun(count);
        let number = if count == all { count.to_string() } else { format!("{count} of {all}") };
        let location = self.location(served().all(ArchResult::works_in_containers));
        if served().any(|item| !item.verified) {
            let are = if count == 1 { "is" } else { "are" };
            let test = if self.is_general() { "" } else { "; run `qus verify` to test them" };
            return Some(format!("{number} {noun} {are} registered {location}{}{test}", self.until()));
        }
        let works = if count == 1 { "works" } else { "work" };
        let unseen = matches!(self.scope, Scope::UserNamespace(_));
        let unseen = if unseen { "; the host does not see these handlers" } else { "" };
        Some(format!("{number} {noun} {works} {location}{}{unseen}", self.until()))
    }

    /// Reports whether the results are those of presets or rules.
    fn is_general(&self) -> bool {
        self.items.iter().any(|item| item.arch.is_none())
    }

    /// Returns the noun for `count` results.
    fn noun(&self, count: usize) -> &'static str {
        match (self.is_general(), count) {
            (true, 1) => "kind of file",
            (true, _) => "kinds of files",
            (false, 1) => "architecture",
            (false, _) => "architectures",
        }
    }

    fn location(&self, in_containers: bool) -> String {
        match self.scope {
            Scope::Host if in_containers => "on this host and in containers".to_owned(),
            Scope::Host => "on this host".to_owned(),
            Scope::UserNamespace(inode) => format!("in user namespace {inode} only"),
            scope => format!("in {scope}"),
        }
    }

    /// Returns how long the handlers stay, as the end of a sentence.
    fn until(&self) -> String {
        if let Some(init_system) = self.init_system
            && self.is_persisted()
        {
            return format!("; {}", init_system.description());
        }
        let until = match (self.lifetime, self.scope) {
            _ if self.held => "until this command is ended",
            (Lifetime::Process, _) => "until this command ends",
            (Lifetime::Boot, _) => "until the next reboot (--persist keeps them)",
            (Lifetime::MountNamespace, Scope::Host) => "until this container ends",
            (Lifetime::MountNamespace | Lifetime::UserNamespace, _) => "until that namespace ends",
            (Lifetime::Outer, _) => "even after this user namespace ends",
            (Lifetime::Unknown, _) => "for a time that could not be determined",
        };
        format!(", {until}")
    }
}

/// Returns warnings about handlers that are registered at boot.
fn warnings(items: &[ArchResult]) -> Vec<String> {
    let mut warnings: Vec<String> = items
        .iter()
        .filter(|item| item.is_persisted())
        .filter_map(|item| persist::late_mount_warning(item.interpreter_path()?))
        .collect();
    if crate::system::kernel_version::is_wsl() {
        warnings.push(
            "under WSL all distributions share one kernel: stopping another one may remove these handlers"
                .to_owned(),
        );
    }
    warnings
}

impl Report for RegisterReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let mut table = Table::new();
        let is_all = self.detail != Detail::Exceptions || self.dry_run;
        for item in self.items.iter().filter(|item| is_all || item.is_exceptional()) {
            table.push(item.cells(self.dry_run));
        }
        table.write(text)
    }

    /// Prints the failures or the summary, then warnings.
    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        let mut status = self.items.iter().map(|item| item.outcome.status()).max().unwrap_or(Status::Done);
        if let Some(problem) = self.failures() {
            output.problem(&problem)?;
        } else if let Some(summary) = self.summary() {
            output.info(&summary)?;
        }
        let mut problems = Vec::new();
        if let Some(init_system) = self.init_system
            && !self.dry_run
            && self.items.iter().any(ArchResult::is_persisted)
        {
            for warning in warnings(&self.items) {
                output.info(&warning)?;
            }
            problems.extend(init_system.blocker());
        }
        if !self.held && !self.dry_run && self.has_any() {
            problems.extend(lifetime_warning(self.lifetime, self.scope));
        }
        problems.extend(self.not_persisted.clone());
        for problem in &problems {
            output.problem(problem)?;
            status = status.max(Status::Failed);
        }
        Ok(status)
    }
}

/// Joins `qus register` commands that differ only in the architecture into one command. Puts commands that differ in
/// more on separate lines. If the first command is another one, returns only that.
fn as_one(commands: &[&str]) -> Option<String> {
    let (first, rest) = commands.split_first()?;
    let (command, _) = first.rsplit_once(' ')?;
    if rest.is_empty() || !command.contains("qus register ") {
        return Some((*first).to_owned());
    }
    let arches: Vec<&str> =
        commands.iter().filter_map(|other| other.strip_prefix(command)?.strip_prefix(' ')).collect();
    if arches.len() == commands.len() {
        Some(format!("{command} {}", arches.join(" ")))
    } else {
        Some(commands.join("\n"))
    }
}
