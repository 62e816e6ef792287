//! `qus run`: runs a foreign program, or a program that starts foreign programs, with a binfmt_misc instance of its
//! own.
//!
//! qus creates a user namespace with its own instance (K64) and registers the handlers there. It then creates a second
//! user namespace inside the first, in which the program has the user and group ids of the caller (K65). Then it calls
//! `execve(2)`: no process of qus remains, and nothing is left when the program ends, but for empty mount points in a
//! directory of `--root` that lacked them.

mod interpreters;
mod rules;
mod takeover;

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::errno::Errno;
use nix::unistd::execve;

use self::interpreters::{InterpreterRequest, Interpreters};
use self::rules::rules;
use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::escape::display_path;
use crate::base::order;
use crate::base::output::{NotRun, Output, Status};
use crate::base::shell::{shell_line, shell_word};
use crate::binfmt::Rule;
use crate::binfmt::instance::{DEFAULT_PATH, Instance, MountError};
use crate::commands::args::{Common, SCOPE, SELECTION, SourceArgs, Words, flat, parse_named_arches};
use crate::handler::exec_target::{Elf, ExecTarget, Kind};
use crate::interpreter::bundle::unpack_bundle;

use crate::interpreter::self_exe_header;
use crate::system::kernel_version::KernelVersion;
use crate::system::namespace::{
    Ids, NamespaceError, blocking_sysctl, enter_as_root, enter_root, find_in_root, restore_caller_ids,
};
use crate::system::search_path;
use crate::system::signals;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::os::unix::ffi::OsStringExt;

/// Name and value of an environment variable.
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

