//! Reader for newc cpio archives (cpio(5), "New ASCII Format"), the payload of rpm packages.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::ControlFlow;

use super::PackageError;
use super::error::printable;
use super::extractor::{Extractor, Kind};
use super::limit::{Bounded, Limit, NAME_SIZE, UNPACKED_SIZE};
use crate::base::hex;

/// Size of a member's header in bytes: a magic of six bytes and thirteen fields of eight hexadecimal digits.
const HEADER: usize = 110;

/// Name of the last member, which marks the end of the archive.
const TRAILER: &[u8] = b"TRAILER!!!";

/// Maximum number of hard links that wait for their content, which comes with the last link to the same file.
const LINKS: usize = 1000;

/// Mask for the file type in a member's mode. The next constant is the file type of a regular file (inode(7)).
const TYPE: u64 = 0o170_000;
const REGULAR: u64 = 0o100_000;

/// Cpio archive inside a package.
pub(super) struct Cpio<'a, 's> {
    /// Words that stand for the archive in error messages.
    pub(super) member: &'static str,
    /// Receiver of the members of the archive.
    pub(super) sink: &'a mut Extractor<'s>,
}

/// Fields of a member's header that qus uses.
struct Header {
    inode: (u64, u64, u64),
    regular: bool,
    links: u64,
    size: u64,
    name_size: u64,
    /// Sum of the content's bytes; `None` in the variant of the format that has no such sum.
    sum: Option<u32>,
}

impl Cpio<'_, '_> {
    /// Passes the members of the archive to the extractor, until the extractor has all requested files. If a requested
    /// file is missing, `content` is read to its end, because its decoder verifies a checksum there.
    pub(super) fn members(mut self, content: &mut dyn Read) -> Result<(), PackageError> {
        let exceeded = Cell::new(false);
        let result = self.walk(&mut Bounded::new(content, UNPACKED_SIZE, &exceeded));
        match result {
            Err(_) if exceeded.get() => Err(self.over(Limit::UnpackedSize)),
            Err(PackageError::Unpack { source, .. }) if source.kind() == io::ErrorKind::OutOfMemory => {
                Err(self.over(Limit::Memory))
            }
            result => result,
        }
    }

    fn walk(&mut self, content: &mut dyn Read) -> Result<(), PackageError> {
        // Of several hard links to a file, only the last one has the content. The links before it are empty.
        let mut waiting = Vec::new();
        loop {
            let header = self.header(content)?;
            let name = self.name(content, &header)?;
            if name == TRAILER {
                break;
            }
            let mut body = ChecksumReader { inner: &mut *content, remaining: header.size, sum: header.sum };
            let mut names = Vec::new();
            if header.regular && header.links > 1 {
                if header.size == 0 {
                    if waiting.len() >= LINKS {
                        return Err(self.malformed("more than 1000 hard links wait for their content"));
                    }
                    waiting.push((header.inode, name));
                    continue;
                }
                let (its, others) = waiting.into_iter().partition(|(inode, _)| *inode == header.inode);
                waiting = others;
                let its: Vec<(_, Vec<u8>)> = its;
                names.extend(its.into_iter().map(|(_, name)| name));
            }
            let flow = if names.is_empty() {
                let kind = if header.regular { Kind::Regular } else { Kind::Other };
                self.sink.member(&name, kind, header.size, &mut body)?
            } else {
                names.push(name);
                self.linked(&names, header.size, &mut body)?
            };
            if flow.is_break() {
                return Ok(());
            }
            self.skip(&mut body, u64::MAX)?;
            self.skip(content, padding(header.size))?;
        }
        self.skip(content, u64::MAX)
    }

