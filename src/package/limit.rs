//! Limits against hostile packages.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};

/// Returns the limit `real`. In a fuzzing build it returns `fuzzed` instead, which is small enough for the fuzzer's
/// inputs.
const fn limit(real: u64, fuzzed: u64) -> u64 {
    if cfg!(fuzzing) { fuzzed } else { real }
}

/// Maximum size of a requested file, in bytes. The largest emulators of distributions have 20 MB; debug builds have
/// some 100 MB.
pub(super) const MEMBER_SIZE: u64 = limit(128 << 20, 64 << 10);

/// Maximum unpacked size of an archive, in bytes. Debian's `qemu-user-static` has 370 MB when it is unpacked; with
/// debug symbols it has less than 2 GiB.
pub(super) const UNPACKED_SIZE: u64 = limit(4 << 30, 1 << 20);

/// Maximum size of a source that is read from standard input or another stream, in bytes.
pub(super) const STREAM_SIZE: u64 = UNPACKED_SIZE;

/// Maximum number of members in an archive or directory. A package of emulators has a few hundred; a root filesystem
/// has some 10,000.
pub(super) const MEMBERS: u64 = limit(100_000, 200);

/// Maximum size of a package's control file, in bytes. Real files have a few kilobytes.
pub(super) const CONTROL_SIZE: u64 = limit(1 << 20, 4 << 10);

/// Maximum unpacked size of a package's control archive, in bytes. A control archive contains scripts, and a checksum
/// of every file of the package.
pub(super) const CONTROL_UNPACKED_SIZE: u64 = limit(64 << 20, 64 << 10);

/// Maximum size of a member's name or extended header, in bytes: 16 times the kernel's maximum path length.
pub(super) const NAME_SIZE: u64 = limit(64 << 10, 1 << 10);

/// Memory limit of an xz decoder, in KiB. Data that `xz -9` compressed needs 65 MiB.
pub(super) const XZ_MEMORY_KIB: u32 = if cfg!(fuzzing) { 16 << 10 } else { 80 << 10 };

/// Maximum size of a zstd decoder's window, in bytes. Data that dpkg's highest level or `zstd --ultra` compressed needs
/// up to 128 MiB.
pub(super) const ZSTD_WINDOW: u64 = limit(128 << 20, 8 << 20);

/// A limit that a source of interpreters exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Size of one requested file: 128 MiB.
    MemberSize,
    /// Unpacked size of an archive: 4 GiB.
    UnpackedSize,
    /// Size of standard input: 4 GiB.
    StreamSize,
    /// Number of files in an archive or directory: 100,000.
    Members,
    /// Size of a package's control file: 1 MiB.
    ControlSize,
    /// Unpacked size of a package's control archive: 64 MiB.
    ControlUnpackedSize,
    /// Size of a member's name or extended header: 64 KiB.
    NameSize,
    /// Memory of a decoder: 80 MiB for xz, 128 MiB for zstd.
    Memory,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MemberSize => write!(f, "larger than {} MiB", MEMBER_SIZE >> 20),
            Self::UnpackedSize => write!(f, "larger than {} GiB unpacked", UNPACKED_SIZE >> 30),
            Self::StreamSize => write!(f, "larger than {} GiB", STREAM_SIZE >> 30),
            Self::Members => write!(f, "more than {MEMBERS} files"),
            Self::ControlSize => write!(f, "larger than {} MiB", CONTROL_SIZE >> 20),
            Self::ControlUnpackedSize => {
                write!(f, "larger than {} MiB unpacked", CONTROL_UNPACKED_SIZE >> 20)
            }
            Self::NameSize => write!(f, "a name longer than {} KiB", NAME_SIZE >> 10),
            Self::Memory => write!(
                f,
                "more memory needed to unpack than {} MiB (xz) or {} MiB (zstd)",
                XZ_MEMORY_KIB >> 10,
                ZSTD_WINDOW >> 20
            ),
        }
    }
}

/// Reader that fails if `inner` returns more than a maximum number of bytes. `exceeded` is then set, so that the caller
/// can recognise this failure.
pub(super) struct Bounded<'a, R> {
    inner: R,
    remaining: u64,
    exceeded: &'a Cell<bool>,
}

impl<'a, R: Read> Bounded<'a, R> {
    pub(super) fn new(inner: R, bytes: u64, exceeded: &'a Cell<bool>) -> Self {
        Self { inner, remaining: bytes, exceeded }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if let Some(remaining) = self.remaining.checked_sub(length as u64) {
            self.remaining = remaining;
            return Ok(length);
        }
        self.exceeded.set(true);
        Err(io::Error::other("too many bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_reader_returns_exactly_its_bytes() {
        let exceeded = Cell::new(false);
        let mut out = Vec::new();
        Bounded::new(&b"12345"[..], 5, &exceeded).read_to_end(&mut out).unwrap();
        assert_eq!((out.as_slice(), exceeded.get()), (&b"12345"[..], false));
        Bounded::new(&b"123456"[..], 5, &exceeded).read_to_end(&mut out).unwrap_err();
        assert!(exceeded.get());
    }
}
