//! The checks of `qus doctor`: a table, each with an id, what it looks for, and why that matters.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Level;
use super::facts::{Facts, State};
use crate::arch::Arch;
use crate::binfmt::{Flags, Handler, Rule};
use crate::cmd::own_head;
use crate::defects;
use crate::file::Candidate;
use crate::interpreter::{FileId, Unfit};
use crate::kernel::OpenError;
use crate::memory;
use crate::namespace::Scope;
use crate::output::path_text;
use crate::owner::Owner;
use crate::plan;
use crate::problem::shell_word;

/// One check.
pub(super) struct Check {
    pub(super) id: &'static str,
    pub(super) why: &'static str,
    pub(super) run: fn(&Facts) -> Vec<Said>,
}

/// What a check says.
pub(super) struct Said {
    pub(super) level: Level,
    pub(super) text: String,
    pub(super) cure: Option<String>,
}

impl Said {
    fn problem(text: impl Into<String>, cure: impl Into<Option<String>>) -> Self {
        Self { level: Level::Problem, text: text.into(), cure: cure.into() }
    }

    fn note(text: impl Into<String>, cure: impl Into<Option<String>>) -> Self {
        Self { level: Level::Note, text: text.into(), cure: cure.into() }
    }

    fn ok(text: impl Into<String>) -> Self {
        Self { level: Level::Ok, text: text.into(), cure: None }
    }
}

/// All checks, in the order in which a person would look.
pub(super) static CHECKS: &[Check] = &[
    Check { id: "kernel", why: "handlers need what the kernel brings along", run: kernel },
    Check {
        id: "mounted",
        why: "handlers can be neither seen nor changed; those that a container registers go with its own mount",
        run: mounted,
    },
    Check { id: "writable", why: "nothing can be registered or removed through this mount", run: writable },
    Check { id: "instance-off", why: "no handler is in force while the instance is off", run: instance_off },
    Check {
        id: "scope",
        why: "only what runs in their user namespace sees them; what is meant for the host is registered on the host",
        run: scope,
    },
    Check { id: "captures", why: "programs of the host itself go through a handler", run: captures },
    Check { id: "disabled", why: "the kernel passes over it", run: disabled },
    Check { id: "no-fix", why: "it may work on the host, and fails in every container", run: no_fix },
    Check {
        id: "interpreter",
        why: "the kernel opens this file whenever a program is started",
        run: interpreter,
    },
    Check { id: "stale", why: "the kernel keeps the file that was there at registration", run: stale },
    Check {
        id: "self-capture",
        why: "every start ends in \"too many levels of symbolic links\"",
        run: self_capture,
    },
    Check {
        id: "writable-file",
        why: "whoever may write to it decides what every foreign program does",
        run: writable_file,
    },
    Check { id: "credentials", why: "setuid programs make the interpreter run as root", run: credentials },
    Check { id: "shadowed", why: "the kernel takes the handler that was registered last", run: shadowed },
    Check { id: "overlap", why: "which of the two runs depends on the order of registration", run: overlap },
    Check { id: "broken", why: "its probe was executed, and did not do what it should", run: broken },
    Check { id: "interim", why: "qus was interrupted while it replaced a handler", run: interim },
    Check {
        id: "promised",
        why: "it was never registered, or something removed all: systemd-binfmt, a container with --reset, another WSL distribution",
        run: promised,
    },
    Check {
        id: "flushed",
        why: "systemd-binfmt removes all handlers when it restarts, and registers only its own",
        run: flushed,
    },
    Check { id: "wsl", why: "Windows programs cannot be started from Linux without it", run: wsl },
    Check { id: "emulator", why: "this version is known to be defective", run: emulator },
    Check { id: "engines", why: "builders look for platforms when they start", run: engines },
    Check { id: "page-size", why: "some programs and emulators take 4 KiB for granted", run: page_size },
    Check { id: "security", why: "it can forbid programs without saying so", run: security },
    Check { id: "namespaces", why: "without user namespaces nothing goes without root", run: namespaces },
    Check { id: "in-memory", why: "", run: in_memory },
    Check { id: "working", why: "", run: working },
];

fn name(handler: &Handler) -> String {
    handler.name.to_string()
}

/// The command that puts qus's own handler in the place of one of QEMU's, with an interpreter that is at hand or has to
/// be fetched first; for another's only its removal can be named.
fn replace(state: &State, handler: &Handler) -> Option<String> {
    let arch = plan::emulates(handler)?;
    let fetch = if state.at_hand.contains_key(arch.name) { "" } else { "--fetch " };
    Some(format!("sudo qus register --replace {fetch}{}", arch.name))
}

