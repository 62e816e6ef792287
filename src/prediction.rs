//! What the kernel will do with a file: which handlers take it, one after the other, and how that ends. Pure: files are
//! looked at through a function that is given.
//!
//! The order is that of `search_binary_handler` and `exec_binprm` in `fs/exec.c`: binfmt_misc before scripts before ELF
//! (K36), at most five rewrites (K38), no second choice (K39).

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::binfmt::{Flags, Handler, HandlerName, winner};
use crate::file::{Candidate, Denied, Kind, script_interpreter};

/// How often one program may stand in for another (`exec_binprm`; K38).
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
    /// What the first line of a script names.
    Script {
        /// The program.
        interpreter: PathBuf,
    },
}

/// How it ends.
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

/// Why `execve(2)` fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The file may not be started, whatever is in it.
    Denied(Denied),
    /// Nothing takes it: no handler, and the host does not run it itself (K40).
    NotTaken,
    /// Too many programs stand in for one another, usually because a handler takes its own interpreter (K37, K38).
    Circle,
    /// A handler with `O` or `C` starts a script (K59).
    ScriptWithOpenFile,
    /// The loader of a program of this host is missing or cannot be started.
    Loader(PathBuf),
}

/// What the kernel will do.
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
    /// Whether the instance as a whole is on.
    pub enabled: bool,
    /// Whether this host runs ELF programs that begin like this itself.
    pub native: &'a dyn Fn(&Candidate) -> bool,
    /// Looks at a file.
    pub look: &'a dyn Fn(&Path) -> Candidate,
}

impl Table<'_> {
    /// What becomes of `execve(2)` on `file`.
    #[must_use]
    pub fn predict(&self, file: &Candidate) -> Prediction {
        let mut steps = Vec::new();
        let mut file = file.clone();
        let mut has_open_file = false;
        let end = loop {
            if let Some(denied) = file.denied {
                break fails(denied.errno(), &file, Reason::Denied(denied));
            }
            if steps.len() > REWRITES {
                break fails(Errno::ELOOP, &file, Reason::Circle);
            }
            let handlers = if self.enabled { self.handlers } else { &[] };
            let next = if let Some(handler) = winner(handlers, &file.head, &file.path) {
                // Two of them would both claim the place of the open file (K59).
                if has_open_file && handler.entry.flags.contains(Flags::OPEN_BINARY) {
                    break fails(Errno::ENOEXEC, &file, Reason::ScriptWithOpenFile);
                }
                has_open_file |= handler.entry.flags.contains(Flags::OPEN_BINARY);
                let interpreter = handler.entry.interpreter.clone().unwrap_or_default();
                steps.push(Step::Handler { name: handler.name.clone(), interpreter: interpreter.clone() });
                let mut next = (self.look)(&interpreter);
                if handler.entry.flags.contains(Flags::FIX_BINARY) {
                    // The file was opened at registration: what its path says now does not matter (K47, K54).
                    next.denied = None;
                    if next.id.is_none() {
                        break End::Starts;
                    }
                }
                next
            } else if let Some(interpreter) = script_interpreter(&file.head) {
                if has_open_file {
                    break fails(Errno::ENOEXEC, &file, Reason::ScriptWithOpenFile);
                }
                steps.push(Step::Script { interpreter: interpreter.clone() });
                (self.look)(&interpreter)
            } else {
                break self.end_of(&file);
            };
            file = next;
        };
        Prediction { steps, end }
    }

    fn end_of(&self, file: &Candidate) -> End {
        if !(self.native)(file) {
            return fails(Errno::ENOEXEC, file, Reason::NotTaken);
        }
        if let Kind::Elf(elf) = &file.kind
            && let Some(loader) = &elf.loader
            && let Some(denied) = (self.look)(loader).denied
        {
            return fails(denied.errno(), file, Reason::Loader(loader.clone()));
        }
        End::Starts
    }
}

fn fails(errno: Errno, file: &Candidate, reason: Reason) -> End {
    End::Fails { errno, file: file.path.clone(), reason }
}

/// The handlers that take `file`, in the kernel's order, disabled ones among them.
#[must_use]
pub fn matching<'a>(handlers: &'a [Handler], file: &Candidate) -> Vec<&'a Handler> {
    let takes = |handler: &&Handler| {
        handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.matches(&file.head, &file.path))
    };
    handlers.iter().filter(takes).collect()
}