    /// Passes a file with several hard links to the extractor, once for each of its `names`. The content is copied to a
    /// temporary file only if one of the names may be requested.
    fn linked(
        &mut self,
        names: &[Vec<u8>],
        size: u64,
        content: &mut dyn Read,
    ) -> Result<ControlFlow<()>, PackageError> {
        let mut spooled: Option<File> = None;
        for name in names {
            if !self.sink.may_want(name)? {
                // The member is still counted, and refused if its name is hostile.
                let _flow = self.sink.member(name, Kind::Regular, size, &mut io::empty())?;
                continue;
            }
            let mut copy = match spooled.take() {
                Some(copy) => copy,
                None => self.spool(size, content)?,
            };
            copy.rewind().map_err(|error| self.unpack(error))?;
            if self.sink.member(name, Kind::Regular, size, &mut copy)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            spooled = Some(copy);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn spool(&self, size: u64, content: &mut dyn Read) -> Result<File, PackageError> {
        if size > super::limit::MEMBER_SIZE {
            return Err(self.over(Limit::MemberSize));
        }
        let mut file = tempfile::tempfile().map_err(|error| self.unpack(error))?;
        io::copy(content, &mut file).map_err(|error| self.unpack(error))?;
        Ok(file)
    }

    fn header(&self, content: &mut dyn Read) -> Result<Header, PackageError> {
        let mut bytes = [0; HEADER];
        content.read_exact(&mut bytes).map_err(|error| self.unpack(error))?;
        let (magic, fields) = bytes.split_at(6);
        if magic != b"070701" && magic != b"070702" {
            return Err(self.malformed("a member does not begin with 070701 or 070702"));
        }
        let mut numbers = [0; 13];
        for (number, field) in numbers.iter_mut().zip(fields.chunks_exact(8)) {
            *number =
                hexadecimal(field).ok_or_else(|| self.malformed("a field of a header is not a number"))?;
        }
        let [inode, mode, _, _, links, _, size, major, minor, _, _, name_size, sum] = numbers;
        Ok(Header {
            inode: (major, minor, inode),
            regular: mode & TYPE == REGULAR,
            links,
            size,
            name_size,
            sum: (magic == b"070702").then(|| u32::try_from(sum).unwrap_or_default()),
        })
    }

    /// Reads a member's name, the zero byte after it, and the padding. Returns the name.
    fn name(&self, content: &mut dyn Read, header: &Header) -> Result<Vec<u8>, PackageError> {
        if header.name_size > NAME_SIZE {
            return Err(self.over(Limit::NameSize));
        }
        let mut name = Vec::new();
        content.take(header.name_size).read_to_end(&mut name).map_err(|error| self.unpack(error))?;
        if name.len() as u64 != header.name_size || name.pop() != Some(0) || name.contains(&0) {
            return Err(self.malformed("a name does not end with its only zero byte"));
        }
        self.skip(content, padding(HEADER as u64 + header.name_size))?;
        Ok(name)
    }

    fn skip(&self, content: &mut dyn Read, bytes: u64) -> Result<(), PackageError> {
        let skipped =
            io::copy(&mut content.take(bytes), &mut io::sink()).map_err(|error| self.unpack(error))?;
        if bytes < 4 && skipped < bytes {
            return Err(self.unpack(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn over(&self, limit: Limit) -> PackageError {
        let path = self.sink.source().to_owned();
        PackageError::Limit { path, member: self.member.to_owned(), limit }
    }

    fn malformed(&self, what: &str) -> PackageError {
        let path = self.sink.source().to_owned();
        PackageError::Malformed { path, what: format!("{}: {what}", self.member) }
    }

    fn unpack(&self, source: io::Error) -> PackageError {
        let path = self.sink.source().to_owned();
        PackageError::Unpack { path, member: printable(self.member.as_bytes()), source }
    }
}

/// Returns the number of padding bytes that fill `length` bytes up to the next multiple of four.
fn padding(length: u64) -> u64 {
    length.wrapping_neg() % 4
}

/// Parses a hexadecimal number. Only digits are valid; `from_str_radix` would also accept a sign.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, byte| Some(value << 4 | u64::from(hex::digit(*byte)?)))
}

/// Reader for the content of a member. It verifies the size of the content and, if the header has one, the sum of its
/// bytes.
struct ChecksumReader<'a> {
    inner: &'a mut dyn Read,
    remaining: u64,
    sum: Option<u32>,
}

impl Read for ChecksumReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        let length = self.inner.read(buffer)?;
        if length == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining = self.remaining.saturating_sub(length as u64);
        if let Some(sum) = &mut self.sum {
            for byte in buffer.iter().take(length) {
                *sum = sum.wrapping_sub(u32::from(*byte));
            }
            if self.remaining == 0 && *sum != 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the sum of a file does not match"));
            }
        }
        Ok(length)
    }
}
