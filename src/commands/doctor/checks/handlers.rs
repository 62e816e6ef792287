//! Checks of each handler, and of handlers that match the same programs.

use std::path::Path;

use super::fix::{by_name, enable, for_arch, is_native, register, remove, replace, write_entry};
use super::{Observation, each, name};
use crate::arch::Arch;
use crate::base::error::Advice;
use crate::base::escape::display_path;
use crate::binfmt::{Flags, Handler};
use crate::commands::doctor::facts::{Facts, State};
use crate::commands::verify;
use crate::handler::classify;
use crate::handler::condition::{covered_by, covers};
use crate::handler::exec_target::ExecTarget;
use crate::handler::owner::Owner;
use crate::interpreter::self_exe_header;
use crate::probe::Nativeness;

pub(super) fn captures(facts: &Facts) -> Vec<Observation> {
    let Ok(host) = self_exe_header() else { return Vec::new() };
    each(facts, |state, handler| {
        if !handler.entry.enabled {
            return None;
        }
        if handler.entry.pattern().is_some_and(|pattern| pattern.matches(&host)) {
            let text = format!("{} matches this host's own programs", name(handler));
            // Perhaps not even qus can be started while the handler is registered.
            return Some(Observation::problem(text, write_entry(facts, handler, "-1")));
        }
        let arch = classify::main_arch(handler)?;
        match state.natives.get(arch.name)? {
            Nativeness::Native => {
                let text = format!(
                    "{} matches programs of {}, which this host runs natively",
                    name(handler),
                    arch.name
                );
                let fix = match classify::emulated_arch(handler) {
                    Some(arch) => for_arch("reset", arch).into(),
                    None => remove(facts, handler),
                };
                Some(Observation::problem(text, fix))
            }
            Nativeness::Unknown(reason) => {
                let (handler, arch) = (name(handler), arch.name);
                Some(Observation::note(
                    format!(
                        "cannot determine whether this host runs the programs of {handler} ({arch}) natively: {reason}"
                    ),
                    None,
                ))
            }
            Nativeness::Foreign | Nativeness::NotAsked => None,
        }
    })
}

/// Finds disabled handlers. Enabling one is suggested only if no other handler then loses files to it, or takes its files.
pub(super) fn disabled(facts: &Facts) -> Vec<Observation> {
    let host = self_exe_header().unwrap_or_default();
    each(facts, |state, handler| {
        if handler.entry.enabled {
            return None;
        }
        let text = format!("{} is disabled", name(handler));
        let takes_native = handler.entry.pattern().is_some_and(|pattern| pattern.matches(&host))
            || classify::main_arch(handler).is_some_and(|arch| is_native(state, arch));
        if takes_native {
            let text = format!("{text}; if it were enabled, it would take native programs of this host");
            return Some(Observation::note(text, None));
        }
        if let Some(rival) = rival(state, handler, &host) {
            return Some(Observation::note(format!("{text}, and {} takes its files", name(rival)), None));
        }
        let Some(arch) = classify::main_arch(handler) else {
            return Some(Observation::problem(text, enable(facts, handler)));
        };
        let is_other = |other: &&Handler| {
            other.name != handler.name
                && classify::emulated_arch(other) == Some(arch)
                && covers(other, handler)
        };
        // If it were enabled, it would have a problem.
        let must_be_replaced = !handler.entry.flags.contains(Flags::FIX_BINARY)
            || state.faults.contains_key(&handler.name)
            || classify::wrong_emulator(handler).is_some()
            || state.handlers.iter().any(|other| is_other(&other));
        let fix = if must_be_replaced {
            register(state, arch)
        } else if classify::emulated_arch(handler).is_some() {
            for_arch("enable", arch).into()
        } else {
            enable(facts, handler).into()
        };
        Some(Observation::problem(text, fix))
    })
}

