//! Readers that unpack compressed parts of packages: xz in several threads, zstd and gzip in one thread.

pub(crate) mod xz;
mod zstd;

use std::io::{self, BufReader, Read};

use super::Progress;
use super::file_slice::FileSlice;

/// Size of the buffer for reading a package file, in bytes.
const BUFFER: usize = 64 << 10;

/// Compression format of a part of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// Returns the compression format that the suffix of a member's name means, such as `.xz`; `None` for an unknown
    /// suffix.
    pub(super) fn from_suffix(suffix: &[u8]) -> Option<Self> {
        match suffix {
            b"" => Some(Self::None),
            b".gz" => Some(Self::Gzip),
            b".xz" => Some(Self::Xz),
            b".zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Detects the compression format from `header`, the first bytes of a file (RFC 1952, the .xz file format, RFC
    /// 8878).
    pub(super) fn from_content(header: &[u8]) -> Option<Self> {
        match header {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Returns a reader that unpacks `section`. It advances `progress` by the number of compressed bytes that it has
    /// read.
    ///
    /// The reader fails with [`io::ErrorKind::OutOfMemory`] if the decoder needs more memory than its limit.
    pub(super) fn reader<'a>(self, section: FileSlice, progress: &'a dyn Progress) -> Box<dyn Read + 'a> {
        if self == Self::Xz
            && let Some(blocks) = xz::Blocks::new(&section, progress)
        {
            return Box::new(blocks);
        }
        let packed = BufReader::with_capacity(BUFFER, CountingReader { inner: section, progress });
        match self {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Xz => Box::new(xz::stream(packed)),
            Self::Zstd => Box::new(zstd::Frames::new(packed)),
        }
    }
}

/// Reader for a part of a file. It passes the number of bytes that it has read to `progress`.
struct CountingReader<'a> {
    inner: FileSlice,
    progress: &'a dyn Progress,
}

impl Read for CountingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.progress.advance(length as u64);
        Ok(length)
    }
}
