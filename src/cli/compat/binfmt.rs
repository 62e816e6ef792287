//! Makes qus act as the tool `binfmt` of tonistiigi/binfmt: `--install`, `--uninstall`, and the state of the host as
//! JSON.

use std::path::PathBuf;

use serde::Serialize;

use super::getopt::{self, OptSpec};
use super::{Adapter, EarlyExit};
use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::escape::{escape, escape_json};
use crate::base::glob::{Glob, is_pattern};
use crate::base::order;
use crate::base::output::Status;
use crate::commands::args::{ArchArg, HandlerArg, SourceArgs};
use crate::commands::instance::{name_in_advice, open_read_only};
use crate::commands::register::{Outcome, Register};
use crate::commands::reset::{Reset, ResetReport};
use crate::commands::verify::{self, State, Verify};
use crate::handler::classify;
use crate::handler::classify::name_lossy;
use crate::handler::table;
use crate::interpreter::bundle::own_bundle;
use crate::interpreter::self_exe_header;
use crate::interpreter::store;
use crate::interpreter::{default_search_dirs, search, versions_of};
use crate::probe::{self, End, ProbeResult, ProbeTarget, STATUS_ARGV0, STATUS_PATH};

pub(super) const USAGE: &str = "\
Usage of binfmt (provided by qus; `binfmt COMMAND …` is `qus COMMAND …`):
  -install LIST     architectures to install, separated by commas, or all
  -uninstall LIST   architectures, names of handlers, or patterns (qemu-*); only QEMU's emulators
  -mount DIR        where binfmt_misc is mounted (default /proc/sys/fs/binfmt_misc)
  -version          print the versions
Prints the platforms that this host runs, and its emulators, as JSON. Exit status: 0 success, 2 error.
Environment: QEMU_BINARY_PATH, directory of the emulators; QEMU_PRESERVE_ARGV0 is always on.";

const KNOWN: &[OptSpec] = &[
    (None, "install", true),
    (None, "uninstall", true),
    (None, "mount", true),
    (None, "version", false),
    (Some('h'), "help", false),
];

/// QEMU's name of each architecture with its container platforms, in the order in which `binfmt` prints them.
const PLATFORMS: [(&str, &[&str]); 11] = [
    ("x86_64", &["linux/amd64"]),
    ("aarch64", &["linux/arm64"]),
    ("riscv64", &["linux/riscv64"]),
    ("ppc64", &["linux/ppc64"]),
    ("ppc64le", &["linux/ppc64le"]),
    ("s390x", &["linux/s390x"]),
    ("i386", &["linux/386"]),
    ("mips64el", &["linux/mips64le"]),
    ("mips64", &["linux/mips64"]),
    ("loongarch64", &["linux/loong64"]),
    ("arm", &["linux/arm/v7", "linux/arm/v6"]),
];

pub(super) fn run(words: &[String], adapter: &mut Adapter<'_>) -> Result<Status, EarlyExit> {
    let parsed = getopt::read(words, KNOWN).map_err(EarlyExit::Usage)?;
    if let Some(word) = parsed.others.first() {
        return Err(EarlyExit::Usage(format!("unknown option {word}")));
    }
    let (mut install, mut uninstall, mut version) = (String::new(), String::new(), false);
    for (name, value) in parsed.options {
        match name {
            "install" => install = value,
            "uninstall" => uninstall = value,
            "mount" => {
                adapter.common.instance = value.into();
                name_in_advice(&adapter.common.instance);
            }
            "version" => version = true,
            _ => return Err(EarlyExit::Help),
        }
    }
    // The last line contains the whole error, because some callers of this tool show only the last line.
    match act(&install, &uninstall, version, adapter) {
        Ok(failures) if failures.is_empty() => Ok(Status::Done),
        Ok(failures) => {
            writeln!(adapter.messages, "error: {}", failures.join("; "))?;
            Ok(Status::Failed)
        }
        Err(EarlyExit::Failed(error)) => {
            writeln!(adapter.messages, "error: {}", one_line(error)?)?;
            Ok(Status::Failed)
        }
        Err(stop) => Err(stop),
    }
}

