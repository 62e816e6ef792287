//! `qus which`: explains what the kernel does with a file: which handler takes it, or why it does not run.

mod explain;
mod fate;
mod files;
mod known;
mod report;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;

use self::files::Files;
use self::known::Known;
use self::report::WhichReport;
use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::escape::display_path;
use crate::base::order::{self, ByArch};
use crate::base::output::{Output, Status};
use crate::binfmt::Handler;
use crate::binfmt::instance::{Instance, OpenError};
use crate::commands::args::{Common, HandlerArg, SELECTION, VERIFICATION, Words, flat, parse_handlers};
use crate::commands::report::print;
use crate::commands::selection::select;
use crate::handler::classify;
use crate::handler::exec_target::{Elf, ExecTarget, Kind};
use crate::handler::predict::{End, Reason, Step, Table};
use crate::handler::table;
use crate::interpreter::self_exe_header;
use crate::interpreter::{is_qemu, versions_of};
use crate::probe::{self, Nativeness, ProbeResult, ProbeTarget, Variant};
use clap::Args;
use nix::unistd::getuid;

/// Arguments of `qus which`.
#[derive(Debug, Args)]
pub struct Which {
    /// Files to check
    #[arg(value_name = "FILE", required_unless_present = "files0_from")]
    pub files: Vec<PathBuf>,
    /// Read NUL-terminated file names from FILE
    ///
    /// Reads NUL-terminated names from FILE, as `find -print0` writes them. `-` is standard input.
    #[arg(help_heading = SELECTION, long, value_name = "FILE", conflicts_with = "files")]
    pub files0_from: Option<PathBuf>,
    /// Compare only these handlers with the file
    ///
    /// Compares only these handlers with the header of the file, byte by byte. An architecture selects its handlers, a
    /// name or a pattern such as 'qemu-*' those of any tool. With -v, all handlers are compared.
    #[arg(help_heading = SELECTION, long, value_name = "HANDLER", value_parser = parse_handlers)]
    pub handler: Vec<Words<HandlerArg>>,
    /// Execute no probes
    ///
    /// Executes no probes. The answers are then unverified.
    #[arg(help_heading = VERIFICATION, long)]
    pub no_verify: bool,
}

pub(super) fn run(args: &Which, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    let files = Files::of(args)?;
    for (name, file) in files.found_in_path(args) {
        output.info(&format!(
            "{} is not a file in this directory; explaining {}",
            display_path(name),
            display_path(file)
        ))?;
    }
    let (handlers, enabled, is_mounted) = table(common)?;
    let natives = Natives::new(&handlers)?;
    let seen = Seen::default();
    let table = Table {
        handlers: &handlers,
        enabled,
        native: &|file| natives.runs(file),
        inspect: &|path| seen.inspect(path),
    };
    let mut known = if args.no_verify {
        // All native probes are executed before the first answer is printed, as in `know`. If there are many files, the
        // probes cost less than a look at each file in advance.
        if !(files.are_many() && natives.determine_all()) {
            files.iter().for_each(|file| drop(table.predict(&ExecTarget::inspect(file))));
        }
        Known::default()
    } else {
        know(&files, &table, is_mounted)?
    };
    if let Some(problem) = natives.unknown() {
        return Err(problem.into());
    }
    known.instance.clone_from(&common.instance);
    known.is_mounted = is_mounted;
    known.is_root = getuid().is_root();
    known.describe(&handlers);
    let compared = compared(args, common, &handlers)?;
    let report = WhichReport {
        files: &files,
        table: &table,
        known: &known,
        compared: &compared,
        running: Cell::new(0),
    };
    print(&report, output)
}

/// Returns the handlers that are compared with each file: those of `--handler`, or all with `-v`.
fn compared<'a>(args: &Which, common: &Common, handlers: &'a [Handler]) -> Result<Vec<&'a Handler>> {
    if args.handler.is_empty() {
        return Ok(if common.verbose > 0 { handlers.iter().collect() } else { Vec::new() });
    }
    let is_of = |handler: &Handler, arch| classify::overlaps_arch(handler, arch);
    Ok(select(handlers, &flat(&args.handler), &[], |_| true, is_of)?.handlers)
}

/// Returns the handlers (newest first), whether the instance is enabled, and whether it is mounted. Without a mount no
/// handler is visible, but handlers of an outer user namespace may be active (K65).
fn table(common: &Common) -> Result<(Vec<Handler>, bool, bool)> {
    match Instance::open(&common.instance) {
        Ok(instance) => {
            let handlers = table::handlers(&instance).map_err(Diagnostic::from)?;
            Ok((handlers, instance.is_enabled().map_err(Diagnostic::from)?, true))
        }
        Err(OpenError::NotMounted(_) | OpenError::NoSupport(_)) => Ok((Vec::new(), true, false)),
        Err(error) => Err(Diagnostic::from(error).into()),
    }
}

/// Cache of inspected interpreters by path. It saves time because many files have the same interpreter.
#[derive(Default)]
struct Seen(RefCell<HashMap<PathBuf, Rc<ExecTarget>>>);

