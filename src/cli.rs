//! The command line: what a person can type, parsed into the values that the commands work with.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::arch::{Arch, UnknownArch};
use crate::binfmt::instance::DEFAULT_PATH;
use crate::boot::formats::Format;
use crate::interpreter::WantedVersion;
use crate::package::Sha256;
use crate::system::namespace::Engine;

/// Make foreign-architecture programs and containers run on this host.
#[derive(Debug, Parser)]
#[command(
    name = "qus",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "An ARCH is any name people use: QEMU's, uname -m, Debian's, Docker's (linux/arm/v7), Go's, Rust's.\n\
    Exit status: 0 done, or yes; 1 the answer is no; 2 could not."
)]
pub struct Cli {
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What the help says above them.
const EVERYWHERE: &str = "Options of every command";

/// Options of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// Print one JSON object instead of text, on failure too
    #[arg(long, global = true, help_heading = EVERYWHERE, overrides_with = "json")]
    pub json: bool,
    /// Print nothing but data and errors
    #[arg(short, long, global = true, help_heading = EVERYWHERE, overrides_with = "quiet")]
    pub quiet: bool,
    /// Say what is being done; twice for every detail
    #[arg(short, long, global = true, help_heading = EVERYWHERE, action = ArgAction::Count)]
    pub verbose: u8,
    /// Where binfmt_misc is mounted
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "DIR", default_value = DEFAULT_PATH)]
    pub instance: PathBuf,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register interpreters with the kernel, and prove that they work
    Register(Register),
    /// List every handler, newest first
    List(List),
    /// Remove the handlers of QEMU's emulators, whoever registered them; nobody else's
    Reset(Reset),
    /// Execute a probe of each architecture through the kernel
    Verify(Verify),
    /// Say what the kernel will do with a file, and why
    Which(Which),
    /// Run a foreign program now, with no root and no trace on the host
    Run(Run),
    /// Tell what is wrong here, each with the command that mends it
    Doctor(Doctor),
    /// Get static interpreters, from the distribution's package or from a file
    Fetch(Fetch),
    /// Write a copy of qus that carries interpreters inside itself
    Bundle(Bundle),
    /// Switch handlers on
    Enable(Switch),
    /// Switch handlers off, without removing them
    Disable(Switch),
    /// Show the table of architectures, or all about one
    Show(Show),
    /// Print what a shell needs to complete this command line
    Completions(Completions),
    /// Print the manual page, or write the pages of all commands
    Man(Man),
    /// Print the rules for other software to register: systemd, binfmt-support, OpenRC, NixOS
    Export(Export),
    /// Register what binfmt.d says, as systemd does, and remove nobody's handlers
    Apply(Apply),
}

/// The command among the words of a command line that could not be parsed, which are those after the program's name.
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

/// One word of a list of architectures.
#[derive(Clone, Copy, Debug)]
pub enum ArchArg {
    /// `all`.
    All,
    /// A name.
    One(&'static Arch),
}

fn parse_arch(word: &str) -> Result<ArchArg, UnknownArch> {
    if word.eq_ignore_ascii_case("all") {
        return Ok(ArchArg::All);
    }
    Arch::named(word).map(ArchArg::One)
}

/// A variable of the environment and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable(pub OsString, pub OsString);

fn parse_variable(word: OsString) -> Result<Variable, &'static str> {
    let bytes = word.into_vec();
    match bytes.iter().position(|byte| *byte == b'=').and_then(|at| bytes.split_at_checked(at)) {
        Some((name, [_, value @ ..])) if !name.is_empty() => {
            Ok(Variable(OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())))
        }
        _ => Err("a variable is written NAME=VALUE"),
    }
}

fn parse_one_arch(word: &str) -> Result<&'static Arch, UnknownArch> {
    Arch::named(word)
}

/// Architectures named on the command line; `None` for all.
#[must_use]
pub fn named(words: &[ArchArg]) -> Option<Vec<&'static Arch>> {
    let mut named = Vec::new();
    for word in words {
        match word {
            ArchArg::All => return None,
            ArchArg::One(arch) if !named.contains(arch) => named.push(*arch),
            ArchArg::One(_) => {}
        }
    }
    (!named.is_empty()).then_some(named)
}

