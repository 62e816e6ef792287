//! Makes qus act as `register.sh` of dbhi/qus or as `/register` of multiarch/qemu-user-static. Both scripts wrap QEMU's
//! `qemu-binfmt-conf.sh`.

use std::os::unix::process::CommandExt;
use std::process::Command as Process;

use super::conf::{self, Setup};
use super::getopt::{self, OptSpec};
use super::{Adapter, EarlyExit};
use crate::base::error::Diagnostic;
use crate::base::output::{Output, Status};
use crate::commands::list::{self, List};
use crate::commands::report::print;

pub(super) const DBHI_USAGE: &str = "\
Usage: register.sh [-h] [-i COMMAND…] [-l] [-e] [-r] [-s] [-t TARGETS] [-- ARGS] (provided by qus)
  -i, --interactive  execute the next words with sh -c, and do nothing else
  -l, --list         list the handlers, and do nothing else
  -e, --exit         exit at this point
  -r, --reset        remove the handlers of QEMU's emulators first
  -s, --static       the interpreters are called qemu-…-static
  -t, --targets      architectures to register, separated by commas
ARGS: [-h] [-t] [-r] [-c] [-p] [-Q PATH] [-F SUFFIX] [-s] [-d] [-e PATH] [TARGETS]
  -t, --test         print what would be registered
  -r, --clear        remove the handlers of TARGETS, or of all QEMU emulators, and exit
  -c, --credential   setuid programs get the rights of their owners
  -p, --persistent   open interpreters once (F); always on
  -Q, --path         directory of the interpreters
  -F, --suffix       suffix of their names
  -s, --systemd      write files for systemd-binfmt
  -d, --debian       write files for update-binfmts
  -e, --exportdir    directory for these files
  --preserve-argv0   keep argv[0] (P); always on if supported
Environment: QEMU_BIN_DIR, QEMU_PATH, QEMU_SUFFIX, QEMU_CREDENTIAL, QEMU_CLEAR, QEMU_TEST, QEMU_TARGETS, HOST_ARCH.";

const DBHI: &[OptSpec] = &[
    (Some('h'), "help", false),
    (Some('i'), "interactive", false),
    (Some('l'), "list", false),
    (Some('e'), "exit", false),
    (Some('r'), "reset", false),
    (Some('s'), "static", false),
    (Some('t'), "targets", true),
];

const DBHI_ARGS: &[OptSpec] = &[
    (Some('h'), "help", false),
    (Some('t'), "test", false),
    (Some('r'), "clear", false),
    (Some('c'), "credential", false),
    (Some('p'), "persistent", false),
    (Some('Q'), "path", true),
    (None, "qemu-path", true),
    (Some('F'), "suffix", true),
    (Some('S'), "qemu-suffix", true),
    (Some('s'), "systemd", false),
    (Some('d'), "debian", false),
    (Some('e'), "exportdir", true),
    (None, "preserve-argv0", false),
];

/// Acts as `register.sh` of dbhi/qus and executes its command line `words`. Options before `--` belong to the script
/// itself. Options after `--` belong to its modified copy of QEMU's script, which also takes the names of
/// architectures.
pub(super) fn dbhi(words: &[String], adapter: &mut Adapter<'_>) -> Result<Status, EarlyExit> {
    let (own, args) = match words.iter().position(|word| word == "--") {
        Some(at) => words.split_at(at),
        None => (words, &[][..]),
    };
    let is_interactive = |word: &String| matches!(word.as_str(), "-i" | "-interactive" | "--interactive");
    if let Some(at) = own.iter().position(is_interactive) {
        return interact(words.get(at + 1..).unwrap_or_default());
    }
    let parsed = getopt::read(own, DBHI).map_err(EarlyExit::Usage)?;
    if let Some(word) = parsed.others.first() {
        return Err(EarlyExit::Usage(format!("unknown option {word}; targets come after --")));
    }
    // The whole command line is read before handlers are removed or registered.
    let mut setup = trailing_args(args.get(1..).unwrap_or_default())?;
    for (name, value) in parsed.options {
        match name {
            "list" => return list(adapter),
            "exit" => return Ok(Status::Done),
            "reset" => {
                let status = setup.reset_first(adapter)?;
                if status != Status::Done {
                    return Ok(status);
                }
            }
            "static" => "-static".clone_into(&mut setup.suffix),
            "targets" => setup.add_targets(&value),
            _ => return Err(EarlyExit::Help),
        }
    }
    setup.act(adapter)
}

