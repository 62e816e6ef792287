//! Faults of a handler that show without executing its interpreter.

use crate::arch::elf::ElfError;
use crate::base::escape::display_path;
use crate::binfmt::{Flags, Handler, Matcher, first_match};
use crate::handler::exec_target::{AccessError, ExecTarget, Kind};
use crate::interpreter::{CheckError, Interpreter};

/// Fault of an interpreter: programs of its handler cannot be started, or get rights that they should not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenInterpreter {
    /// The fault. The text is printed after the path of the interpreter.
    pub reason: String,
    /// Shell command that fixes the file; `None` if no simple command does.
    pub command: Option<String>,
}

impl BrokenInterpreter {
    /// Finds a fault of the interpreter of `handler`, which need not be an emulator. `host` is the beginning of a program
    /// that this host runs natively. A handler with the flag `F` keeps its file open (K47), so a missing file is no fault.
    #[must_use]
    pub fn find(handler: &Handler, handlers: &[Handler], host: &[u8]) -> Option<Self> {
        // A relative path depends on the directory of each program, or is in memory.
        let path = handler.entry.interpreter.as_deref().filter(|path| path.is_absolute())?;
        let target = ExecTarget::inspect(path);
        let pinned = handler.entry.flags.contains(Flags::FIX_BINARY);
        let denied = target.denied.filter(|_| !pinned);
        if let Some(denied) = denied.filter(|denied| *denied != AccessError::NotExecutable) {
            return Some(Self { reason: denied.to_string(), command: None });
        }
        let checked = Interpreter::check(path, host).err();
        if let Some(reason) = checked.as_ref().and_then(|error| unstartable(error, &target, handlers)) {
            return Some(Self { reason, command: None });
        }
        let error = match checked {
            Some(CheckError::SetId) => CheckError::SetId,
            _ if denied.is_some() => CheckError::NotExecutable,
            _ => return None,
        };
        Some(Self {
            command: error.command(path).map(|command| format!("sudo {command}")),
            reason: error.to_string(),
        })
    }
}

/// Returns the reason why the kernel cannot start the content of `target`, for which the check reported `error`. A
/// dynamic program, a script, and a file for which there is another handler can be started.
fn unstartable(error: &CheckError, target: &ExecTarget, handlers: &[Handler]) -> Option<String> {
    match error {
        CheckError::Elf(ElfError::Script(_)) => match &target.kind {
            Kind::Script { interpreter } if interpreter.is_absolute() && !interpreter.exists() => {
                Some(format!("is a script for {}, which does not exist", display_path(interpreter)))
            }
            _ => None,
        },
        CheckError::Elf(ElfError::Read(_)) => None,
        CheckError::Elf(_) | CheckError::OtherHost(_) => {
            first_match(handlers, &target.header, &target.path).is_none().then(|| error.to_string())
        }
        CheckError::Dynamic(_) => match &target.kind {
            Kind::Elf(elf) => {
                let loader =
                    elf.loader.as_deref().filter(|loader| loader.is_absolute() && !loader.exists())?;
                Some(format!("needs {}, which does not exist", display_path(loader)))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Returns the enabled handler that takes all files of `handler` before it, if there is one. `handlers` are the handlers
/// of the instance, newest first (K31).
#[must_use]
pub fn covered_by<'a>(handler: &Handler, handlers: &'a [Handler]) -> Option<&'a Handler> {
    let mut newer = handlers.iter().take_while(|other| other.name != handler.name);
    newer.find(|other| other.entry.enabled && covers(other, handler))
}

/// Reports whether all files of `older` match `newer`.
#[must_use]
pub fn covers(newer: &Handler, older: &Handler) -> bool {
    match (&newer.entry.matcher, &older.entry.matcher) {
        (Some(Matcher::Magic(newer)), Some(Matcher::Magic(older))) => newer.covers(older),
        (Some(newer), Some(older)) => newer.equivalent(older),
        _ => false,
    }
}
