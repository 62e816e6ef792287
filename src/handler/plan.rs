//! Decision whether qus registers rules for one architecture: a pure function from facts to a [`Decision`] (rule 2 of
//! docs/design.md).

use std::fmt;
use std::path::Path;

use super::classify::{active_handler, emulated_arch, is_staging, overlaps_arch, rules, wrong_emulator};
use crate::arch::Arch;
use crate::base::error::Advice;
use crate::base::shell::shell_word;
use crate::binfmt::{Flags, Handler, HandlerName, Rule, RuleError, first_match};
use crate::interpreter::Interpreter;
use crate::interpreter::memfd::is_in_memory;
use crate::probe::{Failure, Nativeness, Verification};
use crate::system::file_id::FileId;

/// Facts about the host, which are the same for every architecture.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// All handlers, newest first.
    pub handlers: &'a [Handler],
    /// Headers of files that no rule may match: native programs of this host, including qus (K37).
    pub guarded: &'a [Vec<u8>],
}

/// Facts about one architecture.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The interpreter to register, if one is available.
    pub interpreter: Option<&'a Interpreter>,
    /// Answer whether the host runs the architecture's programs natively.
    pub native: &'a Nativeness,
    /// Result of executing a probe with the registered handlers; `None` if no probe was executed.
    pub verdict: Option<&'a Result<Verification, Failure>>,
    /// Defect of the active handler's interpreter file, found without a probe. Set only if no probe was executed.
    pub unfit: Option<&'a str>,
}

impl Facts<'_> {
    /// Returns the interpreter file that the kernel started for the probe.
    fn started(&self) -> Option<FileId> {
        self.verdict?.as_ref().ok()?.interpreter
    }
}

/// Request of the user for an architecture.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The flags of a new handler.
    pub flags: Flags,
    /// True if the user named an interpreter, a source or flags, or wants the interpreter in memory.
    pub explicit: bool,
    /// True if a working handler may be replaced.
    pub replace: bool,
    /// True if native architectures may be registered as well.
    pub force_native: bool,
}

/// Decision about one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The requested handlers are registered and work.
    Unchanged(Vec<HandlerName>),
    /// A working handler already runs another emulator for the architecture.
    LeaveExisting(HandlerName),
    /// New rules must be registered and verified. The handlers that they replace are removed afterwards.
    Register(Registration),
    /// The architecture must not be registered on this host.
    Refused {
        /// The reason.
        reason: String,
        /// Advice on what the user can do instead.
        advice: Advice,
    },
    /// Another handler already handles programs of the architecture, and the user did not permit to replace it.
    Conflict {
        /// Handlers that a registration would displace.
        with: Vec<HandlerName>,
    },
    /// No interpreter is available.
    NoInterpreter,
}

impl fmt::Display for Decision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |names: &[HandlerName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Unchanged(handlers) => write!(formatter, "{} is unchanged", names(handlers)),
            Self::LeaveExisting(handler) => write!(formatter, "{handler} already handles it"),
            Self::Register(registration) => {
                let rules: Vec<_> = registration.rules.iter().map(|rule| rule.name().clone()).collect();
                write!(formatter, "register {}", names(&rules))?;
                if registration.removes.is_empty() {
                    return Ok(());
                }
                write!(formatter, ", and remove {}", names(&registration.removes))
            }
            Self::Refused { reason, .. } => write!(formatter, "refuse: {reason}"),
            Self::Conflict { with } => write!(formatter, "in conflict with {}", names(with)),
            Self::NoInterpreter => formatter.write_str("no interpreter is available"),
        }
    }
}

/// Rules to register, and handlers that they replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// New rules under their final names.
    pub rules: Vec<Rule>,
    /// Handlers to remove after the new handlers are verified.
    pub removes: Vec<HandlerName>,
    /// Reason why handlers are removed; `None` if no handler is removed.
    pub reason: Option<String>,
    /// Handlers of other tools that match the same programs as the new rules. The kernel will no longer use them for
    /// these programs.
    pub displaced: Vec<HandlerName>,
    /// Handlers of other tools that match only special files of the architecture. The new handlers will take some of
    /// these files.
    pub narrowed: Vec<HandlerName>,
}

