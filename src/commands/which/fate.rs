//! Determines whether a file runs when it is executed, or why it fails, with advice.

use std::path::{Path, PathBuf};

use super::known::{Certainty, Known, arch_of};
use super::probe_target;
use nix::unistd::getuid;

use crate::arch::Arch;
use crate::base::error::Advice;
use crate::base::escape::display_path;
use crate::base::shell::shell_word;
use crate::binfmt::instance::DEFAULT_PATH;
use crate::binfmt::{Flags, Handler};
use crate::commands::selection::word_for;
use crate::commands::suggestion;
use crate::handler::classify;
use crate::handler::exec_target::{AccessError, Elf, ExecTarget, Kind};
use crate::handler::predict::{End, Prediction, Reason, Step, Table, matching};
use crate::interpreter::memfd;
use crate::probe::{Expected, Failure, Verification, judge};

/// The fate of a file when it is executed: whether it runs, with a description and advice.
pub(super) struct Fate {
    pub(super) runs: bool,
    pub(super) certainty: Certainty,
    pub(super) text: String,
    pub(super) advice: Advice,
}

impl Fate {
    fn runs(certainty: Certainty, text: impl Into<String>) -> Self {
        Self { runs: true, certainty, text: text.into(), advice: Advice::default() }
    }

    fn fails(certainty: Certainty, text: impl Into<String>, advice: impl Into<Advice>) -> Self {
        Self { runs: false, certainty, text: text.into(), advice: advice.into() }
    }
}

/// A file, with the facts that its fate depends on.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) file: &'a ExecTarget,
    pub(super) arch: Option<&'static Arch>,
    pub(super) table: &'a Table<'a>,
    pub(super) known: &'a Known,
    /// Certainty of an answer that does not depend on a probe.
    pub(super) certainty: Certainty,
}

