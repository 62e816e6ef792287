//! `qus completions`: what a shell needs to complete the command line, made from the command line itself.

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction};
use clap_complete::Generator;
use clap_complete::shells::{Bash, Fish, Zsh};
use serde::Serialize;

use crate::arch::ARCHES;
use crate::base::output::{Output, Status};
use clap::{Args, ValueEnum};

/// `qus completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Shells that are told how to complete.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    /// GNU Bash, with bash-completion or without.
    Bash,
    /// fish.
    Fish,
    /// Z shell.
    Zsh,
}

#[derive(Serialize)]
struct View {
    script: String,
}

pub(super) fn run(args: &Completions, program: clap::Command, output: &mut Output<'_>) -> Result<Status> {
    let mut command = program.mut_subcommands(|command| command.mut_args(with_arches));
    command.set_bin_name("qus");
    command.build();
    let mut script = Vec::new();
    match args.shell {
        Shell::Bash => Bash.try_generate(&command, &mut script)?,
        Shell::Fish => Fish.try_generate(&command, &mut script)?,
        Shell::Zsh => Zsh.try_generate(&command, &mut script)?,
    }
    let view = View { script: String::from_utf8(script)? };
    output.document(&view, || view.script.clone())?;
    Ok(Status::Done)
}

/// An argument that takes architectures takes far more names than anybody wants to see offered: QEMU's are.
fn with_arches(arg: Arg) -> Arg {
    if !arg.get_value_names().is_some_and(|names| names.iter().any(|name| *name == "ARCH")) {
        return arg;
    }
    // A list that is no option may be `all`.
    let all = (arg.is_positional() && matches!(arg.get_action(), ArgAction::Append)).then_some("all");
    arg.value_parser(PossibleValuesParser::new(all.into_iter().chain(ARCHES.iter().map(|arch| arch.name))))
}
