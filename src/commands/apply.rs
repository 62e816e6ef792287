//! `qus apply`: registers the rules in the files of binfmt.d(5), as systemd-binfmt does, but removes no other handlers.

use std::io;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::arch::Arch;
use crate::base::count::count_are;
use crate::base::error::Diagnostic;
use crate::base::escape::{display_path, escape};
use crate::base::output::{Output, Status};
use crate::base::table::{Cell, Table};
use crate::base::terminal::{BAD, GOOD, NOTABLE, TextWriter};
use crate::binfmt::instance::{HandlerError, Instance};
use crate::binfmt::{HEADER_LEN, Handler, HandlerName, Rule};
use crate::boot::binfmt_d::{self, ReadError};
use crate::commands::args::Common;
use crate::commands::instance::{Opened, lifetime_warning, open_to_register, print_scope};
use crate::commands::report::Report;
use crate::handler::apply::{ConfigLine, Guarded, InterpreterFile, Step, steps};
use crate::handler::classify::STAGING_SUFFIX;
use crate::handler::classify::is_stale_staging;
use crate::handler::plan::{self, Registration};
use crate::handler::table;
use crate::handler::transaction::{Staged, remove};
use crate::interpreter::self_exe_header;
use crate::probe::{Nativeness, same_family};
use crate::system::file_id::open_regular;
use crate::system::namespace::{Lifetime, Scope};
use crate::system::ownership::is_roots_alone;
use clap::Args;

/// Path that stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Arguments of `qus apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// Files or directories to read
    ///
    /// Files in the format of binfmt.d(5), directories with such files, or `-` for standard input. If several directories have a file of the
    /// same name, only the first one is read. The default is /etc/binfmt.d, /run/binfmt.d, /usr/local/lib/binfmt.d,
    /// /usr/lib/binfmt.d.
    #[arg(value_name = "FILE|DIR")]
    pub paths: Vec<PathBuf>,
    /// Print what would be done, and do nothing
    ///
    /// Prints what would be done. Nothing is executed or written.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Results of `qus apply`.
#[derive(Serialize)]
pub(crate) struct ApplyReport {
    scope: Scope,
    /// Lifetime of the registered handlers, for example until the next reboot.
    lifetime: Lifetime,
    dry_run: bool,
    items: Vec<AppliedLine>,
}

/// Result of one line of a `binfmt.d` file, or of a file that could not be read.
#[derive(Serialize)]
struct AppliedLine {
    file: PathBuf,
    /// Number of the line in `file`. `None` if the whole file could not be read.
    line: Option<usize>,
    outcome: Outcome,
    name: Option<String>,
    interpreter: Option<String>,
    flags: Option<String>,
    message: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Registered,
    Replaced,
    Unchanged,
    Superseded,
    Refused,
    Failed,
}

impl Outcome {
    fn word(self, dry_run: bool) -> &'static str {
        match self {
            Self::Registered if dry_run => "would register",
            Self::Registered => "registered",
            Self::Replaced if dry_run => "would replace",
            Self::Replaced => "replaced",
            Self::Unchanged => "unchanged",
            Self::Superseded => "superseded",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    fn cell(self, dry_run: bool) -> Cell {
        let style = match self {
            Self::Registered | Self::Replaced | Self::Unchanged => GOOD,
            Self::Superseded => NOTABLE,
            Self::Refused | Self::Failed => BAD,
        };
        Cell::styled(self.word(dry_run), style)
    }

    fn is_active(self) -> bool {
        matches!(self, Self::Registered | Self::Replaced | Self::Unchanged)
    }

    fn is_wrong(self) -> bool {
        matches!(self, Self::Refused | Self::Failed)
    }
}

/// A line of a `binfmt.d` file with a valid rule.
struct Line {
    /// Index of the result of this line in `ApplyReport::items`.
    item: usize,
    rule: Rule,
    interpreter: Option<InterpreterFile>,
}

/// Registers the rules in the files and directories that `args` names, or in the default directories of binfmt.d(5).
pub(crate) fn execute(args: &Apply, common: &Common, output: &mut Output<'_>) -> Result<ApplyReport> {
    let (mut items, lines) = read(&args.paths);
    // At boot it is no error if nothing is configured. A user who names a file expects a rule in it.
    if items.is_empty() && !args.paths.is_empty() {
        return Err(Diagnostic::new(no_rule_in(&args.paths)).into());
    }
    let Opened { instance, scope, lifetime } = open_to_register(args.dry_run, common, output)?;
    let handlers = match &instance {
        Some(instance) => table::handlers(instance).map_err(Diagnostic::from)?,
        None => Vec::new(),
    };
    let requested: Vec<ConfigLine<'_>> = lines
        .iter()
        .map(|line| ConfigLine { rule: &line.rule, interpreter: line.interpreter.as_ref() })
        .collect();
    let steps = steps(
        &requested,
        &handlers,
        &guarded(&lines.iter().map(|line| &line.rule).collect::<Vec<_>>(), &handlers, args.dry_run)?,
    );
    for (line, step) in lines.iter().zip(steps) {
        let (mut outcome, mut message) = planned(&step, &lines, &items);
        if let Some(instance) = &instance
            && !args.dry_run
            && let Err(problem) = carry_out(instance, line, &step, outcome, &handlers)
        {
            (outcome, message) = (Outcome::Failed, Some(problem.into_content().message));
        }
        if let Some(item) = items.get_mut(line.item) {
            item.outcome = outcome;
            item.message = message;
        }
    }
    Ok(ApplyReport { scope, lifetime, dry_run: args.dry_run, items })
}

/// Returns the message that none of the files or directories `paths` has a rule.
fn no_rule_in(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| display_path(path)).collect();
    format!("no rule was found in {}", paths.join(", "))
}

