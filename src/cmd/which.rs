//! `qus which`: what the kernel will do with a file, which handler takes it, or why it will not run.

mod explain;
mod report;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use goblin::elf::header::{ET_DYN, ET_EXEC};

use self::explain::{Answer, Known, explain};
use self::report::View;
use super::own_head;
use crate::arch::Arch;
use crate::binfmt::Handler;
use crate::cli::{Common, Which};
use crate::elf::same_machine;
use crate::file::{Candidate, Elf, Kind};
use crate::interpreter::is_qemu;
use crate::kernel::{Instance, OpenError};
use crate::output::{Output, Status};
use crate::prediction::{End, Step, Table};
use crate::probe::{self, Subject, Trial, Variant};
use crate::problem::Problem;
use crate::provenance::Provenance;

pub(super) fn run(args: &Which, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    let files = match &args.files0_from {
        Some(list) => names_in(list)?,
        None => args.files.clone(),
    };
    let (handlers, enabled, is_mounted) = table(common)?;
    let candidates: Vec<Candidate> = files.iter().map(|file| Candidate::look(file)).collect();
    let natives = Natives::new(&handlers)?;
    let table =
        Table { handlers: &handlers, enabled, native: &|file| natives.runs(file), look: &Candidate::look };
    let predictions: Vec<_> = candidates.iter().map(|candidate| table.predict(candidate)).collect();

    let mut subjects: Vec<Subject> = Vec::new();
    let mut interpreters: Vec<&Path> = Vec::new();
    for (candidate, prediction) in candidates.iter().zip(&predictions) {
        let Some(Step::Handler { interpreter, .. }) = prediction.steps.first() else {
            if !is_mounted && prediction.end != End::Starts {
                subjects.extend(subject(candidate));
            }
            continue;
        };
        subjects.extend(subject(candidate));
        interpreters.extend(Some(interpreter.as_path()).filter(|path| is_qemu(path) && path.is_absolute()));
    }
    let mut known = if args.no_verify { Known::default() } else { know(subjects, interpreters)? };
    let paths = handlers.iter().filter_map(|handler| handler.entry.interpreter.clone());
    let fetched = paths.filter(|path| path.is_absolute());
    known.origins = fetched.filter_map(|path| Provenance::of(&path).map(|record| (path, record))).collect();
    let answers: Vec<Answer> = candidates
        .iter()
        .zip(&predictions)
        .map(|(candidate, prediction)| explain(candidate, prediction, &table, &known))
        .collect();
    let status = if answers.iter().all(|answer| answer.runs) { Status::Done } else { Status::No };
    let view = View { answers };
    output.data(&view, || view.text(common.verbose > 0, &candidates, &handlers))?;
    Ok(status)
}

/// The handlers, newest first, whether the instance is on, and whether it is mounted. Where none is, there are no handlers
/// to see, but those of an ancestor namespace may be in force (K65).
fn table(common: &Common) -> Result<(Vec<Handler>, bool, bool)> {
    match Instance::open(&common.instance) {
        Ok(instance) => {
            let handlers = instance.handlers().map_err(Problem::from)?;
            Ok((handlers, instance.is_enabled().map_err(Problem::from)?, true))
        }
        Err(OpenError::NotMounted(_) | OpenError::NoSupport(_)) => Ok((Vec::new(), true, false)),
        Err(error) => Err(Problem::from(error).into()),
    }
}

/// Names that each end in a NUL, as `find -print0` writes them.
fn names_in(list: &Path) -> Result<Vec<PathBuf>, Problem> {
    let failed = |error: std::io::Error| Problem::new(format!("cannot read {}: {error}", list.display()));
    let mut bytes = Vec::new();
    if list == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
    } else {
        bytes = std::fs::read(list).map_err(failed)?;
    }
    let names = bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| PathBuf::from(OsString::from_vec(name.to_vec()))).collect())
}

/// The probe that looks to the kernel's handlers like `candidate` does.
fn subject(candidate: &Candidate) -> Option<Subject> {
    let Kind::Elf(Elf { arch, machine, e_type, os_abi, abi_version, .. }) = &candidate.kind else {
        return None;
    };
    let variant = Variant { e_type: *e_type, os_abi: *os_abi, abi_version: *abi_version };
    Some(Subject { arch: (*arch)?, machine: *machine, variant })
}

/// Executes each probe once, and asks each interpreter once.
fn know(mut subjects: Vec<Subject>, mut interpreters: Vec<&Path>) -> Result<Known, Problem> {
    let key = |subject: &Subject| (subject.arch.name, subject.machine, subject.variant);
    subjects.sort_by_key(key);
    subjects.dedup();
    interpreters.sort_unstable();
    interpreters.dedup();
    if subjects.is_empty() {
        return Ok(Known::default());
    }
    let (trials, versions) = probe::run(&subjects, &interpreters)
        .map_err(|error| Problem::new(error.to_string()).cure("qus which --no-verify …"))?;
    let paths = interpreters.iter().map(|path| path.to_path_buf());
    let versions = paths.zip(versions).filter_map(|(path, version)| Some((path, version?)));
    let trials = subjects.into_iter().zip(trials).collect();
    Ok(Known { trials, versions: versions.collect(), ..Known::default() })
}

/// What this host runs itself, found out once for each architecture that is asked about (U4).
struct Natives<'a> {
    host: Vec<u8>,
    handlers: &'a [Handler],
    companions: RefCell<BTreeMap<&'static str, bool>>,
}

impl<'a> Natives<'a> {
    fn new(handlers: &'a [Handler]) -> Result<Self, Problem> {
        Ok(Self { host: own_head()?, handlers, companions: RefCell::default() })
    }

    fn runs(&self, file: &Candidate) -> bool {
        let Kind::Elf(Elf { arch: Some(arch), e_type: ET_EXEC | ET_DYN, .. }) = &file.kind else {
            return false;
        };
        if same_machine(&file.head, &self.host) {
            return true;
        }
        let own = Arch::of_head(&self.host);
        if !own.is_some_and(|own| own.companions().contains(&arch.name)) {
            return false;
        }
        let mut companions = self.companions.borrow_mut();
        *companions
            .entry(arch.name)
            .or_insert_with(|| probe::runs_natively(arch, self.handlers).unwrap_or(false))
    }
}

/// What was executed, by subject.
type Trials = HashMap<Subject, Trial>;
