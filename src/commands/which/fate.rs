//! Determines whether a file runs when it is executed, or why it fails, with advice.

use std::path::{Path, PathBuf};

use super::known::{Certainty, Known, arch_of};
use super::probe_target;
use goblin::elf::header::{EM_AARCH64, EM_X86_64};

use crate::arch::Arch;
use crate::arch::load::Flaw;
use crate::base::error::Advice;
use crate::base::escape::display_path;
use crate::base::shell::shell_word;
use crate::binfmt::{Flags, Handler};
use crate::commands::selection::word_for;
use crate::commands::suggestion;
use crate::handler::classify;
use crate::handler::exec_target::{AccessError, Elf, ExecTarget, Kind};
use crate::handler::predict::{End, Prediction, Reason, Step, Table, matching};
use crate::handler::preset::Preset;
use crate::interpreter::{Executor, PREFIXES, memfd, self_exe_header};
use crate::probe::{Expected, Failure, Verification, judge};

/// The fate of a file when it is executed: whether it runs, with a description and advice.
pub(super) struct Fate {
    /// `None` if it cannot be known.
    pub(super) runs: Option<bool>,
    pub(super) certainty: Certainty,
    pub(super) text: String,
    pub(super) advice: Advice,
}

impl Fate {
    fn runs(certainty: Certainty, text: impl Into<String>) -> Self {
        Self { runs: Some(true), certainty, text: text.into(), advice: Advice::default() }
    }

    fn fails(certainty: Certainty, text: impl Into<String>, advice: impl Into<Advice>) -> Self {
        Self { runs: Some(false), certainty, text: text.into(), advice: advice.into() }
    }

