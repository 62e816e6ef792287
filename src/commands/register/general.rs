//! `qus register` for presets and for rules of the command line, whose files need not be programs of an architecture.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use super::Register;
use super::persist::Persistence;
use super::report::{ArchResult, Outcome};
use crate::base::error::{Advice, Diagnostic};
use crate::base::escape::{display_path, escape};
use crate::base::shell::shell_line;
use crate::binfmt::instance::{HandlerError, Instance};
use crate::binfmt::{Extension, Flags, Handler, Matcher, Pattern, Rule};
use crate::boot::formats::{ArchRules, Subject};
use crate::boot::persist::{is_stable_path, write_boot_file};
use crate::commands::apply::{guarded, remove_stale};
use crate::handler::apply::InterpreterFile;
use crate::handler::plan::{Decision, Registration};
use crate::handler::preset::{Preset, handler_of};
use crate::handler::rules::{RuleFacts, decide_rules};
use crate::handler::table;
use crate::handler::transaction::Staged;
use crate::interpreter::{CheckError, Executor, self_exe_header};
use crate::probe::{End, Failure, Outcome as ProbeOutcome, ProbeError, Sample, Verification, run_sample};
use crate::system::namespace::Target;
use crate::system::signals::DeferredSignals;

/// Rules that the command line asks for, and their interpreter.
struct Requested {
    /// Name of the preset, or of the handler.
    name: String,
    preset: Option<&'static Preset>,
    rules: Vec<Rule>,
    interpreter: Executor,
}

/// Registers the presets or the rule of the command line. Returns the results, and the reason why the files for the next
/// boot could not be written.
pub(super) fn register(
    args: &Register,
    instance: Option<&Instance>,
    handlers: &[Handler],
    persistence: Option<&Persistence>,
) -> Result<(Vec<ArchResult>, Option<Diagnostic>), Diagnostic> {
    let host = self_exe_header()?;
    let mut items = Vec::new();
    let requests = if args.presets().is_empty() {
        vec![Ok(requested_rule(args, &host)?)]
    } else {
        args.presets().into_iter().map(|preset| requested_preset(preset, args, &host)).collect()
    };
    for request in requests {
        items.push(match request {
            Ok(requested) => {
                let request = Request { requested: &requested, args, handlers, persistence };
                request.fulfil(instance)?
            }
            Err(missing) => *missing,
        });
    }
    let is_written = !args.dry_run && items.iter().any(ArchResult::is_persisted);
    let updated = persistence.filter(|_| is_written).map_or(Ok(()), |own| own.init_system.update());
    Ok((items, updated.err()))
}

/// A request, and the state from which it is decided.
struct Request<'a> {
    requested: &'a Requested,
    args: &'a Register,
    handlers: &'a [Handler],
    persistence: Option<&'a Persistence>,
}

/// Returns the rule that the options of the command line describe.
fn requested_rule(args: &Register, host: &[u8]) -> Result<Requested, Diagnostic> {
    let rule = match &args.rule.rule {
        Some(line) => Rule::parse(line.as_bytes())?,
        None => rule_of_parts(args, host)?,
    };
    let path = rule.interpreter();
    if !path.is_absolute() {
        let message = format!("the interpreter {} is not an absolute path", display_path(path));
        return Err(
            Diagnostic::new(message).with_hint("the kernel would search it in the directory of each program")
        );
    }
    let interpreter = Executor::check(path, host).map_err(|fault| unfit(path, &fault))?;
    Ok(Requested { name: rule.name().to_string(), preset: None, rules: vec![rule], interpreter })
}