/// Parses the arguments after `--` of `register.sh`. Environment variables give the default values of the options.
fn trailing_args(words: &[String]) -> Result<Setup, EarlyExit> {
    let mut setup = from_environment();
    let parsed = getopt::read(words, DBHI_ARGS).map_err(EarlyExit::Usage)?;
    for (name, value) in parsed.options {
        match name {
            "test" => setup.dry_run = true,
            "clear" => setup.clear = true,
            "credential" => setup.credentials = true,
            "persistent" => setup.persistent = Some(true),
            "path" | "qemu-path" => setup.path = Some(value.into()),
            "suffix" | "qemu-suffix" => setup.suffix = value,
            "systemd" => setup.export = Some(conf::Export::Systemd),
            "debian" => setup.export = Some(conf::Export::Debian),
            "exportdir" => setup.exportdir = Some(value.into()),
            "preserve-argv0" => setup.preserve_argv0 = true,
            _ => return Err(EarlyExit::Help),
        }
    }
    for target in &parsed.others {
        setup.add_targets(target);
    }
    Ok(setup)
}

fn from_environment() -> Setup {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut setup = Setup {
        path: Some(variable("QEMU_PATH")).filter(|path| !path.is_empty()).map(Into::into),
        suffix: variable("QEMU_SUFFIX"),
        credentials: variable("QEMU_CREDENTIAL") == "yes",
        clear: variable("QEMU_CLEAR") == "yes",
        dry_run: variable("QEMU_TEST") == "yes",
        ..Setup::default()
    };
    setup.add_targets(&variable("QEMU_TARGETS"));
    setup
}

/// Replaces this process with a shell that executes `words`. Fails if the container image has no shell.
fn interact(words: &[String]) -> Result<Status, EarlyExit> {
    let error = Process::new("sh").arg("-c").arg(words.join(" ")).exec();
    let problem = Diagnostic::new(format!("cannot start a shell for -i: {error}"));
    Err(problem.with_hint("use an image that has a shell, and copy qus and its interpreters into it").into())
}

fn list(adapter: &mut Adapter<'_>) -> Result<Status, EarlyExit> {
    let mut output = Output::new(&mut adapter.data, &mut adapter.messages, false, false);
    Ok(print(&list::execute(&List { handlers: Vec::new(), probe: false }, &adapter.common)?, &mut output)?)
}

pub(super) const MULTIARCH_USAGE: &str = "\
Usage: register [--reset] [OPTIONS of qemu-binfmt-conf.sh] (provided by qus)
  --reset            remove the handlers of QEMU's emulators first
  -p, --persistent yes|no, -c, --credential yes|no, -Q, --qemu-path PATH, …: see qemu-binfmt-conf.sh --help
Environment: QEMU_BIN_DIR, directory of the interpreters.";

/// Acts as `/register` of multiarch/qemu-user-static and executes its command line `words`. After an optional
/// `--reset`, the words are options of QEMU's script `qemu-binfmt-conf.sh`.
pub(super) fn multiarch(words: &[String], adapter: &mut Adapter<'_>) -> Result<Status, EarlyExit> {
    let (reset, words) = match words {
        [first, rest @ ..] if first == "--reset" => (true, rest),
        _ => (false, words),
    };
    let setup = Setup { suffix: "-static".to_owned(), ..Setup::default() }.with(words)?;
    if reset {
        let status = setup.reset_first(adapter)?;
        if status != Status::Done {
            return Ok(status);
        }
    }
    setup.act(adapter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_one_tool_mean_one_thing() {
        for known in [DBHI, DBHI_ARGS] {
            for (at, (letter, name, _)) in known.iter().enumerate() {
                let same = |(other, long, _): &OptSpec| other.is_some() && other == letter || long == name;
                assert!(!known[at + 1..].iter().any(same), "{name}");
            }
        }
    }
}
