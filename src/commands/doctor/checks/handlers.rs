//! Checks of each handler, and of handlers that match the same programs.

use std::path::Path;

use super::{Observation, each, entry_file, name, remove, replace};
use crate::base::escape::display_path;
use crate::binfmt::{Flags, Handler};
use crate::commands::doctor::facts::Facts;
use crate::handler::classify;
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
            return Some(Observation::problem(text, remove(facts, handler)));
        }
        let arch = classify::emulated_arch(handler)?;
        match state.natives.get(arch.name)? {
            Nativeness::Native => {
                let text = format!(
                    "{} matches programs of {}, which this host runs natively",
                    name(handler),
                    arch.name
                );
                Some(Observation::problem(text, format!("sudo qus reset {}", arch.name)))
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

pub(super) fn disabled(facts: &Facts) -> Vec<Observation> {
    each(facts, |_, handler| {
        if handler.entry.enabled {
            return None;
        }
        let hint = match classify::emulated_arch(handler) {
            Some(arch) => format!("sudo qus enable {}", arch.name),
            None => format!("echo 1 | sudo tee {}", entry_file(facts, handler)),
        };
        Some(Observation::problem(format!("{} is disabled", name(handler)), hint))
    })
}

pub(super) fn no_fix(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        let arch = classify::emulated_arch(handler)?;
        let lacks = !handler.entry.flags.contains(Flags::FIX_BINARY);
        lacks.then(|| {
            Observation::problem(
                format!("{} has no F flag ({})", name(handler), arch.name),
                replace(state, handler),
            )
        })
    })
}

/// Finds handlers that match their own interpreter (K37). Handlers that also match programs of the host are left to the
/// check `captures`.
pub(super) fn self_capture(facts: &Facts) -> Vec<Observation> {
    let Ok(host) = self_exe_header() else { return Vec::new() };
    each(facts, |_, handler| {
        let path = handler.entry.interpreter.as_deref()?;
        let header = ExecTarget::inspect(path).header;
        let matcher = handler.entry.matcher.as_ref()?;
        let takes =
            handler.entry.enabled && matcher.matches(&header, path) && !matcher.matches(&host, Path::new(""));
        let hint = remove(facts, handler);
        takes.then(|| {
            Observation::problem(
                format!("{} matches its own interpreter, {}", name(handler), display_path(path)),
                hint,
            )
        })
    })
}

pub(super) fn credentials(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        if !handler.entry.flags.contains(Flags::CREDENTIALS) {
            return None;
        }
        let owner = state.owners.get(&handler.name).unwrap_or(&Owner::Unknown);
        let by = if *owner == Owner::Unknown { "an unknown tool".to_owned() } else { owner.to_string() };
        let hint = replace(state, handler);
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
        let pattern = handler.entry.pattern()?;
        let newer = || state.handlers.iter().take_while(|other| other.name != handler.name);
        let is_taken = |header: &[u8]| {
            let takes = |other: &&Handler| {
                other.entry.enabled && other.entry.pattern().is_some_and(|pattern| pattern.matches(header))
            };
            newer().find(takes)
        };
        let covers = |other: &&Handler| {
            other.entry.enabled && other.entry.pattern().is_some_and(|other| other.covers(pattern))
        };
        if let Some(other) = newer().find(covers) {
            let text = format!(
                "{} never runs: {}, registered later, matches the same files",
                name(handler),
                name(other)
            );
            if classify::emulated_arch(handler).is_some() {
                return Some(Observation::problem(text, replace(state, handler)));
            }
            // `register --replace` leaves such a handler registered, so this may be intended.
            let give_back =
                classify::emulated_arch(other).map(|arch| format!("sudo qus disable {}", arch.name));
            return Some(Observation::note(text, give_back));
        }
        let headers = classify::emulated_arch(handler)?.typical_headers();
        let other =
            headers.iter().filter(|header| pattern.matches(header)).find_map(|header| is_taken(header))?;
        let text = format!(
            "{} does not get all its programs: {}, registered later, matches some",
            name(handler),
            name(other)
        );
        Some(Observation::problem(text, replace(state, handler)))
    })
}

/// Finds pairs of handlers whose patterns overlap only in part. Leaves out pairs in which the older handler is a QEMU
/// handler: the check `shadowed` examines these.
pub(super) fn overlap(facts: &Facts) -> Vec<Observation> {
    let Some(state) = facts.state() else { return Vec::new() };
    let enabled: Vec<&Handler> = state.handlers.iter().filter(|handler| handler.entry.enabled).collect();
    let mut observations = Vec::new();
    for (index, newer) in enabled.iter().enumerate() {
        for older in enabled.iter().skip(index + 1) {
            let Some((one, two)) = newer.entry.pattern().zip(older.entry.pattern()) else { continue };
            if one.overlaps(two) && !one.covers(two) && classify::emulated_arch(older).is_none() {
                let text = format!(
                    "{} matches some files of {}, which was registered earlier",
                    name(newer),
                    name(older)
                );
                observations.push(Observation::note(text, None));
            }
        }
    }
    observations
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
        let hint = if is_needed { replace(state, handler) } else { None };
        let hint = hint.unwrap_or_else(|| remove(facts, handler));
        Some(Observation::problem(
            format!("{} is a temporary handler that was left behind", name(handler)),
            hint,
        ))
    })
}
