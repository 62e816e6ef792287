//! Prediction of what the kernel does with a file: which handlers take it, one after the other, and the result. Pure:
//! files are inspected by a function that is passed in.
//!
//! The order is that of `search_binary_handler` and `exec_binprm` in `fs/exec.c`: binfmt_misc before scripts before ELF
//! (K36), at most five rewrites (K38), no second choice (K39).

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;

use crate::binfmt::{Flags, Handler, HandlerName, first_match};
use crate::handler::exec_target::{AccessError, Elf, ExecTarget, Kind, script_interpreter};

/// Number of times that one program may be replaced by another (`exec_binprm`; K38).
const REWRITES: usize = 5;

/// One program that stands in for the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A handler's interpreter.
    Handler {
        /// The handler.
        name: HandlerName,
        /// Its interpreter, as registered.
        interpreter: PathBuf,
    },
    /// Interpreter in the first line of a script.
    Script {
        /// The program.
        interpreter: PathBuf,
    },
}

/// Result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A program that this host runs itself is started.
    Starts,
    /// `execve(2)` fails.
    Fails {
        /// With this errno.
        errno: Errno,
        /// Because of this file.
        file: PathBuf,
        /// And this is why.
        reason: Reason,
    },
}

/// Reason why `execve(2)` fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The file may not be started, whatever is in it.
    AccessError(AccessError),
    /// Nothing takes it: no handler, and the host does not run it itself (K40).
    NoHandler,
    /// Too many programs stand in for one another, usually because a handler matches its own interpreter (K37, K38).
    Loop,
    /// The interpreter of a handler with `O` or `C` is a script, or a file that a handler takes, and not a program of
    /// this host (K59).
    OpenFileTwice,
    /// The loader of a program of this host is missing or cannot be started.
    Loader(PathBuf),
}

/// Predicts what the kernel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// The programs that stand in, in order.
    pub steps: Vec<Step>,
    /// The end.
    pub end: End,
}

/// The kernel's table of handlers, and what it runs without them.
pub struct Table<'a> {
    /// Newest first.
    pub handlers: &'a [Handler],
    /// True if the instance as a whole is on.
    pub enabled: bool,
    /// True if this host runs ELF programs that begin like this itself.
    pub native: &'a dyn Fn(&ExecTarget) -> bool,
    /// Looks at a file. Many files have the same interpreter: it may have been looked at before.
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
                ControlFlow::Continue(stand_in) => next = exec.step(&stand_in),
                ControlFlow::Break(end) => break end,
            }
        };
        Prediction { steps: exec.steps, end }
    }

    fn end_of(&self, file: &ExecTarget) -> End {
        if !(self.native)(file) {
            return fails(Errno::ENOEXEC, file, Reason::NoHandler);
        }
        let Kind::Elf(Elf { loader: Some(loader), class, .. }) = &file.kind else { return End::Starts };
        let there = (self.inspect)(loader);
        // `load_elf_binary` reads a whole header of the loader before it looks at it (K52).
        let header = if *class == 2 { 64 } else { 52 };
        let errno = match there.denied {
            Some(denied) => denied.errno(),
            None if there.id.is_none() => return End::Starts,
            None if there.header.len() < header => Errno::EIO,
            None if !(self.native)(&there) => Errno::ELIBBAD,
            None => return End::Starts,
        };
        fails(errno, file, Reason::Loader(loader.clone()))
    }
}

/// A call of `execve(2)` in progress (`fs/exec.c`, `exec_binprm`).
struct Exec<'a> {
    table: &'a Table<'a>,
    steps: Vec<Step>,
    /// Reason why the next file cannot be opened.
    denied: Option<AccessError>,
    /// True if a handler with `O` or `C` has a file open for its interpreter.
    has_open_file: bool,
}

impl Exec<'_> {
    /// Goes on with `file`: to the program that stands in for it, or to the end.
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
        // Once a file is open for an interpreter, nothing can stand in for that; but only after what would has been
        // opened (K59).
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
        // With `F` the file was opened at registration: what its path leads to now does not matter (K47, K54).
        let is_pinned = flags.contains(Flags::FIX_BINARY);
        if is_pinned && next.id.is_none() && !self.has_open_file {
            return ControlFlow::Break(End::Starts);
        }
        self.denied = if is_pinned { None } else { next.denied };
        self.has_open_file |= flags.contains(Flags::OPEN_BINARY);
        ControlFlow::Continue(next)
    }

    fn start_script(&mut self, interpreter: PathBuf) -> Rc<ExecTarget> {
        // Opening no name at all opens the current directory.
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

/// The handlers that take `file`, in the kernel's order, disabled ones among them.
#[must_use]
pub fn matching<'a>(handlers: &'a [Handler], file: &ExecTarget) -> Vec<&'a Handler> {
    let takes = |handler: &&Handler| {
        handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.matches(&file.header, &file.path))
    };
    handlers.iter().filter(takes).collect()
}
