//! `qus which`: what the kernel will do with a file, which handler takes it, or why it will not run.

mod explain;
mod fate;
mod known;
mod report;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;
use goblin::elf::header::{ET_DYN, ET_EXEC};

use self::explain::explain;
use self::known::Known;
use self::report::{Answers, WhichReport, write_text};
use crate::arch::Arch;
use crate::arch::elf::same_machine;
use crate::base::error::Diagnostic;
use crate::base::output::{Output, Status};
use crate::binfmt::Handler;
use crate::binfmt::instance::{Instance, OpenError};
use crate::commands::args::Common;
use crate::handler::exec_target::{Elf, ExecTarget, Kind};
use crate::handler::predict::{End, Step, Table};
use crate::interpreter::self_exe_header;
use crate::interpreter::{is_qemu, versions_of};
use crate::probe::{self, Nativeness, ProbeResult, ProbeTarget, Variant};
use clap::Args;

/// `qus which`.
#[derive(Debug, Args)]
pub struct Which {
    /// Files somebody wants to start
    #[arg(value_name = "FILE", required_unless_present = "files0_from")]
    pub files: Vec<PathBuf>,
    /// Read NUL-terminated names of files from here; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    pub files0_from: Option<PathBuf>,
    /// Do not execute probes: what handlers do is then unverified
    #[arg(long)]
    pub no_verify: bool,
}

pub(super) fn run(args: &Which, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    let names = Names::of(args)?;
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
        // Has every native question asked before the first answer is printed, as `know` does.
        names.iter().for_each(|name| drop(table.predict(&ExecTarget::inspect(name))));
        Known::default()
    } else {
        know(&names, &table, is_mounted)?
    };
    if let Some(problem) = natives.unknown() {
        return Err(problem.into());
    }
    known.describe(&handlers);
    let all_run = Cell::new(true);
    // Each answer is told before the next file is looked at: they may be a hundred thousand.
    let answers = || {
        names.iter().map(|name| {
            let candidate = ExecTarget::inspect(name);
            let answer = explain(&candidate, &table.predict(&candidate), &table, &known);
            all_run.set(all_run.get() && answer.runs);
            (candidate, answer)
        })
    };
    let view = WhichReport { answers: Answers(|| answers().map(|(_, answer)| answer)) };
    let compared = if common.verbose > 0 { handlers.as_slice() } else { &[] };
    output.stream(&view, |data| write_text(answers(), compared, data))?;
    Ok(if all_run.get() { Status::Done } else { Status::No })
}

/// The handlers, newest first, whether the instance is on, and whether it is mounted. Where none is, there are no handlers
/// to see, but those of an ancestor namespace may be in force (K65).
fn table(common: &Common) -> Result<(Vec<Handler>, bool, bool)> {
    match Instance::open(&common.instance) {
        Ok(instance) => {
            let handlers = instance.handlers().map_err(Diagnostic::from)?;
            Ok((handlers, instance.is_enabled().map_err(Diagnostic::from)?, true))
        }
        Err(OpenError::NotMounted(_) | OpenError::NoSupport(_)) => Ok((Vec::new(), true, false)),
        Err(error) => Err(Diagnostic::from(error).into()),
    }
}

/// The names of the files that this is about.
enum Names<'a> {
    Typed(&'a [PathBuf]),
    /// Each ends in a NUL, as `find -print0` writes them.
    Listed(Vec<u8>),
}

impl<'a> Names<'a> {
    fn of(args: &'a Which) -> Result<Self, Diagnostic> {
        let Some(list) = &args.files0_from else { return Ok(Self::Typed(&args.files)) };
        let failed =
            |error: std::io::Error| Diagnostic::new(format!("cannot read {}: {error}", list.display()));
        let mut bytes = Vec::new();
        if list == Path::new("-") {
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
        } else {
            bytes = std::fs::read(list).map_err(failed)?;
        }
        Ok(Self::Listed(bytes))
    }

    fn iter(&self) -> impl Iterator<Item = &Path> {
        let (typed, listed): (&[PathBuf], &[u8]) = match self {
            Self::Typed(typed) => (typed, &[]),
            Self::Listed(listed) => (&[], listed),
        };
        let listed = listed.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let listed = listed.map(|name| Path::new(OsStr::from_bytes(name)));
        typed.iter().map(PathBuf::as_path).chain(listed)
    }
}

