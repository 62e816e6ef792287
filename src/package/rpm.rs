//! Reads an rpm package: a lead, two headers, and a compressed cpio archive ("RPM V4 Package format" in
//! `docs/manual/format_v4.md` and `format_header.md` of rpm). Packages of format 6, the default of rpm 6, differ in the
//! payload, whose members have numbers in place of names.
//!
//! This module verifies no signatures. The signature of a downloaded package was verified at the download, as for
//! Debian packages.

mod files;

use std::io::Read;
use std::path::Path;

use super::compression::Compression;
use super::cpio::{Cpio, ListedFile};
use super::extractor::Extractor;
use super::file_slice::FileSlice;
use super::{PackageError, PackageInfo, Progress};

/// First bytes of the lead, which is the beginning of every rpm package.
pub(super) const MAGIC: &[u8] = b"\xed\xab\xee\xdb";

/// Size of the lead in bytes. Only the magic in the lead is still used.
const LEAD: u64 = 96;

/// First bytes of each header in a package: a magic and the header version 1.
const HEADER_MAGIC: &[u8] = b"\x8e\xad\xe8\x01";

/// Maximum number of index entries of a header. The next constant is the maximum size of a header's data in bytes. Both
/// are rpm's own limits (`lib/header.c`).
const ENTRIES: u32 = 0xffff;
const DATA: u32 = 0x0fff_ffff;

/// Maximum size of a text that is read from a header, in bytes. Package names and versions are shorter.
const TEXT: u64 = 1024;

/// Words that stand for the cpio archive in error messages.
const PAYLOAD: &str = "the payload";

/// Tags and types of the header entries that qus reads: this and the following constants (`docs/manual/tags.md` of
/// rpm).
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const ARCH: u32 = 1022;
const TYPE_INT16: u32 = 3;
const TYPE_INT32: u32 = 4;
const TYPE_INT64: u32 = 5;
const TYPE_STRING: u32 = 6;
const TYPE_STRING_ARRAY: u32 = 8;

#[derive(Debug)]
pub(super) struct Rpm {
    info: PackageInfo,
    files: Vec<ListedFile>,
    payload: FileSlice,
    compression: Compression,
}

impl Rpm {
    pub(super) fn open(path: &Path, file: &FileSlice) -> Result<Self, PackageError> {
        let reader = Headers { path, file };
        let signature = reader.header(LEAD)?;
        // Only the signature header is followed by padding.
        let header = reader.header(signature.end.next_multiple_of(8))?;
        let info = reader.info(&header)?;
        let files = files::read(&reader, &header)?;
        let length = file.len().saturating_sub(header.end);
        let payload = file.part(header.end, length).filter(|payload| payload.len() > 0);
        let payload = payload.ok_or_else(|| reader.truncated())?;
        let mut header = [0; 6];
        let length = payload.peek(&mut header).map_err(|source| reader.cannot_read(source))?;
        let header = header.get(..length).unwrap_or_default();
        let compression = match Compression::from_content(header) {
            Some(compression) => compression,
            None if header.starts_with(b"0707") => Compression::None,
            None => {
                let member = PAYLOAD.to_owned();
                return Err(PackageError::Compression { path: path.to_owned(), member });
            }
        };
        Ok(Self { info, files, payload, compression })
    }

    pub(super) fn info(&self) -> &PackageInfo {
        &self.info
    }

    /// Passes the files in the package's cpio archive to the receiver `sink`.
    pub(super) fn members(
        self,
        sink: &mut Extractor<'_>,
        progress: &dyn Progress,
    ) -> Result<(), PackageError> {
        progress.total(self.payload.len());
        let mut content = self.compression.reader(self.payload, progress);
        Cpio { member: PAYLOAD, files: &self.files, sink }.members(&mut content)
    }
}

/// Offsets of the parts of one header in the package file, and the number of its index entries.
struct Header {
    index: u64,
    entries: u32,
    data: u64,
    end: u64,
}

struct Headers<'a> {
    path: &'a Path,
    file: &'a FileSlice,
}