/// Returns the handler that takes the files of the disabled `handler`, or that would lose files to it. A newer handler
/// that is disabled too counts, because it has a hint of its own. A handler that another finding removes does not count.
fn rival<'a>(state: &'a State, handler: &Handler, host: &[u8]) -> Option<&'a Handler> {
    let position = state.handlers.iter().position(|other| other.name == handler.name)?;
    let typical = classify::main_arch(handler).map(Arch::typical_headers).unwrap_or_default();
    let takes_typical = |other: &Handler| {
        other.entry.pattern().is_some_and(|pattern| typical.iter().any(|header| pattern.matches(header)))
    };
    let overlaps = |other: &Handler| covers(other, handler) || covers(handler, other) || takes_typical(other);
    let is_removed = |other: &Handler| {
        classify::is_staging(&other.name)
            || state.broken.get(&other.name).is_some_and(|fault| fault.command.is_none())
            || captures_itself(other, host)
    };
    let others = state.handlers.iter().enumerate().filter(|(index, _)| *index != position);
    let mut rivals = others.filter(|(index, other)| other.entry.enabled || *index < position);
    rivals.find(|(_, other)| overlaps(other) && !is_removed(other)).map(|(_, other)| other)
}

/// Reports whether the kernel uses `handler` for some files. Other handlers are left to the checks `disabled` and
/// `shadowed`.
pub(super) fn is_used(state: &State, handler: &Handler) -> bool {
    handler.entry.enabled && covered_by(handler, &state.handlers).is_none()
}

/// Finds handlers without the flag `F`.
pub(super) fn no_fix(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        let arch = classify::emulated_arch(handler)?;
        let lacks = is_used(state, handler) && !handler.entry.flags.contains(Flags::FIX_BINARY);
        lacks.then(|| {
            Observation::problem(
                format!("{} has no F flag ({})", name(handler), arch.name),
                replace(facts, state, handler),
            )
        })
    })
}

/// Finds handlers whose interpreter is the emulator of another architecture, unless a probe has shown that it works.
pub(super) fn wrong_emulator(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        let emulated = classify::wrong_emulator(handler).filter(|_| is_used(state, handler))?;
        let arch = classify::emulated_arch(handler)?;
        let health = state.health.as_ref().ok().and_then(|health| health.get(&handler.name));
        if health.is_some_and(|health| health.state == verify::State::Working) {
            return None;
        }
        let path = handler.entry.interpreter.as_deref().map(display_path).unwrap_or_default();
        let text = format!(
            "{} takes programs of {}, but runs {path}, the emulator of {}",
            name(handler),
            arch.name,
            emulated.name
        );
        Some(Observation::problem(text, replace(facts, state, handler)))
    })
}

/// Finds handlers that match their own interpreter (K37). Handlers that also match programs of the host are left to the
/// check `captures`.
pub(super) fn self_capture(facts: &Facts) -> Vec<Observation> {
    let Ok(host) = self_exe_header() else { return Vec::new() };
    each(facts, |_, handler| {
        let path = handler.entry.interpreter.as_deref()?;
        captures_itself(handler, &host).then(|| {
            let text = format!("{} matches its own interpreter, {}", name(handler), display_path(path));
            Observation::problem(text, remove(facts, handler))
        })
    })
}

/// Reports whether the enabled `handler` matches its own interpreter, but not the programs of the host in general.
fn captures_itself(handler: &Handler, host: &[u8]) -> bool {
    let Some((path, matcher)) = handler
        .entry
        .interpreter
        .as_deref()
        .zip(handler.entry.matcher.as_ref())
        .filter(|_| handler.entry.enabled)
    else {
        return false;
    };
    matcher.matches(&ExecTarget::inspect(path).header, path) && !matcher.matches(host, Path::new(""))
}