impl Case<'_> {
    /// Returns the fate of the file, which must be readable. `matched_by` is the handler that takes the file, if any.
    pub(super) fn fate(&self, prediction: &Prediction, matched_by: Option<&Handler>) -> Fate {
        match (&prediction.end, matched_by) {
            (End::Fails { reason: Reason::NoHandler, .. }, None) if self.known.ran(self.file) => {
                self.hidden()
            }
            (End::Fails { file, reason, .. }, matched_by) => self.failing(matched_by, file, reason),
            (End::Starts, Some(matched_by)) => self.taken(matched_by),
            (End::Starts, None) => self.native(&prediction.steps),
        }
    }

    pub(super) fn unread(&self) -> Fate {
        let advice = Advice::as_root(&format!("qus which {}", self.word()));
        self.fails("this user may execute it, but not read it", advice)
    }

    fn fails(&self, text: impl Into<String>, advice: impl Into<Advice>) -> Fate {
        Fate::fails(self.certainty, text, advice)
    }

    /// Returns the `qus register` command that replaces the handler for the file's architecture.
    fn replace(&self) -> Option<String> {
        self.arch.map(|arch| self.register(arch, true))
    }

    fn register(&self, arch: &Arch, replace: bool) -> String {
        suggestion::register([arch], replace, |arch| self.known.available.has(arch))
    }

    /// Returns the fate of the file if its probe ran although no handler is visible. The handler is then in the
    /// instance of an outer user namespace, which is not mounted here (K65).
    fn hidden(&self) -> Fate {
        if let Some((loader, arch)) = missing_loader(self.file).zip(self.arch) {
            return Fate::fails(Certainty::Executed, no_loader(&loader), loader_advice(arch, &loader));
        }
        let text = "verified here, with a handler that is not visible because binfmt_misc is not mounted";
        Fate::runs(Certainty::Executed, text)
    }

    /// Returns the fate of the file if it is a native program or a script.
    fn native(&self, steps: &[Step]) -> Fate {
        let Some((Step::Script { interpreter }, further)) = steps.split_first() else {
            return Fate::runs(self.certainty, "native: this host runs it natively");
        };
        let mut last = display_path(interpreter);
        let mut text = format!("a script: {last} runs it");
        for step in further {
            let interpreter = match step {
                Step::Script { interpreter } | Step::Handler { interpreter, .. } => display_path(interpreter),
            };
            text.push_str(&match step {
                Step::Script { .. } => format!("; {last} is a script that {interpreter} runs"),
                Step::Handler { name, .. } => format!("; the handler {name} runs {last} with {interpreter}"),
            });
            last = interpreter;
        }
        Fate::runs(self.certainty, text)
    }

    /// Returns the fate of the file if `handler` takes it. The fate depends on the result of the probe, and on the
    /// dynamic loader that the program needs.
    fn taken(&self, handler: &Handler) -> Fate {
        let result = probe_target(self.file).and_then(|target| self.known.results.get(&target));
        let Some((result, arch)) = result.zip(self.arch) else {
            return Fate::runs(self.certainty, "unverified: no probe was executed");
        };
        let expected = Expected {
            preserve_argv0: handler.entry.flags.contains(Flags::PRESERVE_ARGV0),
            interpreter: None,
            in_front: None,
        };
        match judge(result, &expected) {
            Err(Failure::NotInEmptyRoot) => {
                let text = format!("it runs here, but not in containers: {}", Failure::NotInEmptyRoot);
                Fate { runs: true, certainty: Certainty::Executed, text, advice: self.replace().into() }
            }
            Err(failure) => Fate::fails(Certainty::Executed, failure.to_string(), self.replace()),
            Ok(verification) => match missing_loader(self.file) {
                Some(loader) => {
                    Fate::fails(Certainty::Executed, no_loader(&loader), loader_advice(arch, &loader))
                }
                None => self.verified(handler, &verification),
            },
        }
    }

    /// Returns the fate of the file if the probe has shown that `handler` works. Adds a remark if another file has
    /// replaced the interpreter at its path.
    fn verified(&self, handler: &Handler, verification: &Verification) -> Fate {
        let path = handler.entry.interpreter.as_deref();
        let at_path = path.and_then(|path| (self.table.inspect)(path).id);
        let is_replaced = handler.entry.flags.contains(Flags::FIX_BINARY)
            && verification.interpreter.is_some()
            && verification.interpreter != at_path;
        let (remark, command) = match at_path {
            Some(_) if is_replaced => {
                ("; the handler runs an old file, which was replaced at its path", self.replace())
            }
            Some(_) => ("", None),
            None if path.is_some_and(memfd::is_in_memory) => ("; it is in memory", None),
            None => ("; the file at its path was removed, and the kernel holds it open", None),
        };
        let verified = if verification.empty_root {
            "verified here and in an empty root directory"
        } else {
            "verified here"
        };
        Fate {
            runs: true,
            certainty: Certainty::Executed,
            text: format!("{verified}{remark}"),
            advice: command.into(),
        }
    }

    /// Returns the fate of the file if it cannot be executed. `at` is the path at which `execve(2)` fails: that of this
    /// file, or of an interpreter.
    fn failing(&self, matched_by: Option<&Handler>, at: &Path, reason: &Reason) -> Fate {
        let is_itself = at == self.file.path;
        let name = display_path(at);
        match reason {
            Reason::AccessError(denied) if is_itself => {
                self.fails(format!("it {denied}"), denied_advice(*denied, at))
            }
            Reason::AccessError(denied) => {
                self.fails(format!("its interpreter {name} {denied}"), self.replace())
            }
            Reason::Loop => {
                let handler = matching(self.table.handlers, self.file).first().copied();
                let text = "a handler matches its own interpreter (infinite loop)";
                self.fails(text, handler.map(|handler| toggle_command(handler, 0)))
            }
            Reason::OpenFileTwice => self.fails(
                format!(
                    "its interpreter {name} is not a program of this host, which the flag O or C requires"
                ),
                self.replace(),
            ),
            Reason::Loader(loader) => {
                let text = format!("its loader {} is missing or cannot be started", display_path(loader));
                self.fails(text, self.arch.map(|arch| loader_advice(arch, loader)).unwrap_or_default())
            }
            Reason::NoHandler if is_itself => self.not_taken(),
            Reason::NoHandler if matches!(self.file.kind, Kind::Script { .. }) && matched_by.is_none() => {
                let program = (self.table.inspect)(at);
                let fate = Case { file: &program, arch: arch_of(&program), ..*self }.not_taken();
                Fate { text: format!("its interpreter {name}: {}; {}", program.kind, fate.text), ..fate }
            }
            Reason::NoHandler => self.fails(
                format!("its interpreter {name} is not a program that this host runs"),
                self.replace(),
            ),
        }
    }

    /// Returns the fate of the file if it is foreign and no active handler takes it.
    fn not_taken(&self) -> Fate {
        let (why, advice) = match matching(self.table.handlers, self.file).first() {
            Some(_) if !self.table.enabled => {
                let command = format!("echo 1 | sudo tee {DEFAULT_PATH}/status");
                ("the whole binfmt_misc instance is disabled".to_owned(), command.into())
            }
            Some(handler) => {
                let command = match classify::emulated_arch(handler) {
                    Some(arch) => format!("sudo qus enable {}", arch.name),
                    None => toggle_command(handler, 1),
                };
                (format!("its handler {} is disabled", handler.name), command.into())
            }
            None => {
                let (why, advice) = self.without_handler();
                (why.to_owned(), advice)
            }
        };
        self.fails(format!("{why}; execve fails with \"Exec format error\""), advice)
    }

    /// Returns the reason why no handler matches the file, with advice.
    fn without_handler(&self) -> (&'static str, Advice) {
        match (&self.file.kind, self.arch) {
            (Kind::Elf(_), Some(arch)) => self.without_rule(arch),
            (Kind::Elf(elf), None) if matches!(elf.e_type, 2 | 3) => {
                ("neither QEMU's user mode nor this host runs such programs", Advice::default())
            }
            (Kind::Windows, _) => {
                ("no handler matches", Advice::hint("install Wine and its handler (package wine-binfmt)"))
            }
            (Kind::Java, _) => {
                ("no handler matches", format!("java -jar {}", shell_word(&self.file.path)).into())
            }
            _ => ("it is not a program", Advice::default()),
        }
    }

    /// Returns what is missing to run the file, a program of the known architecture `arch`, with advice.
    fn without_rule(&self, arch: &'static Arch) -> (&'static str, Advice) {
        let header = &self.file.header;
        if !arch.identity.patterns().iter().any(|pattern| pattern.matches(header)) {
            let text = "no handler matches, and none of qus would: its header has unusual values";
            return (
                text,
                Advice::hint(format!("start it with the emulator: qus run --direct {}", self.word())),
            );
        }
        // A handler that takes ordinary programs of the architecture stays in place without --replace.
        let replace = classify::active_handler(arch, self.table.handlers).is_some();
        let advice = Advice::from(self.register(arch, replace));
        if getuid().is_root() {
            return ("no handler matches", advice);
        }
        let fetch = if self.known.available.has(arch) { "" } else { "--fetch " };
        ("no handler matches", advice.with_hint(format!("or, without root: qus run {fetch}{}", self.word())))
    }

    fn word(&self) -> String {
        shell_word(&self.file.path)
    }
}