/// The command that removes a handler.
fn remove(facts: &Facts, handler: &Handler) -> String {
    format!("echo -1 | sudo tee {}", entry_file(facts, handler))
}

fn entry_file(facts: &Facts, handler: &Handler) -> String {
    shell_word(&facts.path.join(handler.name.as_os_str()).to_string_lossy())
}

/// What `check` says of each handler.
fn each(facts: &Facts, check: impl Fn(&State, &Handler) -> Option<Said>) -> Vec<Said> {
    let Some(state) = facts.state() else { return Vec::new() };
    state.handlers.iter().filter_map(|handler| check(state, handler)).collect()
}

fn kernel(facts: &Facts) -> Vec<Said> {
    let kernel = facts.kernel;
    if !kernel.knows_fix_binary() {
        let cure = "a kernel of 4.8 or later".to_owned();
        return vec![Said::problem(format!("Linux {kernel} does not know the flag F (4.8)"), cure)];
    }
    let mut knows = vec!["F"];
    if kernel.tells_preserve_argv0() {
        knows.push("P");
    }
    knows.push(if kernel.has_instances() {
        "one instance per user namespace; handlers vanish with its last mount"
    } else {
        "one instance for all"
    });
    vec![Said::ok(format!("Linux {kernel}: {}", knows.join(", ")))]
}