pub(super) fn credentials(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        if !handler.entry.flags.contains(Flags::CREDENTIALS) {
            return None;
        }
        let owner = state.owners.get(&handler.name).unwrap_or(&Owner::Unknown);
        let by = if *owner == Owner::Unknown { "an unknown tool".to_owned() } else { owner.to_string() };
        let hint = replace(facts, state, handler);
        Some(Observation::note(format!("{} has the flag C, set by {by}", name(handler)), hint))
    })
}

/// Finds handlers that lose their programs to another handler, which was registered later and matches the same
/// programs.
pub(super) fn shadowed(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        if !handler.entry.enabled {
            return None;
        }
        if let Some(other) = covered_by(handler, &state.handlers) {
            return Some(never_runs(facts, state, handler, other));
        }
        let pattern = handler.entry.pattern()?;
        let takes = |other: &&Handler, header: &[u8]| {
            other.entry.enabled && other.entry.pattern().is_some_and(|pattern| pattern.matches(header))
        };
        let mut headers = classify::emulated_arch(handler)?.typical_headers();
        headers.retain(|header| pattern.matches(header));
        let newer = || state.handlers.iter().take_while(|other| other.name != handler.name);
        let other = headers.iter().find_map(|header| newer().find(|other| takes(other, header)))?;
        let text = format!(
            "{} does not get all its programs: {}, registered later, matches some",
            name(handler),
            name(other)
        );
        Some(Observation::problem(text, replace(facts, state, handler)))
    })
}

/// Returns the finding that `handler` never runs, because `other` takes all its files.
fn never_runs(facts: &Facts, state: &State, handler: &Handler, other: &Handler) -> Observation {
    let text =
        format!("{} never runs: {}, registered later, matches the same files", name(handler), name(other));
    if classify::emulated_arch(handler).is_some() {
        return Observation::problem(text, replace(facts, state, handler));
    }
    // `register --replace` leaves such a handler registered, so this may be intended.
    let choices = by_name("disable", other).zip(by_name("reset", handler));
    let sentence = choices.map(|(disable, reset)| {
        Advice::hint(format!("to use it, type {disable}; to remove it, type {reset}"))
    });
    Observation::note(text, sentence.unwrap_or_default())
}

/// Finds handlers that lose some of their files to newer handlers. Leaves out QEMU handlers, which the check `shadowed`
/// examines.
pub(super) fn overlap(facts: &Facts) -> Vec<Observation> {
    let Some(state) = facts.state() else { return Vec::new() };
    let enabled: Vec<&Handler> = state.handlers.iter().filter(|handler| handler.entry.enabled).collect();
    let found = enabled.iter().enumerate().filter_map(|(index, older)| {
        let pattern = older.entry.pattern().filter(|_| classify::emulated_arch(older).is_none())?;
        let takes_some = |newer: &&&Handler| {
            newer.entry.pattern().is_some_and(|newer| newer.overlaps(pattern) && !newer.covers(pattern))
        };
        let newer: Vec<String> =
            enabled.iter().take(index).filter(takes_some).map(|newer| name(newer)).collect();
        let verb = if newer.len() == 1 { "matches" } else { "match" };
        (!newer.is_empty()).then(|| {
            let (newer, older) = (newer.join(", "), name(older));
            let text = format!("{newer} {verb} some files of {older}, which was registered earlier");
            Observation::note(text, None)
        })
    });
    found.collect()
}

pub(super) fn left_behind(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        if !classify::is_staging(&handler.name) {
            return None;
        }
        let arch = classify::emulated_arch(handler);
        let is_replacement = |other: &&Handler| {
            other.entry.enabled
                && !classify::is_staging(&other.name)
                && classify::emulated_arch(other) == arch
        };
        let is_needed = arch.is_some() && !state.handlers.iter().any(|other| is_replacement(&other));
        let hint = if is_needed { replace(facts, state, handler) } else { remove(facts, handler) };
        Some(Observation::problem(
            format!("{} is a temporary handler that was left behind", name(handler)),
            hint,
        ))
    })
}