/// Builds the rule of `--name` with `--magic` or `--extension`.
fn rule_of_parts(args: &Register, host: &[u8]) -> Result<Rule, Diagnostic> {
    let options = &args.rule;
    let (Some(name), Some(path)) = (&options.name, &args.interpreter) else {
        return Err(Diagnostic::new("--name requires --interpreter, and --magic or --extension"));
    };
    let matcher = match (&options.magic, &options.extension) {
        (Some(magic), _) => {
            let mask = options.mask.as_ref().map(|mask| mask.0.clone());
            let pattern = Pattern::new(options.offset.unwrap_or_default(), magic.0.clone(), mask);
            Matcher::Magic(pattern.map_err(crate::binfmt::RuleError::from)?)
        }
        (None, Some(extension)) => {
            let extension = extension.strip_prefix('.').unwrap_or(extension);
            Matcher::Extension(Extension::new(extension)?)
        }
        (None, None) => return Err(Diagnostic::new("--name requires --magic or --extension")),
    };
    let interpreter = Executor::check(path, host).map_err(|fault| unfit(path, &fault))?;
    let flags = options.flags.unwrap_or_else(|| flags_for(&interpreter));
    Ok(Rule::new(name.clone(), matcher, interpreter.path, flags)?)
}

/// Returns the default flags: `F` for a static program, which then runs in containers too. Any other interpreter needs
/// further files anyway; without `F`, an update of its file takes effect at once.
fn flags_for(interpreter: &Executor) -> Flags {
    if interpreter.needs.is_none() { Flags::FIX_BINARY } else { Flags::empty() }
}

fn unfit(path: &Path, fault: &CheckError) -> Diagnostic {
    let problem = Diagnostic::new(format!("{} {fault}", display_path(path)));
    fault.command(path).map_or(problem.clone(), |command| problem.with_command(command))
}

/// Finds the interpreter of `preset`, and returns its rules. The error is the result that no interpreter was found.
fn requested_preset(
    preset: &'static Preset,
    args: &Register,
    host: &[u8],
) -> Result<Requested, Box<ArchResult>> {
    let candidates = args.interpreter.as_ref().map_or_else(|| preset.candidates(), |path| vec![path.clone()]);
    let mut reasons = Vec::new();
    for path in candidates {
        let problem = match Executor::check(&path, host) {
            Ok(interpreter) => match preset.rules(&interpreter.path, flags_for(&interpreter)) {
                Ok(rules) => {
                    return Ok(Requested {
                        name: preset.name.to_owned(),
                        preset: Some(preset),
                        rules,
                        interpreter,
                    });
                }
                Err(error) => error.to_string(),
            },
            Err(fault) => fault.to_string(),
        };
        reasons.push(format!("{} {problem}", display_path(&path)));
    }
    let message = if reasons.is_empty() {
        format!("no interpreter was found: {}", preset.interpreters.join(", "))
    } else {
        reasons.join("; ")
    };
    let mut item = ArchResult::named(preset.name);
    item.set_missing(message, Advice::hint(preset.hint));
    Err(Box::new(item))
}

