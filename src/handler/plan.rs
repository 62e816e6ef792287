//! Decision about one architecture: a pure function from facts to a [`Decision`] (rule 2 of docs/design.md).

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
    /// Headers of files that no rule may match: native programs of this host, including qus (K37).
    pub guarded: &'a [Vec<u8>],
}

/// Facts about one architecture.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The interpreter to register, if one is available.
    pub interpreter: Option<&'a Interpreter>,
    /// Whether the host runs the architecture's programs natively.
    pub native: &'a Nativeness,
    /// Result of a probe through the registered handlers; `None` if no probe was executed.
    pub verdict: Option<&'a Result<Verification, Failure>>,
    /// Defect of the active handler's interpreter file, if no probe was executed.
    pub unfit: Option<&'a str>,
}

impl Facts<'_> {
    /// Returns the interpreter file that the kernel started for the probe.
    fn started(&self) -> Option<FileId> {
        self.verdict?.as_ref().ok()?.interpreter
    }
}

/// Options of the user.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The flags of a new handler.
    pub flags: Flags,
    /// True if the user named an interpreter, a source or flags.
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
    /// A working handler of another emulator already handles the architecture.
    LeaveExisting(HandlerName),
    /// Register, verify, then remove broken handlers.
    Register(Registration),
    /// The architecture must not be registered on this host.
    Refused {
        /// The reason.
        reason: String,
        /// What the user can do instead.
        advice: Advice,
    },
    /// A handler of another tool already handles these programs.
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
    /// Handlers of other tools that match the same programs and will no longer be used.
    pub displaced: Vec<HandlerName>,
    /// Handlers of other tools that take only special files. The new handlers take some of these files.
    pub narrowed: Vec<HandlerName>,
}

/// Returns the reason why `handler` does not work for all programs of `arch` in a container, judged by its rule only.
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
/// The interpreter's path is not valid in a rule.
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
    /// For each requested rule: true if it is registered and works.
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

    /// Reports whether the first rule is current. It is the rule for the programs of today's toolchains.
    fn is_first_current(&self) -> bool {
        self.current.first() == Some(&true)
    }

    /// Returns the active handler if it is another handler for the same emulated architecture and works.
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

    /// Returns the rules that have to be registered. If the first rule is not current, all rules are registered again,
    /// because they may run another file.
    fn rules_to_register(&self) -> Vec<Rule> {
        let missing = self
            .requested
            .iter()
            .zip(&self.current)
            .filter(|(_, current)| !self.is_first_current() || !**current);
        missing.map(|(rule, _)| rule.clone()).collect()
    }

    /// Returns the handlers of other tools that take ordinary programs of the architecture, or have the name of a new
    /// rule.
    ///
    /// A handler that takes only special files, for example those of another OS ABI, is not in the way. Its position in
    /// the order of the kernel does not matter.
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

    /// Returns the enabled handlers of other tools that are not in the way and match some files of the `new` rules.
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

    /// Returns the registration of the `new` rules, which displace the `foreign` handlers.
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

    /// Reports whether the file at the interpreter's path is no longer the file that `handler` started.
    fn runs_replaced_file(&self, handler: &Handler) -> bool {
        let Some(interpreter) = self.facts.interpreter else { return false };
        handler.entry.interpreter.as_deref() == Some(interpreter.path.as_path())
            && self.facts.started().is_some_and(|started| started != interpreter.id)
    }
}

/// Returns a refusal that holds whatever handlers are registered.
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

/// Returns the reason why a handler for an architecture is refused if its programs are native, or may be native.
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

/// Reports whether `rule` is registered and runs the file that is now at its path. A handler without `P` counts as the
/// same rule if its interpreter does not support the flag.
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

/// Reports whether `handler` runs an old file that has since been replaced on disk (K49).
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
