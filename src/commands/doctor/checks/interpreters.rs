//! Checks the interpreters of handlers: their files, and the results of probes.

use std::path::{Path, PathBuf};

use super::fix::{Fix, is_native, register, remove, replace};
use super::handlers::is_used;
use super::{Observation, each, name};
use nix::unistd::getuid;

use crate::arch::Arch;
use crate::base::error::Advice;
use crate::base::escape::{display_path, escape};
use crate::base::order;
use crate::base::shell::shell_word;
use crate::binfmt::{Flags, Handler};
use crate::commands::doctor::facts::{self, Facts};
use crate::commands::verify::State;
use crate::handler::classify;
use crate::handler::condition::covered_by;
use crate::interpreter::CheckError;
use crate::interpreter::QemuVersion;
use crate::interpreter::known_bugs;
use crate::interpreter::memfd;
use crate::interpreter::provenance::Provenance;
use crate::system::file_id::FileId;
use crate::system::ownership::{all_changeable_by_others, protecting_command};

pub(super) fn interpreter(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        if classify::emulated_arch(handler).is_none() {
            return other_interpreter(facts, state, handler);
        }
        let path = handler.entry.interpreter.as_deref()?;
        let fault = state.faults.get(&handler.name)?;
        let pinned = handler.entry.flags.contains(Flags::FIX_BINARY);
        let reason = fault.to_string().lines().next().unwrap_or_default().to_owned();
        let text = format!("{} runs {}, which {reason}", name(handler), display_path(path));
        Some(match fault {
            CheckError::Missing if memfd::is_in_memory(path) => return None,
            CheckError::Missing if pinned => removed(handler, path),
            _ if !is_used(state, handler) => return None,
            CheckError::SetId => {
                Observation::problem(text, fault.command(path).map(|command| format!("sudo {command}")))
            }
            _ => Observation::problem(text, replace(facts, state, handler)),
        })
    })
}

/// Returns the finding that the file at `path`, which the kernel holds open for `handler`, was removed.
fn removed(handler: &Handler, path: &Path) -> Observation {
    let text =
        format!("{}: the kernel holds {} open, but the file was removed", name(handler), display_path(path));
    Observation::note(text, None)
}

/// Checks the interpreter of a handler that is not QEMU's.
fn other_interpreter(facts: &Facts, state: &facts::State, handler: &Handler) -> Option<Observation> {
    let path = handler.entry.interpreter.as_deref()?;
    let Some(fault) = state.broken.get(&handler.name) else {
        let pinned = handler.entry.flags.contains(Flags::FIX_BINARY);
        let is_missing = matches!(state.faults.get(&handler.name), Some(CheckError::Missing));
        return (pinned && is_missing && path.is_absolute()).then(|| removed(handler, path));
    };
    let text = format!("{} runs {}, which {}", name(handler), display_path(path), fault.reason);
    let fix = fault.command.clone().map_or_else(|| remove(facts, handler), Fix::from);
    if covered_by(handler, &state.handlers).is_some() {
        // The fault affects no program.
        return Some(Observation::note(text, fix));
    }
    let is_judged = handler.entry.enabled
        && state.enabled
        && state
            .health
            .as_ref()
            .is_ok_and(|health| health.get(&handler.name).is_some_and(|health| health.reason.is_some()));
    // The check `broken` reports a handler whose probe failed.
    (!is_judged).then(|| Observation::problem(text, fix))
}

/// Finds handlers of other interpreters that depend on files of the host.
pub(super) fn host_only(facts: &Facts) -> Vec<Observation> {
    let Some(state) = facts.state() else { return Vec::new() };
    let is_considered = |handler: &&Handler| {
        handler.entry.enabled
            && classify::emulated_arch(handler).is_none()
            && !state.broken.contains_key(&handler.name)
            && handler.entry.interpreter.as_deref().is_some_and(Path::is_absolute)
    };
    let (pinned, unpinned): (Vec<&Handler>, Vec<&Handler>) = state
        .handlers
        .iter()
        .filter(is_considered)
        .partition(|handler| handler.entry.flags.contains(Flags::FIX_BINARY));
    let is_dynamic =
        |handler: &&Handler| matches!(state.faults.get(&handler.name), Some(CheckError::Dynamic(_)));
    let names =
        |handlers: &[&Handler]| handlers.iter().map(|handler| name(handler)).collect::<Vec<_>>().join(", ");
    let dynamic: Vec<&Handler> = pinned.into_iter().filter(is_dynamic).collect();
    let mut observations = Vec::new();
    if !unpinned.is_empty() {
        let text = format!("without the flag F, and not for containers: {}", names(&unpinned));
        let hint = "to use them in containers, register them with the flag F and a static interpreter";
        observations.push(Observation::note(text, Advice::hint(hint)));
    }
    if !dynamic.is_empty() {
        let text = format!("with a dynamic interpreter, and not for containers: {}", names(&dynamic));
        let hint = "to use them in containers, register them with a static interpreter";
        observations.push(Observation::note(text, Advice::hint(hint)));
    }
    observations
}

