//! The commands, one file each: gather, decide, act, prove, report.

pub mod apply;
pub mod args;
pub mod bundle;
pub mod completions;
pub mod doctor;
pub mod export;
pub mod fetch;
pub(crate) mod instance;
pub mod list;
pub mod man;
pub mod register;
pub(crate) mod report;
pub mod reset;
pub mod run;
pub mod show;

pub mod toggle;
pub mod verify;
pub mod which;

use anyhow::Result;
use clap::Subcommand;

use crate::base::output::{NotRun, Output, Status};
use crate::interpreter::bundle::own_bundle;
use args::Common;
use report::print;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register interpreters, and verify each by execution
    Register(register::Register),
    /// List every handler, newest first
    List(list::List),
    /// Remove the handlers of QEMU's emulators
    Reset(reset::Reset),
    /// Execute a test program of each architecture
    Verify(verify::Verify),
    /// Explain what the kernel does with a file
    Which(which::Which),
    /// Run a foreign program without root
    Run(run::Run),
    /// Diagnose problems and suggest fixes
    Doctor(doctor::Doctor),
    /// Download static interpreters
    Fetch(fetch::Fetch),
    /// Write a copy of qus that carries interpreters
    Bundle(bundle::Bundle),
    /// Enable handlers
    Enable(toggle::Toggle),
    /// Disable handlers without removing them
    Disable(toggle::Toggle),
    /// Show the architectures, or details of one
    Show(show::Show),
    /// Print completions for a shell
    Completions(completions::Completions),
    /// Print the manual page, or write all pages
    Man(man::Man),
    /// Print rules for systemd, OpenRC, NixOS and others
    Export(export::Export),
    /// Register the rules of binfmt.d
    Apply(apply::Apply),
}

/// Ids of the checks of `qus doctor`, as they stand in what it says.
pub fn doctor_checks() -> impl Iterator<Item = &'static str> {
    doctor::ids()
}

/// Runs `command`; `program` gives the whole command line, of which manual pages and completions are made.
pub fn run(
    command: &Command,
    common: &Common,
    program: fn() -> clap::Command,
    output: &mut Output<'_>,
) -> Result<Status> {
    // A damaged bundle does nothing at all.
    if let Err(problem) = own_bundle() {
        output.failure(&problem)?;
        let is_run = matches!(command, Command::Run(_));
        return Ok(if is_run { Status::NotRun(NotRun::Qus) } else { Status::Failed });
    }
    match command {
        Command::Register(args) => register::run(args, common, output),
        Command::List(args) => print(&list::execute(args, common)?, output),
        Command::Reset(args) => print(&reset::execute(args, common)?, output),
        Command::Verify(args) => print(&verify::execute(args, common)?, output),
        Command::Which(args) => which::run(args, common, output),
        Command::Run(args) => run::run(args, common, output),
        Command::Doctor(args) => print(&doctor::execute(args, common)?, output),
        Command::Fetch(args) => fetch::run(args, common, output),
        Command::Bundle(args) => print(&bundle::execute(args, common)?, output),
        Command::Enable(args) => print(&toggle::execute(args, true, common)?, output),
        Command::Disable(args) => print(&toggle::execute(args, false, common)?, output),
        Command::Show(args) => print(&show::execute(args)?, output),
        Command::Completions(args) => print(&completions::execute(args, program())?, output),
        Command::Man(args) => print(&man::execute(args, program())?, output),
        Command::Export(args) => print(&export::execute(args)?, output),
        Command::Apply(args) => print(&apply::execute(args, common, output)?, output),
    }
}
