//! Gathers the facts from which `qus register` decides what to do.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Register;
use super::interpreter_source::InterpreterSource;
use crate::arch::{ARCHES, Arch};
use crate::base::error::{Advice, Diagnostic};
use crate::base::escape::display_path;
use crate::base::order::{self, ByArch};
use crate::base::shell::{shell_line, shell_word};
use crate::binfmt::{Flags, Handler};
use crate::commands::args::{Common, named};
use crate::handler::classify;
use crate::handler::classify::emulator_path;
use crate::handler::plan::Facts;
use crate::interpreter::fetch::{self, FetchRequest};
use crate::interpreter::store;
use crate::interpreter::{
    CheckError, Interpreter, QemuVersion, SearchResult, VersionReq, default_search_dirs, describe_dirs,
    search, versions_of,
};
use crate::interpreter::{is_of, self_exe_header};
use crate::probe::{self, Expected, Failure, Nativeness, ProbeTarget, Verification, judge, same_family};
use crate::system::namespace::Target;

/// Interpreters that were loaded into memory or copied to a permanent directory, by the name of the architecture.
pub(super) type Placed = ByArch<Interpreter>;

/// State of the download of missing interpreters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Download {
    /// The command line has no `--fetch`.
    NotRequested,
    /// A dry run with `--fetch` downloads nothing.
    Omitted,
    /// Missing interpreters were downloaded, as far as the package has them.
    Done,
}

/// The facts from which `qus register` decides what to do for each architecture.
pub(super) struct Inputs {
    /// All handlers of the instance, newest first.
    pub(super) handlers: Vec<Handler>,
    /// File header of a program that this host runs natively. The program is qus itself.
    pub(super) host: Vec<u8>,
    /// Architectures that are selected for registration.
    pub(super) arches: Vec<&'static Arch>,
    /// Directories that were searched for interpreters.
    pub(super) search_dirs: Vec<PathBuf>,
    /// True if `--interpreter-dir` named these directories.
    are_dirs_named: bool,
    /// True if probes are executed to verify handlers.
    pub(super) verify: bool,
    /// State of the download of missing interpreters (`--fetch`).
    pub(super) download: Download,
    /// Beginning of a suggested command: `qus register`, with `sudo` unless the target is a rootless engine.
    pub(super) register: &'static str,
    /// Options of the command line that a suggested `qus register` command repeats, each followed by a space.
    pub(super) selection: String,
    /// The same for a command that gets the interpreters from another source. Contains `--replace` if it was given.
    kept: String,
    /// Results of the search for interpreters, by the name of the architecture: the interpreter that was found, and
    /// rejected files.
    pub(super) found: ByArch<SearchResult>,
    /// Sources of the interpreters that will be loaded into memory, by the name of the architecture.
    pub(super) to_memory: ByArch<InterpreterSource>,
    /// Sources of the interpreters that will be copied to a permanent directory, by the name of the architecture.
    pub(super) to_copy: ByArch<InterpreterSource>,
    /// Package or other source that `--from` names.
    source: Option<PathBuf>,
    /// The version of QEMU that `--qemu-version` requires.
    pub(super) version: Option<VersionReq>,
    /// Reasons why interpreters in the source of `--from` were refused, by the name of the architecture.
    refused: ByArch<String>,
    /// Answers whether the host runs an architecture natively, for its own architecture and others of the same family. All
    /// architectures that are not in this map are foreign.
    natives: ByArch<Nativeness>,
    verdicts: ByArch<Result<Verification, Failure>>,
    /// Faults of the interpreter files of active handlers, by the name of the architecture. Empty if probes are
    /// executed.
    faults: ByArch<String>,
    versions: BTreeMap<PathBuf, QemuVersion>,
}