/// `qus register`.
#[allow(clippy::struct_excessive_bools, reason = "switches of a command line")]
#[derive(Debug, Default, Args)]
pub struct Register {
    /// Architectures, or `all`: those with an interpreter at hand that the host does not run itself [default: all]
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch)]
    pub arches: Vec<ArchArg>,
    /// The interpreter of the one ARCH: any static emulator (qemu-user, box64, FEX)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["interpreter_dir", "fetch", "from"])]
    pub interpreter: Option<PathBuf>,
    /// Look for interpreters here, and nowhere else (may be repeated)
    #[arg(long, value_name = "DIR")]
    pub interpreter_dir: Vec<PathBuf>,
    /// Get missing interpreters first, as `qus fetch` does
    #[arg(long)]
    pub fetch: bool,
    /// Get the interpreters from this source first: whatever `qus fetch --from` takes
    #[arg(long, value_name = "SRC")]
    pub from: Option<PathBuf>,
    /// What SRC has to be: the SHA-256 that its maker tells
    #[arg(long, value_name = "HEX", requires = "from")]
    pub sha256: Option<Sha256>,
    /// Only interpreters of this version of QEMU: 7.2 is every 7.2.x
    #[arg(long, value_name = "VERSION", conflicts_with = "interpreter")]
    pub qemu_version: Option<WantedVersion>,
    /// Put fetched interpreters here
    #[arg(long, value_name = "DIR")]
    pub dest: Option<PathBuf>,
    /// Keep the interpreters in memory alone, with no file on any disk; the default of a bundle
    #[arg(long)]
    pub in_memory: bool,
    /// Take over from another handler
    #[arg(long)]
    pub replace: bool,
    /// Give setuid programs the rights of their owners: the emulator then runs as root for them (flag C)
    #[arg(long)]
    pub credentials: bool,
    /// Do not execute probes: what is registered is then unverified
    #[arg(long)]
    pub no_verify: bool,
    /// Register even what the host runs itself, or may run itself. This can break the programs of the host
    #[arg(long)]
    pub force_native: bool,
    /// Be content with what the host runs itself: no handler is needed for it
    #[arg(long, conflicts_with = "force_native")]
    pub skip_native: bool,
    /// Print what would be done. Executes, fetches and writes nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Enter the namespaces of this process first: what is registered is then what it sees
    #[arg(long, value_name = "PID", conflicts_with_all = ["host", "namespaces_of"])]
    pub target: Option<u32>,
    /// Enter those of a container engine of this user first: podman or docker-rootless
    #[arg(long, value_name = "ENGINE", conflicts_with = "host")]
    pub namespaces_of: Option<Engine>,
    /// Enter the namespaces of process 1 first: those of the host, in a container that shares its pids
    #[arg(long)]
    pub host: bool,
    /// Stay, and keep the instance, until SIGTERM or SIGINT; then remove what was registered
    #[arg(long, conflicts_with = "dry_run")]
    pub hold: bool,
    /// Register them at every boot from now on: /etc/binfmt.d/qus-ARCH.conf, and interpreters in a place that stays
    #[arg(long, conflicts_with_all = ["in_memory", "hold"])]
    pub persist: bool,
    /// With --hold: remove nothing in the end
    #[arg(long, requires = "hold")]
    pub keep: bool,
}

/// `qus list`.
#[derive(Debug, Args)]
pub struct List {
    /// Execute a probe through each handler
    #[arg(long)]
    pub probe: bool,
}

/// `qus reset`.
#[derive(Debug, Args)]
pub struct Reset {
    /// Only the handlers of these architectures [default: all]
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch)]
    pub arches: Vec<ArchArg>,
    /// Remove what `register --persist` wrote, too: they do not come back at boot
    #[arg(long)]
    pub persist: bool,
    /// Say what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `qus verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Architectures [default: all that have a handler]
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch)]
    pub arches: Vec<ArchArg>,
}

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

/// `qus run`.
#[allow(clippy::struct_excessive_bools, reason = "switches of a command line")]
#[derive(Debug, Args)]
pub struct Run {
    /// Run it in this root directory, furnished like a container's
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Register only these architectures [default: all with an interpreter at hand]
    #[arg(long, value_name = "ARCH", value_delimiter = ',', value_parser = parse_one_arch)]
    pub arch: Vec<&'static Arch>,
    /// Be root inside, as far as files and handlers there go
    #[arg(long)]
    pub as_root: bool,
    /// Get a missing interpreter first, as `qus fetch` does
    #[arg(long)]
    pub fetch: bool,
    /// Get the interpreters from this source first: whatever `qus fetch --from` takes
    #[arg(long, value_name = "SRC")]
    pub from: Option<PathBuf>,
    /// What SRC has to be: the SHA-256 that its maker tells
    #[arg(long, value_name = "HEX", requires = "from")]
    pub sha256: Option<Sha256>,
    /// Only interpreters of this version of QEMU: 7.2 is every 7.2.x
    #[arg(long, value_name = "VERSION")]
    pub qemu_version: Option<WantedVersion>,
    /// Look for interpreters here, and nowhere else (may be repeated)
    #[arg(long, value_name = "DIR")]
    pub interpreter_dir: Vec<PathBuf>,
    /// Set a variable for the program (may be repeated): QEMU_CPU=max, QEMU_STRACE=1, …
    #[arg(long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(parse_variable))]
    pub env: Vec<Variable>,
    /// Start the emulator itself, without namespaces: for one program whose children are not foreign
    #[arg(long, conflicts_with_all = ["root", "as_root"])]
    pub direct: bool,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// `qus doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Do not execute probes
    #[arg(long)]
    pub no_verify: bool,
}

