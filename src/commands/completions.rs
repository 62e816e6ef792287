//! `qus completions`: generates completion scripts for shells from clap's definition of the command line.

use std::io::{self, Write as _};

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction};
use clap_complete::Generator;
use clap_complete::shells::{Bash, Fish, Zsh};
use serde::Serialize;

use crate::arch::ARCHES;
use crate::base::terminal::TextWriter;
use crate::commands::report::Report;
use crate::handler::preset::PRESETS;
use clap::{Args, ValueEnum};

/// Arguments of `qus completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Supported shells.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    /// GNU Bash, with or without bash-completion.
    Bash,
    /// Friendly interactive shell.
    Fish,
    /// Z shell.
    Zsh,
}

/// Results of `qus completions`: a completion script for a shell.
#[derive(Serialize)]
pub(crate) struct CompletionsReport {
    script: String,
}

/// Generates a completion script for the shell that `args` names. `program` is clap's definition of the command line.
pub(super) fn execute(args: &Completions, program: clap::Command) -> Result<CompletionsReport> {
    let mut command = program.mut_subcommands(|command| {
        // `show` does not accept `all`.
        let takes_all = command.get_name() != "show";
        let takes_presets = matches!(command.get_name(), "register" | "reset");
        command.mut_args(|arg| with_arches(arg, takes_all, takes_presets))
    });
    command.set_bin_name("qus");
    command.build();
    let mut script = Vec::new();
    match args.shell {
        Shell::Bash => Bash.try_generate(&command, &mut script)?,
        Shell::Fish => Fish.try_generate(&command, &mut script)?,
        Shell::Zsh => Zsh.try_generate(&command, &mut script)?,
    }
    Ok(CompletionsReport { script: String::from_utf8(script)? })
}

impl Report for CompletionsReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        text.write_all(self.script.as_bytes())
    }

    fn is_document(&self) -> bool {
        true
    }
}

/// Limits the completions of an argument `ARCH` or `HANDLER` to QEMU's names of architectures, and `all` if `takes_all` is
/// true. The names of presets are added if `takes_presets` is true. The command itself accepts many more names. Returns
/// any other argument unchanged.
fn with_arches(arg: Arg, takes_all: bool, takes_presets: bool) -> Arg {
    if !arg
        .get_value_names()
        .is_some_and(|names| names.iter().any(|name| matches!(name.as_str(), "ARCH" | "HANDLER")))
    {
        return arg;
    }
    // A positional list accepts `all`, an option does not.
    let is_list = arg.is_positional() && matches!(arg.get_action(), ArgAction::Append);
    let all = (is_list && takes_all).then_some("all");
    let presets = PRESETS.iter().filter(|_| is_list && takes_presets).map(|preset| preset.name);
    let names = all.into_iter().chain(ARCHES.iter().map(|arch| arch.name)).chain(presets);
    arg.value_parser(PossibleValuesParser::new(names))
}
