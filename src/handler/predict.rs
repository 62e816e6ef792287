//! Prediction of what the kernel does when it executes a file: the handlers that match, in order, and the result. The
//! prediction is a pure function: the caller passes the function that inspects files.
//!
//! The kernel's order is in `search_binary_handler` and `exec_binprm` (`fs/exec.c`): binfmt_misc comes before scripts,
//! and scripts before ELF (K36). The kernel replaces a program by an interpreter at most five times (K38), and never
//! tries a second handler (K39).

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;

use crate::arch::Class;
use crate::arch::load::Flaw;
use crate::binfmt::{Flags, Handler, HandlerName, first_match};
use crate::handler::exec_target::{AccessError, Elf, ExecTarget, Kind, script_interpreter};

/// Maximum number of times that an interpreter can replace the program (`fs/exec.c`: `exec_binprm`; K38).
const REWRITES: usize = 5;

/// One replacement of the program by an interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The interpreter of a handler replaces the program.
    Handler {
        /// Name of the handler.
        name: HandlerName,
        /// Path of the interpreter, as registered.
        interpreter: PathBuf,
    },
    /// The interpreter in the first line of a script replaces the program.
    Script {
        /// Path of the interpreter.
        interpreter: PathBuf,
    },
}

/// Result of `execve(2)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel starts a native program.
    Starts,
    /// The kernel starts a native program with damaged headers, so what happens then is unknown.
    Unclear {
        /// The damaged program.
        file: PathBuf,
        /// Description of the damage.
        damage: String,
    },
    /// A signal ends the process while the kernel loads a damaged native program.
    Killed {
        /// The damaged program.
        file: PathBuf,
        /// Description of the damage.
        damage: String,
    },
    /// `execve(2)` fails.
    Fails {
        /// Error of `execve(2)`.
        errno: Errno,
        /// File that causes the error.
        file: PathBuf,
        /// Reason of the error.
        reason: Reason,
    },
}

/// Reason why `execve(2)` fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The file may not be executed, independent of its content.
    AccessError(AccessError),
    /// No handler matches the file, and the host does not run it natively (K40).
    NoHandler,
    /// Too many interpreters replace one another, usually because a handler matches its own interpreter (K37, K38).
    Loop,
    /// The interpreter of a handler with `O` or `C` is not a native program: it is a script, or another handler matches
    /// it (K59).
    OpenFileTwice,
    /// The loader of a native program is missing or cannot be started.
    Loader(PathBuf),
    /// The headers of a native program are damaged. The value describes the damage.
    Damaged(String),
}

/// Prediction of what `execve(2)` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// The interpreters that replace the program, in order.
    pub steps: Vec<Step>,
    /// Result of `execve(2)`.
    pub end: End,
}

/// The kernel's table of handlers, and functions that provide facts about files.
pub struct Table<'a> {
    /// All handlers, newest first.
    pub handlers: &'a [Handler],
    /// True if the instance is enabled as a whole (the file `status`).
    pub enabled: bool,
    /// Reports whether this host runs a file natively.
    pub native: &'a dyn Fn(&ExecTarget) -> bool,
    /// Inspects a file. The result is a shared pointer, because many handlers have the same interpreter.
    pub inspect: &'a dyn Fn(&Path) -> Rc<ExecTarget>,
}

impl Table<'_> {
    /// Predicts what `execve(2)` on `file` does.
    #[must_use]
    pub fn predict(&self, file: &ExecTarget) -> Prediction {
        let mut exec = Exec { table: self, steps: Vec::new(), denied: file.denied, has_open_file: false };
        let mut next = exec.step(file);
        let end = loop {
            match next {
                ControlFlow::Continue(interpreter) => next = exec.step(&interpreter),
                ControlFlow::Break(end) => break end,
            }
        };
        Prediction { steps: exec.steps, end }
    }

    fn end_of(&self, file: &ExecTarget) -> End {
        if !(self.native)(file) {
            return fails(Errno::ENOEXEC, file, Reason::NoHandler);
        }
        let Kind::Elf(elf) = &file.kind else { return End::Starts };
        if let Some(Flaw::Refused(errno, damage)) = &elf.kernel_flaw {
            return fails(*errno, file, Reason::Damaged(damage.to_string()));
        }
        if let Some(end) = self.end_of_loader(file, elf) {
            return end;
        }
        let path = file.path.clone();
        match &elf.kernel_flaw {
            Some(Flaw::Killed(damage)) => End::Killed { file: path, damage: damage.to_string() },
            Some(flaw) => End::Unclear { file: path, damage: flaw.description().to_owned() },
            None => End::Starts,
        }
    }

    /// Returns the failure of the loader that the native program `file` needs, if it fails.
    fn end_of_loader(&self, file: &ExecTarget, elf: &Elf) -> Option<End> {
        let loader = elf.loader.as_ref()?;
        let loader_file = (self.inspect)(loader);
        // `load_elf_binary` reads a complete header from the loader before it checks the loader (K52).
        let is_wide = elf.native_arch.is_some_and(|arch| arch.identity.class == Class::Elf64);
        let header = if is_wide { 64 } else { 52 };
        let errno = match loader_file.denied {
            Some(denied) => denied.errno(),
            None if loader_file.id.is_none() => return None,
            None if loader_file.header.len() < header => Errno::EIO,
            None => match &loader_file.kind {
                Kind::Elf(Elf { native_arch, .. }) if *native_arch != elf.native_arch => Errno::ELIBBAD,
                Kind::Elf(Elf { kernel_flaw: Some(Flaw::Refused(..)), .. }) => Errno::ELIBBAD,
                _ if !(self.native)(&loader_file) => Errno::ELIBBAD,
                _ => return None,
            },
        };
        Some(fails(errno, file, Reason::Loader(loader.clone())))
    }
}

