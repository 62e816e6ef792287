//! Checks of the configuration of handlers: rules that are not registered, handlers that a restart of systemd-binfmt
//! removes, and handlers under WSL.

use super::Observation;
use crate::base::count::count_are;
use crate::base::error::Advice;
use crate::base::escape::display_path;
use crate::base::shell::shell_word;
use crate::binfmt::Handler;
use crate::boot::configuration::ConfiguredRule;
use crate::commands::doctor::facts::Facts;
use crate::handler::classify;
use crate::handler::owner::Owner;
use crate::interpreter::is_qemu;
use crate::system::namespace::{Scope, UserNamespace};

pub(super) fn configured(facts: &Facts) -> Vec<Observation> {
    let Some(state) = facts.state() else { return Vec::new() };
    let missing = facts.configuration.unregistered_rules(&state.handlers);
    let is_broken = |configured: &&&ConfiguredRule| !configured.rule.interpreter().exists();
    let broken: Vec<&ConfiguredRule> = missing.iter().filter(is_broken).copied().collect();
    let observations = missing.iter().map(|configured| {
        let file = display_path(&configured.file);
        let text = format!("{} is configured in {file}, but not registered", configured.rule.name());
        let gone = |rule: &ConfiguredRule| {
            format!("interpreter {} does not exist", display_path(rule.rule.interpreter()))
        };
        if broken.contains(configured) {
            return Observation::note(format!("{text}; its {}", gone(configured)), None);
        }
        // The command is the same under systemd, because a restart of systemd-binfmt removes handlers that are not
        // configured (K78).
        let command = format!("sudo qus apply {}", shell_word(&configured.file));
        let fix = match broken.iter().find(|other| other.file == configured.file) {
            // The command would register this rule too.
            Some(other) => Advice::hint(format!(
                "remove the rule {} from the file, because its {}; then type {command}",
                other.rule.name(),
                gone(other)
            )),
            None => command.into(),
        };
        Observation::note(text, fix)
    });
    observations.collect()
}

/// Finds handlers that qus registered and that systemd-binfmt removes when it restarts the next time (K78).
pub(super) fn flushed(facts: &Facts) -> Vec<Observation> {
    if facts.scope != Scope::Host || facts.process != UserNamespace::Initial || !facts.systemd {
        return Vec::new();
    }
    let Some(state) = facts.state() else { return Vec::new() };
    let is_ours = |handler: &&Handler| state.owners.get(&handler.name) == Some(&Owner::Qus);
    let (mut emulators, mut chosen) = (Vec::new(), Vec::new());
    let mut count = 0;
    for handler in state.handlers.iter().rev().filter(is_ours) {
        let interpreter = handler.entry.interpreter.as_deref();
        let Some((arch, path)) = classify::emulated_arch(handler).zip(interpreter) else { continue };
        // An interpreter in memory has no file that could be opened at boot.
        if !path.is_absolute() && !state.available.contains_key(arch.name) {
            continue;
        }
        count += 1;
        if is_qemu(path) {
            emulators.push(arch.name);
        } else {
            // The user chose this interpreter.
            let path = shell_word(path);
            chosen.push(format!("sudo qus register --persist --replace --interpreter {path} {}", arch.name));
        }
    }
    emulators.dedup();
    chosen.dedup();
    if !emulators.is_empty() {
        chosen.insert(0, format!("sudo qus register --persist {}", emulators.join(" ")));
    }
    if chosen.is_empty() {
        return Vec::new();
    }
    let text = format!("{} not configured, and lost at the next reboot", count_are(count, "handler"));
    vec![Observation::note(text, chosen.join(" && "))]
}

pub(super) fn wsl(facts: &Facts) -> Vec<Observation> {
    let Some(state) = facts.state() else { return Vec::new() };
    if !facts.is_wsl {
        return Vec::new();
    }
    if state.handlers.iter().any(|handler| handler.name.as_bytes().starts_with(b"WSLInterop")) {
        return Vec::new();
    }
    let register = display_path(&facts.path.join("register"));
    let hint = format!("echo ':WSLInterop:M::MZ::/init:P' | sudo tee {register}");
    vec![Observation::problem("this is WSL, and its handler WSLInterop is gone", hint)]
}
