//! Checks the interpreters of handlers: their files, and the results of probes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Observation, each, name, replace};
use crate::arch::Arch;
use crate::base::error::Advice;
use crate::base::escape::{display_path, escape};
use crate::base::shell::shell_word;
use crate::binfmt::{Flags, Handler};
use crate::commands::doctor::facts::Facts;
use crate::commands::verify::State;
use crate::handler::classify;
use crate::interpreter::CheckError;
use crate::interpreter::QemuVersion;
use crate::interpreter::known_bugs;
use crate::interpreter::memfd;
use crate::interpreter::provenance::Provenance;
use crate::system::file_id::FileId;
use crate::system::ownership::{changeable_by_others, is_trusted};

pub(super) fn interpreter(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        classify::emulated_arch(handler)?;
        let path = handler.entry.interpreter.as_deref()?;
        let fault = state.faults.get(&handler.name)?;
        let pinned = handler.entry.flags.contains(Flags::FIX_BINARY);
        let reason = fault.to_string().lines().next().unwrap_or_default().to_owned();
        let text = format!("{} runs {}, which {reason}", name(handler), display_path(path));
        Some(match fault {
            CheckError::Missing if memfd::is_in_memory(path) => return None,
            CheckError::Missing if pinned => Observation::note(
                format!(
                    "{}: the kernel holds {} open, but the file was removed",
                    name(handler),
                    display_path(path)
                ),
                None,
            ),
            CheckError::SetId => {
                Observation::problem(text, fault.command(path).map(|command| format!("sudo {command}")))
            }
            _ => Observation::problem(text, replace(state, handler)),
        })
    })
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
        is_stale.then(|| Observation::problem(text, replace(state, handler)))
    })
}

/// Finds interpreters that other users can change: the file itself, or a directory of its path. For a handler with the
/// flag `F` the kernel keeps the file open, so a new file at the path takes effect only with the next registration.
pub(super) fn writable_file(facts: &Facts) -> Vec<Observation> {
    each(facts, |state, handler| {
        let path = handler.entry.interpreter.as_deref().filter(|path| path.is_absolute())?;
        let location = changeable_by_others(path).ok()??;
        let (name, shown) = (name(handler), display_path(path));
        if location != path {
            let text = format!("{name} runs {shown}, and other users can change {}", display_path(&location));
            let pinned = handler.entry.flags.contains(Flags::FIX_BINARY);
            let hint = replace(state, handler);
            return Some(if pinned {
                Observation::note(text, hint)
            } else {
                Observation::problem(text, hint)
            });
        }
        let text = format!("{name} runs {shown}, which other users can change");
        let is_owned = std::fs::metadata(path).is_ok_and(|metadata| is_trusted(metadata.uid()));
        let owner = if is_owned { "" } else { "sudo chown root:root {} && " };
        let word = shell_word(path);
        Some(Observation::problem(text, format!("{}sudo chmod go-w {word}", owner.replace("{}", &word))))
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
        let is_reported_elsewhere = !state.enabled
            || !handler.entry.enabled
            || arch.is_some() && !handler.entry.flags.contains(Flags::FIX_BINARY)
            || health.is_shadowed;
        if is_reported_elsewhere {
            return None;
        }
        let version = health.version.as_ref().map(|version| format!(", QEMU {version}")).unwrap_or_default();
        let path = handler.entry.interpreter.as_deref();
        let shown = path.map(display_path).unwrap_or_default();
        let text = format!("{} ({shown}{version}): {reason}", name(handler));
        let again = arch
            .filter(|arch| path.is_some() && state.available.get(arch.name).map(PathBuf::as_path) == path);
        let advice = match again {
            // The same file would fail again.
            Some(arch) => another_version(arch),
            // Another tool's handler is broken. A QEMU emulator may work.
            None => replace(state, handler)
                .or_else(|| match Arch::matching_pattern(handler.entry.pattern()?).as_slice() {
                    [arch] => Some(format!("sudo qus register --replace --fetch {}", arch.name)),
                    _ => None,
                })
                .into(),
        };
        Some(Observation::problem(text, advice))
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
    arches.sort_unstable();
    arches.dedup();
    if arches.is_empty() {
        return vec![Observation::note(
            "no handler is registered",
            "sudo qus register --fetch aarch64".to_owned(),
        )];
    }
    vec![Observation::ok(format!("working architectures: {}", arches.join(" ")))]
}
