//! Limits for hostile packages.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};

/// Under a fuzzer limits are so small that its inputs reach them.
const fn limit(real: u64, fuzzed: u64) -> u64 {
    if cfg!(fuzzing) { fuzzed } else { real }
}

/// Bytes of one wanted member. The largest emulators of distributions have 20 MB; debug builds some 100 MB.
pub(super) const MEMBER_SIZE: u64 = limit(128 << 20, 64 << 10);

/// Unpacked bytes of one archive. Debian's `qemu-user-static` has 370 MB, with all debug symbols not yet 2 GiB.
pub(super) const UNPACKED_SIZE: u64 = limit(4 << 30, 1 << 20);

/// Bytes of a source that is no file: everything that an archive may be.
pub(super) const STREAM_SIZE: u64 = UNPACKED_SIZE;

/// Members of one archive or directory. A package of emulators has some hundred; a whole root filesystem some 10,000.
pub(super) const MEMBERS: u64 = limit(100_000, 200);

/// Bytes of a package's control file. Real ones have a few kilobytes.
pub(super) const CONTROL_SIZE: u64 = limit(1 << 20, 4 << 10);

/// Unpacked bytes of everything about a package: scripts, and a checksum for each of its files.
pub(super) const CONTROL_UNPACKED_SIZE: u64 = limit(64 << 20, 64 << 10);

/// Bytes of a member's name or of its extended header: 16 times what the kernel takes as a path.
pub(super) const NAME_SIZE: u64 = limit(64 << 10, 1 << 10);

/// Memory of one xz decoder in KiB. `xz -9` needs 65 MiB.
pub(super) const XZ_MEMORY_KIB: u32 = if cfg!(fuzzing) { 16 << 10 } else { 80 << 10 };

/// Bytes that a zstd decoder keeps. dpkg's highest level and `zstd --ultra` use up to 128 MiB.
pub(super) const ZSTD_WINDOW: u64 = limit(128 << 20, 8 << 20);

/// A limit that a package exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// The size of one wanted file: 128 MiB.
    MemberSize,
    /// The size of everything in an archive, unpacked: 4 GiB.
    UnpackedSize,
    /// The size of standard input: 4 GiB.
    StreamSize,
    /// The number of files in an archive or directory: 100,000.
    Members,
    /// The size of a package's control file: 1 MiB.
    ControlSize,
    /// The size of everything about a package, unpacked: 64 MiB.
    ControlUnpackedSize,
    /// The size of a member's name or extended header: 64 KiB.
    NameSize,
    /// The memory that unpacking takes: 80 MiB for xz, 128 MiB for zstd.
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

/// A reader that fails behind a number of bytes and remembers that it did.
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
    fn a_bounded_reader_gives_exactly_its_bytes() {
        let exceeded = Cell::new(false);
        let mut out = Vec::new();
        Bounded::new(&b"12345"[..], 5, &exceeded).read_to_end(&mut out).unwrap();
        assert_eq!((out.as_slice(), exceeded.get()), (&b"12345"[..], false));
        Bounded::new(&b"123456"[..], 5, &exceeded).read_to_end(&mut out).unwrap_err();
        assert!(exceeded.get());
    }
}
