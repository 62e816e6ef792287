//! Signals, and other inherited process state: standard file descriptors and the umask.
//!
//! A process inherits ignored signals, its signal mask, open and closed descriptors and its umask from its parent
//! (`execve(2)`). [`normalise`] replaces those that would make qus fail; [`restore`] sets what was inherited, for the
//! program that `qus run` becomes.
//!
//! * `SIGCHLD` ignored: the kernel reaps children by itself, and `wait(2)` fails with `ECHILD`. qus sets the default.
//! * `SIGPIPE`: Rust's runtime ignores it before `main`, so `record` runs before the runtime.
//! * Closed descriptors 0, 1, 2: Rust's runtime opens `/dev/null` in their place before `main`.
//! * A umask that takes the owner's own bits: a directory that qus makes could not be entered.
//!
//! All other signals keep their inherited disposition, as `nohup` and the background jobs of a shell require. The signal
//! mask stays as inherited, too.
//!
//! This module has all unsafe code of this crate. The standard library cannot change a disposition, nix cannot do it
//! without unsafe code, and the libraries with a safe interface either install handlers or serve `SIGPIPE` only.

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

pub use self::deferred::DeferredSignals;
pub use self::wait::EndSignals;

/// Bits of [`RECORD`]: the signal was ignored.
const SIGCHLD_IGNORED: u8 = 1 << 0;
const SIGPIPE_IGNORED: u8 = 1 << 1;
/// The bit of [`RECORD`] for a closed descriptor 0; those for 1 and 2 follow.
const STDIN_CLOSED: u8 = 1 << 2;

/// Result of [`record`].
static RECORD: AtomicU8 = AtomicU8::new(0);
/// The inherited umask, once [`normalise`] has run.
static UMASK: OnceLock<Mode> = OnceLock::new();

/// Has [`record`] called when the process starts, before Rust's runtime changes anything.
// SAFETY: the C library calls each pointer in `.init_array` once, on the only thread; `record` has the C calling
// convention and needs nothing of Rust's runtime.
#[allow(unsafe_code, reason = "Rust's runtime changes SIGPIPE and closed descriptors before main")]
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD_AT_START: extern "C" fn() = record;

/// Records what Rust's runtime, or [`normalise`], changes.
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

/// Reports whether there is no such file descriptor.
#[allow(unsafe_code, reason = "a closed descriptor cannot be borrowed")]
fn is_closed(descriptor: libc::c_int) -> bool {
    // SAFETY: `F_GETFD` takes no pointer, and changes nothing.
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) == -1 }
}

/// Sets a signal to its default, or ignores it.
#[allow(unsafe_code, reason = "nix marks every change of a disposition as unsafe, because of handlers")]
fn set(signal: Signal, handler: SigHandler) -> nix::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: callers pass `SigDfl` or `SigIgn`, so no function of this program becomes a handler.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Reports whether the parent process had a signal ignored when it started this one.
#[must_use]
pub fn was_ignored(signal: Signal) -> bool {
    match signal {
        Signal::SIGCHLD => recorded(SIGCHLD_IGNORED),
        Signal::SIGPIPE => recorded(SIGPIPE_IGNORED),
        // No other one is changed by this process.
        other => is_ignored(other as libc::c_int),
    }
}

fn recorded(bit: u8) -> bool {
    RECORD.load(Ordering::Relaxed) & bit != 0
}

/// Replaces inherited state that would make this process fail. To be called once, first in `main`.
///
/// # Errors
///
/// `sigaction(2)` fails only where something forbids the call.
pub fn normalise() -> io::Result<()> {
    if recorded(SIGCHLD_IGNORED) {
        set(Signal::SIGCHLD, SigHandler::SigDfl)?;
    }
    let inherited = umask(Mode::empty());
    umask(inherited.difference(Mode::S_IRWXU));
    let _already_known = UMASK.set(inherited);
    Ok(())
}

/// Sets what was inherited, for the program that this process becomes next. Descriptors that were closed close on
/// `execve(2)`.
///
/// # Errors
///
/// As [`normalise`].
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