impl Inputs {
    /// Returns the facts that the command line `args` contains.
    fn of(args: &Register, handlers: Vec<Handler>) -> Result<Self, Diagnostic> {
        let kept = kept_options(args);
        Ok(Self {
            handlers,
            host: self_exe_header()?,
            arches: named(&args.arches).unwrap_or_default(),
            search_dirs: Vec::new(),
            are_dirs_named: !args.source.interpreter_dir.is_empty(),
            verify: !args.no_verify && !args.dry_run,
            download: match (args.source.fetch, args.dry_run) {
                (false, _) => Download::NotRequested,
                (true, true) => Download::Omitted,
                (true, false) => Download::Done,
            },
            // The containers of root have other namespaces than those of a rootless engine.
            register: match args.target {
                Some(Target::Engine(_)) => "qus register",
                _ => "sudo qus register",
            },
            selection: selection(args, &kept),
            kept: if args.replace { format!("--replace {kept}") } else { kept },
            found: ByArch::new(),
            to_memory: ByArch::new(),
            to_copy: ByArch::new(),
            source: args.source.from.clone(),
            version: args.source.required.qemu_version.clone(),
            refused: ByArch::new(),
            natives: ByArch::new(),
            verdicts: ByArch::new(),
            faults: ByArch::new(),
            versions: BTreeMap::new(),
        })
    }

    /// Gathers the facts for the command line `args`. `handlers` are all handlers of the instance.
    pub(super) fn gather(
        args: &Register,
        common: &Common,
        handlers: Vec<Handler>,
    ) -> Result<Self, Diagnostic> {
        let mut inputs = Self::of(args, handlers)?;
        inputs.find_natives(args.dry_run);
        inputs.find_interpreters(args, common.quiet)?;
        let is_named = args.interpreter.is_some() || args.source.is_named();
        if !is_named {
            inputs.find_bundled()?;
        }
        if args.in_memory {
            inputs.find_in_files()?;
        }
        if inputs.arches.is_empty() {
            inputs.arches = inputs.all()?;
        }
        inputs.probe_existing()?;
        if args.persist {
            inputs.choose_persistent_paths()?;
        }
        Ok(inputs)
    }