impl Seen {
    /// Largest number of interpreters in the cache. It limits the memory for lists in which every file has a different
    /// interpreter.
    const MOST: usize = 1000;

    fn inspect(&self, path: &Path) -> Rc<ExecTarget> {
        let mut seen = self.0.borrow_mut();
        if let Some(target) = seen.get(path) {
            return Rc::clone(target);
        }
        let target = Rc::new(ExecTarget::inspect(path));
        if seen.len() < Self::MOST {
            seen.insert(path.to_owned(), Rc::clone(&target));
        }
        target
    }
}

/// Returns the probe for `target`. The same handlers match the ELF header of the probe and that of `target`.
fn probe_target(target: &ExecTarget) -> Option<ProbeTarget> {
    let Kind::Elf(Elf { arch, machine, e_type, os_abi, abi_version, .. }) = &target.kind else {
        return None;
    };
    let variant = Variant { e_type: *e_type, os_abi: *os_abi, abi_version: *abi_version };
    Some(ProbeTarget { arch: (*arch)?, machine: *machine, variant })
}

/// Executes one probe for each distinct ELF header in `files`, and reads the version of each interpreter once.
fn know(files: &Files<'_>, table: &Table<'_>, is_mounted: bool) -> Result<Known, Diagnostic> {
    let mut probe_targets = HashSet::new();
    let mut interpreters = BTreeSet::new();
    for target in files.iter().map(ExecTarget::inspect) {
        let prediction = table.predict(&target);
        match prediction.steps.into_iter().next() {
            // A handler of another tool is not executed: its interpreter may start anything.
            Some(Step::Handler { name, interpreter })
                if table
                    .handlers
                    .iter()
                    .any(|handler| handler.name == name && classify::emulated_arch(handler).is_some()) =>
            {
                probe_targets.extend(probe_target(&target));
                interpreters.extend(Some(interpreter).filter(|path| is_qemu(path) && path.is_absolute()));
            }
            // A handler that cannot be seen may take the file, or the interpreter of a script.
            _ if !is_mounted => {
                if let End::Fails { file, reason: Reason::NoHandler, .. } = &prediction.end {
                    probe_targets.extend(probe_target(&(table.inspect)(file)));
                }
            }
            _ => {}
        }
    }
    if probe_targets.is_empty() {
        return Ok(Known::default());
    }
    let mut probe_targets: Vec<ProbeTarget> = probe_targets.into_iter().collect();
    order::sort_by_key(&mut probe_targets, |target| (target.arch.name, target.machine, target.variant));
    let versions = versions_of(interpreters.iter().map(PathBuf::as_path));
    let results = probe::run(&probe_targets)
        .map_err(|error| Diagnostic::from(error).with_hint("use qus which --no-verify …"))?;
    let results = probe_targets.into_iter().zip(results).collect();
    Ok(Known { results, versions, ..Known::default() })
}

/// Answers which architectures the host runs natively, and remembers the answers.
struct Natives<'a> {
    own: Option<&'static Arch>,
    handlers: &'a [Handler],
    same_family: RefCell<ByArch<Nativeness>>,
}

impl<'a> Natives<'a> {
    fn new(handlers: &'a [Handler]) -> Result<Self, Diagnostic> {
        let host = self_exe_header()?;
        Ok(Self { own: Arch::from_header(&host), handlers, same_family: RefCell::default() })
    }

    fn runs(&self, file: &ExecTarget) -> bool {
        let Kind::Elf(Elf { native_arch: Some(arch), .. }) = &file.kind else { return false };
        if self.own == Some(arch) {
            return true;
        }
        if !self.own.is_some_and(|own| own.same_family().contains(&arch.name)) {
            return false;
        }
        let mut same_family = self.same_family.borrow_mut();
        same_family.entry(arch.name).or_insert_with(|| Nativeness::of(arch, self.handlers)).is_native()
    }

    /// Determines all architectures of the host's family. If one of them stays unknown, returns false and keeps no
    /// answer, because perhaps no file depends on it.
    fn determine_all(&self) -> bool {
        let names = self.own.into_iter().flat_map(Arch::same_family);
        let arches = names.filter_map(|name| Arch::named(name).ok());
        let answers = order::by_arch(arches.map(|arch| (arch.name, Nativeness::of(arch, self.handlers))));
        let are_known = answers.values().all(|native| !matches!(native, Nativeness::Unknown(_)));
        if are_known {
            *self.same_family.borrow_mut() = answers;
        }
        are_known
    }

    /// Returns an error if a prediction depends on an architecture of which it is unknown whether the host runs it
    /// natively.
    fn unknown(&self) -> Option<Diagnostic> {
        self.same_family.borrow().iter().find_map(|(arch, native)| match native {
            Nativeness::Unknown(reason) => Some(Diagnostic::new(format!(
                "cannot determine whether this host runs {arch} natively: {reason}"
            ))),
            _ => None,
        })
    }
}

/// Results of the executed probes.
type Results = HashMap<ProbeTarget, ProbeResult>;