/// Returns the outcome that `step` has if it succeeds, and a message about it. A dry run prints both and executes
/// nothing.
fn planned(step: &Step, lines: &[Line], items: &[AppliedLine]) -> (Outcome, Option<String>) {
    match step {
        Step::Unchanged => (Outcome::Unchanged, None),
        Step::Superseded(later) => {
            let later = lines.get(*later).and_then(|later| items.get(later.item));
            (Outcome::Superseded, later.map(|later| format!("{} has the same name", later.location())))
        }
        Step::Refused(reason) => (Outcome::Refused, Some(reason.clone())),
        Step::Register { replaces: true } => (Outcome::Replaced, None),
        Step::Register { replaces: false } => (Outcome::Registered, None),
    }
}

/// Executes `step` for the rule of `line`. If the rule is then active, removes the staging handlers (temporary
/// handlers) that interrupted runs of qus have left behind for it.
fn carry_out(
    instance: &Instance,
    line: &Line,
    step: &Step,
    planned: Outcome,
    handlers: &[Handler],
) -> Result<(), Diagnostic> {
    if let Step::Register { replaces } = step {
        register(instance, &line.rule, *replaces)?;
    }
    if planned.is_active() {
        remove_stale(instance, handlers, line.rule.name())?;
    }
    Ok(())
}

/// Removes the staging handlers (temporary handlers) that killed qus processes have left behind for the rule `name`.
pub(crate) fn remove_stale(
    instance: &Instance,
    handlers: &[Handler],
    name: &HandlerName,
) -> Result<(), HandlerError> {
    let prefix = [name.as_bytes(), STAGING_SUFFIX.as_bytes()].concat();
    let stale = handlers.iter().map(|handler| &handler.name).filter(|name| is_stale_staging(name));
    stale.filter(|name| name.as_bytes().starts_with(&prefix)).try_for_each(|name| remove(instance, name))
}

/// Reads the `binfmt.d` files that `paths` names, or the default directories if `paths` is empty. Returns a result for
/// each line, and the lines with valid rules.
fn read(paths: &[PathBuf]) -> (Vec<AppliedLine>, Vec<Line>) {
    let (directories, named): (Vec<PathBuf>, Vec<PathBuf>) = if paths.is_empty() {
        (binfmt_d::directories(Path::new("/")), Vec::new())
    } else {
        paths.iter().cloned().partition(|path| path.is_dir())
    };
    let listed = binfmt_d::files(&directories).into_iter().map(|file| (file, true));
    let (mut items, mut lines) = (Vec::new(), Vec::new());
    for directory in paths.iter().filter(|path| directories.contains(path)) {
        if let Err(error) = binfmt_d::check_directory(directory) {
            items.push(AppliedLine::failed(directory, None, error.to_string()));
        }
    }
    for (file, is_listed) in listed.chain(named.into_iter().map(|file| (file, false))) {
        let is_input = !is_listed && file == Path::new(STANDARD_INPUT);
        let read = if is_input { binfmt_d::read_stream(&mut io::stdin()) } else { binfmt_d::read(&file) };
        let read = match read {
            // A broken link masks files of the same name in later directories.
            Err(ReadError::Missing) if is_listed => continue,
            Err(error) => {
                items.push(AppliedLine::failed(&file, None, error.to_string()));
                continue;
            }
            Ok(read) => read,
        };
        for line in read {
            match line.rule {
                Ok(rule) => {
                    let item = items.len();
                    items.push(AppliedLine::new(&file, line.number, &rule));
                    let interpreter = interpreter_file(rule.interpreter());
                    lines.push(Line { item, rule, interpreter });
                }
                Err(error) => items.push(AppliedLine::failed(&file, Some(line.number), error.to_string())),
            }
        }
    }
    (items, lines)
}

/// Reads the header, the owner and the set-id bits of the interpreter file at `path`. Returns `None` if it is no
/// readable regular file.
fn interpreter_file(path: &Path) -> Option<InterpreterFile> {
    let file = open_regular(path).ok()?;
    let metadata = file.metadata().ok()?;
    let mut header = Vec::new();
    file.take(HEADER_LEN as u64).read_to_end(&mut header).ok()?;
    // The kernel pads short files with zeros as well (K34).
    header.resize(HEADER_LEN, 0);
    Some(InterpreterFile {
        header,
        owned_by_root: is_roots_alone(&metadata),
        set_id: metadata.mode() & 0o6000 != 0,
    })
}

