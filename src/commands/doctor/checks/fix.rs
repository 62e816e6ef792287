//! Fixes of findings: the advice that is printed, and what its command does to handlers.
//!
//! The commands of a report are typed one after the other. So no two of them may contradict each other.

use std::collections::BTreeSet;

use super::{Check, Observation};
use crate::arch::{ARCHES, Arch};
use crate::base::error::Advice;
use crate::base::shell::shell_word;
use crate::binfmt::{Flags, Handler, HandlerName};
use crate::commands::doctor::Severity;
use crate::commands::doctor::facts::{Facts, State};
use crate::commands::selection::word_for;
use crate::commands::suggestion;
use crate::commands::verify;
use crate::handler::classify;
use crate::interpreter::self_exe_header;

/// Fix of a finding.
#[derive(Clone, Debug, Default)]
pub(in crate::commands::doctor) struct Fix {
    /// The advice that is printed.
    pub(in crate::commands::doctor) advice: Advice,
    /// The architecture for which the command registers a handler.
    registers: Option<&'static Arch>,
    /// `Some` if the command removes the handler of the finding. The value is the list of the architectures whose
    /// registration removes this handler too.
    removes: Option<Vec<&'static Arch>>,
}

impl From<Advice> for Fix {
    fn from(advice: Advice) -> Self {
        Self { advice, registers: None, removes: None }
    }
}

impl From<String> for Fix {
    fn from(command: String) -> Self {
        Advice::from(command).into()
    }
}

impl From<Option<String>> for Fix {
    fn from(command: Option<String>) -> Self {
        Advice::from(command).into()
    }
}

/// Returns the fix that replaces the QEMU handler `handler` with a new handler of qus. If a newer handler already does
/// its work, the fix removes `handler`, because a registration would leave both in place. Returns an empty fix for
/// handlers of other interpreters.
pub(super) fn replace(facts: &Facts, state: &State, handler: &Handler) -> Fix {
    let Some(arch) = classify::emulated_arch(handler) else { return Fix::default() };
    if is_superfluous(state, handler, arch) { remove(facts, handler) } else { register(state, arch) }
}

/// Reports whether newer QEMU handlers of `arch`, which have no fault, take all ordinary programs of `handler`.
fn is_superfluous(state: &State, handler: &Handler, arch: &'static Arch) -> bool {
    let Some(pattern) = handler.entry.pattern() else { return false };
    let mut headers = arch.typical_headers();
    headers.retain(|header| pattern.matches(header));
    let is_taken = |header: &Vec<u8>| {
        let mut newer = state.handlers.iter().take_while(|other| other.name != handler.name);
        let first = newer.find(|other| {
            other.entry.enabled && other.entry.pattern().is_some_and(|pattern| pattern.matches(header))
        });
        first.is_some_and(|first| classify::emulated_arch(first) == Some(arch) && is_faultless(state, first))
    };
    !headers.is_empty() && headers.iter().all(is_taken)
}

/// Reports whether no check of qus finds a fault of the enabled QEMU handler `handler`.
fn is_faultless(state: &State, handler: &Handler) -> bool {
    let health = state.health.as_ref().map(|health| health.get(&handler.name));
    handler.entry.flags.contains(Flags::FIX_BINARY)
        && !classify::is_staging(&handler.name)
        && classify::wrong_emulator(handler).is_none()
        && health.map_or_else(
            |_| !state.faults.contains_key(&handler.name),
            |health| health.is_some_and(|health| health.state == verify::State::Working),
        )
}

/// Returns the fix that registers a new handler for `arch`. The command has `--fetch` if no interpreter is available. An
/// architecture that the host runs natively needs none, so the fix removes its handlers.
pub(super) fn register(state: &State, arch: &'static Arch) -> Fix {
    if is_native(state, arch) {
        return for_arch("reset", arch).into();
    }
    let command = suggestion::register([arch], true, |arch| state.available.contains_key(arch.name));
    Fix { registers: Some(arch), ..command.into() }
}

/// Reports whether the host runs programs of `arch` natively, so that `register` refuses the architecture.
pub(super) fn is_native(state: &State, arch: &'static Arch) -> bool {
    state.natives.get(arch.name).is_some_and(crate::probe::Nativeness::is_native)
        || self_exe_header().is_ok_and(|host| Arch::from_header(&host) == Some(arch))
}

/// Returns the fix that removes `handler`.
pub(super) fn remove(facts: &Facts, handler: &Handler) -> Fix {
    let name = &handler.name;
    let supersedes = |arch: &&Arch| {
        classify::is_named_for(name, arch)
            || classify::emulated_arch(handler) == Some(*arch) && classify::overlaps_arch(handler, arch)
    };
    let command = by_name("reset", handler).unwrap_or_else(|| write_entry(facts, handler, "-1"));
    Fix { removes: Some(ARCHES.iter().filter(supersedes).collect()), ..command.into() }
}

/// Returns the command that enables `handler`.
pub(super) fn enable(facts: &Facts, handler: &Handler) -> String {
    by_name("enable", handler).unwrap_or_else(|| write_entry(facts, handler, "1"))
}

/// Returns the `qus` command with the verb `verb` for exactly this handler; `None` if no word selects it.
pub(super) fn by_name(verb: &str, handler: &Handler) -> Option<String> {
    Some(format!("sudo qus {verb} {}", word_for(&handler.name)?))
}

/// Returns the `qus` command with the verb `verb` for the handlers of `arch`.
pub(super) fn for_arch(verb: &str, arch: &Arch) -> String {
    format!("sudo qus {verb} {}", arch.name)
}

/// Returns the shell command that writes `word` to the file of `handler`. It starts only programs that exist on every
/// host.
pub(super) fn write_entry(facts: &Facts, handler: &Handler, word: &str) -> String {
    format!("echo {word} | sudo tee {}", shell_word(facts.path.join(handler.name.as_os_str())))
}

/// Makes the commands of `observations`, which are in the order of the report, independent of each other. A handler that
/// one command removes needs no other command. A handler that a registration replaces is not removed separately, because
/// the new handler may have its name.
pub(in crate::commands::doctor) fn settle(observations: &mut Vec<(&'static Check, Observation)>) {
    let registrations: Vec<Fix> =
        observations.iter().map(|(_, one)| &one.fix).filter(|fix| fix.registers.is_some()).cloned().collect();
    let mut removed = BTreeSet::new();
    for (_, observation) in observations.iter_mut() {
        let Some(superseding) = &observation.fix.removes else { continue };
        let is_superseding = |fix: &&Fix| fix.registers.is_some_and(|arch| superseding.contains(&arch));
        match registrations.iter().find(is_superseding) {
            Some(registration) => observation.fix = registration.clone(),
            None => removed.extend(observation.handler.clone()),
        }
    }
    let mut kept: BTreeSet<HandlerName> = BTreeSet::new();
    observations.retain(|(_, observation)| match &observation.handler {
        Some(name) if removed.contains(name) && observation.level != Severity::Ok => {
            observation.fix.removes.is_some() && kept.insert(name.clone())
        }
        _ => true,
    });
}