impl Headers<'_> {
    /// Reads the sizes of the header at `offset` in the package file.
    fn header(&self, offset: u64) -> Result<Header, PackageError> {
        let bytes: [u8; 16] = self.bytes(offset)?;
        let (magic, sizes) = bytes.split_at(8);
        if !magic.starts_with(HEADER_MAGIC) {
            return Err(self.malformed(format!("no header at byte {offset}")));
        }
        let (entries, size) = (word(sizes, 0), word(sizes, 4));
        if entries > ENTRIES || size > DATA {
            return Err(self.malformed(format!("the header at byte {offset} is larger than rpm accepts")));
        }
        let index = offset.saturating_add(16);
        let data = index.saturating_add(u64::from(entries) * 16);
        let end = data.saturating_add(u64::from(size));
        if end > self.file.len() {
            return Err(self.truncated());
        }
        Ok(Header { index, entries, data, end })
    }

    fn info(&self, header: &Header) -> Result<PackageInfo, PackageError> {
        let (mut name, mut version, mut release, mut epoch, mut architecture) =
            (None, None, None, None, None);
        for entry in 0..header.entries {
            let bytes: [u8; 16] = self.bytes(header.index.saturating_add(u64::from(entry) * 16))?;
            let location = match (word(&bytes, 0), word(&bytes, 4)) {
                (NAME, TYPE_STRING) => &mut name,
                (VERSION, TYPE_STRING) => &mut version,
                (RELEASE, TYPE_STRING) => &mut release,
                (ARCH, TYPE_STRING) => &mut architecture,
                (EPOCH, TYPE_INT32) => &mut epoch,
                _ => continue,
            };
            let at = header.data.saturating_add(u64::from(word(&bytes, 8)));
            let value = if word(&bytes, 4) == TYPE_INT32 {
                word(&self.bytes::<4>(at)?, 0).to_string()
            } else {
                self.text(at, header.end)?
            };
            *location = Some(value);
        }
        let need = |value: Option<String>, what: &str| {
            value.ok_or_else(|| self.malformed(format!("the header has no {what}")))
        };
        let epoch = epoch.map(|epoch| format!("{epoch}:")).unwrap_or_default();
        Ok(PackageInfo {
            name: need(name, "name")?,
            version: format!("{epoch}{}-{}", need(version, "version")?, need(release, "release")?),
            architecture: need(architecture, "architecture")?,
        })
    }

    /// Reads the text at the offset `at` of the package file. The text ends with a zero byte before the offset `end`.
    fn text(&self, at: u64, end: u64) -> Result<String, PackageError> {
        let length = end.saturating_sub(at).min(TEXT);
        let bytes = self.part(at, length)?;
        let end = bytes.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| self.malformed("a text in the header is not terminated".to_owned()))?;
        Ok(String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned())
    }

    /// Reads `length` bytes at the offset `at` of the package file.
    fn part(&self, at: u64, length: u64) -> Result<Vec<u8>, PackageError> {
        let mut part = self.file.part(at, length).ok_or_else(|| self.truncated())?;
        let mut bytes = Vec::new();
        part.read_to_end(&mut bytes).map_err(|source| self.cannot_read(source))?;
        Ok(bytes)
    }

    fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N], PackageError> {
        let mut bytes = [0; N];
        let mut part = self.file.part(at, N as u64).ok_or_else(|| self.truncated())?;
        part.read_exact(&mut bytes).map_err(|source| self.cannot_read(source))?;
        Ok(bytes)
    }

    fn truncated(&self) -> PackageError {
        PackageError::Truncated { path: self.path.to_owned(), member: None }
    }

    fn malformed(&self, what: String) -> PackageError {
        PackageError::Malformed { path: self.path.to_owned(), what }
    }

    fn cannot_read(&self, source: std::io::Error) -> PackageError {
        PackageError::Open { path: self.path.to_owned(), source }
    }
}

/// Returns the big-endian 32-bit number at `at`, or 0 if `bytes` is too short.
fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
