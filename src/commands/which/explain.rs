//! From a prediction, and what was executed, to an answer that a person can act on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Trials, subject};
use crate::arch::Arch;
use crate::base::output::display_path;
use crate::base::shell::shell_word;
use crate::binfmt::{Flags, Handler};
use crate::handler::classify;
use crate::handler::exec_target::{Denied, Elf, ExecTarget, Kind};
use crate::handler::predict::{End, Prediction, Reason, Step, Table, matching};
use crate::interpreter::memfd;
use crate::interpreter::provenance::Provenance;
use crate::probe::{self, Expected, Failure, STATUS_ARGV0, STATUS_PATH, judge};
use crate::system::file_id::FileId;

/// What was executed.
#[derive(Default)]
pub(super) struct Known {
    pub(super) trials: Trials,
    pub(super) versions: BTreeMap<PathBuf, String>,
    /// The handlers as they are told of, in the order of the table.
    pub(super) takers: Vec<Taken>,
}

impl Known {
    /// Describes the handlers, once for all files that they take.
    pub(super) fn describe(&mut self, handlers: &[Handler]) {
        let describe = |handler: &Handler| {
            let path = handler.entry.interpreter.clone().unwrap_or_default();
            // The record of one that was fetched.
            let provenance = path.is_absolute().then(|| Provenance::of(&path)).flatten();
            Taken {
                name: handler.name.to_string(),
                interpreter: path.to_string_lossy().into(),
                flags: handler.entry.flag_letters(),
                version: self.versions.get(&path).cloned(),
                provenance,
            }
        };
        self.takers = handlers.iter().map(describe).collect();
    }

    fn matched_by(&self, handler: &Handler, table: &Table<'_>) -> Option<&Taken> {
        let index = table.handlers.iter().position(|other| std::ptr::eq(other, handler))?;
        self.takers.get(index)
    }

    /// Whether a program with the header of `file` ran.
    fn ran(&self, file: &ExecTarget) -> bool {
        let trial = subject(file).and_then(|subject| self.trials.get(&subject));
        trial.is_some_and(|trial| matches!(trial.host.end, probe::End::Exited(STATUS_ARGV0 | STATUS_PATH)))
    }
}

/// How sure an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Certainty {
    /// A program with the same header was executed, and went this way.
    Executed,
    /// The rules leave no other choice.
    Ruled,
    /// Several handlers match, and the kernel's order is not part of its interface (K32).
    Likely,
}

/// What is said about one file.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    pub(super) file: String,
    pub(super) kind: String,
    pub(super) arch: Option<&'static str>,
    pub(super) runs: bool,
    pub(super) certainty: Certainty,
    /// The handler that takes it; nothing for a program that the host runs itself.
    pub(super) handler: Option<&'a Taken>,
    /// Other handlers that match, in the kernel's order, and why they do not take it.
    pub(super) others: Vec<Other>,
    /// What happens, in words.
    pub(super) text: String,
    /// Errno of `execve(2)`, where it fails.
    pub(super) errno: Option<String>,
    #[serde(rename = "cure")]
    pub(super) hint: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Taken {
    pub(super) name: String,
    pub(super) interpreter: String,
    pub(super) flags: String,
    pub(super) version: Option<String>,
    pub(super) provenance: Option<Provenance>,
}

#[derive(Debug, Serialize)]
pub(super) struct Other {
    pub(super) name: String,
    pub(super) why: &'static str,
}

/// What becomes of a file, and what to do about it.
struct Fate {
    runs: bool,
    certainty: Certainty,
    text: String,
    hint: Option<String>,
}

impl Fate {
    fn runs(certainty: Certainty, text: impl Into<String>) -> Self {
        Self { runs: true, certainty, text: text.into(), hint: None }
    }

    fn fails(certainty: Certainty, text: impl Into<String>, hint: Option<String>) -> Self {
        Self { runs: false, certainty, text: text.into(), hint }
    }
}

