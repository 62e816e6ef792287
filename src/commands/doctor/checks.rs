//! The checks of `qus doctor`: a table of functions. Each has an id, and a reason why its findings matter.

mod configuration;
mod environment;
mod fix;
mod handlers;
mod interpreters;
mod mount;

use super::Severity;
use super::facts::{Facts, State};
use crate::binfmt::{Handler, HandlerName};

pub(super) use fix::{Fix, settle};

/// A check of `qus doctor`: its id, the reason why its findings matter, and the function that makes the findings.
pub(super) struct Check {
    pub(super) id: &'static str,
    pub(super) why: &'static str,
    pub(super) run: fn(&Facts) -> Vec<Observation>,
}

/// A finding as the function of a check returns it. The id of the check is added later.
pub(super) struct Observation {
    pub(super) level: Severity,
    pub(super) text: String,
    /// The handler that the finding is about.
    pub(super) handler: Option<HandlerName>,
    pub(super) fix: Fix,
}

impl Observation {
    fn problem(text: impl Into<String>, fix: impl Into<Fix>) -> Self {
        Self { level: Severity::Problem, text: text.into(), handler: None, fix: fix.into() }
    }

    fn note(text: impl Into<String>, fix: impl Into<Fix>) -> Self {
        Self { level: Severity::Note, ..Self::problem(text, fix) }
    }

    fn ok(text: impl Into<String>) -> Self {
        Self { level: Severity::Ok, ..Self::problem(text, None) }
    }
}

/// All checks of `qus doctor`. Findings of the same severity are printed in the order of their checks.
pub(super) static CHECKS: &[Check] = &[
    Check { id: "kernel", why: "handlers depend on features of the kernel", run: mount::kernel },
    Check {
        id: "mounted",
        why: "handlers cannot be listed or changed, and those of a container end with its mount",
        run: mount::mounted,
    },
    Check {
        id: "writable",
        why: "nothing can be registered or removed through this mount",
        run: mount::writable,
    },
    Check {
        id: "instance-off",
        why: "no handler is active while the instance is disabled",
        run: mount::instance_off,
    },
    Check {
        id: "scope",
        why: "only programs in that user namespace use them; to use them on the host, register on the host",
        run: mount::scope,
    },
    Check {
        id: "lifetime",
        why: "the kernel removes all handlers with the last mount of their instance",
        run: mount::lifetime,
    },
    Check { id: "captures", why: "the handler takes native programs of the host", run: handlers::captures },
    Check { id: "disabled", why: "the kernel ignores the handler", run: handlers::disabled },
    Check {
        id: "no-fix",
        why: "the handler may work on the host, but fails in every container",
        run: handlers::no_fix,
    },
    Check {
        id: "wrong-emulator",
        why: "an emulator runs only programs of its own architecture",
        run: handlers::wrong_emulator,
    },
    Check {
        id: "interpreter",
        why: "the kernel opens this file whenever a program is started",
        run: interpreters::interpreter,
    },
    Check {
        id: "stale",
        why: "the kernel still uses the file from the registration",
        run: interpreters::stale,
    },
    Check {
        id: "self-capture",
        why: "every execution fails with \"Too many levels of symbolic links\"",
        run: handlers::self_capture,
    },
    Check {
        id: "writable-file",
        why: "a user who can change the interpreter decides what every foreign program does",
        run: interpreters::writable_file,
    },
    Check {
        id: "credentials",
        why: "setuid programs make the interpreter run as root",
        run: handlers::credentials,
    },
    Check {
        id: "shadowed",
        why: "the kernel uses the handler that was registered last",
        run: handlers::shadowed,
    },
    Check {
        id: "overlap",
        why: "which of the two runs depends on the order of registration",
        run: handlers::overlap,
    },
    Check {
        id: "host-only",
        why: "a container does not have the files of the host",
        run: interpreters::host_only,
    },
    Check { id: "broken", why: "its probe failed", run: interpreters::broken },
    Check {
        id: "interim",
        why: "qus was interrupted while it replaced a handler",
        run: handlers::left_behind,
    },
    Check {
        id: "configured",
        why: "the rule was never registered, or another tool removed all handlers: systemd-binfmt, a container with --reset, another WSL distribution",
        run: configuration::configured,
    },
    Check {
        id: "flushed",
        why: "systemd-binfmt removes all handlers when it restarts, and registers only its own",
        run: configuration::flushed,
    },
    Check {
        id: "wsl",
        why: "Windows programs cannot be started from Linux without it",
        run: configuration::wsl,
    },
    Check { id: "emulator", why: "this version has a known bug", run: interpreters::emulator },
    Check { id: "engines", why: "builders detect platforms only when they start", run: environment::engines },
    Check {
        id: "page-size",
        why: "some programs and emulators require pages of 4 KiB",
        run: environment::page_size,
    },
    Check {
        id: "security",
        why: "a security module can block programs without a message",
        run: environment::security,
    },
    Check {
        id: "namespaces",
        why: "without user namespaces, everything needs root",
        run: environment::namespaces,
    },
    Check { id: "origin", why: "the file is not the one that qus fetched", run: interpreters::origin },
    Check { id: "in-memory", why: "", run: interpreters::in_memory },
    Check { id: "working", why: "", run: interpreters::working },
];

fn name(handler: &Handler) -> String {
    handler.name.to_string()
}

/// Calls `check` for each handler of the instance, and collects its findings.
fn each(facts: &Facts, check: impl Fn(&State, &Handler) -> Option<Observation>) -> Vec<Observation> {
    let Some(state) = facts.state() else { return Vec::new() };
    let found = state.handlers.iter().filter_map(|handler| {
        Some(Observation { handler: Some(handler.name.clone()), ..check(state, handler)? })
    });
    found.collect()
}

/// Tests of checks with invented facts, which a namespace for tests cannot have.
#[cfg(test)]
mod tests;
