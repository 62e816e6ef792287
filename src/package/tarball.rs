//! Reader for tar archives, with limits on all data that is stored in memory.

use std::cell::Cell;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;

use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::PackageError;
use super::error::printable;
use super::extractor::Kind;
use super::limit::{Bounded, Limit, NAME_SIZE};
use crate::base::escape::escape;

/// Tar archive inside a package.
pub(super) struct Tarball<'a> {
    /// Path of the package, used only in error messages.
    pub(super) path: &'a Path,
    /// Words that stand for the archive in error messages.
    pub(super) member: &'a str,
    /// Maximum unpacked size of the archive, in bytes.
    pub(super) size: u64,
    /// The limit that error messages name if the archive is larger than `size`.
    pub(super) limit: Limit,
}

/// Function that is called for each member of an archive with the member's path, kind, size in bytes, and content. If
/// it returns `Break`, the rest of the archive is not read.
type Visit<'v> = dyn FnMut(&[u8], Kind, u64, &mut dyn Read) -> Result<ControlFlow<()>, PackageError> + 'v;

/// Attributes of the next member that do not fit into its own header. They come from records before the member.
#[derive(Default)]
struct PaxState {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Tarball<'_> {
    /// Calls `visit` for each member of the archive in `content`. Unless `visit` returns `Break`, `content` is read to
    /// its end, because its decoder verifies a checksum there.
    pub(super) fn walk(&self, content: &mut dyn Read, visit: &mut Visit<'_>) -> Result<(), PackageError> {
        let exceeded = Cell::new(false);
        let result = self.walk_bounded(Bounded::new(content, self.size, &exceeded), visit);
        match result {
            // Other readers wrap the error of the bounded reader, so the flag decides.
            Err(_) if exceeded.get() => Err(self.over(self.limit)),
            Err(PackageError::Unpack { source, .. }) if source.kind() == io::ErrorKind::OutOfMemory => {
                Err(self.over(Limit::Memory))
            }
            result => result,
        }
    }

    fn walk_bounded(
        &self,
        content: Bounded<'_, &mut dyn Read>,
        visit: &mut Visit<'_>,
    ) -> Result<(), PackageError> {
        let mut archive = Archive::new(content);
        let mut ahead = PaxState::default();
        // In raw mode, because the crate would otherwise read names of any length into memory.
        let entries = archive.entries().map_err(|error| self.unpack(error))?.raw(true);
        for entry in entries {
            let mut entry = entry.map_err(|error| self.unpack(error))?;
            let Some(kind) = self.kind(&mut entry, &mut ahead)? else { continue };
            let size = entry.size();
            let ahead = std::mem::take(&mut ahead);
            self.check(&entry, &ahead)?;
            let path = ahead.path.unwrap_or_else(|| entry.path_bytes().into_owned());
            if visit(&path, kind, size, &mut entry)?.is_break() {
                return Ok(());
            }
        }
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| self.unpack(error))?;
        Ok(())
    }

    /// Returns the kind of the member `entry`. Returns `None` if `entry` is a record about the next member. The
    /// attributes in a record are stored in `ahead`.
    fn kind<R: Read>(
        &self,
        entry: &mut Entry<'_, R>,
        ahead: &mut PaxState,
    ) -> Result<Option<Kind>, PackageError> {
        let size = entry.size();
        Ok(Some(match entry.header().entry_type() {
            EntryType::GNULongName => {
                ahead.path = Some(self.name(entry, size)?);
                return Ok(None);
            }
            EntryType::XHeader => {
                let records = self.record(entry, size)?;
                self.extended(&records, ahead)?;
                return Ok(None);
            }
            // Link targets and global attributes are not used.
            EntryType::GNULongLink | EntryType::XGlobalHeader => return Ok(None),
            EntryType::GNUSparse => {
                ahead.sparse = true;
                Kind::Regular
            }
            EntryType::Regular | EntryType::Continuous => Kind::Regular,
            EntryType::Directory => Kind::Directory,
            _ => Kind::Other,
        }))
    }

    /// Returns an error for a member that is sparse, is too large, or has two different sizes.
    fn check<R: Read>(&self, entry: &Entry<'_, R>, ahead: &PaxState) -> Result<(), PackageError> {
        let member = || {
            let path = ahead.path.clone().unwrap_or_else(|| entry.path_bytes().into_owned());
            printable(&path)
        };
        let size = entry.size();
        if ahead.sparse {
            return Err(PackageError::Sparse { path: self.path.to_owned(), member: member() });
        }
        if size > self.size || ahead.size.is_some_and(|size| size > self.size) {
            let path = self.path.to_owned();
            return Err(PackageError::Limit { path, member: member(), limit: self.limit });
        }
        if ahead.size.is_some_and(|extended| extended != size) {
            // Only files larger than 8 GiB need two sizes. Different tools could read such an archive in different
            // ways.
            return Err(self.malformed(&format!("{} has two sizes", member())));
        }
        Ok(())
    }

    /// Reads the content of a record about the next member.
    fn record(&self, content: &mut dyn Read, size: u64) -> Result<Vec<u8>, PackageError> {
        if size > NAME_SIZE {
            return Err(self.over(Limit::NameSize));
        }
        let mut bytes = Vec::new();
        content.take(size).read_to_end(&mut bytes).map_err(|error| self.unpack(error))?;
        Ok(bytes)
    }

    /// Reads the next member's name from a GNU long-name record, up to the first zero byte.
    fn name(&self, content: &mut dyn Read, size: u64) -> Result<Vec<u8>, PackageError> {
        let mut name = self.record(content, size)?;
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(length);
        Ok(name)
    }

    /// Parses the `records` of a pax extended header. Stores in `ahead` the `path`, the `size`, and whether a field
    /// marks a sparse file.
    fn extended(&self, records: &[u8], ahead: &mut PaxState) -> Result<(), PackageError> {
        for record in PaxExtensions::new(records) {
            let record = record.map_err(|error| self.unpack(error))?;
            match record.key_bytes() {
                b"path" => ahead.path = Some(record.value_bytes().to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    let text = "a size in an extended header is not a number";
                    ahead.size = Some(size.ok_or_else(|| self.malformed(text))?);
                }
                key if key.starts_with(b"GNU.sparse.") => ahead.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn over(&self, limit: Limit) -> PackageError {
        PackageError::Limit { path: self.path.to_owned(), member: self.member.to_owned(), limit }
    }

    fn malformed(&self, what: &str) -> PackageError {
        PackageError::Malformed { path: self.path.to_owned(), what: format!("{}: {what}", self.member) }
    }

    pub(super) fn unpack(&self, source: io::Error) -> PackageError {
        let source = escaped(source);
        PackageError::Unpack { path: self.path.to_owned(), member: self.member.to_owned(), source }
    }
}

/// Escapes the text of an error of the crate tar, because it may contain names and numbers from the archive.
fn escaped(error: io::Error) -> io::Error {
    let text = error.to_string();
    if text.contains(char::is_control) { io::Error::new(error.kind(), escape(&text)) } else { error }
}