/// Returns the file headers that none of `rules` may match: those of scripts and of programs that this host runs
/// natively.
pub(crate) fn guarded(
    rules: &[&Rule],
    handlers: &[Handler],
    dry_run: bool,
) -> Result<Vec<Guarded>, Diagnostic> {
    let own = self_exe_header()?;
    let mut guarded = vec![Guarded::certain(b"#!/bin/sh\n".to_vec()), Guarded::certain(own.clone())];
    let Some(arch) = Arch::from_header(&own) else { return Ok(guarded) };
    guarded.extend(arch.typical_headers().into_iter().map(Guarded::certain));
    for companion in same_family(arch) {
        let headers = companion.typical_headers();
        let takes = |rule: &Rule| headers.iter().any(|header| rule.matcher().matches(header, Path::new("")));
        // A probe is executed only if its result matters.
        if !rules.iter().any(|rule| takes(rule)) {
            continue;
        }
        let native = if dry_run { Nativeness::NotAsked } else { Nativeness::of(companion, handlers) };
        if native == Nativeness::NotAsked {
            tracing::warn!("a dry run does not determine whether this host runs {} natively", companion.name);
        }
        if let Some(reason) = plan::native_refusal(companion, &native) {
            guarded
                .extend(headers.into_iter().map(|header| Guarded { header, reason: Some(reason.clone()) }));
        }
    }
    Ok(guarded)
}

/// Registers `rule`, reads its entry back from the kernel and compares the two. If `replaces` is true, the old handler
/// of the same name is removed only when the new rule is registered.
fn register(instance: &Instance, rule: &Rule, replaces: bool) -> Result<(), Diagnostic> {
    let removes = if replaces { vec![rule.name().clone()] } else { Vec::new() };
    let registration = Registration {
        rules: vec![rule.clone()],
        removes,
        reason: None,
        displaced: Vec::new(),
        narrowed: Vec::new(),
    };
    let staged = Staged::stage(instance, &registration);
    // `apply` executes no probe, so the commit is always confirmed.
    let done = staged.and_then(|staged| staged.commit(instance, &mut || true));
    done.map(|_confirmed| ()).map_err(Diagnostic::from)
}

impl AppliedLine {
    fn new(file: &Path, line: usize, rule: &Rule) -> Self {
        Self {
            file: file.to_owned(),
            line: Some(line),
            outcome: Outcome::Failed,
            name: Some(rule.name().to_string()),
            interpreter: Some(rule.interpreter().to_string_lossy().into()),
            flags: Some(rule.flags().to_string()),
            message: None,
        }
    }

    fn failed(file: &Path, line: Option<usize>, message: String) -> Self {
        Self {
            file: file.to_owned(),
            line,
            outcome: Outcome::Failed,
            name: None,
            interpreter: None,
            flags: None,
            message: Some(message),
        }
    }

    /// Returns the location of the line as `FILE:LINE`, the format in which compilers print locations.
    fn location(&self) -> String {
        let file = display_path(&self.file);
        self.line.map_or_else(|| file.clone(), |line| format!("{file}:{line}"))
    }
}

impl Report for ApplyReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let mut table = Table::new();
        for item in &self.items {
            let detail = item.message.as_ref().or(item.interpreter.as_ref()).map(|message| escape(message));
            let name = item.name.as_ref().map_or_else(|| "-".to_owned(), |name| escape(name));
            let outcome = item.outcome.cell(self.dry_run);
            table.push([item.location().into(), outcome, name.into(), detail.unwrap_or_default().into()]);
        }
        table.write(text)
    }

    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        print_scope(self.scope, output)?;
        let mut status = Status::Done;
        let wrong = self.items.iter().filter(|item| item.outcome.is_wrong()).count();
        let is_new = |item: &&AppliedLine| matches!(item.outcome, Outcome::Registered | Outcome::Replaced);
        let new = self.items.iter().filter(is_new).count();
        if wrong > 0 {
            let mut message = format!("{wrong} of {} rules are not registered", self.items.len());
            if wrong < self.items.len() && !self.dry_run {
                message.push_str("; the others are");
            }
            output.problem(&Diagnostic::new(message))?;
            status = Status::Failed;
        } else if self.items.is_empty() {
            output.info(&no_rule_in(&binfmt_d::directories(Path::new("/"))))?;
        }
        if new > 0 && !self.dry_run {
            output.info(&format!("{} new; run `qus verify` to test them", count_are(new, "handler")))?;
        }
        let has_active = self.items.iter().any(|item| !item.outcome.is_wrong());
        if has_active
            && !self.dry_run
            && let Some(problem) = lifetime_warning(self.lifetime, self.scope)
        {
            output.problem(&problem)?;
            status = Status::Failed;
        }
        Ok(status)
    }
}
