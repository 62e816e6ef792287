//! Decision about an architecture: a pure function from facts to a [`Decision`] (rule 2 of docs/design.md).

use std::fmt;
use std::path::Path;

use super::classify::{active_handler, emulated_arch, is_staging, overlaps_arch, rules};
use crate::arch::Arch;
use crate::base::error::Advice;
use crate::base::shell::shell_word;
use crate::binfmt::{Flags, Handler, HandlerName, Rule, RuleError, first_match};
use crate::interpreter::Interpreter;
use crate::interpreter::memfd::is_in_memory;
use crate::probe::{Failure, Nativeness, Verification};
use crate::system::file_id::FileId;

/// Facts about the host.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// All handlers, newest first.
    pub handlers: &'a [Handler],
    /// Beginnings of files that no rule may match: the host's own programs, qus among them (K37).
    pub guarded: &'a [Vec<u8>],
}

/// Facts about one architecture.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The interpreter to register, if one is available.
    pub interpreter: Option<&'a Interpreter>,
    /// True if the host runs its programs itself.
    pub native: &'a Nativeness,
    /// Result of its probe with the present handlers; `None` if none was executed.
    pub verdict: Option<&'a Result<Verification, Failure>>,
    /// Fault of the file at the path of the active handler, if no probe was executed.
    pub unfit: Option<&'a str>,
}

impl Facts<'_> {
    /// The file that the kernel started for the probe.
    fn started(&self) -> Option<FileId> {
        self.verdict?.as_ref().ok()?.interpreter
    }
}

/// Request of the user.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The flags of a new handler.
    pub flags: Flags,
    /// True if the user named an interpreter, a source or flags.
    pub explicit: bool,
    /// Take over from what is there.
    pub replace: bool,
    /// Register what the host runs itself, too.
    pub force_native: bool,
}

/// Decision about one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The very handlers are there and work.
    Unchanged(Vec<HandlerName>),
    /// Another emulator's handler serves it.
    LeaveExisting(HandlerName),
    /// Register, verify, then remove broken handlers.
    Register(Registration),
    /// Not on this host: why, and what to type instead.
    Refused {
        /// The reason.
        reason: String,
        /// Advice.
        advice: Advice,
    },
    /// Something else already handles these programs.
    Conflict {
        /// Handlers that would be displaced.
        with: Vec<HandlerName>,
    },
    /// There is nothing to register.
    NoInterpreter,
}

impl fmt::Display for Decision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |names: &[HandlerName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Unchanged(handlers) => write!(formatter, "{} is unchanged", names(handlers)),
            Self::LeaveExisting(handler) => write!(formatter, "{handler} serves it"),
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
            Self::NoInterpreter => formatter.write_str("there is no interpreter"),
        }
    }
}

/// Rules to register, and what they supersede.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// New rules under their final names.
    pub rules: Vec<Rule>,
    /// Handlers to be removed once the new ones are verified.
    pub removes: Vec<HandlerName>,
    /// Reason why the present handlers do not suffice; `None` if there is none.
    pub reason: Option<String>,
    /// Handlers of other tools that will come after the new ones.
    pub displaced: Vec<HandlerName>,
}

/// Returns the reason why `handler` does not suffice for `arch` in a container, by its rule alone.
fn deficiency(arch: &Arch, handler: &Handler, handlers: &[Handler]) -> Option<String> {
    if !handler.entry.flags.contains(Flags::FIX_BINARY) {
        return Some("it has no F flag, and would fail in every container".to_owned());
    }
    let takes_all = arch.typical_headers().iter().all(|header| {
        first_match(handlers, header, Path::new("")).is_some_and(|first| first.name == handler.name)
    });
    (!takes_all).then(|| "it does not match all programs that today's toolchains write".to_owned())
}

/// Decides what to do about `arch`.
///
/// # Errors
/// The interpreter has a path that the kernel does not take.
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
        // The present handler does not satisfy the request.
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

/// The handlers that there are, compared with the rules that are wanted for one architecture.
struct Standing<'a> {
    arch: &'static Arch,
    handlers: &'a [Handler],
    facts: &'a Facts<'a>,
    requested: Vec<Rule>,
    /// The handler that takes the architecture's programs.
    active: Option<&'a Handler>,
    /// Reason why the active handler does not suffice.
    broken: Option<String>,
    /// Of each wanted rule: whether the kernel has it, and it works.
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
            None => facts.unfit.map(str::to_owned).or_else(|| deficiency(arch, active, handlers)),
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

    /// The first rule is the one for what today's toolchains write.
    fn is_first_current(&self) -> bool {
        self.current.first() == Some(&true)
    }

    /// Another handler of QEMU's emulator that serves the architecture, and works.
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

    /// Where the first rule has to be registered, the others may run another file, and come with it.
    fn rules_to_register(&self) -> Vec<Rule> {
        let missing = self
            .requested
            .iter()
            .zip(&self.current)
            .filter(|(_, current)| !self.is_first_current() || !**current);
        missing.map(|(rule, _)| rule.clone()).collect()
    }

    /// Handlers of other software in the way of one of the `new` rules, or under its name.
    fn foreign_in_the_way(&self, new: &[Rule]) -> Vec<&'a Handler> {
        let is_in_the_way = |handler: &&Handler| {
            emulated_arch(handler).is_none() && new.iter().any(|rule| takes_from(rule, handler))
        };
        self.handlers.iter().filter(is_in_the_way).collect()
    }

    /// The registration of the `new` rules, in front of `foreign` handlers.
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
            rules: new,
        }
    }

    /// Returns the reason why the handlers in `removes` are removed. The result of the probe concerns the active
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

    /// Reports whether another file is now at the path of the interpreter than the one that `handler` started.
    fn runs_replaced_file(&self, handler: &Handler) -> bool {
        let Some(interpreter) = self.facts.interpreter else { return false };
        handler.entry.interpreter.as_deref() == Some(interpreter.path.as_path())
            && self.facts.started().is_some_and(|started| started != interpreter.id)
    }
}

/// Reports whether `rule` has the name of `handler`, or takes some of its programs.
fn takes_from(rule: &Rule, handler: &Handler) -> bool {
    let patterns = handler.entry.pattern().zip(rule.matcher().pattern());
    *rule.name() == handler.name
        || handler.entry.enabled && patterns.is_some_and(|(one, two)| one.overlaps(two))
}

/// Refusals that no handler can change.
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
            format!("with --credentials {path} runs as root, but other users than root may write to it"),
            Some(format!("sudo chown root:root {word} && sudo chmod 755 {word}")),
        );
    }
    None
}

/// Reason not to register a handler that takes programs of this host, or may take them.
#[must_use]
pub fn native_refusal(arch: &Arch, native: &Nativeness) -> Option<String> {
    match native {
        Nativeness::Native => Some(format!(
            "this host runs {} natively, and all its programs would go through the emulator",
            arch.name
        )),
        Nativeness::Unknown(reason) => Some(format!(
            "cannot determine whether this host runs {} natively, and its own programs would then go through the \
             emulator: {reason}",
            arch.name
        )),
        Nativeness::Foreign | Nativeness::NotAsked => None,
    }
}

/// Reports whether `rule` is registered, with the file that is at its path now. A handler without `P` counts if its
/// interpreter does not support the flag.
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

/// Reports whether `handler` runs another file than the one at its path now (K49), which was replaced on disk.
fn is_outdated(handler: &Handler, requested: &[Rule], facts: &Facts<'_>) -> bool {
    // The path of an interpreter in memory names its content: it is the same, in whatever file.
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
