//! Makes qus act as QEMU's script `qemu-binfmt-conf.sh`. Other tools wrap this script, so the modules for them use
//! parts of this module.

use std::path::{Path, PathBuf};

use super::getopt::{self, OptSpec};
use super::{Adapter, EarlyExit};
use crate::arch::{ARCHES, Arch};
use crate::base::error::Diagnostic;
use crate::base::escape::{display_path, escape};
use crate::base::output::Status;
use crate::binfmt::Flags;
use crate::binfmt::instance::{Instance, OpenError};
use crate::boot::formats::binfmt_support_format;
use crate::commands::args::{ArchArg, HandlerArg, SourceArgs};
use crate::commands::register::{ArchResult, Outcome, Register};
use crate::commands::reset::Reset;
use crate::handler::classify;
use crate::system::atomic_file;

pub(super) const USAGE: &str = "\
Usage: qemu-binfmt-conf.sh [OPTIONS] (provided by qus)
  -Q, --qemu-path PATH         directory of the interpreters
  -F, --qemu-suffix SUFFIX     suffix of their names
  -p, --persistent yes|no      open interpreters once (F); always on, except for files
  -c, --credential yes|no      setuid programs get the rights of their owners (C)
  -g, --preserve-argv0 yes|no  keep argv[0] (P); always on if supported, except for files
  -i, --ignore-family yes|no   for files: the host runs no other architecture of its family; otherwise tested
  -s, --systemd CPU|ALL        only write files for systemd-binfmt (/etc/binfmt.d)
  -d, --debian                 only write files for update-binfmts (/usr/share/binfmts)
  -e, --exportdir PATH         directory for these files
  -h, --help                   this text
CPU: any name of an architecture; ALL: those with an interpreter, or all if there is none.
Environment: HOST_ARCH, architecture of the host that uses the files.";

const KNOWN: &[OptSpec] = &[
    (Some('h'), "help", false),
    (Some('d'), "debian", false),
    (Some('s'), "systemd", true),
    (Some('Q'), "qemu-path", true),
    (Some('F'), "qemu-suffix", true),
    (Some('e'), "exportdir", true),
    (Some('c'), "credential", true),
    (Some('p'), "persistent", true),
    (Some('g'), "preserve-argv0", true),
    (Some('i'), "ignore-family", true),
];

/// Directory in which `qemu-binfmt-conf.sh` expects interpreters by default.
const SCRIPT_PATH: &str = "/usr/local/bin";

/// Format of the configuration files that the script writes instead of registering handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Export {
    /// Configuration files for systemd-binfmt.
    Systemd,
    /// Configuration files for update-binfmts (binfmt-support).
    Debian,
}

/// Options on the command line of `qemu-binfmt-conf.sh` or of a tool that wraps it.
#[allow(clippy::struct_excessive_bools, reason = "switches of a command line")]
#[derive(Debug, Default)]
pub(super) struct Setup {
    /// Directory of the interpreters. `None` means the directories that qus searches by default.
    pub(super) path: Option<PathBuf>,
    pub(super) suffix: String,
    pub(super) credentials: bool,
    pub(super) preserve_argv0: bool,
    /// True if written configuration files contain the flag `F`; `None` means the same. Registered handlers always have it.
    pub(super) persistent: Option<bool>,
    /// True if configuration files are written also for the other architectures of the host's family. Has no effect on
    /// registered handlers.
    pub(super) ignore_family: bool,
    pub(super) clear: bool,
    pub(super) dry_run: bool,
    pub(super) export: Option<Export>,
    pub(super) exportdir: Option<PathBuf>,
    /// Names of the requested architectures. An empty list means all.
    pub(super) targets: Vec<String>,
}

pub(super) fn run(words: &[String], adapter: &mut Adapter<'_>) -> Result<Status, EarlyExit> {
    Setup::default().with(words)?.act(adapter)
}