/// Arguments of `qus run`.
#[allow(clippy::struct_excessive_bools, reason = "switches of a command line")]
#[derive(Debug, Args)]
pub struct Run {
    /// Run in this root directory
    ///
    /// Runs the program in this root directory. The directory gets /proc, /dev and /sys, as in a container.
    #[arg(help_heading = SCOPE, long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Register only these architectures
    ///
    /// Registers only these architectures. The default is every architecture that has an interpreter.
    #[arg(help_heading = SELECTION, long, value_name = "ARCH", value_parser = parse_named_arches)]
    pub arch: Vec<Words<&'static Arch>>,
    /// Run as root of the namespace (fake root)
    ///
    /// Runs the program as root of its user namespace. It has no rights of root on the host (fake root).
    #[arg(help_heading = SCOPE, long)]
    pub as_root: bool,
    /// Sources of the interpreters.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Set a variable (repeatable)
    ///
    /// Sets an environment variable for the program and its emulator, for example QEMU_CPU=max. The option can be given
    /// several times.
    #[arg(help_heading = SELECTION, long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(parse_variable))]
    pub env: Vec<Variable>,
    /// Start the emulator without namespaces
    ///
    /// Starts the emulator itself, without namespaces. This works for one program that starts no other foreign
    /// programs.
    #[arg(help_heading = SCOPE, long, conflicts_with_all = ["root", "as_root"])]
    pub direct: bool,
    /// Program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// Kind of the failure of `qus run`, which determines its exit status, and the message about it.
struct Failure(NotRun, Diagnostic);

impl From<Diagnostic> for Failure {
    fn from(problem: Diagnostic) -> Self {
        Self(NotRun::Qus, problem)
    }
}

pub(super) fn run(args: &Run, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    let Err(Failure(kind, problem)) = start(args, common.quiet);
    output.failure(&problem)?;
    Ok(Status::NotRun(kind))
}

fn start(args: &Run, quiet: bool) -> Result<Infallible, Failure> {
    let program = args.command.first().map(OsString::as_os_str).unwrap_or_default();
    let host = self_exe_header()?;
    let own = Arch::from_header(&host);
    let requested = match (&args.root, flat(&args.arch).as_slice()) {
        (None, []) => foreign_arch(&find(program)?, own).into_iter().collect(),
        (Some(root), []) => {
            let file = find_below(root, program);
            let path = file.as_ref().map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
            path.and_then(|path| foreign_arch(&path, own)).into_iter().collect()
        }
        (_, arches) => arches.to_vec(),
    };
    let unpacked = if args.source.is_named() {
        None
    } else {
        unpack_bundle(|arch| requested.is_empty() || requested.contains(&arch))?
    };
    let requested = InterpreterRequest { args, own, host: &host, arches: &requested, quiet };
    let found = requested.find(unpacked.as_ref())?;
    if args.direct {
        return direct(args, &find(program)?, &found);
    }
    let rules = rules(&found, args)?;
    let forbidden = |error: NamespaceError| or_direct(error.into(), args);
    let ids = enter_as_root(args.root.is_some()).map_err(forbidden)?;
    register(&rules, ids, args)?;
    // The kernel holds the interpreters open.
    drop(unpacked);
    if let Some(root) = &args.root {
        enter_root(root).map_err(Diagnostic::from)?;
    }
    if !args.as_root && !ids.full_range && args.root.is_none() {
        restore_caller_ids(ids).map_err(forbidden)?;
    }
    let path = find(program)?;
    Err(exec(&path, &args.command, args))
}

/// Adds to the advice that the command with `--direct` needs no namespaces. Adds nothing if `args` needs namespaces
/// anyway.
fn or_direct(problem: Diagnostic, args: &Run) -> Diagnostic {
    if args.root.is_some() || args.as_root {
        return problem;
    }
    let direct = typed(args, "--direct");
    match &problem.advice.command {
        Some(_) => problem.with_hint(format!("or run the program without handlers: {direct}")),
        None => problem.with_command(direct),
    }
}

/// Returns the command line that the user typed, with `option` added.
fn typed(args: &Run, option: &str) -> String {
    let mut words: Vec<OsString> = ["qus", "run", option].map(OsString::from).to_vec();
    let mut push = |option: &str, value: Option<&OsStr>| {
        words.push(option.into());
        words.extend(value.map(OsStr::to_owned));
    };
    args.root.iter().for_each(|root| push("--root", Some(root.as_os_str())));
    args.arch.iter().flatten().for_each(|arch| push("--arch", Some(OsStr::new(arch.name))));
    args.source.from.iter().for_each(|source| push("--from", Some(source.as_os_str())));
    if let Some(version) = &args.source.required.qemu_version {
        push("--qemu-version", Some(OsStr::new(&version.to_string())));
    }
    args.source
        .interpreter_dir
        .iter()
        .for_each(|directory| push("--interpreter-dir", Some(directory.as_os_str())));
    let switches = [(args.as_root, "--as-root"), (args.source.fetch, "--fetch"), (args.direct, "--direct")];
    switches.iter().filter(|(is_set, _)| *is_set).for_each(|(_, switch)| push(switch, None));
    for Variable(name, value) in &args.env {
        push("--env", Some(&[name.as_os_str(), value].join(OsStr::new("="))));
    }
    push("--", None);
    words.extend(args.command.iter().cloned());
    shell_line(&words)
}

/// Returns the architecture of the program at `path`. Returns `None` if it is `own`, the host's architecture, or
/// unknown.
fn foreign_arch(path: &Path, own: Option<&'static Arch>) -> Option<&'static Arch> {
    let Kind::Elf(Elf { arch: Some(arch), .. }) = ExecTarget::inspect(path).kind else { return None };
    (Some(arch) != own).then_some(arch)
}

/// Mounts the binfmt_misc instance of the new user namespace, and registers `rules` in it.
fn register(rules: &[Rule], ids: Ids, args: &Run) -> Result<(), Diagnostic> {
    let path = Path::new(DEFAULT_PATH);
    Instance::mount(path).map_err(|error| {
        let kernel = KernelVersion::running();
        if !kernel.has_per_userns_instances() {
            let message = format!(
                "Linux {kernel} has one instance for all user namespaces; 6.7 and later have one for each"
            );
            return or_direct(Diagnostic::new(message), args);
        }
        // Root of a user namespace may mount. If the mount is denied, a security module has removed this right.
        let forbidding = if ids.uid.is_root() { None } else { blocking_sysctl() };
        match (error, forbidding) {
            (MountError::AccessError(_), Some(forbidding)) => or_direct(forbidding.into(), args),
            (error @ MountError::AccessError(_), None) => {
                or_direct(Diagnostic::new(format!("{error}, not even in a user namespace")), args)
            }
            (error, _) => error.into(),
        }
    })?;
    let instance = Instance::open(path)?;
    for rule in rules {
        if let Err(error) = instance.register(rule) {
            tracing::warn!("{error}");
        }
    }
    Ok(())
}

/// Starts the emulator itself, with `program` as its argument (`--direct`). If `found` has no emulator for it, starts
/// `program`. Returns only if that fails.
fn direct(args: &Run, program: &Path, found: &Interpreters) -> Result<Infallible, Failure> {
    let Kind::Elf(Elf { arch: Some(arch), .. }) = ExecTarget::inspect(program).kind else {
        let problem = Diagnostic::new(format!(
            "{} is not a program of an architecture that QEMU supports",
            display_path(program)
        ));
        return Err(Failure(NotRun::Unrunnable, problem));
    };
    let Some(interpreter) = found.get(arch.name).and_then(|found| found.interpreter.as_ref()) else {
        return Err(exec(program, &args.command, args));
    };
    let mut words = vec![interpreter.path.clone().into_os_string()];
    if let Some(argv0) = args.command.first() {
        words.extend([OsString::from("-0"), argv0.clone()]);
    }
    words.push(program.as_os_str().to_owned());
    words.extend(args.command.iter().skip(1).cloned());
    Err(exec(&interpreter.path, &words, args))
}

/// Finds the program `name` in the root directory `root`, and opens it.
fn find_below(root: &Path, name: &OsStr) -> Option<File> {
    if name.as_bytes().contains(&b'/') {
        return find_in_root(root, Path::new(name));
    }
    search_path::directories().iter().find_map(|directory| find_in_root(root, &directory.join(name)))
}

/// Finds the program `name` as a shell does: a name without a slash is looked up in `PATH`.
fn find(name: &OsStr) -> Result<PathBuf, Failure> {
    let path = Path::new(name);
    let found = if search_path::is_bare(path) {
        search_path::find(name)
    } else {
        path.symlink_metadata().is_ok().then(|| path.to_owned())
    };
    found.ok_or_else(|| {
        let problem = Diagnostic::new(format!("cannot find the program {}", display_path(path)));
        // Like a shell, `qus run` does not search the working directory.
        let is_here = search_path::is_bare(path) && path.is_file();
        let command = is_here.then(|| format!("qus run {}", shell_word(Path::new(".").join(path))));
        Failure(NotRun::NotFound, problem.with_advice(command))
    })
}

/// Replaces this process with the program at `path` and its arguments `words`. Returns only if that fails.
///
/// Calls `execve(2)` directly, because `execvp(3)` starts a shell for a file that the kernel refuses.
fn exec(path: &Path, words: &[OsString], args: &Run) -> Failure {
    let failed = |kind, reason: &str| {
        Failure(kind, Diagnostic::new(format!("cannot start {}: {reason}", display_path(path))))
    };
    let mut variables = order::map(env::vars_os());
    variables.extend(args.env.iter().map(|Variable(name, value)| (name.clone(), value.clone())));
    let variables = variables.into_iter().map(|(name, value)| [name, value].join(OsStr::new("=")));
    let strings = |words: Vec<OsString>| {
        words.into_iter().map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()
    };
    let all =
        (CString::new(path.as_os_str().as_bytes()), strings(words.to_vec()), strings(variables.collect()));
    let (Ok(file), Ok(words), Ok(variables)) = all else {
        return failed(NotRun::Qus, "an argument contains a NUL byte");
    };
    if let Err(error) = signals::restore() {
        return failed(NotRun::Qus, &format!("cannot restore the signal settings: {error}"));
    }
    let Err(errno) = execve(&file, &words, &variables);
    match errno {
        Errno::ENOENT => failed(NotRun::NotFound, "the program or its loader does not exist"),
        Errno::ENOEXEC => {
            let failure = failed(NotRun::Unrunnable, &io::Error::from(errno).to_string());
            let command = format!("qus which {}", shell_word(path));
            Failure(failure.0, failure.1.with_command(command))
        }
        errno => failed(NotRun::Unrunnable, &io::Error::from(errno).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name_and_a_value() {
        let parse = |word: &[u8]| parse_variable(OsString::from_vec(word.to_vec()));
        assert_eq!(parse(b"A=b=c"), Ok(Variable("A".into(), "b=c".into())));
        assert_eq!(parse(b"A=\xff"), Ok(Variable("A".into(), OsString::from_vec(vec![0xff]))));
        for word in [&b"A"[..], b"=b", b""] {
            assert!(parse(word).is_err(), "{word:?}");
        }
    }
}
