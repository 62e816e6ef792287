//! The commands of qus. Each command gathers facts, decides what to do, does it, and returns a report.

pub mod apply;
pub mod args;
pub mod bundle;
pub mod completions;
pub mod doctor;
pub mod export;
pub mod fetch;
pub mod help;
pub(crate) mod instance;
pub mod list;
pub mod man;
pub mod register;
pub(crate) mod report;
pub mod reset;
pub mod run;
pub(crate) mod selection;
pub mod show;
pub(crate) mod suggestion;

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
    ///
    /// Finds a statically linked interpreter for each architecture, checks it, and registers it with the flag F: the
    /// kernel opens the interpreter at registration, so containers need no copy of it. qus then reads the handler back
    /// and executes a tiny test program, a probe, with it. If the probe fails, qus restores the previous state. A working
    /// handler of another tool is left in place.
    #[command(after_long_help = help::REGISTER)]
    Register(register::Register),
    /// List every handler, newest first
    ///
    /// Lists the entries of binfmt_misc in the order in which the kernel tries them. Rules that are configured in
    /// binfmt.d but not registered come last.
    #[command(after_long_help = help::LIST)]
    List(list::List),
    /// Remove the handlers of QEMU's emulators
    ///
    /// Removes the handlers of QEMU's emulators, including those that other tools registered. Handlers of other
    /// interpreters are left in place, unless their names are given.
    #[command(after_long_help = help::RESET)]
    Reset(reset::Reset),
    /// Execute a test program of each architecture
    ///
    /// Executes a probe, a tiny program of the architecture: once in the current root directory and once in an empty
    /// one, because a container has none of the host's files. The probe shows that the interpreter starts, is static, and gets the right arguments.
    #[command(after_long_help = help::VERIFY)]
    Verify(verify::Verify),
    /// Explain what the kernel does with a file
    ///
    /// Predicts what execve(2) does with a file: which handler takes the file, or why execve fails. If a handler takes
    /// it, qus executes a probe that has the ELF header of the file.
    #[command(after_long_help = help::WHICH)]
    Which(which::Which),
    /// Run a foreign program without root
    ///
    /// Registers handlers in a new user namespace and starts the program there. Needs Linux 6.7 or later, or --direct.
    /// No handler of the host changes. The exit status is that of the program.
    #[command(after_long_help = help::RUN)]
    Run(run::Run),
    /// Diagnose problems and suggest fixes
    ///
    /// Checks the kernel, the mount of binfmt_misc, every handler, the configuration and container engines. Each
    /// problem is printed with the command that fixes it. The exit status is 1 if there is a problem.
    #[command(after_long_help = help::DOCTOR)]
    Doctor(doctor::Doctor),
    /// Download static interpreters
    ///
    /// Downloads the distribution's package of qemu-user, or reads another source, and unpacks the interpreters. The
    /// package is not installed.
    #[command(after_long_help = help::FETCH)]
    Fetch(fetch::Fetch),
    /// Write a copy of qus that carries interpreters
    ///
    /// Copies this executable and appends interpreters. The copy needs no other file: its `register` loads the
    /// interpreters into memory, and its `run` uses them.
    #[command(after_long_help = help::BUNDLE)]
    Bundle(bundle::Bundle),
    /// Enable handlers
    ///
    /// Enables handlers that are registered but disabled.
    #[command(after_long_help = help::ENABLE)]
    Enable(toggle::Toggle),
    /// Disable handlers without removing them
    ///
    /// Disables handlers. They stay registered, but the kernel ignores them.
    #[command(after_long_help = help::DISABLE)]
    Disable(toggle::Toggle),
    /// Show all architectures, or details of some
    ///
    /// Prints the names of architectures, and the magic and mask of their rules.
    #[command(after_long_help = help::SHOW)]
    Show(show::Show),
    /// Print completions for a shell
    ///
    /// Prints a script for bash, fish or zsh.
    #[command(after_long_help = help::COMPLETIONS)]
    Completions(completions::Completions),
    /// Print the manual page, or write all pages
    ///
    /// Prints the manual page of qus, or writes the pages of all commands.
    #[command(after_long_help = help::MAN)]
    Man(man::Man),
    /// Print rules for systemd, OpenRC, NixOS and others
    ///
    /// Prints or writes rules that other software registers, at boot or in a container. Nothing is registered or
    /// executed here.
    #[command(after_long_help = help::EXPORT)]
    Export(export::Export),
    /// Register the rules of binfmt.d
    ///
    /// Registers the rules of binfmt.d(5), as systemd-binfmt does, but leaves all other handlers registered. This is
    /// for systems without systemd, and for containers.
    #[command(after_long_help = help::APPLY)]
    Apply(apply::Apply),
}

/// Returns the ids of the checks of `qus doctor`.
pub fn doctor_checks() -> impl Iterator<Item = &'static str> {
    doctor::ids()
}

/// Runs `command`. `program` returns clap's definition of the command line, for manual pages and completions.
pub fn run(
    command: &Command,
    common: &Common,
    program: fn() -> clap::Command,
    output: &mut Output<'_>,
) -> Result<Status> {
    // A damaged bundle refuses every command.
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