/// What stands in for files, and was looked at: of many files it is the same few.
#[derive(Default)]
struct Seen(RefCell<HashMap<PathBuf, Rc<ExecTarget>>>);

impl Seen {
    /// How many are kept: every file of a list could be a script for a program of its own.
    const MOST: usize = 1000;

    fn inspect(&self, path: &Path) -> Rc<ExecTarget> {
        let mut seen = self.0.borrow_mut();
        if let Some(candidate) = seen.get(path) {
            return Rc::clone(candidate);
        }
        let candidate = Rc::new(ExecTarget::inspect(path));
        if seen.len() < Self::MOST {
            seen.insert(path.to_owned(), Rc::clone(&candidate));
        }
        candidate
    }
}

/// The probe that looks to the kernel's handlers like `candidate` does.
fn subject(candidate: &ExecTarget) -> Option<ProbeTarget> {
    let Kind::Elf(Elf { arch, machine, e_type, os_abi, abi_version, .. }) = &candidate.kind else {
        return None;
    };
    let variant = Variant { e_type: *e_type, os_abi: *os_abi, abi_version: *abi_version };
    Some(ProbeTarget { arch: (*arch)?, machine: *machine, variant })
}

/// Executes once each probe that looks like some of the files, and asks each interpreter once.
fn know(names: &Names<'_>, table: &Table<'_>, is_mounted: bool) -> Result<Known, Diagnostic> {
    let mut subjects = HashSet::new();
    let mut interpreters = BTreeSet::new();
    for candidate in names.iter().map(ExecTarget::inspect) {
        let prediction = table.predict(&candidate);
        match prediction.steps.into_iter().next() {
            Some(Step::Handler { interpreter, .. }) => {
                subjects.extend(subject(&candidate));
                interpreters.extend(Some(interpreter).filter(|path| is_qemu(path) && path.is_absolute()));
            }
            _ if !is_mounted && prediction.end != End::Starts => subjects.extend(subject(&candidate)),
            _ => {}
        }
    }
    if subjects.is_empty() {
        return Ok(Known::default());
    }
    let mut subjects: Vec<ProbeTarget> = subjects.into_iter().collect();
    subjects.sort_by_key(|subject| (subject.arch.name, subject.machine, subject.variant));
    let versions = versions_of(interpreters.iter().map(PathBuf::as_path));
    let trials = probe::run(&subjects)
        .map_err(|error| Diagnostic::from(error).with_hint("qus which --no-verify …"))?;
    let trials = subjects.into_iter().zip(trials).collect();
    Ok(Known { trials, versions, ..Known::default() })
}

/// What this host runs itself, found out once for each architecture that is asked about.
struct Natives<'a> {
    host: Vec<u8>,
    own: Option<&'static Arch>,
    handlers: &'a [Handler],
    same_family: RefCell<BTreeMap<&'static str, Nativeness>>,
}

impl<'a> Natives<'a> {
    fn new(handlers: &'a [Handler]) -> Result<Self, Diagnostic> {
        let host = self_exe_header()?;
        Ok(Self { own: Arch::from_header(&host), host, handlers, same_family: RefCell::default() })
    }

    fn runs(&self, file: &ExecTarget) -> bool {
        let Kind::Elf(Elf { arch: Some(arch), e_type: ET_EXEC | ET_DYN, .. }) = &file.kind else {
            return false;
        };
        if same_machine(&file.header, &self.host) {
            return true;
        }
        if !self.own.is_some_and(|own| own.same_family().contains(&arch.name)) {
            return false;
        }
        let mut same_family = self.same_family.borrow_mut();
        same_family.entry(arch.name).or_insert_with(|| Nativeness::of(arch, self.handlers)).is_native()
    }

    /// The error of a prediction that depended on an answer that nobody has.
    fn unknown(&self) -> Option<Diagnostic> {
        self.same_family.borrow().iter().find_map(|(arch, native)| match native {
            Nativeness::Unknown(reason) => Some(Diagnostic::new(format!(
                "cannot find out whether this host runs {arch} itself: {reason}"
            ))),
            _ => None,
        })
    }
}

/// What was executed, by subject.
type Trials = HashMap<ProbeTarget, ProbeResult>;
