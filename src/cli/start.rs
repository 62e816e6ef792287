//! Runs the program `qus`: parses the command line, runs the command, and returns the exit status.

use std::error::Error as _;
use std::ffi::OsString;
use std::io::{self, LineWriter, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser as _};
use nix::sys::prctl;

use super::compat::CompatTool;
use super::{Cli, subcommand};
use crate::arch::UnknownArch;
use crate::base::error::{Advise as _, Diagnostic};
use crate::base::log;
use crate::base::output::{NotRun, Output, Status};
use crate::base::reader::{Download, set_abilities};
use crate::base::terminal::{Terminal, width_of};
use crate::commands;
use crate::commands::instance::name_in_advice;
use crate::package::has_package_manager;
use crate::probe;
use crate::system::network::has_network_device;
use crate::system::{namespace, search_path};

/// Prints `problem`, the reason why qus refuses to run in this process, and returns the exit status.
#[must_use]
pub fn refuse(problem: &Diagnostic) -> ExitCode {
    let (json, failed) = requested_output();
    let (mut data, mut messages) = (io::stdout().lock(), io::stderr());
    let mut output =
        Output::new(&mut data, &mut messages, json, false).with_message_width(width_of(&io::stderr()));
    print_failure(&mut output, problem, failed)
}

/// Does the work of a helper process if qus started this process as a helper, and returns the exit status. Returns
/// `None` if this process is not a helper.
///
/// Helper processes are described in [`crate::probe`] and [`crate::system::namespace`].
#[must_use]
pub fn serve_as_helper() -> Option<ExitCode> {
    if std::env::args_os().skip(1).eq([probe::HELPER]) {
        return Some(helper(probe::serve(&mut io::stdin().lock(), &mut io::stdout().lock())));
    }
    if !std::env::args_os().skip(1).eq([namespace::MAP_HELPER]) {
        return None;
    }
    Some(match namespace::serve_map(&mut io::stdin().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (reason, code) = failure.report();
            let _ = writeln!(io::stderr(), "{reason}");
            ExitCode::from(code)
        }
    })
}

/// Runs qus and returns the exit status. If qus was started under the name of another tool, it acts as that tool.
/// Otherwise it parses its own command line and runs the command.
#[must_use]
pub fn run() -> ExitCode {
    set_abilities(can_become_root, download);
    if let Some((tool, words)) = called_as() {
        log::install(0, width_of(&io::stderr()));
        // A line is one write.
        let mut messages = LineWriter::new(io::stderr());
        let done = tool.run(&words, &mut io::stdout().lock(), &mut messages);
        return conclude(done, &mut Output::new(&mut io::sink(), &mut messages, false, false));
    }
    match Cli::try_parse() {
        Ok(cli) => run_command(&cli),
        Err(error) => usage(&error),
    }
}

/// Reports whether the user can become root with `sudo`. That is impossible without new
/// privileges. The answer is determined once, because `which` prints advice for each of thousands of files.
fn can_become_root() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        search_path::find("sudo".as_ref()).is_some() && !prctl::get_no_new_privs().unwrap_or(false)
    })
}

/// Determines whether `--fetch` can work. That is not known for sure before an attempt, so it counts as possible unless
/// something speaks against it. The answer is determined once, as that of [`can_become_root`].
fn download() -> Download {
    static ANSWER: OnceLock<Download> = OnceLock::new();
    *ANSWER.get_or_init(|| match (has_package_manager(), has_network_device()) {
        (false, _) => Download::NoManager,
        (true, false) => Download::NoNetwork,
        (true, true) => Download::Possible,
    })
}

/// Returns the other tool that the name of this process selects, and its arguments. Returns `None` if qus acts as
/// itself. This includes `binfmt COMMAND`, which runs a command of qus, because the tool `binfmt` has no commands.
fn called_as() -> Option<(CompatTool, Vec<OsString>)> {
    let mut words = std::env::args_os();
    let tool = CompatTool::called(&words.next()?)?;
    let words: Vec<OsString> = words.collect();
    let is_option = |word: &OsString| word.as_encoded_bytes().starts_with(b"-");
    let is_command = tool == CompatTool::Binfmt && words.first().is_some_and(|word| !is_option(word));
    (!is_command).then_some((tool, words))
}

fn run_command(cli: &Cli) -> ExitCode {
    name_in_advice(&cli.common.instance);
    let message_width = width_of(&io::stderr());
    log::install(cli.common.verbose, message_width);
    let (mut data, mut messages) = (io::stdout().lock(), io::stderr());
    let mut output = Output::new(&mut data, &mut messages, cli.common.json, cli.common.quiet)
        .on(Terminal::of_stdout())
        .with_message_width(message_width);
    let done = commands::run(&cli.command, &cli.common, Cli::command, &mut output);
    conclude(done, &mut output)
}