/// Returns the reason why `handler` does not work for all programs of `arch` in a container. Only the handler's flags
/// and patterns are judged.
fn deficiency(arch: &Arch, handler: &Handler, handlers: &[Handler]) -> Option<String> {
    if !handler.entry.flags.contains(Flags::FIX_BINARY) {
        return Some("it has no F flag, and would fail in every container".to_owned());
    }
    let takes_all = arch.typical_headers().iter().all(|header| {
        first_match(handlers, header, Path::new("")).is_some_and(|first| first.name == handler.name)
    });
    (!takes_all).then(|| "it does not match all programs that today's toolchains write".to_owned())
}

/// Returns the reason why `handler` cannot work, if its interpreter has the name of another architecture's emulator.
fn wrong(handler: &Handler) -> Option<String> {
    let emulated = wrong_emulator(handler)?;
    Some(format!("its interpreter emulates {}", emulated.name))
}

/// Decides whether to register rules for `arch`, and which rules.
///
/// # Errors
/// Fails if the interpreter's path is not valid in a rule.
pub fn decide(
    arch: &'static Arch,
    snapshot: &Snapshot<'_>,
    facts: &Facts<'_>,
    request: Request,
) -> Result<Decision, RuleError> {
    if let Some(refusal) = refusal(arch, snapshot, facts, request) {
        return Ok(refusal);
    }
    let requested = match facts.interpreter {
        Some(interpreter) => rules(arch, &interpreter.path, request.flags)?,
        None => Vec::new(),
    };
    if requested.is_empty() && request.explicit {
        // The registered handler does not satisfy an explicit request.
        return Ok(Decision::NoInterpreter);
    }
    let standing = Standing::compare(arch, snapshot.handlers, facts, requested);
    if standing.is_all_current() {
        return Ok(Decision::Unchanged(standing.requested.iter().map(|rule| rule.name().clone()).collect()));
    }
    if !request.replace
        && let Some(other) = standing.other_emulator()
    {
        let name = other.name.clone();
        return Ok(if request.explicit {
            Decision::Conflict { with: vec![name] }
        } else {
            Decision::LeaveExisting(name)
        });
    }
    let new = standing.rules_to_register();
    if new.is_empty() {
        return Ok(Decision::NoInterpreter);
    }
    let foreign = standing.foreign_in_the_way(&new);
    if !foreign.is_empty() && !request.replace {
        return Ok(Decision::Conflict { with: foreign.iter().map(|handler| handler.name.clone()).collect() });
    }
    Ok(Decision::Register(standing.registration(new, &foreign)))
}

/// Comparison of the registered handlers with the requested rules of one architecture.
struct Standing<'a> {
    arch: &'static Arch,
    handlers: &'a [Handler],
    facts: &'a Facts<'a>,
    requested: Vec<Rule>,
    /// The handler that the kernel uses for the architecture's programs.
    active: Option<&'a Handler>,
    /// Reason why the active handler does not work.
    broken: Option<String>,
    /// For each rule in `requested`: true if the rule is registered and works.
    current: Vec<bool>,
}

impl<'a> Standing<'a> {
    fn compare(
        arch: &'static Arch,
        handlers: &'a [Handler],
        facts: &'a Facts<'a>,
        requested: Vec<Rule>,
    ) -> Self {
        let active = active_handler(arch, handlers);
        let broken = active.and_then(|active| match facts.verdict {
            Some(Err(failure)) => Some(failure.to_string()),
            Some(Ok(_)) => deficiency(arch, active, handlers),
            None => facts
                .unfit
                .map(str::to_owned)
                .or_else(|| wrong(active))
                .or_else(|| deficiency(arch, active, handlers)),
        });
        let works =
            |rule: &Rule| broken.is_none() && active.is_some_and(|active| active.name == *rule.name());
        let current = requested
            .iter()
            .enumerate()
            .map(|(index, rule)| is_current(rule, index == 0, handlers, facts) && (index > 0 || works(rule)))
            .collect();
        Self { arch, handlers, facts, requested, active, broken, current }
    }

    fn is_all_current(&self) -> bool {
        !self.requested.is_empty() && self.current.iter().all(|current| *current)
    }

    /// Reports whether the first requested rule is registered and works. This is the rule for the programs of today's
    /// toolchains.
    fn is_first_current(&self) -> bool {
        self.current.first() == Some(&true)
    }