    /// Returns the facts about `arch` from which its decision is made.
    pub(super) fn facts(&self, arch: &Arch) -> Facts<'_> {
        Facts {
            interpreter: self.interpreter(arch),
            native: self.natives.get(arch.name).unwrap_or(&Nativeness::Foreign),
            verdict: self.verdicts.get(arch.name),
            unfit: self.faults.get(arch.name).map(String::as_str),
        }
    }

    /// Returns the interpreter that was found for `arch`.
    pub(super) fn interpreter(&self, arch: &Arch) -> Option<&Interpreter> {
        self.found.get(arch.name)?.interpreter.as_ref()
    }

    /// Returns the files that are named like an interpreter for `arch` but were rejected, each with the reason.
    pub(super) fn rejected(&self, arch: &Arch) -> &[(PathBuf, CheckError)] {
        self.found.get(arch.name).map(|found| found.unfit.as_slice()).unwrap_or_default()
    }

    /// Returns the reason why the source of `--from` has no interpreter for `arch`. `None` without `--from`.
    pub(super) fn not_in_source(&self, arch: &Arch) -> Option<String> {
        let source = display_path(self.source.as_ref()?);
        Some(match self.refused.get(arch.name) {
            Some(reason) => {
                format!("the interpreter in {source} {}", reason.lines().next().unwrap_or_default())
            }
            None => format!("{source} has no interpreter for it"),
        })
    }

    /// Returns the QEMU version of the interpreter at `path`, if it is known.
    pub(super) fn version(&self, path: &Path) -> Option<&QemuVersion> {
        self.versions.get(path)
    }

    /// Determines which architectures the host runs natively: its own, and those of its family whose probes run without
    /// a handler.
    fn find_natives(&mut self, dry_run: bool) {
        let Some(own) = Arch::from_header(&self.host) else { return };
        self.natives.insert(own.name, Nativeness::Native);
        let asked_for = |arch: &&Arch| self.arches.is_empty() || self.arches.contains(arch);
        for arch in same_family(own).filter(asked_for) {
            let answer = if dry_run { Nativeness::NotAsked } else { Nativeness::of(arch, &self.handlers) };
            self.natives.insert(arch.name, answer);
        }
    }

    /// Reports whether it is certain that the host runs programs of `arch` natively.
    fn is_native(&self, arch: &Arch) -> bool {
        self.natives.get(arch.name).is_some_and(Nativeness::is_native)
    }

    fn find_interpreters(&mut self, args: &Register, quiet: bool) -> Result<(), Diagnostic> {
        if let Some(path) = &args.interpreter {
            return self.take_interpreter(path);
        }
        if let Some(source) = &args.source.from {
            if args.dry_run {
                return Err(not_fetched(args, source));
            }
            let arches = (!self.arches.is_empty()).then(|| self.arches.clone());
            let (sha256, dest) = (args.source.required.sha256, args.dest.as_deref());
            let (from, version) = (Some(source.as_path()), self.version.as_ref());
            let request = FetchRequest { arches, from, sha256, dest, is_dest_named: true, version };
            let fetched = fetch::fetch(&request, quiet)?;
            if fetched.files.is_empty()
                && let Some(problem) = fetched.problem()
            {
                return Err(problem);
            }
            // The directory may contain files from other sources, so only the fetched files are used.
            let mut found = fetched.found(&self.host);
            found.retain(|name, _| Arch::from_qemu_target(name).is_some_and(|arch| self.is_wanted(arch)));
            self.found = found;
            self.search_dirs = vec![fetched.dest];
            self.refused = order::by_arch(fetched.refused.into_iter().map(|file| (file.arch, file.reason)));
            return Ok(());
        }
        self.search_dirs = if args.source.interpreter_dir.is_empty() {
            let fetched = args.dest.iter().cloned().chain(store::all_fetched());
            default_search_dirs(&fetched.collect::<Vec<_>>())
        } else {
            args.source.interpreter_dir.clone()
        };
        self.search();
        if args.source.fetch && !args.dry_run {
            let missing = self.missing(args.replace);
            if !missing.is_empty() {
                let (dest, version) = (args.dest.as_deref(), self.version.as_ref());
                let arches = Some(missing);
                let request =
                    FetchRequest { arches, from: None, sha256: None, dest, is_dest_named: true, version };
                let fetched = fetch::fetch(&request, quiet)?;
                for (arch, found) in fetched.found(&self.host) {
                    self.found.insert(arch, found);
                }
            }
        }
        Ok(())
    }

    /// Checks the file `path` of `--interpreter`, and records it for the only selected architecture. Fails if the file
    /// is unusable.
    fn take_interpreter(&mut self, path: &Path) -> Result<(), Diagnostic> {
        let [arch] = self.arches.as_slice() else {
            return Err(Diagnostic::new("--interpreter requires exactly one architecture")
                .with_hint(format!("name one: qus register --interpreter {} ARCH", shell_word(path))));
        };
        let interpreter = Interpreter::check(path, &self.host).map_err(|fault| {
            let problem = Diagnostic::new(format!("{} {fault}", display_path(path)));
            let command = fault.command(path).map(Advice::from);
            problem.with_advice(command.unwrap_or_else(|| self.fetch_advice(arch.name)))
        })?;
        let found = SearchResult { interpreter: Some(interpreter), unfit: Vec::new() };
        self.found.insert(arch.name, found);
        Ok(())
    }

    fn search(&mut self) {
        let version = self.version.as_ref();
        self.found = search(&self.search_dirs, &self.host, |arch, path| {
            self.is_wanted(arch) && is_of(version, arch, path)
        });
    }

    /// Reports whether `arch` is selected: by its name, or by `all` if the host does not run it natively.
    pub(super) fn is_wanted(&self, arch: &'static Arch) -> bool {
        if self.arches.is_empty() { !self.is_native(arch) } else { self.arches.contains(&arch) }
    }

    /// Returns the selected architectures whose interpreters have to be fetched. They have no interpreter and no
    /// handler that stays, and the host does not run them natively.
    fn missing(&self, replace: bool) -> Vec<&'static Arch> {
        let all: Vec<&'static Arch> = ARCHES.iter().collect();
        let arches = if self.arches.is_empty() { &all } else { &self.arches };
        let is_missing = |arch: &&&'static Arch| {
            let served = !replace
                && classify::active_handler(arch, &self.handlers).is_some_and(|handler| {
                    classify::emulated_arch(handler) == Some(**arch)
                        && classify::wrong_emulator(handler).is_none()
                        && handler.entry.flags.contains(Flags::FIX_BINARY)
                });
            self.interpreter(arch).is_none() && !served && !self.is_native(arch)
        };
        arches.iter().filter(is_missing).copied().collect()
    }

    /// Returns every architecture that has an interpreter and that the host does not run natively. Fails if there is
    /// none.
    fn all(&self) -> Result<Vec<&'static Arch>, Diagnostic> {
        let all: Vec<&'static Arch> =
            ARCHES.iter().filter(|arch| !self.is_native(arch) && self.interpreter(arch).is_some()).collect();
        if !all.is_empty() {
            return Ok(all);
        }
        let rejected = self.found.values().flat_map(|found| &found.unfit);
        let rejected = rejected.map(|(path, fault)| format!("\n{} {}", path.display(), first_line(fault)));
        let message = self.no_interpreter() + &rejected.collect::<String>();
        Err(Diagnostic::new(message).with_advice(self.fetch_advice("all")))
    }

    /// Returns the advice for architectures without interpreter. `word` names them.
    pub(super) fn fetch_advice(&self, word: &str) -> Advice {
        if self.download == Download::Done {
            return Advice::hint(
                "the package has none either; name another source: qus register --from SRC …",
            );
        }
        // The command does not repeat the source of the interpreters, which has none.
        let command = format!("{} --fetch {}{word}", self.register, self.kept);
        match &self.version {
            // Only the download shows which version the distribution has.
            Some(version) => Advice::hint(format!("if the distribution has QEMU {version}: {command}")),
            None => command.into(),
        }
    }

    /// Returns the message that no interpreter was found, with the required version of QEMU, if any, and the
    /// directories.
    pub(super) fn no_interpreter(&self) -> String {
        let search_dirs = describe_dirs(&self.search_dirs, self.are_dirs_named);
        match &self.version {
            Some(version) => format!("no interpreter of QEMU {version} is in {search_dirs}"),
            None => format!("no interpreter is in {search_dirs}"),
        }
    }

    /// Executes a probe for the active handler of each selected architecture, and records whether it works. If probes
    /// are switched off, checks the files of the handlers' interpreters instead.
    fn probe_existing(&mut self) -> Result<(), Diagnostic> {
        let served: Vec<(&'static Arch, &Handler)> = self
            .arches
            .iter()
            .filter(|arch| !self.is_native(arch))
            .filter_map(|arch| classify::active_handler(arch, &self.handlers).map(|handler| (*arch, handler)))
            .collect();
        if served.is_empty() {
            return Ok(());
        }
        if !self.verify {
            for (arch, handler) in served {
                if let Some(reason) = interpreter_fault(handler, &self.host) {
                    self.faults.insert(arch.name, reason);
                }
            }
            return Ok(());
        }
        let targets: Vec<ProbeTarget> =
            served.iter().filter_map(|(arch, _)| ProbeTarget::all_of(arch).next()).collect();
        let results = probe::run(&targets).map_err(|error| Diagnostic::from(error).with_hint(NO_VERIFY))?;
        for ((arch, handler), result) in served.iter().zip(&results) {
            let preserve_argv0 = handler.entry.flags.contains(Flags::PRESERVE_ARGV0);
            let expected = Expected { preserve_argv0, interpreter: None, in_front: None };
            self.verdicts.insert(arch.name, judge(result, &expected));
        }
        self.versions = versions_of(served.iter().filter_map(|(_, handler)| emulator_path(handler)));
        Ok(())
    }
}

