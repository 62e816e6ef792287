//! Facts that `qus which` gathers before it answers: the results of probes, and descriptions of handlers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::{Results, probe_target};
use crate::arch::Arch;
use crate::binfmt::Handler;
use crate::commands::suggestion::Available;
use crate::handler::classify;
use crate::handler::exec_target::{Elf, ExecTarget, Kind};
use crate::handler::predict::Table;
use crate::interpreter::provenance::Provenance;
use crate::interpreter::{QemuVersion, prefix_in};
use crate::probe::{self, STATUS_ARGV0, STATUS_PATH};

/// Facts that `qus which` gathers before it answers: results of probes, versions of interpreters, and descriptions of handlers.
#[derive(Default)]
pub(super) struct Known {
    pub(super) results: Results,
    pub(super) versions: BTreeMap<PathBuf, QemuVersion>,
    /// Descriptions of the handlers, in the order in which the kernel tries them.
    pub(super) descriptions: Vec<HandlerDescription>,
    /// Directories in which emulators search the files of programs, by the path of the emulator.
    pub(super) prefixes: RefCell<BTreeMap<PathBuf, Option<PathBuf>>>,
    /// Directory of the instance, which commands name if it is not the usual one.
    pub(super) instance: PathBuf,
    /// False if binfmt_misc is not mounted. Handlers of an outer user namespace may then be active, although none can be
    /// seen (K65).
    pub(super) is_mounted: bool,
    /// True if qus runs as root. Others get a hint that needs no root.
    pub(super) is_root: bool,
    /// Architectures that have an interpreter. The advice depends on it.
    pub(super) available: Available,
}

impl Known {
    /// Stores the descriptions of `handlers`, which the answers about all files use.
    pub(super) fn describe(&mut self, handlers: &[Handler]) {
        let describe = |handler: &Handler| {
            let path = handler.entry.interpreter.clone().unwrap_or_default();
            // Only fetched interpreters have a record.
            let provenance = path.is_absolute().then(|| Provenance::of(&path)).flatten();
            HandlerDescription {
                name: handler.name.to_string(),
                interpreter: path.to_string_lossy().into(),
                flags: handler.entry.flag_letters(),
                version: self.versions.get(&path).map(ToString::to_string),
                provenance,
            }
        };
        self.descriptions = handlers.iter().map(describe).collect();
    }

    pub(super) fn matched_by(&self, handler: &Handler, table: &Table<'_>) -> Option<&HandlerDescription> {
        let index = table.handlers.iter().position(|other| std::ptr::eq(other, handler))?;
        self.descriptions.get(index)
    }

    /// Returns the directory in which QEMU searches the files of programs without `QEMU_LD_PREFIX`, from the file of the
    /// emulator: `/etc/qemu-binfmt/ARCH` in Debian, `/usr/gnemul/qemu-ARCH` in QEMU's own build.
    pub(super) fn prefix_of(&self, handler: &Handler) -> Option<PathBuf> {
        let path = classify::emulator_path(handler)?;
        let mut prefixes = self.prefixes.borrow_mut();
        prefixes.entry(path.to_owned()).or_insert_with(|| prefix_in(path)).clone()
    }

    /// Reports whether a probe with the header of `file` ran. Returns `None` if no such probe was executed.
    pub(super) fn ran(&self, file: &ExecTarget) -> Option<bool> {
        let result = self.results.get(&probe_target(file)?)?;
        Some(matches!(result.host.end, probe::End::Exited(STATUS_ARGV0 | STATUS_PATH)))
    }
}

/// Certainty of an answer of `qus which`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Certainty {
    /// A probe with the same ELF header as the file was executed.
    Executed,
    /// At most one enabled handler matches the file, so the rules determine the answer.
    Ruled,
    /// Several enabled handlers match the file, and the kernel does not document in which order it tries them (K32).
    Likely,
    /// The file is started, but its headers are damaged or are for another operating system. Only its code decides what
    /// happens then.
    Unknown,
}

#[derive(Debug, Serialize)]
pub(super) struct HandlerDescription {
    pub(super) name: String,
    pub(super) interpreter: String,
    pub(super) flags: String,
    pub(super) version: Option<String>,
    pub(super) provenance: Option<Provenance>,
}

/// Returns the architecture of `file`, if it is an ELF program of a known architecture.
pub(super) fn arch_of(file: &ExecTarget) -> Option<&'static Arch> {
    match &file.kind {
        Kind::Elf(Elf { arch, .. }) => *arch,
        _ => None,
    }
}