/// Executes all operations that the command line requests, and returns a message for each failed one.
fn act(
    install: &str,
    uninstall: &str,
    version: bool,
    adapter: &mut Adapter<'_>,
) -> Result<Vec<String>, EarlyExit> {
    if version {
        let own = env!("CARGO_PKG_VERSION");
        writeln!(adapter.messages, "binfmt/qus-{own} qemu/{}", versions()?.join(","))?;
        return Ok(Vec::new());
    }
    let mut failures = Vec::new();
    let list = |list: &str| {
        list.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    // Callers parse the JSON, so it is printed after a failure too.
    let done = self::uninstall(&list(uninstall), &mut failures, adapter);
    let done = done.and_then(|()| self::install(&list(install), &mut failures, adapter));
    if let Err(EarlyExit::Failed(error)) = done {
        failures.push(one_line(error)?);
    } else {
        done?;
    }
    status(adapter)?;
    Ok(failures)
}

/// Returns the whole error with its advice as one line.
fn one_line(error: anyhow::Error) -> Result<String, EarlyExit> {
    let problem = error.downcast::<Diagnostic>()?;
    Ok(escape(&format!("{}{}", problem.message, problem.advice.inline()).replace('\n', " ")))
}

fn install(words: &[String], failures: &mut Vec<String>, adapter: &mut Adapter<'_>) -> Result<(), EarlyExit> {
    if std::env::var_os("QEMU_BINARY_PREFIX").is_some_and(|prefix| !prefix.is_empty()) {
        let problem = Diagnostic::new("QEMU_BINARY_PREFIX is not supported: emulators need QEMU's names");
        return Err(problem.with_hint("use qus register --interpreter FILE ARCH").into());
    }
    let mut arches = Vec::new();
    for word in words {
        match Arch::named(word) {
            _ if word == "all" => arches.push(ArchArg::All),
            Ok(arch) => arches.push(ArchArg::One(arch)),
            Err(unknown) => {
                let nearest =
                    unknown.nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                let word = escape(word);
                let line = format!("installing: {word} unsupported architecture: {word}{nearest}");
                writeln!(adapter.messages, "{line}")?;
                failures.push(line);
            }
        }
    }
    if arches.is_empty() { Ok(()) } else { register(arches, failures, adapter) }
}

fn register(
    arches: Vec<ArchArg>,
    failures: &mut Vec<String>,
    adapter: &mut Adapter<'_>,
) -> Result<(), EarlyExit> {
    let search_dirs = std::env::var_os("QEMU_BINARY_PATH").filter(|path| !path.is_empty());
    let request = Register {
        arches: vec![arches.into()],
        source: SourceArgs {
            interpreter_dir: search_dirs.map(PathBuf::from).into_iter().collect(),
            ..SourceArgs::default()
        },
        ..Register::default()
    };
    let (status, report) = adapter.register(&request)?;
    let before = failures.len();
    for item in &report.items {
        let (is_done, what) = match item.outcome {
            Outcome::Registered | Outcome::Replaced => (true, "OK".to_owned()),
            Outcome::Unchanged | Outcome::Existing => {
                (true, format!("{} already registered", item.handlers.join(", ")))
            }
            Outcome::Native => (true, item.reason()),
            _ => (false, item.reason()),
        };
        let line = format!("installing: {} {}", docker_name(&item.name), escape(&what));
        writeln!(adapter.messages, "{line}")?;
        if !is_done {
            failures.push(line);
        }
    }
    if status != Status::Done && failures.len() == before {
        failures.push("the handlers do not last, as reported above".to_owned());
    }
    Ok(())
}

/// Returns Docker's name of an architecture. `name` is QEMU's name, which is returned if Docker has no name.
fn docker_name(name: &str) -> &str {
    let platform = Arch::from_qemu_target(name).and_then(|arch| arch.names.platforms.first());
    platform.and_then(|platform| platform.strip_prefix("linux/")).unwrap_or(name)
}

fn uninstall(
    words: &[String],
    failures: &mut Vec<String>,
    adapter: &mut Adapter<'_>,
) -> Result<(), EarlyExit> {
    if words.is_empty() {
        return Ok(());
    }
    let all = Reset { handlers: Vec::new(), dry_run: true, persist: false };
    let (_, registered) = adapter.reset(&all, false)?;
    let mut arches = Vec::new();
    for word in words {
        let meant = meant_by(word, &registered, failures, adapter)?;
        arches.extend(meant.into_iter().map(|arch| HandlerArg::Arch(arch, None)));
    }
    // `reset` without architectures would remove all handlers.
    if arches.is_empty() {
        return Ok(());
    }
    let (_, report) =
        adapter.reset(&Reset { handlers: vec![arches.into()], dry_run: false, persist: false }, true)?;
    for item in &report.items {
        let line = format!("uninstalling: {} {}", escape(&item.name), item.error.as_deref().unwrap_or("OK"));
        writeln!(adapter.messages, "{line}")?;
        if item.error.is_some() {
            failures.push(line);
        }
    }
    Ok(())
}

/// Returns the architectures of the registered handlers that `word`, an argument of `--uninstall`, selects. The word is
/// an architecture, a pattern for names of handlers, or the end of a handler's name. `registered` lists the handlers.
fn meant_by(
    word: &str,
    registered: &ResetReport,
    failures: &mut Vec<String>,
    adapter: &mut Adapter<'_>,
) -> Result<Vec<&'static Arch>, EarlyExit> {
    let named = Arch::named(word).ok();
    let pattern = Glob::new(word).map_err(|error| EarlyExit::Usage(format!("{}: {error}", escape(word))))?;
    let is_pattern = is_pattern(word);
    let is_meant =
        |name: &str| pattern.matches(name) || name.strip_suffix(word).is_some_and(|rest| rest.ends_with('-'));
    let meant = registered
        .items
        .iter()
        .filter(|item| is_meant(&item.name) || named.is_some_and(|arch| Some(arch.name) == item.arch));
    let meant: Vec<&'static Arch> = meant.filter_map(|item| Arch::from_qemu_target(item.arch?)).collect();
    let others: Vec<&String> = registered.skipped.iter().filter(|name| is_meant(name)).collect();
    for other in &others {
        let line = format!("uninstalling: {} is not a QEMU emulator: left in place", escape(other));
        writeln!(adapter.messages, "{line}")?;
        if !is_pattern {
            failures.push(line);
        }
    }
    if meant.is_empty() && others.is_empty() {
        let line = format!("uninstalling: {} not found", escape(word));
        writeln!(adapter.messages, "{line}")?;
        // A known architecture without a handler needs no removal. An unknown name is an error.
        if !is_pattern && named.is_none() {
            failures.push(line);
        }
    }
    Ok(meant)
}

