//! Reads the headers of an ELF file, which show the architecture and the loader of a program.
//!
//! This module reads only the ELF header, the program headers and the path of the loader (System V ABI, chapters "ELF
//! Header" and "Program Header"). Files are untrusted: every number in a header is checked before use.

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::FileExt;

use goblin::container::Ctx;
use goblin::elf::header::{ELFMAG, ET_DYN, ET_EXEC, SELFMAG};
use goblin::elf::program_header::{PT_INTERP, PT_LOAD, ProgramHeader};
use goblin::elf::{Elf, Header};
use thiserror::Error;

/// Number of bytes that are read first from a file. They contain the ELF header and, in every executable that a linker
/// writes, the program headers.
pub const FIRST_READ: usize = 4096;
/// Size of program headers, in bytes, with which Linux refuses a file (`load_elf_phdrs`). 64 KiB are permitted.
pub(super) const PROGRAM_HEADERS_BYTES_MAX: usize = 65536 + 1;
/// Maximum number of program headers in a file.
const PROGRAM_HEADERS_MAX: usize = 65536 / 32;
/// Maximum length of a loader's path, in bytes (`PATH_MAX`, the limit of Linux for `PT_INTERP`).
pub(super) const LOADER_MAX: usize = 4096;

/// The properties of an ELF executable that its headers describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// The first bytes of the file, at most [`crate::binfmt::HEADER_LEN`]. Patterns are compared with these bytes.
    pub header: Vec<u8>,
    /// Path of the loader, which the kernel starts first (`PT_INTERP`); `None` for a static executable.
    pub loader: Option<Vec<u8>>,
}

/// Reason why a file is not an ELF executable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ElfError {
    /// The file has no bytes.
    #[error("is empty")]
    Empty,
    /// The file is a script. The value is the first line of the script without its `#!`.
    #[error("is a script (#!{0})")]
    Script(String),
    /// The file is neither ELF nor a script.
    #[error("is not an ELF file")]
    NotElf,
    /// The file is ELF, but not a program: for example a relocatable object or a core dump. The value is its `e_type`.
    #[error("is an ELF file, but not a program (e_type {0})")]
    NotAProgram(u16),
    /// The headers of the ELF file point beyond its end or contradict each other. The value describes the fault.
    #[error("is a damaged ELF file: {0}")]
    Damaged(&'static str),
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
}

impl Executable {
    /// Reads the headers of `file`. Usually the program headers follow the ELF header, and a single read of the file is
    /// enough.
    pub fn read(file: &impl FileExt) -> Result<Self, ElfError> {
        let mut buffer = [0; FIRST_READ];
        let length = read_at_most(file, &mut buffer, 0)?;
        let first = buffer.get(..length).unwrap_or_default();
        let header = first.get(..length.min(crate::binfmt::HEADER_LEN)).unwrap_or_default().to_vec();
        if first.is_empty() {
            return Err(ElfError::Empty);
        }
        if let Some(rest) = first.strip_prefix(b"#!") {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = line.get(..line.len().min(80)).unwrap_or_default();
            return Err(ElfError::Script(line.trim_ascii().escape_ascii().to_string()));
        }
        if first.get(..SELFMAG) != Some(ELFMAG) {
            return Err(ElfError::NotElf);
        }
        let loader = loader_of(file, first)?;
        Ok(Self { header, loader })
    }
}

/// Returns the path of the loader that the ELF program `file` needs, or `None` for a static program. `first` contains
/// the first bytes of `file`, so these are not read again.
pub fn loader_of(file: &impl FileExt, first: &[u8]) -> Result<Option<Vec<u8>>, ElfError> {
    loader(file, first, &program_header(first)?)
}

/// Parses the ELF header at the beginning of `first`. Returns an error if it is not the header of a program.
fn program_header(first: &[u8]) -> Result<Header, ElfError> {
    let header =
        Elf::parse_header(first).map_err(|_| ElfError::Damaged("its header is cut off or malformed"))?;
    if matches!(header.e_type, ET_EXEC | ET_DYN) {
        Ok(header)
    } else {
        Err(ElfError::NotAProgram(header.e_type))
    }
}