fn conclude(done: anyhow::Result<Status>, output: &mut Output<'_>) -> ExitCode {
    let error = match done {
        Ok(status) => return ExitCode::from(status.code()),
        Err(error) => error,
    };
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        // The reader has closed the pipe, so the remaining output is not needed.
        return ExitCode::SUCCESS;
    }
    let problem =
        error.downcast_ref::<Diagnostic>().cloned().unwrap_or_else(|| Diagnostic::new(format!("{error:#}")));
    print_failure(output, &problem, Status::Failed)
}

/// Prints what the command line parser returned instead of a command: help, the version, or an error. Returns the exit
/// status.
fn usage(error: &clap::Error) -> ExitCode {
    let (json, failed) = requested_output();
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        match error.print() {
            Err(problem) if problem.kind() != io::ErrorKind::BrokenPipe => {
                return refuse(&Diagnostic::new(format!("cannot print: {problem}")));
            }
            _ if error.use_stderr() => return ExitCode::from(failed.code()),
            _ => return ExitCode::SUCCESS,
        }
    }
    let (mut data, mut messages) = (io::stdout().lock(), io::stderr());
    let mut output =
        Output::new(&mut data, &mut messages, json, false).with_message_width(width_of(&io::stderr()));
    print_failure(&mut output, &diagnostic(error), failed)
}

/// Converts an error of the command line parser into a diagnostic.
fn diagnostic(error: &clap::Error) -> Diagnostic {
    let text = error.to_string();
    // The message has one or several lines. Tips come after it, then the usage.
    let lines = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let (tips, message): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with("tip: "));
    let message = message.join(" ");
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let command = subcommand(&words).and_then(|word| word.to_str());
    let known = command.filter(|word| Cli::command().find_subcommand(word).is_some());
    let help = known.map_or_else(|| "qus --help".to_owned(), |command| format!("qus {command} --help"));
    let unknown_arch = error.source().and_then(|source| source.downcast_ref::<UnknownArch>());
    let help = unknown_arch.and_then(|unknown| unknown.advice().command).unwrap_or(help);
    let mut problem = Diagnostic::new(message.trim_start_matches("error: ")).with_command(help);
    let is_unknown_command = error.kind() == ErrorKind::InvalidSubcommand;
    let other = if is_unknown_command { command.and_then(meant) } else { None };
    // clap puts the most similar name last.
    let similar = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(names)) => names.last().map(String::as_str),
        Some(ContextValue::String(name)) => Some(name.as_str()),
        _ => None,
    };
    if let Some(command) = other.or(similar) {
        problem = problem.with_command(format!("qus {command}"));
    } else if !tips.is_empty() {
        problem = problem
            .with_hint(tips.iter().map(|tip| tip.trim_start_matches("tip: ")).collect::<Vec<_>>().join("; "));
    }
    problem
}

/// Returns the command of qus that corresponds to `word`, a command name that other tools use. The error message
/// suggests it.
fn meant(word: &str) -> Option<&'static str> {
    Some(match word {
        "ls" | "ps" | "status" | "state" => "list",
        "rm" | "remove" | "delete" | "unregister" | "uninstall" | "unload" => "reset",
        "install" | "add" | "load" | "setup" | "enable-all" => "register",
        "test" | "check" | "probe" => "verify",
        "why" | "explain" | "file" => "which",
        "exec" | "shell" | "start" => "run",
        "diagnose" | "diag" => "doctor",
        "download" | "get" | "pull" => "fetch",
        _ => return None,
    })
}

/// Returns whether the command line requests JSON, and the exit status of a failure. Does not need the command line
/// parser, which may have failed.
fn requested_output() -> (bool, Status) {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    // For `run`, 125 is the status of a failure of qus; other statuses belong to the program (`env(1)`).
    let is_run = subcommand(&words).is_some_and(|word| word == "run");
    (json, if is_run { Status::NotRun(NotRun::Qus) } else { Status::Failed })
}

fn print_failure(output: &mut Output<'_>, problem: &Diagnostic, status: Status) -> ExitCode {
    // If printing fails, the failure cannot be printed either.
    let _ = output.failure(problem);
    ExitCode::from(status.code())
}

fn helper(served: Result<(), String>) -> ExitCode {
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = writeln!(io::stderr(), "{reason}");
            ExitCode::from(Status::Failed.code())
        }
    }
}