/// Finds handlers that still run an old interpreter file, although another file has replaced it at its path (K49). The
/// probe shows which file the kernel runs.
pub(super) fn stale(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        let verification = state.health.as_ref().ok()?.get(&handler.name)?.verification?;
        let path = handler.entry.interpreter.as_deref()?;
        let there = FileId::of(&std::fs::metadata(path).ok()?);
        let is_stale = verification.interpreter.is_some_and(|started| started != there);
        let text =
            format!("{} runs an old file, which was replaced at {}", name(handler), display_path(path));
        is_stale.then(|| {
            if classify::emulated_arch(handler).is_some() {
                return Observation::problem(text, replace(facts, state, handler));
            }
            Observation::note(text, Advice::hint("register it again with the tool that registered it"))
        })
    })
}

/// Finds interpreters that other users can change: the file itself, or a directory of its path. For a handler with the
/// flag `F` the kernel keeps the file open, so a new file at the path takes effect only with the next registration.
pub(super) fn writable_file(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        let path = handler.entry.interpreter.as_deref().filter(|path| path.is_absolute())?;
        let parts = all_changeable_by_others(path).ok()?;
        let (name, shown) = (name(handler), display_path(path));
        let location = parts.first()?;
        let protect = protecting_command(&parts).map(|command| format!("sudo {command}"));
        if location == path {
            let text = format!("{name} runs {shown}, which other users can change");
            let word = shell_word(path);
            let own = || format!("sudo chown root:root {word} && sudo chmod go-w {word}");
            return Some(Observation::problem(text, protect.unwrap_or_else(own)));
        }
        let text = format!("{name} runs {shown}, and other users can change {}", display_path(location));
        let is_elsewhere = |arch: &Arch| state.available.get(arch.name).is_none_or(|other| other != path);
        let fix = match classify::emulated_arch(handler).filter(|arch| is_elsewhere(arch)) {
            Some(arch) => register(state, arch),
            None => protect.map_or_else(|| remove(facts, handler), Fix::from),
        };
        let pinned = handler.entry.flags.contains(Flags::FIX_BINARY);
        Some(if pinned { Observation::note(text, fix) } else { Observation::problem(text, fix) })
    })
}

/// Finds handlers whose probe failed for a reason that no other check reports.
pub(super) fn broken(facts: &Facts) -> Vec<Observation> {
    let unverified = facts.state().and_then(|state| state.health.as_ref().err());
    if let Some(reason) = unverified {
        return vec![Observation::note(format!("no probe was executed: {reason}"), None)];
    }
    each(facts, |state, handler| {
        let health = state.health.as_ref().ok()?.get(&handler.name)?;
        let reason = health.reason.as_ref()?;
        let arch = classify::emulated_arch(handler);
        let path = handler.entry.interpreter.as_deref();
        let version = health.version.as_ref().map(|version| format!(", QEMU {version}")).unwrap_or_default();
        let shown = path.map(display_path).unwrap_or_default();
        let text = format!("{} ({shown}{version}): {reason}", name(handler));
        if arch.is_some_and(|arch| !classify::overlaps_arch(handler, arch)) {
            // A registration would not replace it.
            return Some(Observation::problem(text, remove(facts, handler)));
        }
        let is_reported_elsewhere = !state.enabled
            || !handler.entry.enabled
            || arch.is_some() && !handler.entry.flags.contains(Flags::FIX_BINARY)
            || classify::wrong_emulator(handler).is_some()
            || health.is_shadowed;
        if is_reported_elsewhere {
            return None;
        }
        let again = arch
            .filter(|arch| path.is_some() && state.available.get(arch.name).map(PathBuf::as_path) == path);
        let fix = match (again, classify::main_arch(handler)) {
            // The same file would fail again.
            (Some(arch), _) => another_version(arch).into(),
            (None, Some(main)) if arch.is_some() || !is_native(state, main) => register(state, main),
            // Another tool's handler is broken. A QEMU emulator may work.
            (None, _) => remove(facts, handler),
        };
        Some(Observation::problem(text, fix))
    })
}

