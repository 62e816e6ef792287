//! `ar` archive: the container format of a Debian package (deb(5), ar(5)). Symbol tables and long names are not
//! supported.

use std::io::Read;
use std::path::Path;

use super::PackageError;
use super::error::printable;
use super::file_slice::FileSlice;

/// First bytes of an `ar` archive.
pub(super) const MAGIC: &[u8] = b"!<arch>\n";

/// Length of the header before each member, in bytes.
const HEADER: usize = 60;

/// Member of an `ar` archive: one file with its name.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) content: FileSlice,
}

/// Reader that finds the members of an `ar` archive (deb(5), ar(5)).
pub(super) struct Ar<'a> {
    path: &'a Path,
    file: &'a FileSlice,
    offset: u64,
}

impl<'a> Ar<'a> {
    /// Creates a reader for the archive `file`, which must begin with [`MAGIC`]. `path` is used only in error messages.
    pub(super) fn new(path: &'a Path, file: &'a FileSlice) -> Self {
        Self { path, file, offset: MAGIC.len() as u64 }
    }

    /// Returns the next member, or `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Member>, PackageError> {
        // Members begin at even offsets. At the end of the file the padding byte may be missing.
        let offset = self.offset.next_multiple_of(2);
        if offset >= self.file.len() {
            return Ok(None);
        }
        let truncated = |member| PackageError::Truncated { path: self.path.to_owned(), member };
        let mut header = [0; HEADER];
        self.file
            .part(offset, HEADER as u64)
            .ok_or_else(|| truncated(None))?
            .read_exact(&mut header)
            .map_err(|source| PackageError::Open { path: self.path.to_owned(), source })?;
        let (fields, end) = header.split_at(58);
        let (name, size) = (fields.get(..16).unwrap_or_default(), fields.get(48..).unwrap_or_default());
        let malformed = |what: &str| PackageError::Malformed {
            path: self.path.to_owned(),
            what: format!("{what} in the member header at byte {offset}"),
        };
        if end != b"`\n" {
            return Err(malformed("no end mark"));
        }
        let name = name.trim_ascii_end();
        let name = name.strip_suffix(b"/").unwrap_or(name).to_vec();
        let size = decimal(size).ok_or_else(|| malformed("the size is not a number"))?;
        let start = offset.saturating_add(HEADER as u64);
        let content = self.file.part(start, size).ok_or_else(|| truncated(Some(printable(&name))))?;
        self.offset = start.saturating_add(size);
        Ok(Some(Member { name, content }))
    }
}

/// Parses a decimal number with blanks after it. Only digits are valid; `str::parse` would also accept a sign.
fn decimal(field: &[u8]) -> Option<u64> {
    let digits = field.trim_ascii_end();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}