    /// Returns the active handler if it works and emulates the architecture, but is not the handler of the first
    /// requested rule.
    fn other_emulator(&self) -> Option<&'a Handler> {
        let active = self.active?;
        let is_other = !self.is_first_current()
            && self.is_ours(active)
            && self.broken.is_none()
            && !is_staging(&active.name)
            && !is_outdated(active, &self.requested, self.facts);
        is_other.then_some(active)
    }

    fn is_ours(&self, handler: &Handler) -> bool {
        emulated_arch(handler) == Some(self.arch)
    }

    /// Returns the requested rules that must be registered. If the first rule is not registered or does not work, these
    /// are all rules, because the handlers of the other rules may run another file.
    fn rules_to_register(&self) -> Vec<Rule> {
        let missing = self
            .requested
            .iter()
            .zip(&self.current)
            .filter(|(_, current)| !self.is_first_current() || !**current);
        missing.map(|(rule, _)| rule.clone()).collect()
    }

    /// Returns the handlers of other tools that the kernel now uses for ordinary programs of the `new` rules, or that
    /// have the name of a new rule.
    ///
    /// A handler that takes only special files, for example files of another OS ABI, is not returned, wherever it is in
    /// the kernel's order.
    fn foreign_in_the_way(&self, new: &[Rule]) -> Vec<&'a Handler> {
        let headers = self.arch.typical_headers();
        let takes_ordinary = |handler: &Handler| {
            headers.iter().any(|header| {
                new.iter().any(|rule| rule.matcher().pattern().is_some_and(|pattern| pattern.matches(header)))
                    && first_match(self.handlers, header, Path::new(""))
                        .is_some_and(|first| first.name == handler.name)
            })
        };
        let is_in_the_way = |handler: &&Handler| {
            emulated_arch(handler).is_none()
                && (new.iter().any(|rule| *rule.name() == handler.name) || takes_ordinary(handler))
        };
        self.handlers.iter().filter(is_in_the_way).collect()
    }

    /// Returns the enabled handlers of other tools that match some of the files that the `new` rules match. Handlers in
    /// `in_the_way` are omitted.
    fn narrowed(&self, new: &[Rule], in_the_way: &[&Handler]) -> Vec<HandlerName> {
        let overlaps = |handler: &Handler| {
            new.iter().any(|rule| {
                let patterns = handler.entry.pattern().zip(rule.matcher().pattern());
                patterns.is_some_and(|(one, two)| one.overlaps(two))
            })
        };
        let is_narrowed = |handler: &&Handler| {
            handler.entry.enabled
                && emulated_arch(handler).is_none()
                && overlaps(handler)
                && in_the_way.iter().all(|other| other.name != handler.name)
        };
        self.handlers.iter().filter(is_narrowed).map(|handler| handler.name.clone()).collect()
    }

    /// Returns the registration of the `new` rules. The `foreign` handlers are the handlers that these rules displace.
    fn registration(&self, new: Vec<Rule>, foreign: &[&Handler]) -> Registration {
        let has_name = |handler: &Handler| new.iter().any(|rule| *rule.name() == handler.name);
        let is_superseded = |handler: &&Handler| {
            has_name(handler)
                || self.is_ours(handler) && overlaps_arch(handler, self.arch) && !self.is_first_current()
        };
        let removes: Vec<&Handler> = self.handlers.iter().filter(is_superseded).collect();
        let displaced = foreign.iter().filter(|handler| !has_name(handler));
        Registration {
            reason: self.reason(&removes),
            removes: removes.iter().map(|handler| handler.name.clone()).collect(),
            displaced: displaced.map(|handler| handler.name.clone()).collect(),
            narrowed: self.narrowed(&new, foreign),
            rules: new,
        }
    }

    /// Returns the reason why the handlers in `removes` are removed. The result of the probe applies to the active
    /// handler only.
    fn reason(&self, removes: &[&Handler]) -> Option<String> {
        let is_active = |handler: &Handler| self.active.is_some_and(|active| active.name == handler.name);
        let first = removes.iter().find(|handler| is_active(handler)).or(removes.first())?;
        let name = &first.name;
        Some(if !first.entry.enabled {
            format!("{name} was disabled")
        } else if !is_active(first) {
            format!("in place of {name}")
        } else if let Some(broken) = &self.broken {
            format!("{name} failed: {broken}")
        } else if !self.is_first_current() && self.runs_replaced_file(first) {
            format!("{name} still ran the file that was replaced")
        } else {
            format!("in place of {name}")
        })
    }

    /// Reports whether `handler` has the interpreter's path, but started a file for the probe that is no longer at this
    /// path.
    fn runs_replaced_file(&self, handler: &Handler) -> bool {
        let Some(interpreter) = self.facts.interpreter else { return false };
        handler.entry.interpreter.as_deref() == Some(interpreter.path.as_path())
            && self.facts.started().is_some_and(|started| started != interpreter.id)
    }
}