/// The answer about `file`.
pub(super) fn explain<'a>(
    file: &ExecTarget,
    prediction: &Prediction,
    table: &Table<'_>,
    known: &'a Known,
) -> Answer<'a> {
    let arch = match &file.kind {
        Kind::Elf(Elf { arch, .. }) => *arch,
        _ => None,
    };
    let matched_by = match prediction.steps.first() {
        Some(Step::Handler { name, .. }) => table.handlers.iter().find(|handler| handler.name == *name),
        _ => None,
    };
    let matches = matching(table.handlers, file);
    let rivals: Vec<&Handler> = matches.iter().filter(|handler| handler.entry.enabled).copied().collect();
    let certainty = if rivals.len() > 1 { Certainty::Likely } else { Certainty::Ruled };
    let matched_by = matched_by
        .map(|matched_by| executed_one(file, matched_by, &rivals, table, known).unwrap_or(matched_by));
    let fate = match (&prediction.end, matched_by) {
        _ if is_unread(file) => unread(file, certainty),
        (End::Fails { reason: Reason::NoHandler, .. }, None) if known.ran(file) => hidden(file, arch),
        (End::Fails { file: at, reason, .. }, matched_by) => {
            failing(file, matched_by, (at, reason), table, certainty)
        }
        (End::Starts, Some(matched_by)) => taken(file, arch, matched_by, (table, known), certainty),
        (End::Starts, None) => match prediction.steps.first() {
            Some(Step::Script { interpreter }) => {
                let further = prediction.steps.iter().skip(1).map(|step| match step {
                    Step::Script { interpreter } => format!(", which {} runs", display_path(interpreter)),
                    Step::Handler { name, interpreter } => {
                        format!(", which {name} takes for {}", display_path(interpreter))
                    }
                });
                let further = further.collect::<String>();
                Fate::runs(certainty, format!("a script: {} runs it{further}", display_path(interpreter)))
            }
            _ => Fate::runs(certainty, "native: this host runs it itself"),
        },
    };
    let errno = match &prediction.end {
        End::Fails { errno, .. } if !is_unread(file) && !fate.runs => Some(format!("{errno:?}")),
        _ => None,
    };
    let matched_by = matched_by.filter(|_| !is_unread(file));
    let matches = if is_unread(file) { Vec::new() } else { matches };
    let others = matches
        .into_iter()
        .filter(|handler| matched_by.is_none_or(|matched_by| matched_by.name != handler.name));
    Answer {
        file: file.path.to_string_lossy().into(),
        kind: if file.id.is_none() && file.denied.is_some() {
            "no file".to_owned()
        } else {
            file.kind.to_string()
        },
        arch: arch.map(|arch| arch.name),
        runs: fate.runs,
        certainty: fate.certainty,
        handler: matched_by.and_then(|matched_by| known.matched_by(matched_by, table)),
        others: others
            .map(|handler| Other { name: handler.name.to_string(), why: why_not(handler, table) })
            .collect(),
        text: fate.text,
        errno,
        hint: fate.hint,
    }
}

/// The rival whose interpreter the kernel was seen to start. Directory order is newest first, but only as far as anyone
/// has seen (K32): an execution knows better.
fn executed_one<'a>(
    file: &ExecTarget,
    matched_by: &'a Handler,
    rivals: &[&'a Handler],
    table: &Table<'_>,
    known: &Known,
) -> Option<&'a Handler> {
    let started = known.trials.get(&subject(file)?)?.host.started?;
    let opens = |handler: &&&Handler| {
        let path = handler.entry.interpreter.as_deref();
        path.and_then(|path| (table.look)(path).id) == Some(started)
    };
    std::iter::once(&matched_by).chain(rivals).find(opens).copied()
}