/// Returns the shell command that disables (`state` 0) or enables (`state` 1) the handler.
fn toggle_command(handler: &Handler, state: u8) -> String {
    let verb = if state == 0 { "disable" } else { "enable" };
    match word_for(&handler.name) {
        Some(word) => format!("sudo qus {verb} {word}"),
        // No word of a command line selects this handler.
        None => format!("echo {state} | sudo tee {DEFAULT_PATH}/{}", shell_word(handler.name.as_os_str())),
    }
}

fn denied_advice(denied: AccessError, path: &Path) -> Advice {
    match denied {
        AccessError::NotExecutable => format!("chmod +x {}", shell_word(path)).into(),
        AccessError::NoExec => Advice::hint("copy it to a file system that is not mounted noexec"),
        AccessError::Missing | AccessError::Path(_) | AccessError::NotAFile => Advice::default(),
    }
}

/// Returns the path of the dynamic loader that the foreign program `file` needs, if the emulator cannot find it.
fn missing_loader(file: &ExecTarget) -> Option<PathBuf> {
    let Kind::Elf(Elf { loader: Some(loader), .. }) = &file.kind else { return None };
    let prefix = std::env::var_os("QEMU_LD_PREFIX").map(PathBuf::from);
    let below = |root: &Path| root.join(loader.strip_prefix("/").unwrap_or(loader)).exists();
    (!loader.exists() && !prefix.is_some_and(|prefix| below(&prefix))).then(|| loader.clone())
}

fn no_loader(loader: &Path) -> String {
    format!("the handler works, but the program needs {}, which does not exist here", display_path(loader))
}

fn loader_advice(arch: &Arch, loader: &Path) -> Advice {
    let anywhere =
        "start it in a container or root directory of its architecture, or set QEMU_LD_PREFIX to one";
    let is_glibc = loader.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld-linux"));
    match arch.names.debian.first() {
        Some(debian) if is_glibc && Path::new("/usr/bin/dpkg").exists() => Advice::from(format!(
            "sudo dpkg --add-architecture {debian} && sudo apt-get update && sudo apt-get install libc6:{debian}"
        ))
        .with_hint(format!("or {anywhere}")),
        _ => Advice::hint(anywhere),
    }
}