/// State of the prediction for one `execve(2)` call (`fs/exec.c`: `exec_binprm`).
struct Exec<'a> {
    table: &'a Table<'a>,
    steps: Vec<Step>,
    /// Reason why the kernel cannot open the file that comes next; `None` if it can.
    denied: Option<AccessError>,
    /// True if the kernel has opened a file for the interpreter of a handler with flag `O` or `C`.
    has_open_file: bool,
}

impl Exec<'_> {
    /// Predicts what the kernel does with `file`. Returns the interpreter that replaces the file, or the result of
    /// `execve(2)`.
    fn step(&mut self, file: &ExecTarget) -> ControlFlow<End, Rc<ExecTarget>> {
        if let Some(denied) = self.denied {
            return ControlFlow::Break(fails(denied.errno(), file, Reason::AccessError(denied)));
        }
        if self.steps.len() > REWRITES {
            return ControlFlow::Break(fails(Errno::ELOOP, file, Reason::Loop));
        }
        let handlers = if self.table.enabled { self.table.handlers } else { &[] };
        let file_was_open = self.has_open_file;
        let next = if let Some(handler) = first_match(handlers, &file.header, &file.path) {
            self.start_interpreter(handler)?
        } else if let Some(interpreter) = script_interpreter(&file.header) {
            self.start_script(interpreter)
        } else {
            return ControlFlow::Break(self.table.end_of(file));
        };
        // While a file is open for an interpreter, no other program can replace that interpreter. The kernel opens the
        // other program before it checks this (K59).
        if file_was_open && self.denied.is_none() {
            return ControlFlow::Break(fails(Errno::ENOEXEC, file, Reason::OpenFileTwice));
        }
        ControlFlow::Continue(next)
    }

    fn start_interpreter(&mut self, handler: &Handler) -> ControlFlow<End, Rc<ExecTarget>> {
        let flags = handler.entry.flags;
        let interpreter = handler.entry.interpreter.clone().unwrap_or_default();
        let next = (self.table.inspect)(&interpreter);
        self.steps.push(Step::Handler { name: handler.name.clone(), interpreter });
        // With `F` the kernel opened the file at registration, so the current file at the path does not matter (K47,
        // K54).
        let is_pinned = flags.contains(Flags::FIX_BINARY);
        if is_pinned && next.id.is_none() && !self.has_open_file {
            return ControlFlow::Break(End::Starts);
        }
        self.denied = if is_pinned { None } else { next.denied };
        self.has_open_file |= flags.contains(Flags::OPEN_BINARY);
        ControlFlow::Continue(next)
    }

    fn start_script(&mut self, interpreter: PathBuf) -> Rc<ExecTarget> {
        // An empty name opens the current directory.
        let is_nameless = interpreter.as_os_str().is_empty();
        let next = (self.table.inspect)(if is_nameless { Path::new(".") } else { &interpreter });
        self.steps.push(Step::Script { interpreter });
        self.denied = next.denied;
        next
    }
}

fn fails(errno: Errno, file: &ExecTarget, reason: Reason) -> End {
    End::Fails { errno, file: file.path.clone(), reason }
}

/// Returns the handlers that match `file`, in the kernel's order. Disabled handlers are included.
#[must_use]
pub fn matching<'a>(handlers: &'a [Handler], file: &ExecTarget) -> Vec<&'a Handler> {
    let takes = |handler: &&Handler| {
        handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.matches(&file.header, &file.path))
    };
    handlers.iter().filter(takes).collect()
}