impl Request<'_> {
    /// Decides about the request, and executes the decision unless this is a dry run.
    fn fulfil(&self, instance: Option<&Instance>) -> Result<ArchResult, Diagnostic> {
        let Self { requested, args, handlers, .. } = *self;
        let rules = &requested.rules;
        let sample = requested.preset.map(|preset| preset.sample);
        let sample = sample.filter(|_| !args.no_verify && !args.dry_run);
        let mut checked = Checked::NotRun(None);
        let mut decision = self.decide(None)?;
        if let (Decision::Unchanged(_), Some(sample), Some(instance)) = (&decision, sample, instance) {
            checked = check(instance, sample, requested);
            if let Checked::Failed(reason) = &checked {
                decision = self.decide(Some(reason.clone()))?;
            }
        }
        let command = self.replace_command();
        let mut item = ArchResult::of_rules(&requested.name, &decision, rules, handlers, command);
        if let (Decision::Register(registration), Some(instance)) = (&decision, instance)
            && !args.dry_run
        {
            match execute(instance, registration, requested, sample, handlers) {
                Ok(result) => checked = result,
                Err(problem) => {
                    item.fail(Outcome::Failed, problem);
                    return Ok(item);
                }
            }
        }
        item.record(&checked, requested);
        if let Some(persistence) = self.persistence {
            self.persist(persistence, instance, &mut item);
        }
        Ok(item)
    }

    /// Decides what to do. `broken` is the reason why the registered handlers do not work, if an execution showed that.
    fn decide(&self, broken: Option<String>) -> Result<Decision, Diagnostic> {
        let Requested { rules, interpreter, .. } = self.requested;
        let guarded = guarded(&rules.iter().collect::<Vec<_>>(), self.handlers, self.args.dry_run)?;
        let file = InterpreterFile {
            header: interpreter.header.clone(),
            owned_by_root: interpreter.owned_by_root,
            set_id: false,
        };
        let decision = decide_rules(
            rules,
            &RuleFacts {
                handlers: self.handlers,
                guarded: &guarded,
                interpreter: &file,
                replace: self.args.replace,
                broken,
            },
        );
        let Some(persistence) = self.persistence else { return Ok(decision) };
        let is_own = matches!(decision, Decision::Register(_) | Decision::Unchanged(_));
        if is_own && !is_stable_path(&interpreter.path, interpreter.owned_by_root) {
            let path = display_path(&interpreter.path);
            let reason = format!("{path} may be missing or changed at the next boot");
            let advice =
                Advice::hint("install it as root, for example in /usr/local/bin, and register it from there");
            return Ok(Decision::Refused { reason, advice });
        }
        let subject = self.subject();
        let set = ArchRules { subject: subject.clone(), rules: rules.clone(), copied: false };
        Ok(persistence.checked(&subject, decision, Some(&set)))
    }

    /// Returns the command that repeats the request with `--replace`.
    fn replace_command(&self) -> String {
        let Self { requested, args, .. } = self;
        // The containers of root have other namespaces.
        let root = if matches!(args.target, Some(Target::Engine(_))) { None } else { Some("sudo") };
        let words = root.into_iter().chain(["qus", "register", "--replace"]);
        let mut words: Vec<OsString> = words.map(OsString::from).collect();
        words.extend(args.target.iter().flat_map(|target| ["--in".into(), target.to_string().into()]));
        words.extend(args.persist.then(|| "--persist".into()));
        if let (None, Some(rule)) = (requested.preset, requested.rules.first()) {
            words.extend(["--rule".into(), OsString::from_vec(rule.to_line())]);
        } else {
            words.extend(args.no_verify.then(|| "--no-verify".into()));
            words.extend(args.interpreter.iter().flat_map(|path| ["--interpreter".into(), path.into()]));
            words.push(requested.name.clone().into());
        }
        shell_line(&words)
    }

    fn subject(&self) -> Subject {
        Subject::Other(self.requested.name.clone())
    }

    /// Writes the file that registers the rules at boot, and records it in `item`. A dry run only records it.
    fn persist(&self, persistence: &Persistence, instance: Option<&Instance>, item: &mut ArchResult) {
        let subject = self.subject();
        let (false, Some(instance)) = (self.args.dry_run, instance) else {
            item.would_be_persisted(&subject);
            return;
        };
        if !item.is_served() {
            return;
        }
        if item.outcome == Outcome::Existing {
            if let Some(file) = persistence.persisted_by_another_tool(&subject, item, self.handlers) {
                item.persisted_by(file);
            } else {
                let problem = Diagnostic::new("another tool registered it, and no file registers it at boot");
                item.not_persisted(problem.with_command(self.replace_command()));
            }
            return;
        }
        let written = Persistence::registered(instance, subject, item);
        match written.and_then(|set| write_boot_file(&set)) {
            Ok(path) => item.persisted_by(path),
            Err(problem) => item.not_persisted(problem),
        }
    }
}

/// Result of the execution of a sample.
enum Checked {
    /// The sample was executed.
    Works(Verification),
    /// The sample failed, with the reason.
    Failed(String),
    /// No sample was executed; the reason, if one was to be executed.
    NotRun(Option<String>),
}

/// Registers and verifies the rules of `registration`. If the sample fails, restores the previous state.
fn execute(
    instance: &Instance,
    registration: &Registration,
    requested: &Requested,
    sample: Option<Sample>,
    handlers: &[Handler],
) -> Result<Checked, Diagnostic> {
    let _deferred = DeferredSignals::begin();
    for rule in &registration.rules {
        remove_stale(instance, handlers, rule.name())?;
    }
    let staged = Staged::stage(instance, registration)?;
    let check = || sample.map_or(Checked::NotRun(None), |sample| check(instance, sample, requested));
    let checked = check();
    if matches!(checked, Checked::Failed(_)) {
        staged.rollback(instance)?;
        return Ok(checked);
    }
    let mut failed = None;
    let mut confirm = || match check() {
        Checked::Failed(reason) => {
            failed = Some(reason);
            false
        }
        _ => true,
    };
    staged.commit(instance, &mut confirm)?;
    Ok(failed.map_or(checked, Checked::Failed))
}

