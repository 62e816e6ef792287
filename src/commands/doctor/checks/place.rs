//! Where this is: the kernel, the instance, and whose it is.

use super::Said;
use crate::base::error::Hint;
use crate::base::output::display_path;
use crate::binfmt::instance::{OpenError, mount_command};
use crate::commands::doctor::facts::Facts;
use crate::commands::doctor::processes::Holder;
use crate::system::namespace::{Scope, UserNamespace};

pub(super) fn kernel(facts: &Facts) -> Vec<Said> {
    let kernel = facts.kernel;
    if !kernel.supports_fix_binary() {
        // Nothing that could be typed.
        let text = format!("Linux {kernel} does not know the flag F; 4.8 and later do");
        return vec![Said::problem(text, None)];
    }
    let mut knows = vec!["F"];
    if kernel.supports_preserve_argv0() {
        knows.push("P");
    }
    knows.push(if kernel.has_per_userns_instances() {
        "one instance per user namespace; handlers vanish with its last mount"
    } else {
        "one instance for all"
    });
    vec![Said::ok(format!("Linux {kernel}: {}", knows.join(", ")))]
}

pub(super) fn mounted(facts: &Facts) -> Vec<Said> {
    match &facts.instance {
        Ok(_) => vec![Said::ok(format!("binfmt_misc is mounted on {}", display_path(&facts.path)))],
        Err(error @ OpenError::NotMounted(_)) => {
            let promised = facts.configuration.promises.len();
            let cure = error.hint();
            if facts.process != UserNamespace::Initial && facts.kernel.has_per_userns_instances() {
                // Mounting would make a new instance, without any of those handlers (K66).
                let unseen = "the host's handlers may be in force and cannot be seen";
                if !facts.may_mount {
                    let text = format!("{error}: {unseen}, and mounting is not permitted here");
                    return vec![Said::note(text, "qus run sh".to_owned())];
                }
                let text = "the cure hides them here, for an instance of this user namespace's own";
                return vec![Said::note(format!("{error}: {unseen}; {text}"), cure)];
            }
            if promised > 0 {
                return vec![Said::problem(
                    format!("{error}, while configuration promises {promised} handlers"),
                    cure,
                )];
            }
            vec![Said::problem(error.to_string(), cure)]
        }
        Err(error @ OpenError::Automount(path)) => {
            vec![Said::problem(
                format!("{error}; on the host, the cure does"),
                format!("ls {}", display_path(path)),
            )]
        }
        // Nothing that could be typed.
        Err(error @ OpenError::NoSupport(_)) => {
            let what = error.hint().map(|what| format!(": {what}")).unwrap_or_default();
            vec![Said::problem(format!("{error}{what}"), None)]
        }
        Err(error) => vec![Said::problem(error.to_string(), error.hint())],
    }
}

pub(super) fn writable(facts: &Facts) -> Vec<Said> {
    let Some(state) = facts.state().filter(|state| state.read_only) else { return Vec::new() };
    let cure = format!("sudo mount -o remount,rw {}", display_path(&facts.path));
    let handlers = state.handlers.len();
    vec![Said::problem(
        format!("{} is mounted read-only; {handlers} handlers stay as they are", display_path(&facts.path)),
        cure,
    )]
}

pub(super) fn instance_off(facts: &Facts) -> Vec<Said> {
    if facts.state().is_none_or(|state| state.enabled) {
        return Vec::new();
    }
    let cure = format!("echo 1 | sudo tee {}", display_path(&facts.path.join("status")));
    vec![Said::problem("the whole instance is switched off", cure)]
}

pub(super) fn scope(facts: &Facts) -> Vec<Said> {
    let place = match (&facts.container, facts.is_container) {
        (Some(engine), _) => format!("a container of {engine}"),
        (None, true) => "a mount namespace that is not the host's".to_owned(),
        (None, false) => "no container".to_owned(),
    };
    match facts.scope {
        Scope::Host => vec![Said::ok(format!("handlers here are those of the host; this is {place}"))],
        scope => {
            vec![Said::note(format!("handlers here are those of {scope}; this is {place}"), None)]
        }
    }
}

/// Whether the handlers outlast this mount namespace (K67). Before Linux 6.7 they do where that was not backported, which
/// the version does not tell: then the cure does no harm.
pub(super) fn lifetime(facts: &Facts) -> Vec<Said> {
    let Some(state) = facts.state() else { return Vec::new() };
    let count = state.handlers.len();
    let mount = mount_command(&facts.path);
    match state.holder {
        Holder::Others | Holder::Unknown => Vec::new(),
        Holder::Inside(pid) => {
            let text =
                format!("{count} handlers, and what is registered next, end with this mount namespace");
            let cure = mount.replace("sudo ", &format!("sudo nsenter -t {pid} -m "));
            vec![Said::note(format!("{text}; the cure mounts the instance around it, too"), cure)]
        }
        Holder::InsideAsFarAsSeen => {
            let text = format!("{count} handlers, and what is registered next, end with this container");
            // Mounting on the host holds no instance but the host's.
            vec![if facts.scope == Scope::Host {
                let text = format!("{text}, unless the host has mounted binfmt_misc since it started");
                Said::note(format!("{text}; on the host, the cure does"), mount)
            } else {
                let unless = "unless another in its user namespace has mounted binfmt_misc since it started";
                Said::note(format!("{text}, {unless}"), None)
            }]
        }
    }
}