fn mounted(facts: &Facts) -> Vec<Said> {
    match &facts.instance {
        Ok(_) => vec![Said::ok(format!("binfmt_misc is mounted on {}", path_text(&facts.path)))],
        Err(error @ OpenError::NotMounted(_)) => {
            let promised = facts.configuration.promises.len();
            let cure = error.cure();
            if facts.scope != Scope::Host && facts.kernel.has_instances() {
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
        Err(error) => vec![Said::problem(error.to_string(), error.cure())],
    }
}

fn writable(facts: &Facts) -> Vec<Said> {
    let Some(state) = facts.state().filter(|state| state.read_only) else { return Vec::new() };
    let cure = format!("sudo mount -o remount,rw {}", path_text(&facts.path));
    let handlers = state.handlers.len();
    vec![Said::problem(
        format!("{} is mounted read-only; {handlers} handlers stay as they are", path_text(&facts.path)),
        cure,
    )]
}

fn instance_off(facts: &Facts) -> Vec<Said> {
    if facts.state().is_none_or(|state| state.enabled) {
        return Vec::new();
    }
    let cure = format!("echo 1 | sudo tee {}", path_text(&facts.path.join("status")));
    vec![Said::problem("the whole instance is switched off", cure)]
}

fn scope(facts: &Facts) -> Vec<Said> {
    let place = match &facts.container {
        Some(engine) => format!("a container of {engine}"),
        None => "no container that says so".to_owned(),
    };
    match facts.scope {
        Scope::Host if facts.is_container => {
            let text = "this is a container: what is registered outlives it only if the host has mounted binfmt_misc";
            let cure = format!("sudo mount -t binfmt_misc binfmt_misc {}", crate::kernel::DEFAULT_PATH);
            vec![Said::note(format!("{text}; on the host, the cure does"), cure)]
        }
        Scope::Host => vec![Said::ok(format!("handlers here are those of the host; this is {place}"))],
        scope @ (Scope::UserNamespace(_) | Scope::Outer) => {
            vec![Said::note(format!("handlers here are those of {scope}; this is {place}"), None)]
        }
    }
}

fn captures(facts: &Facts) -> Vec<Said> {
    let Ok(host) = own_head() else { return Vec::new() };
    each(facts, |state, handler| {
        if !handler.entry.enabled {
            return None;
        }
        if handler.entry.pattern().is_some_and(|pattern| pattern.matches(&host)) {
            let text = format!("{} takes this host's own programs", name(handler));
            return Some(Said::problem(text, remove(facts, handler)));
        }
        let arch = plan::emulates(handler).filter(|arch| state.natives.contains(arch.name))?;
        let text = format!("{} takes programs of {}, which this host runs itself", name(handler), arch.name);
        Some(Said::problem(text, format!("sudo qus reset {}", arch.name)))
    })
}

fn disabled(facts: &Facts) -> Vec<Said> {
    each(facts, |_, handler| {
        if handler.entry.enabled {
            return None;
        }
        let cure = match plan::emulates(handler) {
            Some(arch) => format!("sudo qus enable {}", arch.name),
            None => format!("echo 1 | sudo tee {}", entry_file(facts, handler)),
        };
        Some(Said::problem(format!("{} is disabled", name(handler)), cure))
    })
}

fn no_fix(facts: &Facts) -> Vec<Said> {
    each(facts, |state, handler| {
        let arch = plan::emulates(handler)?;
        let lacks = !handler.entry.flags.contains(Flags::FIX_BINARY);
        lacks.then(|| {
            Said::problem(format!("{} has no F flag ({})", name(handler), arch.name), replace(state, handler))
        })
    })
}

fn interpreter(facts: &Facts) -> Vec<Said> {
    each(facts, |state, handler| {
        plan::emulates(handler)?;
        let path = handler.entry.interpreter.as_deref()?;
        let unfit = state.unfit.get(&handler.name)?;
        let pinned = handler.entry.flags.contains(Flags::FIX_BINARY);
        let reason = unfit.to_string().lines().next().unwrap_or_default().to_owned();
        let text = format!("{} runs {}, which {reason}", name(handler), path_text(path));
        Some(match unfit {
            Unfit::Missing if memory::is_in_memory(path) => return None,
            Unfit::Missing if pinned => Said::note(
                format!(
                    "{}: the kernel holds {} open, and no file is there any more",
                    name(handler),
                    path_text(path)
                ),
                None,
            ),
            Unfit::SetId => Said::problem(text, unfit.cure(path).map(|cure| format!("sudo {cure}"))),
            _ => Said::problem(text, replace(state, handler)),
        })
    })
}

/// The probe showed which file runs; another one lies at the path now (K49).
fn stale(facts: &Facts) -> Vec<Said> {
    each(facts, |state, handler| {
        let proof = state.health.as_ref().ok()?.get(&handler.name)?.proof?;
        let path = handler.entry.interpreter.as_deref()?;
        let there = FileId::of(&std::fs::metadata(path).ok()?);
        let is_stale = proof.interpreter.is_some_and(|started| started != there);
        let text = format!("{} runs a file that was replaced at {} since", name(handler), path_text(path));
        is_stale.then(|| Said::problem(text, replace(state, handler)))
    })
}

/// A handler that takes its own interpreter (K37). The host's own programs are another check's.
fn self_capture(facts: &Facts) -> Vec<Said> {
    let Ok(host) = own_head() else { return Vec::new() };
    each(facts, |_, handler| {
        let path = handler.entry.interpreter.as_deref()?;
        let head = Candidate::look(path).head;
        let matcher = handler.entry.matcher.as_ref()?;
        let takes =
            handler.entry.enabled && matcher.matches(&head, path) && !matcher.matches(&host, Path::new(""));
        let cure = remove(facts, handler);
        takes.then(|| {
            Said::problem(format!("{} takes its own interpreter, {}", name(handler), path_text(path)), cure)
        })
    })
}

fn writable_file(facts: &Facts) -> Vec<Said> {
    each(facts, |_, handler| {
        plan::emulates(handler)?;
        let path = handler.entry.interpreter.as_deref()?;
        let metadata = std::fs::metadata(path).ok()?;
        let open = metadata.mode() & 0o022 != 0;
        let text =
            format!("{} runs {}, which others than its owner may write to", name(handler), path_text(path));
        open.then(|| Said::problem(text, format!("sudo chmod go-w {}", shell_word(&path.to_string_lossy()))))
    })
}

/// Two handlers that take some of the same files, neither all of the other's; emulators of an architecture are judged
/// by their programs, in another check.
fn overlap(facts: &Facts) -> Vec<Said> {
    let Some(state) = facts.state() else { return Vec::new() };
    let enabled: Vec<&Handler> = state.handlers.iter().filter(|handler| handler.entry.enabled).collect();
    let mut said = Vec::new();
    for (index, newer) in enabled.iter().enumerate() {
        for older in enabled.iter().skip(index + 1) {
            let Some((one, two)) = newer.entry.pattern().zip(older.entry.pattern()) else { continue };
            if one.overlaps(two) && !one.covers(two) && plan::emulates(older).is_none() {
                let text = format!(
                    "{} takes some files of {}, which was registered earlier",
                    name(newer),
                    name(older)
                );
                said.push(Said::note(text, None));
            }
        }
    }
    said
}

fn credentials(facts: &Facts) -> Vec<Said> {
    each(facts, |state, handler| {
        if !handler.entry.flags.contains(Flags::CREDENTIALS) {
            return None;
        }
        let owner = state.owners.get(&handler.name).unwrap_or(&Owner::Unknown);
        let by = if *owner == Owner::Unknown { "somebody".to_owned() } else { owner.to_string() };
        let cure = replace(state, handler);
        Some(Said::note(format!("{} has the flag C, set by {by}", name(handler)), cure))
    })
}

/// Handlers that never run, or not for all of their programs, because one that was registered later takes them.
fn shadowed(facts: &Facts) -> Vec<Said> {
    each(facts, |state, handler| {
        if !handler.entry.enabled {
            return None;
        }
        let pattern = handler.entry.pattern()?;
        let newer = || state.handlers.iter().take_while(|other| other.name != handler.name);
        let is_taken = |head: &[u8]| {
            let takes = |other: &&Handler| {
                other.entry.enabled && other.entry.pattern().is_some_and(|pattern| pattern.matches(head))
            };
            newer().find(takes)
        };
        let covers = |other: &&Handler| {
            other.entry.enabled && other.entry.pattern().is_some_and(|other| other.covers(pattern))
        };
        if let Some(other) = newer().find(covers) {
            let text = format!(
                "{} never runs: {}, registered later, takes the same files",
                name(handler),
                name(other)
            );
            if plan::emulates(handler).is_some() {
                return Some(Said::problem(text, replace(state, handler)));
            }
            // Somebody may have wanted it so: `register --replace` does that.
            let give_back = plan::emulates(other).map(|arch| format!("sudo qus disable {}", arch.name));
            return Some(Said::note(text, give_back));
        }
        let headers = plan::emulates(handler)?.everyday_headers();
        let other = headers.iter().filter(|head| pattern.matches(head)).find_map(|head| is_taken(head))?;
        let text = format!(
            "{} does not get all its programs: {}, registered later, takes some",
            name(handler),
            name(other)
        );
        Some(Said::problem(text, replace(state, handler)))
    })
}

/// Handlers whose probe failed for a reason that no other check names.
fn broken(facts: &Facts) -> Vec<Said> {
    let unverified = facts.state().and_then(|state| state.health.as_ref().err());
    if let Some(reason) = unverified {
        return vec![Said::note(format!("no handler was tried: {reason}"), None)];
    }
    each(facts, |state, handler| {
        let health = state.health.as_ref().ok()?.get(&handler.name)?;
        let reason = health.reason.as_ref().filter(|_| health.state == "broken")?;
        let named_elsewhere = !state.enabled
            || !handler.entry.enabled
            || !handler.entry.flags.contains(Flags::FIX_BINARY)
            || reason.contains("another handler is in front");
        if named_elsewhere {
            return None;
        }
        let version = health.version.as_ref().map(|version| format!(", QEMU {version}")).unwrap_or_default();
        let path = handler.entry.interpreter.as_deref();
        let shown = path.map(path_text).unwrap_or_default();
        let mut text = format!("{} ({shown}{version}): {reason}", name(handler));
        let arch = plan::emulates(handler);
        let again =
            arch.filter(|arch| path.is_some() && state.at_hand.get(arch.name).map(PathBuf::as_path) == path);
        let cure = match again {
            // The same file again would do no better.
            Some(arch) => {
                text.push_str("; DIR has another version");
                Some(format!("sudo qus register --replace --interpreter-dir DIR {}", arch.name))
            }
            None => replace(state, handler),
        };
        Some(Said::problem(text, cure))
    })
}

fn interim(facts: &Facts) -> Vec<Said> {
    each(facts, |state, handler| {
        if !plan::is_interim(&handler.name) {
            return None;
        }
        let arch = plan::emulates(handler);
        let stands_in = |other: &&Handler| {
            other.entry.enabled && !plan::is_interim(&other.name) && plan::emulates(other) == arch
        };
        let is_needed = arch.is_some() && !state.handlers.iter().any(|other| stands_in(&other));
        let cure = replace(state, handler).filter(|_| is_needed);
        let cure = cure.unwrap_or_else(|| remove(facts, handler));
        Some(Said::problem(format!("{} was left behind", name(handler)), cure))
    })
}

fn promised(facts: &Facts) -> Vec<Said> {
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
fn flushed(facts: &Facts) -> Vec<Said> {
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

fn wsl(facts: &Facts) -> Vec<Said> {
    let Some(state) = facts.state().filter(|_| facts.is_wsl) else { return Vec::new() };
    if state.handlers.iter().any(|handler| handler.name.as_bytes().starts_with(b"WSLInterop")) {
        return Vec::new();
    }
    let register = path_text(&facts.path.join("register"));
    let cure = format!("echo ':WSLInterop:M::MZ::/init:P' | sudo tee {register}");
    vec![Said::problem("this is WSL, and its handler WSLInterop is gone", cure)]
}

fn emulator(facts: &Facts) -> Vec<Said> {
    let Some(state) = facts.state() else { return Vec::new() };
    let Ok(health) = &state.health else { return Vec::new() };
    let mut said = Vec::new();
    for handler in &state.handlers {
        let version = health.get(&handler.name).and_then(|health| health.version.as_deref());
        let Some((arch, version)) = plan::emulates(handler).zip(version) else { continue };
        said.extend(defects::of(arch.name, version).map(|defect| {
            let text = format!(
                "{} is QEMU {version}: {} ({}); DIR has another version",
                name(handler),
                defect.what,
                defect.source
            );
            Said::note(text, format!("sudo qus register --replace --interpreter-dir DIR {}", arch.name))
        }));
    }
    said
}

fn engines(facts: &Facts) -> Vec<Said> {
    if facts.engines.is_empty() {
        return Vec::new();
    }
    let mut text = format!(
        "{} here: what was registered after a builder started, it does not know until the next build starts it again",
        facts.engines.join(", ")
    );
    let builders = facts.engines.iter().any(|engine| matches!(*engine, "docker" | "buildkitd"));
    if !builders {
        text = format!("{} here: it sees every handler that has the flag F", facts.engines.join(", "));
        return vec![Said::ok(text)];
    }
    vec![Said::note(text, "docker buildx stop".to_owned())]
}

fn page_size(facts: &Facts) -> Vec<Said> {
    if facts.page_size == 4096 {
        return vec![Said::ok("pages of 4 KiB")];
    }
    vec![Said::note(format!("pages of {} KiB", facts.page_size / 1024), None)]
}

fn security(facts: &Facts) -> Vec<Said> {
    let selinux = facts.security.iter().any(|module| module.starts_with("SELinux"));
    if selinux {
        let text = format!(
            "active: {}; its log tells why a container is refused something",
            facts.security.join(", ")
        );
        return vec![Said::note(text, "sudo ausearch -m avc -ts recent".to_owned())];
    }
    facts.security.iter().map(|module| Said::ok(format!("active: {module}"))).collect()
}

fn namespaces(facts: &Facts) -> Vec<Said> {
    match &facts.no_user_namespaces {
        Some(cure) => {
            vec![Said::note("a setting keeps user namespaces from unprivileged users", cure.clone())]
        }
        None => vec![Said::ok("user namespaces are to be had")],
    }
}

/// Interpreters in memory: how much of it they hold.
fn in_memory(facts: &Facts) -> Vec<Said> {
    each(facts, |_, handler| {
        let told = memory::told(handler.entry.interpreter.as_deref()?)?;
        let mib = told.size.div_ceil(1 << 20);
        Some(Said::ok(format!(
            "{} is QEMU {}, in memory, and holds {mib} MiB of it",
            name(handler),
            told.version
        )))
    })
}

/// What works, as a summary: executed or not claimed.
fn working(facts: &Facts) -> Vec<Said> {
    let Some(state) = facts.state() else { return Vec::new() };
    let Ok(health) = &state.health else { return Vec::new() };
    let is_working =
        |handler: &&Handler| health.get(&handler.name).is_some_and(|health| health.state == "working");
    let mut arches: Vec<&str> = state
        .handlers
        .iter()
        .filter(is_working)
        .filter_map(|handler| Arch::of_pattern(handler.entry.pattern()?).first().map(|arch| arch.name))
        .collect();
    arches.sort_unstable();
    arches.dedup();
    if arches.is_empty() {
        return vec![Said::note(
            "no architecture is emulated: aarch64, or any other, is to be had",
            "sudo qus register --fetch aarch64".to_owned(),
        )];
    }
    vec![Said::ok(format!("programs ran of: {}", arches.join(" ")))]
}

/// What no namespace of a test can be made into.
#[cfg(test)]
mod tests;