/// Removes the handlers of `arches`, or those of all QEMU emulators if `arches` is empty. Prints the removed handlers,
/// and those that are left in place because they are not QEMU's. If `dry_run` is true, removes nothing.
pub(super) fn clear(
    arches: &[&'static Arch],
    dry_run: bool,
    adapter: &mut Adapter<'_>,
) -> Result<Status, EarlyExit> {
    let all = arches.is_empty();
    let handlers = arches.iter().map(|arch| vec![HandlerArg::Arch(arch, None)].into()).collect();
    let (status, answer) = adapter.reset(&Reset { handlers, dry_run, persist: false }, false)?;
    let verb = if dry_run { "Would remove" } else { "Removed" };
    for item in &answer.items {
        let name = escape(&item.name);
        match &item.error {
            None => writeln!(
                adapter.data,
                "{verb} {name} as binfmt interpreter for {}",
                item.arch.unwrap_or("-")
            )?,
            Some(error) => writeln!(adapter.messages, "ERROR: {name}: {}", escape(error))?,
        }
    }
    if all && !answer.skipped.is_empty() {
        let skipped = escape(&answer.skipped.join(" "));
        writeln!(adapter.messages, "left in place because they are not QEMU emulators: {skipped}")?;
    }
    Ok(status)
}

impl Setup {
    /// Removes the handlers of all QEMU emulators before this setup registers new ones. The registration mounts the
    /// instance if necessary, so it is mounted here first.
    pub(super) fn reset_first(&self, adapter: &mut Adapter<'_>) -> Result<Status, EarlyExit> {
        if !self.dry_run && self.export.is_none() {
            adapter.mount()?;
        } else if self.dry_run
            && matches!(Instance::open(&adapter.common.instance), Err(OpenError::NotMounted(_)))
        {
            // A dry run does not mount the instance, so it cannot list the handlers.
            return Ok(Status::Done);
        }
        clear(&[], self.dry_run, adapter)
    }

    /// Adds the options in `words`, which have the syntax of QEMU's script `qemu-binfmt-conf.sh`.
    pub(super) fn with(mut self, words: &[String]) -> Result<Self, EarlyExit> {
        let parsed = getopt::read(words, KNOWN).map_err(EarlyExit::Usage)?;
        if let Some(word) = parsed.others.first() {
            return Err(EarlyExit::Usage(format!("unknown option {word}")));
        }
        for (name, value) in parsed.options {
            let yes = || match value.as_str() {
                "yes" => Ok(true),
                "no" => Ok(false),
                _ => Err(EarlyExit::Usage(format!("--{name} is yes or no, not {value}"))),
            };
            match name {
                "debian" => self.export = Some(Export::Debian),
                "systemd" => {
                    self.export = Some(Export::Systemd);
                    self.targets.clear();
                    if value != "ALL" {
                        self.targets.push(value);
                    }
                }
                "qemu-path" => self.path = Some(value.into()),
                "qemu-suffix" => self.suffix = value,
                "exportdir" => self.exportdir = Some(value.into()),
                "credential" => self.credentials = yes()?,
                "persistent" => self.persistent = Some(yes()?),
                "preserve-argv0" => self.preserve_argv0 = yes()?,
                "ignore-family" => self.ignore_family = yes()?,
                _ => return Err(EarlyExit::Help),
            }
        }
        Ok(self)
    }

    /// Adds the architectures named in `list`, which are separated by commas or spaces, to the requested architectures.
    pub(super) fn add_targets(&mut self, list: &str) {
        let names = list.split([',', ' ']).filter(|name| !name.is_empty() && *name != "all");
        self.targets.extend(names.map(str::to_owned));
    }

    /// Executes what the options request: removes handlers, registers handlers, or writes configuration files.
    pub(super) fn act(&self, adapter: &mut Adapter<'_>) -> Result<Status, EarlyExit> {
        let mut arches = Vec::new();
        for name in &self.targets {
            arches.push(
                Arch::named(name)
                    .map_err(|_| EarlyExit::Usage(format!("ERROR: unknown CPU {}", escape(name))))?,
            );
        }
        match self.export {
            Some(_) if self.clear => Err(EarlyExit::Usage("ERROR: files cannot be cleared".to_owned())),
            Some(export) => self.write(export, &arches, adapter),
            None if self.clear => clear(&arches, self.dry_run, adapter),
            None => self.register(&arches, adapter),
        }
    }

    fn register(&self, arches: &[&'static Arch], adapter: &mut Adapter<'_>) -> Result<Status, EarlyExit> {
        if self.persistent == Some(false) {
            let note = "every interpreter is opened once (F), because containers need that";
            writeln!(adapter.messages, "{note}")?;
        }
        let request = |arches: &[&'static Arch]| Register {
            arches: arches.iter().map(|arch| vec![ArchArg::One(arch)].into()).collect(),
            credentials: self.credentials,
            dry_run: self.dry_run,
            ..Register::default()
        };
        // qus searches for interpreters under the names that distributions use. With any other suffix, the interpreter
        // is given as a file.
        let requests = if matches!(self.suffix.as_str(), "" | "-static") {
            {
                let interpreter_dir = self.path.iter().cloned().collect();
                let source = SourceArgs { interpreter_dir, ..SourceArgs::default() };
                vec![Register { source, ..request(arches) }]
            }
        } else {
            let files = self.files(arches)?.into_iter();
            files.map(|(arch, path)| Register { interpreter: Some(path), ..request(&[arch]) }).collect()
        };
        let mut worst = Status::Done;
        for request in requests {
            let (status, answer) = adapter.register(&request)?;
            worst = worst.max(status);
            for item in &answer.items {
                self.print_arch(item, adapter)?;
            }
        }
        Ok(worst)
    }

    fn print_arch(&self, item: &ArchResult, adapter: &mut Adapter<'_>) -> Result<(), EarlyExit> {
        let arch = &item.name;
        let interpreter = escape(item.interpreter.as_deref().unwrap_or_default());
        match item.outcome {
            Outcome::Registered | Outcome::Replaced => {
                let verb = if self.dry_run { "Would set" } else { "Setting" };
                writeln!(adapter.data, "{verb} {interpreter} as binfmt interpreter for {arch}")?;
            }
            Outcome::Unchanged | Outcome::Existing => {
                writeln!(adapter.data, "{interpreter} is the binfmt interpreter for {arch} already")?;
            }
            Outcome::Native => writeln!(adapter.data, "{arch} needs no interpreter: {}", item.reason())?,
            _ => writeln!(adapter.messages, "ERROR: {arch}: {}", escape(&item.reason()))?,
        }
        Ok(())
    }

    fn directory(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(SCRIPT_PATH))
    }

    /// Returns the path at which the options say that the interpreter of `arch` is.
    fn file(&self, arch: &Arch) -> PathBuf {
        self.directory().join(format!("qemu-{}{}", arch.name, self.suffix))
    }

    /// Returns each of `arches` with the path of its interpreter. If `arches` is empty, returns all architectures whose
    /// interpreter exists.
    fn files(&self, arches: &[&'static Arch]) -> Result<Vec<(&'static Arch, PathBuf)>, Diagnostic> {
        let with_file = |arch: &'static Arch| (arch, self.file(arch));
        let files: Vec<_> = if arches.is_empty() {
            ARCHES.iter().map(with_file).filter(|(_, path)| path.exists()).collect()
        } else {
            arches.iter().copied().map(with_file).collect()
        };
        if files.is_empty() {
            let directory = display_path(self.directory());
            return Err(Diagnostic::new(format!(
                "{directory} has no interpreter called qemu-…{}",
                escape(&self.suffix)
            )));
        }
        Ok(files)
    }

    fn write(
        &self,
        export: Export,
        arches: &[&'static Arch],
        adapter: &mut Adapter<'_>,
    ) -> Result<Status, EarlyExit> {
        let mut flags = Flags::OPEN_BINARY;
        flags.set(Flags::FIX_BINARY, self.persistent != Some(false));
        flags.set(Flags::CREDENTIALS, self.credentials);
        flags.set(Flags::PRESERVE_ARGV0, self.preserve_argv0);
        let (directory, service) = match export {
            Export::Systemd => ("/etc/binfmt.d", "systemd-binfmt.service"),
            Export::Debian => ("/usr/share/binfmts", "update-binfmts"),
        };
        let directory = self.exportdir.as_deref().unwrap_or(Path::new(directory));
        for arch in self.exported(arches)? {
            let interpreter = self.file(arch);
            for rule in classify::rules(arch, &interpreter, flags)? {
                let name = rule.name();
                let (path, text) = match export {
                    Export::Systemd => {
                        (directory.join(format!("{name}.conf")), [rule.to_line(), b"\n".to_vec()].concat())
                    }
                    Export::Debian => {
                        (directory.join(name.as_os_str()), binfmt_support_format(&name.to_string(), &rule))
                    }
                };
                if !self.dry_run {
                    atomic_file::write_atomic(&path, &text, 0o644).map_err(|error| {
                        Diagnostic::new(format!("cannot write {}: {error}", display_path(&path)))
                    })?;
                }
            }
            let interpreter = display_path(&interpreter);
            writeln!(
                adapter.data,
                "Setting {interpreter} as binfmt interpreter for {} for {service}",
                arch.name
            )?;
        }
        Ok(Status::Done)
    }

    /// Returns the architectures for which configuration files are written: `arches`, or if it is empty, all
    /// architectures whose interpreter exists. If no interpreter exists, for example during the build of a package,
    /// returns all architectures. Leaves out the host's own architecture, and without the option `ignore-family` also
    /// the others of its family.
    fn exported(&self, arches: &[&'static Arch]) -> Result<Vec<&'static Arch>, EarlyExit> {
        let machine = match std::env::var("HOST_ARCH") {
            Ok(machine) => machine,
            Err(_) => std::env::consts::ARCH.to_owned(),
        };
        let host =
            Arch::named(&machine).map_err(|unknown| EarlyExit::Usage(format!("HOST_ARCH: {unknown}")))?;
        let is_native =
            |arch: &Arch| *arch == *host || !self.ignore_family && host.same_family().contains(&arch.name);
        let is_there = |arch: &&'static Arch| self.file(arch).exists();
        let mut chosen: Vec<&'static Arch> = match arches {
            [] if ARCHES.iter().any(|arch| is_there(&arch)) => ARCHES.iter().filter(is_there).collect(),
            [] => ARCHES.iter().collect(),
            named => named.to_vec(),
        };
        chosen.retain(|arch| !is_native(arch));
        Ok(chosen)
    }
}
