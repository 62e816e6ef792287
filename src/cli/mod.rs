//! Parses the command line into the arguments of the commands.

pub mod compat;
pub mod start;

use std::ffi::OsString;

use clap::Parser;

use crate::commands::args::Common;
use crate::commands::{Command, help};

/// Make foreign-architecture programs and containers run on this host
///
/// Registers statically linked QEMU user-mode emulators with the kernel's binfmt_misc, verifies each registration by
/// execution, and explains why a program does not run. Needs no container engine and no daemon.
#[derive(Debug, Parser)]
#[command(
    name = "qus",
    version,
    max_term_width = 80,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = help::QUS)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Returns the word that names the command, such as `register`. `words` is the command line without the program's name.
/// The function also works if the parser has rejected the command line.
#[must_use]
pub fn subcommand(words: &[OsString]) -> Option<&OsString> {
    let mut words = words.iter();
    loop {
        let word = words.next()?;
        if word == "--instance" {
            words.next();
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            return Some(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_is_found_after_options() {
        let found = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            subcommand(&words).cloned()
        };
        assert_eq!(found(&["--json", "--instance", "reset", "run", "list"]), Some("run".into()));
        assert_eq!(found(&["--instance=run", "list"]), Some("list".into()));
        assert_eq!(found(&["--json"]), None);
    }

    #[test]
    fn architectures_are_separated_by_spaces_or_commas() {
        let cli = Cli::parse_from(["qus", "register", "linux/arm64,armhf", "aarch64"]);
        let Command::Register(register) = cli.command else { unreachable!() };
        let names: Vec<_> =
            crate::commands::args::named(&register.arches).unwrap().iter().map(|arch| arch.name).collect();
        assert_eq!(names, ["aarch64", "arm"]);
    }

    #[test]
    fn an_unknown_architecture_gets_a_suggestion() {
        let error = Cli::try_parse_from(["qus", "register", "arm65"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains(r#"unknown architecture "arm65"; did you mean "arm64"?"#),
            "{error}"
        );
    }
}