fn why_not(handler: &Handler, table: &Table<'_>) -> &'static str {
    if !table.enabled {
        "the whole instance is switched off"
    } else if handler.entry.enabled {
        "it was registered earlier"
    } else {
        "it is disabled"
    }
}

/// A handler takes the file: does it work, and will the program find what it needs?
fn taken(
    file: &ExecTarget,
    arch: Option<&Arch>,
    matched_by: &Handler,
    (table, known): (&Table<'_>, &Known),
    certainty: Certainty,
) -> Fate {
    let trial = subject(file).and_then(|subject| known.trials.get(&subject));
    let Some((trial, arch)) = trial.zip(arch) else {
        return Fate::runs(certainty, "unverified: no probe was executed");
    };
    let expected = Expected {
        preserve_argv0: matched_by.entry.flags.contains(Flags::PRESERVE_ARGV0),
        interpreter: None,
        in_front: None,
    };
    let replace = Some(format!("sudo qus register --replace {}", arch.name));
    let at_path = matched_by.entry.interpreter.as_deref().and_then(|path| (table.look)(path).id);
    match judge(trial, &expected) {
        Err(Failure::NotInEmptyRoot) => {
            let text = format!("it runs here, and in no container: {}", Failure::NotInEmptyRoot);
            Fate { runs: true, certainty: Certainty::Executed, text, hint: replace }
        }
        Err(failure) => Fate::fails(Certainty::Executed, failure.to_string(), replace),
        Ok(proof) => {
            if let Some(loader) = missing_loader(file) {
                return Fate::fails(
                    Certainty::Executed,
                    no_loader(&loader),
                    Some(loader_cure(arch, &loader)),
                );
            }
            let proven = if proof.empty_root { "proven here and from an empty root" } else { "proven here" };
            let in_memory = matched_by.entry.interpreter.as_deref().is_some_and(memfd::is_in_memory);
            let is_same = |id: FileId| proof.interpreter == Some(id);
            let stale = matched_by.entry.flags.contains(Flags::FIX_BINARY)
                && proof.interpreter.is_some()
                && !at_path.is_some_and(is_same);
            let (remark, hint) = match at_path {
                Some(_) if stale => ("; it runs a file that was replaced at its path since", replace),
                None if in_memory => ("; it lies in memory", None),
                None => ("; its path leads to no file any more, the kernel holds it open", None),
                Some(_) => ("", None),
            };
            let text = format!("{proven}{remark}");
            Fate { runs: true, certainty: Certainty::Executed, text, hint }
        }
    }
}

/// The loader that a foreign program needs, where the emulator will not find it (U24).
fn missing_loader(file: &ExecTarget) -> Option<PathBuf> {
    let Kind::Elf(Elf { loader: Some(loader), .. }) = &file.kind else { return None };
    let prefix = std::env::var_os("QEMU_LD_PREFIX").map(PathBuf::from);
    let below = |root: &Path| root.join(loader.strip_prefix("/").unwrap_or(loader)).exists();
    (!loader.exists() && !prefix.is_some_and(|prefix| below(&prefix))).then(|| loader.clone())
}

fn no_loader(loader: &Path) -> String {
    format!("the handler works, but the program needs {}, which does not exist here", display_path(loader))
}

fn loader_cure(arch: &Arch, loader: &Path) -> String {
    let anywhere =
        "start it in a container or root directory of its architecture, or set QEMU_LD_PREFIX to one";
    let is_glibc = loader.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld-linux"));
    match arch.names.debian.first().filter(|_| is_glibc && Path::new("/usr/bin/dpkg").exists()) {
        Some(debian) => format!(
            "sudo dpkg --add-architecture {debian} && sudo apt-get update && sudo apt-get install libc6:{debian} (or {anywhere})"
        ),
        None => anywhere.to_owned(),
    }
}

/// Whether the kernel may start the file, and this process may not read it (mode 0711).
fn is_unread(file: &ExecTarget) -> bool {
    file.id.is_none() && file.denied.is_none()
}

fn unread(file: &ExecTarget, certainty: Certainty) -> Fate {
    let hint = format!("sudo qus which {}", shell_word(&file.path));
    Fate::fails(
        certainty,
        "it may be executed by this user, but not read: what it is cannot be told",
        Some(hint),
    )
}

/// No handler is to be seen, and yet a program like it ran: the instance of an ancestor namespace is not mounted here (K65).
fn hidden(file: &ExecTarget, arch: Option<&Arch>) -> Fate {
    if let Some((loader, arch)) = missing_loader(file).zip(arch) {
        return Fate::fails(Certainty::Executed, no_loader(&loader), Some(loader_cure(arch, &loader)));
    }
    let text = "proven here, with a handler that cannot be seen, as binfmt_misc is not mounted";
    Fate::runs(Certainty::Executed, text)
}

/// `execve(2)` fails.
fn failing(
    file: &ExecTarget,
    matched_by: Option<&Handler>,
    (at, reason): (&Path, &Reason),
    table: &Table<'_>,
    certainty: Certainty,
) -> Fate {
    let is_itself = at == file.path;
    let name = display_path(at);
    let arch = match &file.kind {
        Kind::Elf(Elf { arch, .. }) => *arch,
        _ => None,
    };
    let replace = arch.map(|arch| format!("sudo qus register --replace {}", arch.name));
    match reason {
        Reason::Denied(denied) if is_itself => {
            Fate::fails(certainty, format!("it {denied}"), denied_cure(*denied, at))
        }
        Reason::Denied(denied) => Fate::fails(certainty, format!("its interpreter {name} {denied}"), replace),
        Reason::Loop => {
            let hint = matching(table.handlers, file).first().map(|handler| {
                format!(
                    "echo 0 | sudo tee {}/{}",
                    crate::binfmt::instance::DEFAULT_PATH,
                    shell_word(handler.name.as_os_str())
                )
            });
            Fate::fails(certainty, "a handler takes its own interpreter, round and round", hint)
        }
        Reason::OpenFileTwice => Fate::fails(
            certainty,
            format!(
                "its interpreter {name} is no program of this host, and with the flag O or C it has to be one"
            ),
            replace,
        ),
        Reason::Loader(loader) => {
            let text = format!("its loader {} is missing or cannot be started", display_path(loader));
            Fate::fails(certainty, text, arch.map(|arch| loader_cure(arch, loader)))
        }
        Reason::NoHandler if is_itself => not_taken(file, arch, table, certainty),
        Reason::NoHandler if matches!(file.kind, Kind::Script { .. }) && matched_by.is_none() => {
            let program = (table.look)(at);
            let arch = match &program.kind {
                Kind::Elf(Elf { arch, .. }) => *arch,
                _ => None,
            };
            let fate = not_taken(&program, arch, table, certainty);
            Fate { text: format!("its interpreter {name} is this: {}; {}", program.kind, fate.text), ..fate }
        }
        Reason::NoHandler => Fate::fails(
            certainty,
            format!("its interpreter {name} is no program that this host runs"),
            replace,
        ),
    }
}

fn denied_cure(denied: Denied, path: &Path) -> Option<String> {
    let word = shell_word(path);
    match denied {
        Denied::NotExecutable => Some(format!("chmod +x {word}")),
        Denied::NoExec => Some(format!("cp {word} to a file system that lets programs run")),
        Denied::Missing | Denied::Path(_) | Denied::NotAFile => None,
    }
}

/// No handler, and the host does not run it: what is missing?
fn not_taken(file: &ExecTarget, arch: Option<&Arch>, table: &Table<'_>, certainty: Certainty) -> Fate {
    let fails = |why: &str| format!("{why}; starting it fails with \"Exec format error\"");
    let matches = matching(table.handlers, file);
    if let Some(handler) = matches.first() {
        if !table.enabled {
            let hint = format!("echo 1 | sudo tee {}/status", crate::binfmt::instance::DEFAULT_PATH);
            return Fate::fails(
                certainty,
                fails("the whole binfmt_misc instance is switched off"),
                Some(hint),
            );
        }
        let hint = match classify::emulated_arch(handler) {
            Some(arch) => format!("sudo qus enable {}", arch.name),
            None => format!(
                "echo 1 | sudo tee {}/{}",
                crate::binfmt::instance::DEFAULT_PATH,
                shell_word(handler.name.as_os_str())
            ),
        };
        return Fate::fails(
            certainty,
            fails(&format!("its handler {} is disabled", handler.name)),
            Some(hint),
        );
    }
    match (&file.kind, arch) {
        (Kind::Elf(_), Some(arch)) => Fate::fails(
            certainty,
            fails("no handler takes it"),
            Some(format!("sudo qus register {}", arch.name)),
        ),
        (Kind::Elf(elf), None) if matches!(elf.e_type, 2 | 3) => Fate::fails(
            certainty,
            fails("no emulator of QEMU's user mode runs such programs, nor does this host"),
            None,
        ),
        (Kind::Windows, _) => Fate::fails(
            certainty,
            fails("no handler takes it"),
            Some("install Wine and its handler (package wine-binfmt)".to_owned()),
        ),
        (Kind::Java, _) => Fate::fails(
            certainty,
            fails("no handler takes it"),
            Some(format!("java -jar {}", shell_word(&file.path))),
        ),
        _ => Fate::fails(certainty, fails("it is no program that anything here would take"), None),
    }
}
