//! `--hold`: stay, so that the instance does, until a signal says that it is enough.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::signal::{SigSet, Signal};

use crate::base::error::Problem;
use crate::binfmt::HandlerName;
use crate::binfmt::instance::{HandlerError, Instance};
use crate::system::signals::was_ignored;

/// Signals that end the wait. Blocked from the beginning, so that one that comes early is not lost.
pub(super) struct Patience(SigSet);

impl Patience {
    /// Blocks SIGTERM and SIGINT until [`wait`](Self::wait), except those that are ignored: a shell has its background jobs
    /// ignore SIGINT, and a blocked signal would arrive all the same.
    pub(super) fn begin() -> Result<Self, Problem> {
        let ends = [Signal::SIGTERM, Signal::SIGINT];
        let signals: SigSet = ends.into_iter().filter(|signal| !was_ignored(*signal)).collect();
        signals.thread_block().map_err(|errno| Problem::new(format!("cannot block signals: {errno}")))?;
        Ok(Self(signals))
    }

    /// Waits for one of the signals.
    pub(super) fn wait(&self) -> Result<(), Problem> {
        self.0.wait().map(|_| ()).map_err(|errno| Problem::new(format!("cannot wait for signals: {errno}")))
    }
}

/// Tells the service manager that all is registered, where one asks to be told (`sd_notify(3)`).
pub(super) fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = sent {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}

/// Removes what was registered; what is gone is gone.
pub(super) fn remove(instance: &Instance, names: &[HandlerName]) -> Result<(), Problem> {
    for name in names {
        match instance.remove(name) {
            Ok(()) | Err(HandlerError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
