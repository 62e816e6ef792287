//! What should be there: by configuration, at the next boot, and for WSL.

use super::Said;
use crate::binfmt::{Handler, Rule};
use crate::cmd::doctor::facts::Facts;
use crate::namespace::Scope;
use crate::output::path_text;
use crate::owner::Owner;
use crate::problem::shell_word;

pub(super) fn promised(facts: &Facts) -> Vec<Said> {
    let Some(state) = facts.state() else { return Vec::new() };
    let missing = facts.configuration.broken_promises(&state.handlers);
    let said = missing.into_iter().map(|promise| {
        let mut text =
            format!("{} is promised by {}, and not there", promise.rule.name(), path_text(&promise.file));
        let interpreter = promise.rule.interpreter();
        if interpreter.exists() {
            let line = String::from_utf8_lossy(&promise.rule.to_line()).into_owned();
            let cure = if facts.systemd {
                text.push_str("; the cure removes handlers that are in no configuration");
                "sudo systemctl restart systemd-binfmt".to_owned()
            } else {
                format!(
                    "printf %s {} | sudo tee {} > /dev/null",
                    shell_word(&line),
                    path_text(&facts.path.join("register"))
                )
            };
            Said::note(text, cure)
        } else {
            Said::note(format!("{text}; its interpreter {} does not exist", path_text(interpreter)), None)
        }
    });
    said.collect()
}

/// Handlers of qus that the next restart of systemd-binfmt takes along (K78).
pub(super) fn flushed(facts: &Facts) -> Vec<Said> {
    if facts.scope != Scope::Host || !facts.systemd {
        return Vec::new();
    }
    let Some(state) = facts.state() else { return Vec::new() };
    let is_ours = |handler: &&Handler| state.owners.get(&handler.name) == Some(&Owner::Qus);
    // One in memory has no file that could be opened at boot.
    let has_file = |rule: &Rule| rule.interpreter().is_absolute();
    let transient = state.handlers.iter().filter(is_ours);
    let rules = transient.filter_map(|handler| handler.entry.to_rule(&handler.name)).filter(has_file);
    let lines: Vec<String> =
        rules.map(|rule| shell_word(&String::from_utf8_lossy(&rule.to_line()))).collect();
    if lines.is_empty() {
        return Vec::new();
    }
    let text = format!("{} handlers are in no configuration and end with the next boot", lines.len());
    let cure = format!("printf '%s\\n' {} | sudo tee /etc/binfmt.d/qus.conf > /dev/null", lines.join(" "));
    vec![Said::note(text, cure)]
}

pub(super) fn wsl(facts: &Facts) -> Vec<Said> {
    let Some(state) = facts.state().filter(|_| facts.is_wsl) else { return Vec::new() };
    if state.handlers.iter().any(|handler| handler.name.as_bytes().starts_with(b"WSLInterop")) {
        return Vec::new();
    }
    let register = path_text(&facts.path.join("register"));
    let cure = format!("echo ':WSLInterop:M::MZ::/init:P' | sudo tee {register}");
    vec![Said::problem("this is WSL, and its handler WSLInterop is gone", cure)]
}
