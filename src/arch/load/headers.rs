//! Fields of the ELF header and of the program headers (`elf(5)`), in either class and byte order.

use std::ops::Range;

use goblin::elf::program_header::{PF_R, PT_LOAD};

/// Size of the smallest page of Linux, in bytes. Segments are mapped in whole pages.
pub(super) const PAGE: u64 = 4096;

/// Class and byte order in which headers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// True for 64-bit headers.
    pub(super) wide: bool,
    /// True for big-endian headers.
    pub(super) big: bool,
}

impl View {
    /// Returns the class and the byte order that the header states.
    pub(super) fn of(first: &[u8]) -> Self {
        Self { wide: first.get(4) == Some(&2), big: first.get(5) == Some(&2) }
    }

    /// Returns the size of an ELF header, in bytes.
    pub(super) fn header_size(self) -> usize {
        if self.wide { 64 } else { 52 }
    }

    /// Returns the size of a program header, in bytes.
    pub(super) fn entry_size(self) -> usize {
        if self.wide { 56 } else { 32 }
    }

    pub(super) fn half(self, bytes: &[u8], position: usize) -> u16 {
        let field = field(bytes, position);
        if self.big { u16::from_be_bytes(field) } else { u16::from_le_bytes(field) }
    }

    pub(super) fn word(self, bytes: &[u8], position: usize) -> u32 {
        let field = field(bytes, position);
        if self.big { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) }
    }

    fn address(self, bytes: &[u8], position: usize) -> u64 {
        if !self.wide {
            return self.word(bytes, position).into();
        }
        let field = field(bytes, position);
        if self.big { u64::from_be_bytes(field) } else { u64::from_le_bytes(field) }
    }

    /// Parses a program header.
    pub(super) fn segment(self, entry: &[u8]) -> Segment {
        // Positions of offset, vaddr, filesz, memsz, flags and align.
        let at = if self.wide { [8, 16, 32, 40, 4, 48] } else { [4, 8, 16, 20, 24, 28] };
        let [offset, vaddr, filesz, memsz, flags, align] = at;
        Segment {
            kind: self.word(entry, 0),
            flags: self.word(entry, flags),
            offset: self.address(entry, offset),
            vaddr: self.address(entry, vaddr),
            filesz: self.address(entry, filesz),
            memsz: self.address(entry, memsz),
            align: self.address(entry, align),
        }
    }
}

/// Returns the `N` bytes at `position`; missing bytes count as zeros.
fn field<const N: usize>(bytes: &[u8], position: usize) -> [u8; N] {
    let rest = bytes.get(position..).unwrap_or_default();
    rest.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [0; N];
        padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        padded
    })
}

/// A program header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// `p_type`.
    pub(super) kind: u32,
    /// `p_flags`.
    pub(super) flags: u32,
    /// `p_offset`.
    pub(super) offset: u64,
    /// `p_vaddr`.
    pub(super) vaddr: u64,
    /// `p_filesz`.
    pub(super) filesz: u64,
    /// `p_memsz`.
    pub(super) memsz: u64,
    /// `p_align`.
    pub(super) align: u64,
}

/// Fields of an ELF header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    /// Class and byte order in which the fields were read.
    pub(super) view: View,
    /// `e_type`.
    pub(super) e_type: u16,
    /// `e_machine`.
    pub(super) machine: u16,
    /// `e_entry`.
    pub(super) entry: u64,
    /// `e_phoff`.
    pub(super) phoff: u64,
    /// `e_flags`.
    pub(super) flags: u32,
    /// `e_ehsize`.
    pub(super) ehsize: u16,
    /// `e_phentsize`.
    pub(super) phentsize: u16,
    /// `e_phnum`.
    pub(super) phnum: u16,
}

impl Headers {
    /// Parses an ELF header. Bytes after the end of a short file count as zeros, as in the kernel (K34).
    pub(super) fn parse(first: &[u8], view: View) -> Self {
        let at = if view.wide { [32, 48] } else { [28, 36] };
        let [phoff, flags] = at;
        Self {
            view,
            e_type: view.half(first, 16),
            machine: view.half(first, 18),
            entry: view.address(first, 24),
            phoff: view.address(first, phoff),
            flags: view.word(first, flags),
            ehsize: view.half(first, flags + 4),
            phentsize: view.half(first, flags + 6),
            phnum: view.half(first, flags + 8),
        }
    }

    /// Returns the position of the end of the program headers in the file.
    pub(super) fn table_end(&self) -> u64 {
        self.phoff.saturating_add(self.table_size() as u64)
    }

    /// Returns the size of all program headers, in bytes.
    pub(super) fn table_size(&self) -> usize {
        self.view.entry_size() * usize::from(self.phnum)
    }
}

impl Segment {
    /// Returns the addresses of the segment.
    pub(super) fn memory(&self) -> Range<u64> {
        self.vaddr..self.vaddr.saturating_add(self.memsz)
    }

    /// Reports whether the segment can be read.
    pub(super) fn is_readable(&self) -> bool {
        self.flags & PF_R != 0
    }
}

/// A program whose headers could be read.
pub(super) struct Program<'a> {
    pub(super) headers: &'a Headers,
    pub(super) segments: &'a [Segment],
    pub(super) is_static: bool,
    /// Size of the file, in bytes.
    pub(super) size: u64,
}

impl Program<'_> {
    /// Returns the segments that are loaded.
    pub(super) fn loads(&self) -> impl Iterator<Item = &Segment> + Clone {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD)
    }
}