    /// Creates the fate of a file that is started, but of which it cannot be known whether it works.
    fn unclear(text: impl Into<String>, advice: impl Into<Advice>) -> Self {
        Self { runs: None, certainty: Certainty::Unknown, text: text.into(), advice: advice.into() }
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
            (End::Fails { reason: Reason::NoHandler, file, .. }, None)
                if *file == self.file.path && self.may_be_x32() =>
            {
                Fate::unclear(
                    "this host runs it if its kernel has CONFIG_X86_X32_ABI; no emulator runs x32 programs",
                    Advice::default(),
                )
            }
            (End::Fails { reason: Reason::NoHandler, file, .. }, None) if !self.known.is_mounted => {
                self.without_instance(file)
            }
            (End::Fails { file, reason, .. }, matched_by) => self.failing(matched_by, file, reason),
            (End::Killed { file, damage }, _) => {
                let text = format!("{}{damage}; a signal ends it when it is started", self.whose(file));
                self.fails(text, Advice::hint("get an undamaged copy"))
            }
            // A probe shows whether an interpreter works.
            (End::Starts | End::Unclear { .. }, Some(matched_by)) => self.taken(matched_by),
            (End::Unclear { file, damage }, None) => unclear(&format!("{}{damage}", self.whose(file))),
            (End::Starts, None) => self.native(&prediction.steps),
        }
    }

    /// Reports whether the file is an x32 program on a host of x86_64. Whether the kernel runs it depends on its
    /// configuration, which no probe of qus shows.
    fn may_be_x32(&self) -> bool {
        let Kind::Elf(elf) = &self.file.kind else { return false };
        elf.class == 1 && elf.machine == EM_X86_64 && cfg!(target_arch = "x86_64")
    }

    /// Returns the beginning of a description of damage: empty for the file itself.
    fn whose(&self, path: &Path) -> String {
        if path == self.file.path {
            String::new()
        } else {
            format!("its interpreter {}: ", display_path(path))
        }
    }

    pub(super) fn unread(&self) -> Fate {
        let advice = Advice::as_root(&format!("qus which {}", self.word()));
        Fate::unclear("this user may execute it, but not read it, so its kind is unknown", advice)
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

    /// Returns the shell command that disables (`state` 0) or enables (`state` 1) the handler.
    fn toggle_command(&self, handler: &Handler, state: u8) -> String {
        let verb = if state == 0 { "disable" } else { "enable" };
        match word_for(&handler.name) {
            Some(word) => format!("sudo qus {verb} {word}"),
            // No word of a command line selects this handler.
            None => self.write_command(handler.name.as_os_str(), state),
        }
    }

    /// Returns the shell command that writes `state` to a file of the instance.
    fn write_command(&self, name: impl AsRef<Path>, state: u8) -> String {
        format!("echo {state} | sudo tee {}", shell_word(self.known.instance.join(name)))
    }

    /// Returns the command that registers the preset `name`, or, if no interpreter for it is installed, the way to get
    /// one.
    fn preset_advice(name: &str) -> Advice {
        match Preset::named(name) {
            Some(preset) if !has_interpreter(preset) => Advice::hint(preset.hint),
            _ => format!("sudo qus register {name}").into(),
        }
    }

    /// Returns the fate of the file if binfmt_misc is not mounted here. `at` is the path of the file that needs a handler:
    /// of this file, or of the interpreter of a script. The handler may be in the instance of an outer user namespace
    /// (K65), so only the result of a probe shows whether there is one.
    fn without_instance(&self, at: &Path) -> Fate {
        let program = (self.table.inspect)(at);
        let case = Case { file: &program, arch: arch_of(&program), ..*self };
        let fate = match self.known.ran(&program) {
            Some(true) => case.hidden(),
            Some(false) => return self.failing(None, at, &Reason::NoHandler),
            None => Fate::unclear(
                "it needs a handler; none can be seen, because binfmt_misc is not mounted",
                case.without_handler().1,
            ),
        };
        Fate { text: format!("{}{}", self.whose(at), fate.text), ..fate }
    }

    /// Returns the fate of the file if its probe ran although no handler is visible.
    fn hidden(&self) -> Fate {
        if let Some((loader, arch)) = missing_loader(self.file, None).zip(self.arch) {
            return Fate::fails(Certainty::Executed, no_loader(&loader), self.loader_advice(arch, &loader));
        }
        let text = "verified here, with a handler that is not visible because binfmt_misc is not mounted";
        Fate::runs(Certainty::Executed, text)
    }

    /// Returns the fate of the file if it is a native program or a script.
    fn native(&self, steps: &[Step]) -> Fate {
        let Some((Step::Script { interpreter }, further)) = steps.split_first() else {
            return self
                .for_other_system()
                .unwrap_or_else(|| Fate::runs(self.certainty, "native: this host runs it natively"));
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

    /// Returns the fate of the file if it is a program for another operating system.
    fn for_other_system(&self) -> Option<Fate> {
        let Kind::Elf(elf) = &self.file.kind else { return None };
        let (system, advice) = elf.other_system()?;
        let text = format!(
            "it is a program for {system}; Linux starts it, but it cannot be known what it does then"
        );
        Some(Fate::unclear(text, Advice::hint(advice)))
    }

    /// Returns the fate of the file for an emulator that works, if its headers are damaged.
    fn damaged(&self) -> Option<Fate> {
        let Kind::Elf(elf) = &self.file.kind else { return None };
        match elf.emulator_flaw.as_ref()? {
            Flaw::Refused(_, damage) => {
                let text = format!("{damage}; the emulator refuses it");
                Some(self.fails(text, Advice::hint("get an undamaged copy")))
            }
            flaw => Some(unclear(flaw.description())),
        }
    }

    /// Returns the fate of the file if `handler` takes it. The fate depends on the result of the probe, and on the
    /// dynamic loader that the program needs.
    fn taken(&self, handler: &Handler) -> Fate {
        let result = probe_target(self.file).and_then(|target| self.known.results.get(&target));
        if classify::emulated_arch(handler).is_some()
            && let Some(fate) = self.damaged().or_else(|| self.for_other_system())
        {
            return fate;
        }
        if matches!(self.file.kind, Kind::Ape) && is_for_windows(handler) {
            let text = format!("the handler {} starts it as a Windows program, which fails", handler.name);
            return Fate::unclear(text, Self::preset_advice("ape"));
        }
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
                Fate { runs: Some(true), certainty: Certainty::Executed, text, advice: self.replace().into() }
            }
            Err(failure) => Fate::fails(Certainty::Executed, failure.to_string(), self.replace()),
            Ok(verification) => match missing_loader(self.file, self.known.prefix_of(handler).as_deref()) {
                Some(loader) => {
                    Fate::fails(Certainty::Executed, no_loader(&loader), self.loader_advice(arch, &loader))
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
        let none = Advice::default();
        let (remark, advice) = match at_path {
            Some(_) if is_replaced => {
                ("; the handler runs an old file, which was replaced at its path", self.replace().into())
            }
            Some(_) if self.file.is_execute_only && !handler.entry.flags.contains(Flags::OPEN_BINARY) => {
                let text = "; users who may not read it cannot run it, because the handler lacks the flag O";
                (text, self.replace().into())
            }
            Some(_) if self.file.is_set_id && !handler.entry.flags.contains(Flags::CREDENTIALS) => {
                let text = "; it does not get the rights of its owner, because the handler lacks the flag C";
                (text, self.with_credentials())
            }
            Some(_) => ("", none),
            None if path.is_some_and(memfd::is_in_memory) => ("; it is in memory", none),
            None => ("; the file at its path was removed, and the kernel holds it open", none),
        };
        let verified = if verification.empty_root {
            "verified here and in an empty root directory"
        } else {
            "verified here"
        };
        Fate { runs: Some(true), certainty: Certainty::Executed, text: format!("{verified}{remark}"), advice }
    }

    /// Returns how to give setuid programs the rights of their owners. That is a decision about security, so it is no
    /// command to paste.
    fn with_credentials(&self) -> Advice {
        let command =
            self.arch.map(|arch| format!("sudo qus register --replace --credentials {}", arch.name));
        command.map_or_else(Advice::default, |command| {
            Advice::hint(format!("to change that for all programs: {command}"))
        })
    }

    /// Returns the fate of the file if it cannot be executed. `at` is the path at which `execve(2)` fails: that of this
    /// file, or of an interpreter.
    fn failing(&self, matched_by: Option<&Handler>, at: &Path, reason: &Reason) -> Fate {
        let is_itself = at == self.file.path;
        let name = display_path(at);
        match reason {
            Reason::AccessError(denied) if is_itself => {
                self.fails(format!("it {denied}"), denied_advice(*denied, self.file))
            }
            Reason::AccessError(denied) => {
                self.fails(format!("its interpreter {name} {denied}"), self.replace())
            }
            Reason::Loop => {
                let handler = matching(self.table.handlers, self.file).first().copied();
                let mended = handler.filter(|handler| self.may_start_with(handler, false));
                let advice = match mended {
                    Some(handler) => self.toggle_command(handler, 0).into(),
                    None => Advice::hint("the handler needs another interpreter"),
                };
                self.fails("a handler matches its own interpreter (infinite loop)", advice)
            }
            Reason::OpenFileTwice => self.fails(
                format!(
                    "its interpreter {name} is not a program of this host, which the flag O or C requires"
                ),
                self.replace(),
            ),
            Reason::Loader(loader) => {
                let text = format!("its loader {} is missing or cannot be started", display_path(loader));
                self.fails(text, self.arch.map(|arch| self.loader_advice(arch, loader)).unwrap_or_default())
            }
            Reason::Damaged(damage) => {
                let text = format!("{}{damage}; execve fails", self.whose(at));
                self.fails(text, Advice::hint("get an undamaged copy"))
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
                let command = self.write_command("status", 1);
                let would_start =
                    Table { enabled: true, ..*self.table }.predict(self.file).end == End::Starts;
                let advice = would_start.then_some(command).into();
                ("the whole binfmt_misc instance is disabled".to_owned(), advice)
            }
            Some(handler) => {
                let command = match classify::emulated_arch(handler) {
                    Some(arch) => format!("sudo qus enable {}", arch.name),
                    None => self.toggle_command(handler, 1),
                };
                let advice = self.may_start_with(handler, true).then_some(command).into();
                (format!("its handler {} is disabled", handler.name), advice)
            }
            None => {
                let (why, advice) = self.without_handler();
                (why.to_owned(), advice)
            }
        };
        self.fails(format!("{why}; execve fails with \"Exec format error\""), advice)
    }

    /// Reports whether the kernel may start the file if the handler `changed` were enabled, or
    /// disabled.
    fn may_start_with(&self, changed: &Handler, enabled: bool) -> bool {
        let mut handlers = self.table.handlers.to_vec();
        for handler in &mut handlers {
            if handler.name == changed.name {
                handler.entry.enabled = enabled;
            }
        }
        may_start(&Table { handlers: &handlers, ..*self.table }.predict(self.file).end)
    }

    /// Returns the reason why no handler matches the file, with advice.
    fn without_handler(&self) -> (&'static str, Advice) {
        match (&self.file.kind, self.arch) {
            (Kind::Elf(_), Some(arch)) => self.without_rule(arch),
            (Kind::Elf(elf), None) if elf.class == 1 && elf.machine == EM_X86_64 => {
                ("no emulator runs x32 programs", Advice::default())
            }
            (Kind::Elf(elf), None) if elf.class == 1 && elf.machine == EM_AARCH64 => {
                ("no Linux kernel and no emulator runs ILP32 programs", Advice::default())
            }
            (Kind::Elf(elf), None) if matches!(elf.e_type, 2 | 3) => {
                ("neither QEMU's user mode nor this host runs such programs", Advice::default())
            }
            (Kind::Windows(_), _) => {
                ("no handler matches", Advice::hint("install Wine and its handler (package wine-binfmt)"))
            }
            (Kind::Ape, _) => ("no handler matches", Self::preset_advice("ape")),
            (Kind::Wasm, _) => ("no handler matches", Self::preset_advice("wasm32-wasi")),
            (Kind::Jar, _) => ("no handler matches", Self::preset_advice("jar")),
            (Kind::JavaClass, _) => ("no handler matches", java_class(&self.file.path).into()),
            (Kind::MachO(_), _) => ("no handler matches", Advice::hint("run it on macOS")),
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
        let register = self.register(arch, replace);
        if let Some(loader) = self.missing_without_handler(arch) {
            let Advice { command, hint } = self.loader_advice(arch, &loader);
            let commands: Vec<String> = [Some(register), command].into_iter().flatten().collect();
            let hint = hint.map(|hint| format!("it also needs {}: {hint}", display_path(&loader)));
            return ("no handler matches", Advice { command: Some(commands.join("\n")), hint });
        }
        let advice = Advice::from(register);
        if self.known.is_root {
            return ("no handler matches", advice);
        }
        let fetch = if self.known.available.has(arch) { "" } else { "--fetch " };
        ("no handler matches", advice.with_hint(format!("or, without root: qus run {fetch}{}", self.word())))
    }

    /// Returns the path of the loader that the program will need when an emulator starts it, if it is missing. The
    /// emulator is not known yet, so each directory counts in which one may search.
    fn missing_without_handler(&self, arch: &Arch) -> Option<PathBuf> {
        let loader = missing_loader(self.file, None)?;
        let built_in = PREFIXES.map(|prefix| below(Path::new(&format!("{prefix}{}", arch.name)), &loader));
        built_in.iter().all(|path| !path.exists()).then_some(loader)
    }

    fn loader_advice(&self, arch: &Arch, loader: &Path) -> Advice {
        if let Some(root) = cross_libraries(arch, loader) {
            let command = if self.file.path.components().count() > 1 {
                self.word()
            } else {
                format!("./{}", self.word())
            };
            return format!("QEMU_LD_PREFIX={} {command}", shell_word(&root)).into();
        }
        let anywhere =
            "start it in a container or root directory of its architecture, or set QEMU_LD_PREFIX to one";
        let is_glibc =
            loader.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld-linux"));
        match arch.names.debian.first() {
            Some(debian) if is_glibc && Path::new("/usr/bin/dpkg").exists() => {
                Advice::from(foreign_libc(debian)).with_hint(format!("or {anywhere}"))
            }
            _ => Advice::hint(anywhere),
        }
    }

    fn word(&self) -> String {
        shell_word(&self.file.path)
    }
}

/// Reports whether `qus register` finds an interpreter for `preset`. It counts as found if that cannot be checked.
fn has_interpreter(preset: &Preset) -> bool {
    let Ok(host) = self_exe_header() else { return true };
    preset.candidates().iter().any(|path| Executor::check(path, &host).is_ok())
}

/// Reports whether a prediction leaves it possible that the file is started.
fn may_start(end: &End) -> bool {
    matches!(end, End::Starts | End::Unclear { .. })
}

fn denied_advice(denied: AccessError, file: &ExecTarget) -> Advice {
    match denied {
        // A document does not become a program.
        AccessError::NotExecutable if matches!(file.kind, Kind::Unknown | Kind::Empty) => Advice::default(),
        AccessError::NotExecutable => format!("chmod +x {}", shell_word(&file.path)).into(),
        AccessError::NoExec => Advice::hint("copy it to a file system that is not mounted noexec"),
        AccessError::Missing | AccessError::Path(_) | AccessError::NotAFile => Advice::default(),
    }
}

fn unclear(damage: &str) -> Fate {
    let text = format!("{damage}; it is started, but it cannot be known what it does then");
    Fate::unclear(text, Advice::hint("get an undamaged copy"))
}

/// Reports whether `handler` takes all programs that begin with `MZ`.
fn is_for_windows(handler: &Handler) -> bool {
    handler.entry.pattern().is_some_and(|pattern| pattern.magic() == b"MZ")
}

/// Returns the command that starts the class in the file at `path`.
fn java_class(path: &Path) -> String {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let class = path.file_stem().unwrap_or_default();
    format!("java -cp {} {}", shell_word(directory), shell_word(class))
}

/// Returns the path of the dynamic loader that the foreign program `file` needs, if the emulator cannot find it.
/// `built_in` is the directory in which the emulator searches without `QEMU_LD_PREFIX`.
fn missing_loader(file: &ExecTarget, built_in: Option<&Path>) -> Option<PathBuf> {
    let Kind::Elf(Elf { loader: Some(loader), .. }) = &file.kind else { return None };
    let prefix = std::env::var_os("QEMU_LD_PREFIX").map(PathBuf::from);
    let prefix = prefix.as_deref().or(built_in);
    (!loader.exists() && !prefix.is_some_and(|prefix| below(prefix, loader).exists())).then(|| loader.clone())
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Returns the directory below `/usr` with the cross libraries of a distribution that has `loader`, a program of `arch`.
fn cross_libraries(arch: &Arch, loader: &Path) -> Option<PathBuf> {
    let directories = std::fs::read_dir("/usr").ok()?.flatten().map(|entry| entry.path());
    directories
        .filter(|path| path.to_string_lossy().contains("-linux-"))
        .filter(|path| match ExecTarget::inspect(&below(path, loader)).kind {
            Kind::Elf(elf) => elf.arch == Some(arch),
            _ => false,
        })
        .min()
}

/// Returns the command that installs the C library of another architecture, which is called `debian` there.
fn foreign_libc(debian: &str) -> String {
    let install = format!("sudo apt-get update && sudo apt-get install libc6:{debian}");
    format!("sudo dpkg --add-architecture {debian} && {install}")
}

fn no_loader(loader: &Path) -> String {
    format!("the handler works, but the program needs {}, which does not exist here", display_path(loader))
}
