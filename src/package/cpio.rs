//! Reader for newc cpio archives (cpio(5), "New ASCII Format"), the payload of rpm packages. In packages of format 6 the
//! header of a member is the magic `07070X` and the number of a file (`lib/cpio.cc` of rpm).

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

/// Size of the header in bytes that has only a number: a magic of six bytes and one field.
const NUMBER_HEADER: usize = 14;

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
    /// Files of the package, to which members without a name refer by a number.
    pub(super) files: &'a [ListedFile],
    /// Receiver of the members of the archive.
    pub(super) sink: &'a mut Extractor<'s>,
}

/// A file of a package, as the package's header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedFile {
    /// Path of the file, with a dot before it, as in a cpio archive.
    pub(super) name: Vec<u8>,
    /// True for a regular file.
    pub(super) regular: bool,
    /// Size of the file's content in the payload, in bytes. Of several hard links, only the last has a content.
    pub(super) size: u64,
    /// Device and inode number, which hard links have in common.
    pub(super) inode: (u64, u64),
    /// Number of hard links to the file in the package.
    pub(super) links: u64,
}

/// Fields of a member's header that qus uses.
struct Header {
    inode: (u64, u64, u64),
    regular: bool,
    links: u64,
    size: u64,
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
            let (header, name) = self.header(content)?;
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

    /// Reads the header of the next member, the name after it, and the padding. Returns the header and the name.
    fn header(&self, content: &mut dyn Read) -> Result<(Header, Vec<u8>), PackageError> {
        let mut magic = [0; 6];
        content.read_exact(&mut magic).map_err(|error| self.unpack(error))?;
        match &magic {
            b"07070X" => self.numbered(content),
            b"070701" => self.named(content, false),
            b"070702" => self.named(content, true),
            _ => Err(self.malformed("a member does not begin with 070701, 070702 or 07070X")),
        }
    }

    /// Reads the rest of a header that has only the number of a file, and the padding.
    fn numbered(&self, content: &mut dyn Read) -> Result<(Header, Vec<u8>), PackageError> {
        let [index] = self.fields(content)?;
        let file = usize::try_from(index).ok().and_then(|index| self.files.get(index));
        let file = file.ok_or_else(|| self.malformed("a member has a number that no file has"))?;
        self.skip(content, padding(NUMBER_HEADER as u64))?;
        let (device, inode) = file.inode;
        let inode = (device, 0, inode);
        let ListedFile { regular, links, size, .. } = *file;
        Ok((Header { inode, regular, links, size, sum: None }, file.name.clone()))
    }

    /// Reads the rest of a header with all fields, the name after it, and the padding.
    fn named(&self, content: &mut dyn Read, has_sum: bool) -> Result<(Header, Vec<u8>), PackageError> {
        let [inode, mode, _, _, links, _, size, major, minor, _, _, name_size, sum] = self.fields(content)?;
        let header = Header {
            inode: (major, minor, inode),
            regular: mode & TYPE == REGULAR,
            links,
            size,
            sum: has_sum.then(|| u32::try_from(sum).unwrap_or_default()),
        };
        Ok((header, self.name(content, name_size)?))
    }

    /// Reads the numbers after the magic of a header. Each has eight hexadecimal digits.
    fn fields<const N: usize>(&self, content: &mut dyn Read) -> Result<[u64; N], PackageError> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            let mut field = [0; 8];
            content.read_exact(&mut field).map_err(|error| self.unpack(error))?;
            *number =
                hexadecimal(&field).ok_or_else(|| self.malformed("a field of a header is not a number"))?;
        }
        Ok(numbers)
    }

    /// Reads a member's name of `name_size` bytes, the zero byte at its end, and the padding. Returns the name.
    fn name(&self, content: &mut dyn Read, name_size: u64) -> Result<Vec<u8>, PackageError> {
        if name_size > NAME_SIZE {
            return Err(self.over(Limit::NameSize));
        }
        let mut name = Vec::new();
        content.take(name_size).read_to_end(&mut name).map_err(|error| self.unpack(error))?;
        if name.len() as u64 != name_size || name.pop() != Some(0) || name.contains(&0) {
            return Err(self.malformed("a name does not end with its only zero byte"));
        }
        self.skip(content, padding(HEADER as u64 + name_size))?;
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