/// Returns a refusal of `arch` for a reason that does not depend on the registered handlers; `None` if there is no
/// reason.
fn refusal(arch: &Arch, snapshot: &Snapshot<'_>, facts: &Facts<'_>, request: Request) -> Option<Decision> {
    let refused =
        |reason: String, command: Option<String>| Some(Decision::Refused { reason, advice: command.into() });
    let patterns = arch.identity.patterns();
    let takes = |header: &[u8]| patterns.iter().any(|pattern| pattern.matches(header));
    if !request.force_native
        && let Some(reason) = native_refusal(arch, facts.native)
    {
        return refused(reason, None);
    }
    if snapshot.guarded.iter().any(|header| takes(header)) {
        let reason = "its rule matches this host's own programs, which would all fail";
        return refused(reason.to_owned(), None);
    }
    let interpreter = facts.interpreter?;
    if takes(&interpreter.header) {
        return refused(
            format!("its rule matches its own interpreter, {}", interpreter.path.display()),
            None,
        );
    }
    if request.flags.contains(Flags::CREDENTIALS) && !interpreter.owned_by_root {
        let path = interpreter.path.display();
        let word = shell_word(&interpreter.path);
        return refused(
            format!("with --credentials {path} runs as root, but users other than root may write to it"),
            Some(format!("sudo chown root:root {word} && sudo chmod 755 {word}")),
        );
    }
    None
}

/// Returns the reason to refuse handlers for `arch` if the host runs programs of `arch` natively, or may run them
/// natively.
#[must_use]
pub fn native_refusal(arch: &Arch, native: &Nativeness) -> Option<String> {
    match native {
        Nativeness::Native => Some(format!(
            "this host runs {} natively, and all its programs would go through the emulator",
            arch.name
        )),
        Nativeness::Unknown(reason) => Some(format!(
            "cannot determine whether this host runs {} natively: {reason}; if it does, all its programs would go \
             through the emulator",
            arch.name
        )),
        Nativeness::Foreign | Nativeness::NotAsked => None,
    }
}

/// Reports whether a registered handler equals `rule` and runs the file that is now at the interpreter's path. A
/// handler without flag `P` counts as equal if the interpreter does not support this flag.
fn is_current(rule: &Rule, is_first: bool, handlers: &[Handler], facts: &Facts<'_>) -> bool {
    let Some(handler) = handlers.iter().find(|handler| handler.name == *rule.name()) else { return false };
    let verification = facts.verdict.and_then(|verdict| verdict.as_ref().ok());
    let without_p = || {
        verification.is_none_or(|verification| !verification.argv0)
            && rule.with_flags(rule.flags() - Flags::PRESERVE_ARGV0).is_ok_and(|rule| handler.entry.is(&rule))
    };
    (handler.entry.is(rule) || without_p())
        && !(is_first && is_outdated(handler, std::slice::from_ref(rule), facts))
}

/// Reports whether `handler` runs an old interpreter file that has since been replaced on disk (K49).
fn is_outdated(handler: &Handler, requested: &[Rule], facts: &Facts<'_>) -> bool {
    // The path of an interpreter in memory identifies its content, so the inode does not matter.
    let in_memory = handler.entry.interpreter.as_deref().is_some_and(is_in_memory);
    let same_path =
        !in_memory && requested.first().map(Rule::interpreter) == handler.entry.interpreter.as_deref();
    same_path
        && facts
            .interpreter
            .zip(facts.started())
            .is_some_and(|(interpreter, started)| interpreter.id != started)
}

#[cfg(test)]
mod tests;
