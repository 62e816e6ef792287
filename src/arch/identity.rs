//! [`Identity`]: the fields of an ELF header that identify programs of an architecture.

use goblin::elf::header::{
    EI_VERSION, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFDATA2MSB, ELFMAG, ET_EXEC, EV_CURRENT, SIZEOF_IDENT,
};

use crate::binfmt::Pattern;

/// Value of `e_machine` that every Linux toolchain writes for Alpha. The ELF specification never assigned a number to
/// Alpha.
///
/// Source: `EM_ALPHA` in Linux `include/uapi/linux/elf-em.h`.
pub const EM_ALPHA: u16 = 0x9026;

/// Value of `e_machine` that `MicroBlaze` toolchains wrote before the number 189 was assigned.
///
/// Source: `EM_MICROBLAZE_OLD` in QEMU `include/elf.h`.
pub const EM_MICROBLAZE_OLD: u16 = 0xbaab;

/// Bit of `e_flags` in a 32-bit MIPS program that uses the n32 calling convention instead of o32.
///
/// Source: `EF_MIPS_ABI2` in the MIPS ELF supplement; `elf_check_abi` in QEMU `linux-user`.
pub const EF_MIPS_ABI2: u32 = 0x20;

/// The bit in which the values `ET_EXEC` (2) and `ET_DYN` (3) of `e_type` differ. A mask for `e_type` without this bit
/// accepts both values, and no other.
const EXEC_OR_DYN: u16 = 1;

/// Width of addresses in an ELF file (`EI_CLASS` in the ELF specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 32-bit addresses. The ELF header has 52 bytes.
    Elf32,
    /// 64-bit addresses. The ELF header has 64 bytes.
    Elf64,
}

impl Class {
    /// Returns the value of the header byte `EI_CLASS` that means this class.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Elf32 => ELFCLASS32,
            Self::Elf64 => ELFCLASS64,
        }
    }

    /// Returns the offset of `e_flags` in an ELF file of this class, in bytes.
    ///
    /// Source: `Elf32_Ehdr` and `Elf64_Ehdr` in the ELF specification.
    #[must_use]
    pub const fn flags_offset(self) -> usize {
        match self {
            Self::Elf32 => 36,
            Self::Elf64 => 48,
        }
    }

    /// Returns the sizes of a file header, a program header and a section header of this class, in bytes.
    ///
    /// Source: `Elf32_*hdr` and `Elf64_*hdr` in the ELF specification.
    #[must_use]
    pub const fn header_sizes(self) -> [u16; 3] {
        match self {
            Self::Elf32 => [52, 32, 40],
            Self::Elf64 => [64, 56, 64],
        }
    }
}

/// Order of the bytes in a number (`EI_DATA` in the ELF specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

impl ByteOrder {
    /// Returns the value of the header byte `EI_DATA` that means this byte order.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Little => ELFDATA2LSB,
            Self::Big => ELFDATA2MSB,
        }
    }

    /// Encodes a 16-bit number (`Half` in the ELF specification) in this byte order.
    #[must_use]
    pub const fn half(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    /// Encodes a 32-bit number (`Word` in the ELF specification) in this byte order.
    #[must_use]
    pub const fn word(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    /// Encodes a 64-bit number (`Xword` in the ELF specification) in this byte order.
    #[must_use]
    pub const fn xword(self, value: u64) -> [u8; 8] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

/// Values that an [`Identity`] requires for some bits of the header field `e_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlagBits {
    /// Mask: the bits of `e_flags` that are compared.
    pub mask: u32,
    /// Required value of the bits in `mask`. All other bits are zero.
    pub value: u32,
}

impl FlagBits {
    /// Returns `e_flags` after the bits in [`mask`](Self::mask) were set to their required values.
    #[must_use]
    pub const fn applied_to(self, e_flags: u32) -> u32 {
        e_flags & !self.mask | self.value
    }
}

/// The fields of an ELF header that identify programs of an architecture.
///
/// An identity accepts the same files as QEMU's program loader (`elf_check_ident` and `elf_check_ehdr` in
/// `linux-user/elfload.c`). It compares the magic, the class, the byte order, `EI_VERSION` 1, an `e_type` of executable
/// or shared object, and all bits of `e_machine`. It ignores `EI_OSABI` (GNU in static glibc programs), `EI_ABIVERSION`
/// (MIPS linkers write 0 to 5) and the padding (`AppImage` stores its own magic there). QEMU also checks `e_ehsize` and
/// `e_phentsize`, but every toolchain writes the required values, so no pattern compares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Required class (`EI_CLASS`).
    pub class: Class,
    /// Required byte order (`EI_DATA`).
    pub order: ByteOrder,
    /// Accepted values of `e_machine`. The first one is the value that current toolchains write.
    pub machines: &'static [u16],
    /// Bits of `e_flags` that distinguish two architectures with the same machine number, class and byte order; `None`
    /// if these three are enough.
    pub abi: Option<FlagBits>,
}

impl Identity {
    /// Returns one pattern for each machine number in [`machines`](Self::machines), in the same order.
    ///
    /// One pattern cannot accept just two machine numbers: a mask that accepts 3 and 6 would also accept 2 and 7.
    #[must_use]
    pub fn patterns(&self) -> Vec<Pattern> {
        self.machines.iter().filter_map(|&machine| self.pattern(machine)).collect()
    }

    /// Returns the pattern that requires the machine number `machine`. The result `None` would mean that the pattern is
    /// longer than the kernel permits, but an ELF header is always short enough.
    fn pattern(&self, machine: u16) -> Option<Pattern> {
        let mut mask = vec![0xff; EI_VERSION + 1];
        mask.resize(SIZEOF_IDENT, 0);
        mask.extend(self.order.half(!EXEC_OR_DYN));
        mask.extend(self.order.half(u16::MAX));
        if let Some(abi) = self.abi {
            mask.resize(self.class.flags_offset(), 0);
            mask.extend(self.order.word(abi.mask));
            // A window that ends at its last compared bit keeps the register line short.
            while mask.last() == Some(&0) {
                mask.pop();
            }
        }
        let header = self.header(machine, ET_EXEC, 0);
        let magic = header.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        Pattern::new(0, magic, Some(mask)).ok()
    }

    /// Returns the smallest complete ELF header of this identity: 52 or 64 bytes.
    ///
    /// The arguments are the values of the header fields `e_machine`, `e_type` and `e_flags`. In `e_flags`, the
    /// [`abi`](Self::abi) bits are set as this identity requires. The header has no entry point, no program headers and
    /// no sections.
    #[must_use]
    pub fn header(&self, machine: u16, e_type: u16, e_flags: u32) -> Vec<u8> {
        let order = self.order;
        let [file, program, section] = self.class.header_sizes();
        let mut header = Vec::with_capacity(usize::from(file));
        header.extend(ELFMAG);
        header.extend([self.class.byte(), order.byte(), EV_CURRENT]);
        header.resize(SIZEOF_IDENT, 0);
        header.extend(order.half(e_type));
        header.extend(order.half(machine));
        header.extend(order.word(u32::from(EV_CURRENT)));
        // e_entry, e_phoff and e_shoff stay zero.
        header.resize(self.class.flags_offset(), 0);
        header.extend(order.word(self.abi.map_or(e_flags, |abi| abi.applied_to(e_flags))));
        // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
        for value in [file, program, 0, section, 0, 0] {
            header.extend(order.half(value));
        }
        header
    }
}