/// Returns the error that a dry run cannot use `--from`, because a dry run reads no source.
fn not_fetched(args: &Register, source: &Path) -> Diagnostic {
    let mut words: Vec<OsString> = ["qus", "fetch", "--from"].map(OsString::from).to_vec();
    words.push(source.into());
    let sha256 = args.source.required.sha256.map(|digest| ("--sha256", digest.to_string().into()));
    let version = args
        .source
        .required
        .qemu_version
        .as_ref()
        .map(|version| ("--qemu-version", version.to_string().into()));
    let dest = args.dest.as_ref().map(|dest| ("--dest", dest.clone().into_os_string()));
    for (option, value) in sha256.into_iter().chain(version).chain(dest) {
        words.extend([OsString::from(option), value]);
    }
    let arches = named(&args.arches);
    let names = arches.iter().flatten().map(|arch| OsString::from(arch.name));
    words.extend(if arches.is_none() { vec!["all".into()] } else { names.collect() });
    let message = format!("cannot plan with {}: a dry run downloads nothing", display_path(source));
    Diagnostic::new(message).with_command(shell_line(&words))
}

/// Returns the options of `args` that a suggested `qus register` command repeats, each followed by a space. `kept` are
/// the options that do not name a source of interpreters.
fn selection(args: &Register, kept: &str) -> String {
    let interpreter = args.interpreter.iter().map(|path| ("--interpreter", path));
    let directories = args.source.interpreter_dir.iter().map(|path| ("--interpreter-dir", path));
    let source = args.source.from.iter().map(|path| ("--from", path));
    let paths = interpreter.chain(directories).chain(source);
    let words = paths.map(|(option, path)| format!("{option} {} ", shell_word(path)));
    let sha256 = args.source.required.sha256.map(|digest| format!("--sha256 {digest} "));
    [kept.to_owned()].into_iter().chain(words).chain(sha256).collect()
}