/// `qus fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Architectures, or `all` that the package has
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch, required_unless_present_any = ["list", "prune"])]
    pub arches: Vec<ArchArg>,
    /// A package, archive, image, folder, interpreter, - or http(s)://…, not the distribution's package
    #[arg(long, value_name = "SRC")]
    pub from: Option<PathBuf>,
    /// What SRC has to be: the SHA-256 that its maker tells
    #[arg(long, value_name = "HEX", requires = "from")]
    pub sha256: Option<Sha256>,
    /// Only interpreters of this version of QEMU: 7.2 is every 7.2.x
    #[arg(long, value_name = "VERSION")]
    pub qemu_version: Option<WantedVersion>,
    /// Where to put them [default: by version in /usr/local/lib/qus as root, $XDG_DATA_HOME/qus otherwise]
    #[arg(long, value_name = "DIR")]
    pub dest: Option<PathBuf>,
    /// Show what was fetched, from where, and who uses it
    #[arg(long, conflicts_with_all = ["from", "prune"])]
    pub list: bool,
    /// Remove what was fetched and no handler uses
    #[arg(long, conflicts_with = "from")]
    pub prune: bool,
    /// With --prune: say what would be removed, and remove nothing
    #[arg(short = 'n', long, requires = "prune")]
    pub dry_run: bool,
}

/// `qus bundle`.
#[derive(Debug, Args)]
pub struct Bundle {
    /// Architectures, or `all` with an interpreter at hand
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch, required = true)]
    pub arches: Vec<ArchArg>,
    /// Take them out of this package or folder
    #[arg(long, value_name = "SRC")]
    pub from: Option<PathBuf>,
    /// Look for interpreters here, and nowhere else (may be repeated)
    #[arg(long, value_name = "DIR", conflicts_with = "from")]
    pub interpreter_dir: Vec<PathBuf>,
    /// Only interpreters of this version of QEMU: 7.2 is every 7.2.x
    #[arg(long, value_name = "VERSION")]
    pub qemu_version: Option<WantedVersion>,
    /// The file to write; `-` is standard output, and a pipe or a device is written into
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// `qus enable` and `qus disable`.
#[derive(Debug, Args)]
pub struct Switch {
    /// Architectures, or `all` that have a handler
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch, required = true)]
    pub arches: Vec<ArchArg>,
}

/// `qus show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The architecture to be explained
    #[arg(value_name = "ARCH", value_parser = parse_one_arch)]
    pub arch: Option<&'static Arch>,
    /// Show what this qus carries inside itself
    #[arg(long, conflicts_with = "arch")]
    pub bundled: bool,
}

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

/// `qus man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write qus.1 and a page for each command into this directory
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// `qus apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// Files of binfmt.d, or folders of them; of files with one name in several folders the first counts [default:
    /// /etc/binfmt.d, /run/binfmt.d, /usr/local/lib/binfmt.d, /usr/lib/binfmt.d]
    #[arg(value_name = "FILE|DIR")]
    pub paths: Vec<PathBuf>,
    /// Print what would be done. Executes and writes nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `qus export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Architectures, or `all`: those with an interpreter at hand, or with --interpreter-path every one; without those of
    /// the family of the machine itself [default: all]
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch)]
    pub arches: Vec<ArchArg>,
    /// Whose files
    #[arg(
        short,
        long,
        value_enum,
        required_unless_present = "json",
        default_value_if("json", "true", "json")
    )]
    pub format: Option<Format>,
    /// Where the interpreters lie on the machine that these are for, whether they are here or not; {arch} stands for the
    /// architecture: /usr/bin/qemu-{arch}-static
    #[arg(long, value_name = "PATH", conflicts_with = "interpreter_dir")]
    pub interpreter_path: Option<PathBuf>,
    /// Look for interpreters here, and nowhere else (may be repeated)
    #[arg(long, value_name = "DIR")]
    pub interpreter_dir: Vec<PathBuf>,
    /// The architecture of the machine that these are for [default: this one's]
    #[arg(long = "for", value_name = "ARCH", value_parser = parse_one_arch, requires = "interpreter_path")]
    pub machine: Option<&'static Arch>,
    /// Give setuid programs the rights of their owners: the emulator then runs as root for them (flag C)
    #[arg(long)]
    pub credentials: bool,
    /// Write the files into this folder, which is made where it is missing; files of others in it are left alone
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
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
    fn the_command_is_found_behind_options() {
        let found = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            subcommand(&words).cloned()
        };
        assert_eq!(found(&["--json", "--instance", "reset", "run", "list"]), Some("run".into()));
        assert_eq!(found(&["--instance=run", "list"]), Some("list".into()));
        assert_eq!(found(&["--json"]), None);
    }

    #[test]
    fn a_variable_has_a_name_and_a_value() {
        let parse = |word: &[u8]| parse_variable(OsString::from_vec(word.to_vec()));
        assert_eq!(parse(b"A=b=c"), Ok(Variable("A".into(), "b=c".into())));
        assert_eq!(parse(b"A=\xff"), Ok(Variable("A".into(), OsString::from_vec(vec![0xff]))));
        for word in [&b"A"[..], b"=b", b""] {
            assert!(parse(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn architectures_are_separated_by_spaces_or_commas() {
        let cli = Cli::parse_from(["qus", "register", "linux/arm64,armhf", "aarch64"]);
        let Command::Register(register) = cli.command else { unreachable!() };
        let names: Vec<_> = named(&register.arches).unwrap().iter().map(|arch| arch.name).collect();
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