/// State of the host in the JSON format of the tool `binfmt`.
#[derive(Serialize)]
struct HostState {
    supported: Vec<&'static str>,
    emulators: Vec<String>,
}

/// Prints the state of the host: the platforms that it runs, verified by the execution of probes, and the names of the
/// enabled handlers.
fn status(adapter: &mut Adapter<'_>) -> Result<(), EarlyExit> {
    let mut emulators = Vec::new();
    let running = if let Some(instance) = open_read_only(&adapter.common)? {
        let enabled = instance.is_enabled().map_err(Diagnostic::from)?;
        let handlers = table::handlers(&instance).map_err(Diagnostic::from)?;
        let active = handlers.iter().filter(|handler| enabled && handler.entry.enabled);
        let ours = active.filter(|handler| classify::emulated_arch(handler).is_some());
        emulators.extend(ours.map(|handler| name_lossy(&handler.name)));
        order::sort(&mut emulators);
        let arches = PLATFORMS
            .iter()
            .filter_map(|(name, _)| Some(HandlerArg::Arch(Arch::from_qemu_target(name)?, None)));
        let request = Verify { handlers: vec![arches.collect::<Vec<_>>().into()] };
        let (_, report) = adapter.run_command(false, |common, _| verify::execute(&request, common))?;
        let runs = |state| matches!(state, State::Native | State::Working);
        report.items.iter().filter(|item| runs(item.health.state)).filter_map(|item| item.arch).collect()
    } else {
        let path = adapter.common.instance.display();
        writeln!(adapter.messages, "qus: binfmt_misc is not mounted on {path}: emulators cannot be listed")?;
        running_probes()?
    };
    let own = Arch::from_header(&self_exe_header()?).map(|own| own.name);
    // The tool `binfmt` prints no level above 3.
    let level =
        if running.contains(&"x86_64") { probe::x86_64_level().map_err(Diagnostic::from)? } else { None };
    let supported = supported(own, &running, level.unwrap_or(1));
    let text = serde_json::to_string_pretty(&HostState { supported, emulators })?;
    writeln!(adapter.data, "{}", escape_json(&text))?;
    Ok(())
}