/// Returns the options of `args` that every suggested `qus register` command repeats, each followed by a space: all
/// options that neither name a source of interpreters nor are added by a suggestion.
fn kept_options(args: &Register) -> String {
    let version = args.source.required.qemu_version.as_ref();
    let switches = [
        (args.persist, "--persist "),
        (args.in_memory, "--in-memory "),
        (args.credentials, "--credentials "),
        (args.no_verify, "--no-verify "),
        (args.force_native, "--force-native "),
        (args.hold, "--hold "),
    ];
    let values = [
        args.target.map(|target| format!("--in {target} ")),
        args.dest.as_ref().map(|path| format!("--dest {} ", shell_word(path))),
        version.map(|version| format!("--qemu-version {version} ")),
    ];
    let switches = switches.into_iter().filter(|(given, _)| *given).map(|(_, switch)| switch.to_owned());
    values.into_iter().flatten().chain(switches).collect()
}

/// Hint for systems on which no probe can be executed.
pub(super) const NO_VERIFY: &str = "use qus register --no-verify …; the handlers are then unverified";

/// Checks the file at the path of the handler's interpreter, and returns its fault, if any. A handler with the flag `F`
/// does not need that file (K49). For such a handler, the only fault is a file that is not static.
fn interpreter_fault(handler: &Handler, host: &[u8]) -> Option<String> {
    let path = handler.entry.interpreter.as_deref()?;
    let fault = Interpreter::check(path, host).err()?;
    let pinned = handler.entry.flags.contains(Flags::FIX_BINARY);
    match fault {
        CheckError::Dynamic(_) => Some(format!("its interpreter {}", first_line(&fault))),
        _ if pinned => None,
        _ => Some(format!("its interpreter {}", first_line(&fault))),
    }
}

/// Returns the first line of the text of `fault`. The other lines explain the first one.
pub(super) fn first_line(fault: &CheckError) -> String {
    fault.to_string().lines().next().unwrap_or_default().to_owned()
}
