//! Notifies the service manager that started this process.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Notifies the service manager that this service is ready, if `NOTIFY_SOCKET` is set (`sd_notify(3)`).
///
/// # Errors
///
/// Fails if the message cannot be sent.
pub fn notify_ready() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address?).map(drop)
}
