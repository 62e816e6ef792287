//! Inherited process state: signals, standard file descriptors and the umask.
//!
//! A process inherits ignored signals, its signal mask, open and closed descriptors and its umask from its parent
//! (`execve(2)`). [`normalise`] replaces state that would make qus fail. [`restore`] sets the inherited state again for
//! the program that `qus run` executes.
//!
//! * `SIGCHLD` ignored: the kernel reaps children itself, and `wait(2)` fails with `ECHILD`. qus sets the default
//!   disposition.
//! * `SIGPIPE`: Rust's runtime ignores it before `main`, so `record` reads the inherited disposition before the runtime
//!   starts.
//! * Closed descriptors 0, 1, 2: Rust's runtime opens `/dev/null` in their place before `main`.
//! * A umask that removes permissions of the owner: qus could not enter a directory that it created.
//!
//! All other signals keep their inherited disposition, which `nohup` and background jobs of a shell require. The
//! inherited signal mask also stays.
//!
//! All unsafe code of this crate is in this module. The standard library cannot change a disposition, and the library
//! nix requires unsafe code for it. The libraries with a safe interface install signal handlers, or support only
//! `SIGPIPE`.

mod deferred;
mod wait;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::{Mode, umask};

pub use self::deferred::{DeferredSignals, end_is_requested};
pub use self::wait::EndSignals;

/// Bit of [`RECORD`]: qus was started with `SIGCHLD` ignored. The next bit means the same for `SIGPIPE`.
const SIGCHLD_IGNORED: u8 = 1 << 0;
const SIGPIPE_IGNORED: u8 = 1 << 1;
/// Bit of [`RECORD`]: qus was started with descriptor 0 closed. The next bits mean the same for descriptors 1 and 2.
const STDIN_CLOSED: u8 = 1 << 2;

/// Inherited process state that [`record`] found, as a set of bits.
static RECORD: AtomicU8 = AtomicU8::new(0);
/// Inherited umask, stored by [`normalise`] before it changes the umask.
static UMASK: OnceLock<Mode> = OnceLock::new();

/// Calls [`record`] when the process starts, before Rust's runtime changes any state.
// SAFETY: the C library calls each pointer in `.init_array` once, on the only thread; `record` has the C calling
// convention and needs nothing of Rust's runtime.
#[allow(unsafe_code, reason = "Rust's runtime changes SIGPIPE and closed descriptors before main")]
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD_AT_START: extern "C" fn() = record;

/// Records the inherited process state that Rust's runtime or [`normalise`] changes later.
extern "C" fn record() {
    let mut found = 0;
    for (signal, bit) in [(libc::SIGCHLD, SIGCHLD_IGNORED), (libc::SIGPIPE, SIGPIPE_IGNORED)] {
        if is_ignored(signal) {
            found |= bit;
        }
    }
    for descriptor in 0..3 {
        if is_closed(descriptor) {
            found |= STDIN_CLOSED << descriptor;
        }
    }
    RECORD.store(found, Ordering::Relaxed);
}

/// Reports whether this process ignores a signal.
#[allow(unsafe_code, reason = "nix cannot read a disposition without setting one")]
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null pointer as the new action changes nothing; the old one is written to memory of its type.
    let done = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: the call has succeeded, and has written the action.
    done == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Reports whether a signal that this thread blocks has arrived.
#[allow(unsafe_code, reason = "nix has no sigpending")]
fn is_pending(signal: Signal) -> bool {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call writes a whole set to memory of its type.
    let done = unsafe { libc::sigpending(set.as_mut_ptr()) };
    // SAFETY: the call above has succeeded, and has written the set.
    done == 0 && unsafe { libc::sigismember(set.as_ptr(), signal as libc::c_int) } == 1
}

/// Reports whether a file descriptor is closed.
#[allow(unsafe_code, reason = "a closed descriptor cannot be borrowed")]
fn is_closed(descriptor: libc::c_int) -> bool {
    // SAFETY: `F_GETFD` takes no pointer, and changes nothing.
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) == -1 }
}

/// Sets the disposition of a signal to default or ignored.
#[allow(unsafe_code, reason = "nix marks every change of a disposition as unsafe, because of handlers")]
fn set(signal: Signal, handler: SigHandler) -> nix::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: callers pass `SigDfl` or `SigIgn`, so no function of this program becomes a handler.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Reports whether the parent process started this process with the signal ignored.
#[must_use]
pub fn was_ignored(signal: Signal) -> bool {
    match signal {
        Signal::SIGCHLD => recorded(SIGCHLD_IGNORED),
        Signal::SIGPIPE => recorded(SIGPIPE_IGNORED),
        // This process changes no other signal.
        other => is_ignored(other as libc::c_int),
    }
}

fn recorded(bit: u8) -> bool {
    RECORD.load(Ordering::Relaxed) & bit != 0
}

/// Replaces inherited process state that would make qus fail. Must be called once, at the beginning of `main`.
///
/// # Errors
///
/// `sigaction(2)` fails only if a security policy forbids the call.
pub fn normalise() -> io::Result<()> {
    if recorded(SIGCHLD_IGNORED) {
        set(Signal::SIGCHLD, SigHandler::SigDfl)?;
    }
    let inherited = umask(Mode::empty());
    umask(inherited.difference(Mode::S_IRWXU));
    let _already_known = UMASK.set(inherited);
    Ok(())
}

/// Sets the inherited process state again, for the program that this process executes next. If descriptor 0, 1 or 2 was
/// closed when qus started, `execve(2)` closes it again.
///
/// # Errors
///
/// Fails like [`normalise`].
pub fn restore() -> io::Result<()> {
    for signal in [Signal::SIGCHLD, Signal::SIGPIPE] {
        set(signal, if was_ignored(signal) { SigHandler::SigIgn } else { SigHandler::SigDfl })?;
    }
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for (number, descriptor) in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().enumerate() {
        if recorded(STDIN_CLOSED << number) {
            close_on_exec(descriptor)?;
        }
    }
    if let Some(inherited) = UMASK.get() {
        umask(*inherited);
    }
    Ok(())
}

fn close_on_exec(descriptor: BorrowedFd<'_>) -> nix::Result<()> {
    match fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) | Err(Errno::EBADF) => Ok(()),
        Err(errno) => Err(errno),
    }
}