/// Returns the platforms of the architectures in `running`: those of the host, whose name is `own`, and then the others,
/// in the order in which the tool `binfmt` prints them. `level` is the level of x86-64 that programs get.
fn supported(own: Option<&str>, running: &[&str], level: u8) -> Vec<&'static str> {
    let is_own = |row: &&(&str, _)| own == Some(row.0);
    let rows = PLATFORMS.iter().filter(is_own).chain(PLATFORMS.iter().filter(|row| !is_own(row)));
    let mut supported = Vec::new();
    for (name, platforms) in rows.filter(|(name, _)| running.contains(name)) {
        supported.extend(*platforms);
        if *name == "x86_64" {
            supported.extend(
                ["linux/amd64/v2", "linux/amd64/v3"].iter().take(usize::from(level.saturating_sub(1))),
            );
        }
    }
    supported
}

/// Executes probes to determine which architectures this host runs. This works although binfmt_misc is not mounted.
/// Mounting it could hide the handlers of the host from this user namespace permanently (K66).
fn running_probes() -> Result<Vec<&'static str>, Diagnostic> {
    let arches = PLATFORMS.iter().filter_map(|(name, _)| Arch::from_qemu_target(name));
    let targets: Vec<ProbeTarget> = arches.filter_map(|arch| ProbeTarget::all_of(arch).next()).collect();
    let results = probe::run(&targets).map_err(Diagnostic::from)?;
    let runs = |result: &ProbeResult| {
        [STATUS_ARGV0, STATUS_PATH].iter().any(|status| result.host.end == End::Exited(*status))
    };
    let running = targets.iter().zip(&results).filter(|(_, result)| runs(result));
    Ok(running.map(|(target, _)| target.arch.name).collect())
}

/// Returns the QEMU versions of the emulators in this bundle. If qus is not a bundle, returns the version of the first
/// emulator that a search finds.
fn versions() -> Result<Vec<String>, Diagnostic> {
    let mut versions: Vec<String> = match own_bundle()? {
        Some(bundle) => bundle.members().iter().filter_map(|member| member.version.clone()).collect(),
        None => first_version()?.into_iter().collect(),
    };
    order::sort(&mut versions);
    versions.dedup();
    let versions: Vec<String> = versions.into_iter().map(|version| format!("v{version}")).collect();
    Ok(if versions.is_empty() { vec!["none".to_owned()] } else { versions })
}

fn first_version() -> Result<Option<String>, Diagnostic> {
    let named = std::env::var_os("QEMU_BINARY_PATH").map(PathBuf::from);
    let search_dirs =
        named.map_or_else(|| default_search_dirs(&store::all_fetched()), |location| vec![location]);
    let mut one = None;
    let found = search(&search_dirs, &self_exe_header()?, |arch, _| *one.get_or_insert(arch) == arch);
    let interpreters = found.values().filter_map(|found| found.interpreter.as_ref());
    Ok(versions_of(interpreters.map(|interpreter| interpreter.path.as_path()))
        .into_values()
        .next()
        .map(|version| version.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_platform_is_first() {
        let running = ["x86_64", "aarch64", "arm"];
        let arm = ["linux/arm/v7", "linux/arm/v6"];
        let on = |own, level| supported(Some(own), &running, level);
        assert_eq!(on("aarch64", 1), [&["linux/arm64", "linux/amd64"], &arm[..]].concat());
        assert_eq!(on("aarch64", 2), [&["linux/arm64", "linux/amd64", "linux/amd64/v2"], &arm[..]].concat());
        assert_eq!(on("arm", 1), [&arm[..], &["linux/amd64", "linux/arm64"]].concat());
        let amd64 = ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3"];
        assert_eq!(on("x86_64", 3), [&amd64[..], &["linux/arm64"], &arm[..]].concat());
    }
}
