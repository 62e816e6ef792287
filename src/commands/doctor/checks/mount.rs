//! Checks of the kernel version, of the mount of binfmt_misc, and of the scope of its handlers.

use super::Observation;
use crate::base::count::{count, count_are};
use crate::base::error::{Advice, Advise};
use crate::base::escape::display_path;
use crate::base::shell::shell_word;
use crate::binfmt::instance::{ON_THE_HOST, OpenError, mount_command};
use crate::commands::doctor::facts::Facts;
use crate::commands::doctor::processes::MountHolder;
use crate::system::namespace::{Scope, UserNamespace};

pub(super) fn kernel(facts: &Facts) -> Vec<Observation> {
    let kernel = facts.kernel;
    if !kernel.supports_fix_binary() {
        // No command fixes this.
        let text = format!("Linux {kernel} does not support the flag F; 4.8 and later do");
        return vec![Observation::problem(text, None)];
    }
    let mut knows = vec!["F"];
    if kernel.supports_preserve_argv0() {
        knows.push("P");
    }
    knows.push(if kernel.has_per_userns_instances() {
        "one instance per user namespace; handlers are removed with its last mount"
    } else {
        "one instance for all user namespaces"
    });
    vec![Observation::ok(format!("Linux {kernel}: {}", knows.join(", ")))]
}

pub(super) fn mounted(facts: &Facts) -> Vec<Observation> {
    match &facts.instance {
        Ok(_) => vec![Observation::ok(format!("binfmt_misc is mounted on {}", display_path(&facts.path)))],
        Err(error @ OpenError::NotMounted(_)) => {
            let configured = facts.configuration.rules.len();
            let advice = error.advice();
            if facts.process != UserNamespace::Initial && facts.kernel.has_per_userns_instances() {
                // Mounting would create a new instance without the host's handlers (K66).
                let unseen = "the host's handlers may be active, but cannot be listed";
                if !facts.may_mount {
                    let text = format!("{error}: {unseen}, and mounting is not permitted here");
                    return vec![Observation::note(text, "qus run sh".to_owned())];
                }
                let hint = "the command mounts an instance of this user namespace, which hides the host's handlers here";
                return vec![Observation::note(format!("{error}: {unseen}"), advice.with_hint(hint))];
            }
            if configured > 0 {
                return vec![Observation::problem(
                    format!("{error}, but {} configured", count_are(configured, "handler")),
                    advice,
                )];
            }
            vec![Observation::problem(error.to_string(), advice)]
        }
        Err(error) => vec![Observation::problem(error.to_string(), error.advice())],
    }
}

pub(super) fn writable(facts: &Facts) -> Vec<Observation> {
    let Some(state) = facts.state().filter(|state| state.read_only) else { return Vec::new() };
    let hint = format!("sudo mount -o remount,rw {}", shell_word(&facts.path));
    let handlers = count(state.handlers.len(), "handler");
    vec![Observation::problem(
        format!("{} is mounted read-only; its {handlers} cannot be changed", display_path(&facts.path)),
        hint,
    )]
}

pub(super) fn instance_off(facts: &Facts) -> Vec<Observation> {
    if facts.state().is_none_or(|state| state.enabled) {
        return Vec::new();
    }
    let hint = format!("echo 1 | sudo tee {}", shell_word(facts.path.join("status")));
    vec![Observation::problem("the whole instance is disabled", hint)]
}

pub(super) fn scope(facts: &Facts) -> Vec<Observation> {
    let location = match (&facts.container, facts.is_container) {
        (Some(engine), _) => format!("a container of {engine}"),
        (None, true) => "a mount namespace that is not the host's".to_owned(),
        (None, false) => "no container".to_owned(),
    };
    match facts.scope {
        Scope::Host => {
            vec![Observation::ok(format!("handlers here are those of the host; this is {location}"))]
        }
        scope => {
            vec![Observation::note(format!("handlers here are those of {scope}; this is {location}"), None)]
        }
    }
}

/// Checks whether the handlers outlast this mount namespace (K67). Before Linux 6.7 they may do so if the kernel has a
/// backport, which its version number does not show. The suggested mount command then does no harm.
pub(super) fn lifetime(facts: &Facts) -> Vec<Observation> {
    let Some(state) = facts.state() else { return Vec::new() };
    let handlers = count_are(state.handlers.len(), "handler");
    let mount = mount_command(&facts.path);
    match state.holder {
        MountHolder::Others | MountHolder::Unknown => Vec::new(),
        MountHolder::Inside(pid) => {
            let text = format!("{handlers} removed when this mount namespace ends, and so are all new ones");
            let advice = Advice::from(mount.replace("sudo ", &format!("sudo nsenter -t {pid} -m ")));
            vec![Observation::note(
                text,
                advice.with_hint("it mounts the instance outside of this namespace as well"),
            )]
        }
        MountHolder::InsideAsFarAsSeen => {
            let text = format!("{handlers} removed when this container ends, and so are all new ones");
            // A mount on the host holds only the instance of the host.
            vec![if facts.scope == Scope::Host {
                let text =
                    format!("{text}, unless the host has mounted binfmt_misc after the container started");
                Observation::note(text, Advice::from(mount).with_hint(ON_THE_HOST))
            } else {
                let unless =
                    "unless another container in its user namespace has mounted binfmt_misc after it started";
                Observation::note(format!("{text}, {unless}"), None)
            }]
        }
    }
}