/// Executes `sample` through the kernel.
fn check(instance: &Instance, sample: Sample, requested: &Requested) -> Checked {
    match in_front(instance, sample, requested) {
        Err(problem) => return Checked::NotRun(Some(problem.to_string())),
        Ok(Some(name)) => return Checked::Failed(Failure::Shadowed(Some(name)).to_string()),
        Ok(None) => {}
    }
    match run_sample(sample) {
        Err(error @ ProbeError::Interrupted) => Checked::Failed(error.to_string()),
        Err(error) => Checked::NotRun(Some(error.to_string())),
        Ok(None) => Checked::NotRun(Some("qus has no such file for this host".to_owned())),
        Ok(Some(result)) => match failure(&result.host, sample, requested) {
            Some(reason) => Checked::Failed(reason),
            None => Checked::Works(Verification {
                argv0: false,
                empty_root: result
                    .empty_root
                    .is_some_and(|outcome| failure(&outcome, sample, requested).is_none()),
                interpreter: result.host.started,
            }),
        },
    }
}

/// Returns the name of the handler that takes `sample` although it has none of the requested rules. Another interpreter
/// would then execute the sample.
fn in_front(
    instance: &Instance,
    sample: Sample,
    requested: &Requested,
) -> Result<Option<String>, HandlerError> {
    let handlers = table::handlers(instance)?;
    let first = handler_of(sample, &handlers);
    let other = first.filter(|first| !requested.rules.iter().any(|rule| first.entry.is(rule)));
    Ok(other.map(|other| other.name.to_string()))
}

/// Returns the reason why `outcome` does not show that the interpreter executed `sample`.
fn failure(outcome: &ProbeOutcome, sample: Sample, requested: &Requested) -> Option<String> {
    match outcome.end {
        End::Exited(status) if sample.is_success(status) => {
            // With `F` the kernel can hold an old file. Without it, the kernel opens the file at the path, and the
            // interpreter may have started another program already: `jexec` starts `java`.
            let is_held = requested.rules.iter().any(|rule| rule.flags().contains(Flags::FIX_BINARY));
            let is_other = is_held
                && !requested.interpreter.is_script
                && outcome.started.is_some_and(|started| started != requested.interpreter.id);
            is_other.then(|| "the kernel started another file than the interpreter".to_owned())
        }
        end => {
            let line = outcome.output.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            let output = if line.is_empty() { String::new() } else { format!(": {}", escape(line)) };
            Some(format!("a test file of this kind {end}{output}"))
        }
    }
}

impl ArchResult {
    /// Records what the execution of a sample has shown, and which files the interpreter needs.
    fn record(&mut self, checked: &Checked, requested: &Requested) {
        match checked {
            Checked::Failed(reason) => {
                self.fail(Outcome::VerificationFailed, Diagnostic::new(reason.clone()));
                return;
            }
            Checked::Works(verification) => self.verified_by_sample(*verification),
            Checked::NotRun(Some(reason)) => self.remark(reason),
            Checked::NotRun(None) => {}
        }
        if let Some(needs) = &requested.interpreter.needs
            && self.is_served()
        {
            let has_f = requested.rules.iter().any(|rule| rule.flags().contains(Flags::FIX_BINARY));
            self.remark(&needs_text(&requested.interpreter, needs, has_f));
        }
    }
}

/// Describes which files must be in the root directory of a program, so that the interpreter can be started there.
fn needs_text(interpreter: &Executor, needs: &[u8], has_f: bool) -> String {
    let (path, needs) = (display_path(&interpreter.path), needs.escape_ascii());
    match (interpreter.is_script, has_f) {
        (true, _) => {
            format!("it is a script: works only where {path} and {needs} exist, so not in most containers")
        }
        (false, true) => {
            format!("it is dynamically linked: works only where {needs} and its libraries exist")
        }
        (false, false) => {
            format!("it is dynamically linked: works only where {path}, {needs} and its libraries exist")
        }
    }
}