/// Returns the advice to register the interpreter for `arch` from another version of QEMU.
fn another_version(arch: &Arch) -> Advice {
    let command = format!("sudo qus register --replace --interpreter-dir DIR {}", arch.name);
    Advice::hint(format!("use another version, where DIR is its directory: {command}"))
}

pub(super) fn emulator(facts: &Facts) -> Vec<Observation> {
    let Some(state) = facts.state() else { return Vec::new() };
    let Ok(health) = &state.health else { return Vec::new() };
    let mut observations = Vec::new();
    for handler in &state.handlers {
        let version: Option<QemuVersion> =
            health.get(&handler.name).and_then(|health| health.version.as_ref()?.parse().ok());
        let Some((arch, version)) = classify::emulated_arch(handler).zip(version) else { continue };
        observations.extend(known_bugs::of(arch.name, &version).map(|bug| {
            let text = format!("{} is QEMU {version}: {} ({})", name(handler), bug.what, bug.source);
            Observation::note(text, another_version(arch))
        }));
    }
    observations
}

/// Reports the memory that each interpreter without a file, in memory only, occupies.
pub(super) fn in_memory(facts: &Facts) -> Vec<Observation> {
    each(facts, |_, handler| {
        let description = memfd::parse_description(handler.entry.interpreter.as_deref()?)?;
        let mib = description.size.div_ceil(1 << 20);
        Some(Observation::ok(format!(
            "{} is QEMU {} in memory, and uses {mib} MiB",
            name(handler),
            description.version
        )))
    })
}

/// Reports the origin of interpreters that `qus fetch` has stored, and whether their files were changed afterwards.
pub(super) fn origin(facts: &Facts) -> Vec<Observation> {
    each(facts, |_, handler| {
        let path = handler.entry.interpreter.as_deref().filter(|path| path.is_absolute())?;
        let record = Provenance::beside(path)?;
        if Provenance::of(path).is_some() || record.is_of(path) {
            let (from, date) = (escape(&record.short()), escape(&record.date));
            return Some(Observation::ok(format!(
                "{} runs a file that was fetched from {from} on {date}",
                name(handler)
            )));
        }
        let word = |path: &Path| shell_word(path);
        // A source without a slash is the distribution's package, which is fetched without `--from`.
        let is_named = record.source.contains('/');
        let from = if is_named { format!("--from {} ", shell_word(&record.source)) } else { String::new() };
        let arch = classify::emulated_arch(handler)?;
        let hint = format!("sudo qus fetch {from}--dest {} {}", word(path.parent()?), arch.name);
        Some(Observation::problem(format!("{}: {} was changed", name(handler), display_path(path)), hint))
    })
}

/// Summarises which architectures work, according to the probes of their handlers.
pub(super) fn working(facts: &Facts) -> Vec<Observation> {
    let Some(state) = facts.state() else { return Vec::new() };
    let Ok(health) = &state.health else { return Vec::new() };
    let is_working =
        |handler: &&Handler| health.get(&handler.name).is_some_and(|health| health.state == State::Working);
    let mut arches: Vec<&str> = state
        .handlers
        .iter()
        .filter(is_working)
        .filter_map(|handler| Arch::matching_pattern(handler.entry.pattern()?).first().map(|arch| arch.name))
        .collect();
    order::sort(&mut arches);
    arches.dedup();
    if arches.is_empty() {
        return vec![nothing_works(facts, state)];
    }
    vec![Observation::ok(format!("working architectures: {}", arches.join(" ")))]
}

/// Returns the finding that no foreign program can run. It is a problem for a user who cannot register a handler.
fn nothing_works(facts: &Facts, state: &facts::State) -> Observation {
    let has_handler = state.handlers.iter().any(|handler| classify::main_arch(handler).is_some());
    let is_root = getuid().is_root();
    let advice = if has_handler {
        // Other findings have the commands that fix the handlers.
        Advice::default()
    } else {
        Advice::from("sudo qus register --fetch aarch64")
    };
    let can_run = facts.kernel.has_per_userns_instances() && facts.no_user_namespaces.is_none();
    let advice =
        if is_root || !can_run { advice } else { advice.with_hint("without root: qus run --fetch PROGRAM") };
    let text = if has_handler {
        "no foreign program can run: no handler of an architecture works"
    } else {
        "no foreign program can run: no handler is registered for an architecture"
    };
    if is_root { Observation::note(text, advice) } else { Observation::problem(text, advice) }
}