fn loader(file: &impl FileExt, first: &[u8], header: &Header) -> Result<Option<Vec<u8>>, ElfError> {
    let container = header.container().map_err(|_| ElfError::Damaged("its class is unknown"))?;
    let endian = header.endianness().map_err(|_| ElfError::Damaged("its byte order is unknown"))?;
    let context = Ctx::new(container, endian);
    let count = usize::from(header.e_phnum);
    if count > PROGRAM_HEADERS_MAX {
        return Err(ElfError::Damaged("it has too many program headers"));
    }
    if count == 0 {
        return Err(ElfError::Damaged("it has no program headers"));
    }
    let size = ProgramHeader::size(context);
    if usize::from(header.e_phentsize) != size {
        return Err(ElfError::Damaged("its program headers have an unknown size"));
    }
    let table = bytes_at(file, first, header.e_phoff, count * size)?;
    let headers = ProgramHeader::parse(&table, 0, count, context)
        .map_err(|_| ElfError::Damaged("its program headers are cut off"))?;
    if !headers.iter().any(|header| header.p_type == PT_LOAD) {
        return Err(ElfError::Damaged("it has no loadable segment"));
    }
    let Some(entry) = headers.iter().find(|header| header.p_type == PT_INTERP) else { return Ok(None) };
    let length = usize::try_from(entry.p_filesz).ok().filter(|length| *length <= LOADER_MAX);
    let length = length.ok_or(ElfError::Damaged("the path of its loader is too long"))?;
    let path = bytes_at(file, first, entry.p_offset, length)?;
    Ok(Some(path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()))
}

/// Returns the `length` bytes of `file` at `offset`. The file is read only if `first`, its beginning, does not contain
/// them.
pub(super) fn bytes_at<'a>(
    file: &impl FileExt,
    first: &'a [u8],
    offset: u64,
    length: usize,
) -> Result<Cow<'a, [u8]>, ElfError> {
    let start = usize::try_from(offset).ok();
    let end = start.and_then(|start| start.checked_add(length));
    if let (Some(start), Some(end)) = (start, end)
        && let Some(bytes) = first.get(start..end)
    {
        return Ok(bytes.into());
    }
    let mut bytes = vec![0; length];
    if read_at_most(file, &mut bytes, offset)? < length {
        return Err(ElfError::Damaged("its headers point beyond its end"));
    }
    Ok(bytes.into())
}

fn read_at_most(file: &impl FileExt, buffer: &mut [u8], offset: u64) -> Result<usize, ElfError> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let position =
            offset.checked_add(done as u64).ok_or(ElfError::Damaged("its headers point beyond its end"))?;
        match file.read_at(rest, position) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ElfError::Read(error)),
        }
    }
    Ok(done)
}

/// Reports whether two ELF headers have the same class, byte order and `e_machine`.
#[must_use]
pub fn same_machine(one: &[u8], two: &[u8]) -> bool {
    /// Positions of `EI_CLASS`, `EI_DATA` and both bytes of `e_machine`.
    const MACHINE: [usize; 4] = [4, 5, 18, 19];
    MACHINE.iter().all(|position| one.get(*position) == two.get(*position))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file whose content is in memory.
    struct Bytes<'a>(&'a [u8]);

    impl FileExt for Bytes<'_> {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest =
                usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }

        fn write_at(&self, _buffer: &[u8], _offset: u64) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// Returns the content of a 64-bit little-endian program with one `PT_LOAD` header. If `loader_at` is set, a
    /// `PT_INTERP` header states that the path of the loader is at this offset.
    fn program(loader_at: Option<usize>) -> Vec<u8> {
        let mut file = vec![0; 64 + 2 * 56];
        file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file[16] = 2;
        file[18] = 62;
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = 1;
        if let Some(at) = loader_at {
            file[56] = 2;
            file[120] = 3;
            file[128..136].copy_from_slice(&(at as u64).to_le_bytes());
            file[152] = 6;
            file.resize(file.len().max(at), 0);
            file.truncate(at.max(176));
            file.extend_from_slice(b"/ld.1\0");
        }
        file
    }

    #[test]
    fn distinguishes_static_from_dynamic() {
        assert_eq!(Executable::read(&Bytes(&program(None))).unwrap().loader, None);
        for at in [176, 100_000] {
            let executable = Executable::read(&Bytes(&program(Some(at)))).unwrap();
            assert_eq!(executable.loader, Some(b"/ld.1".to_vec()), "loader path at {at}");
        }
    }

    #[test]
    fn reports_what_else_a_file_is() {
        let reason = |bytes: &[u8]| Executable::read(&Bytes(bytes)).unwrap_err().to_string();
        assert_eq!(reason(b""), "is empty");
        assert_eq!(reason(b"#! /bin/sh -e\necho"), "is a script (#!/bin/sh -e)");
        assert_eq!(reason(b"MZ"), "is not an ELF file");
        assert_eq!(reason(b"\x7fELF\x02\x01"), "is a damaged ELF file: its header is cut off or malformed");
        let mut object = program(None);
        object[16] = 1;
        assert_eq!(reason(&object), "is an ELF file, but not a program (e_type 1)");
        let mut far = program(None);
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(reason(&far), "is a damaged ELF file: its headers point beyond its end");
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic(at in 0_usize..176, value: u8, length in 0_usize..200) {
            let mut file = program(Some(176));
            file[at] = value;
            file.truncate(length);
            let _verdict = Executable::read(&Bytes(&file));
        }
    }
}
