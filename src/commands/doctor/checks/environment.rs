//! Checks of the machine: container engines, page size, security modules, user namespaces.

use super::Observation;
use crate::base::count::count;
use crate::base::error::Advice;
use crate::base::shell::shell_word;
use crate::commands::doctor::facts::Facts;
use crate::commands::doctor::processes::{BuildkitDaemon, CLOCK_SKEW};

pub(super) fn engines(facts: &Facts) -> Vec<Observation> {
    let mut observations: Vec<Observation> =
        facts.buildkit_daemons.iter().filter_map(|builder| too_early(facts, builder)).collect();
    if !facts.engines.is_empty() {
        let engines = facts.engines.join(", ");
        observations.push(Observation::ok(format!(
            "{engines} found: their containers use every handler with the flag F"
        )));
    }
    observations
}

/// Returns a finding if the BuildKit daemon `builder` started before handlers of QEMU's emulators were registered.
fn too_early(facts: &Facts, builder: &BuildkitDaemon) -> Option<Observation> {
    let registered = &facts.state()?.registered;
    let later = registered.iter().filter(|registered| builder.started + CLOCK_SKEW < **registered).count();
    if later == 0 {
        return None;
    }
    let pid = builder.pid;
    let handlers = count(later, "handler");
    let text = format!("buildkitd (process {pid}) started before the registration of {handlers}");
    let advice = match restart(&builder.groups) {
        Some(command) => command.into(),
        None => {
            Advice::from(format!("sudo kill {pid}")).with_hint("then start it again with the same command")
        }
    };
    Some(Observation::note(text, advice))
}

/// Returns the command that restarts a container or a systemd service. `groups` is the text of `/proc/PID/cgroup` of
/// one of its processes.
pub(super) fn restart(groups: &str) -> Option<String> {
    groups.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        let mut parents = path.rsplit('/');
        let (last, parent) = (parents.next()?, parents.next().unwrap_or_default());
        let unit = last.strip_suffix(".scope").unwrap_or(last);
        for (engine, prefix) in [("docker", "docker-"), ("podman", "libpod-")] {
            let id = unit.strip_prefix(prefix).or((parent == engine).then_some(unit));
            let id = id.filter(|id| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
            if let Some(id) = id.and_then(|id| id.get(..12)) {
                return Some(format!("sudo {engine} restart {id}"));
            }
        }
        let service = last.ends_with(".service").then(|| shell_word(last))?;
        // The systemd manager of a user runs the services of that user.
        let is_users = path.contains("/user@");
        Some(format!("{} restart {service}", if is_users { "systemctl --user" } else { "sudo systemctl" }))
    })
}

pub(super) fn page_size(facts: &Facts) -> Vec<Observation> {
    if facts.page_size == 4096 {
        return vec![Observation::ok("pages of 4 KiB")];
    }
    vec![Observation::note(format!("pages of {} KiB", facts.page_size / 1024), None)]
}

/// Reports the active security modules of Linux, such as SELinux. They are no fault, so no command is suggested.
pub(super) fn security(facts: &Facts) -> Vec<Observation> {
    let describe = |module: &String| {
        if !module.starts_with("SELinux") {
            return Observation::ok(format!("active: {module}"));
        }
        let log = "denials are in its log (ausearch -m avc -ts recent)";
        Observation::note(format!("active: {module}; {log}"), None)
    };
    facts.security.iter().map(describe).collect()
}

pub(super) fn namespaces(facts: &Facts) -> Vec<Observation> {
    match &facts.no_user_namespaces {
        Some(command) => {
            vec![Observation::note("a setting forbids user namespaces to ordinary users", command.clone())]
        }
        None => vec![Observation::ok("user namespaces are available")],
    }
}
