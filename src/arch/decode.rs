//! Finds the [`Arch`] to which an ELF header or the pattern of a handler belongs.

use std::sync::LazyLock;

use goblin::elf::header::{ELFMAG, EM_386, EM_AARCH64, EM_ARM, EM_IAMCU, EM_X86_64};

use super::{ARCHES, Arch, ByteOrder, Class};
use crate::binfmt::Pattern;

/// Offset of the field `e_machine` in an ELF file, in bytes. It is the same in 32-bit and 64-bit files.
const E_MACHINE: usize = 18;

/// A pattern of an architecture in [`ARCHES`], and the machine number that this pattern requires.
struct Known {
    arch: &'static Arch,
    machine: u16,
    pattern: Pattern,
}

/// The patterns of all architectures in [`ARCHES`], computed at the first use.
static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let rows = ARCHES.iter().map(|arch| (arch, &arch.identity));
    rows.flat_map(|(arch, identity)| {
        let machines = identity.machines.iter().zip(identity.patterns());
        machines.map(move |(&machine, pattern)| Known { arch, machine, pattern })
    })
    .collect()
});

impl Arch {
    /// Returns the architecture of an ELF program or shared object that begins with `header`.
    ///
    /// The first 40 bytes of the file are enough. If `header` is shorter, missing bytes count as zero, as in the kernel
    /// (K34).
    #[must_use]
    pub fn from_header(header: &[u8]) -> Option<&'static Arch> {
        KNOWN.iter().find(|known| known.pattern.matches(header)).map(|known| known.arch)
    }

    /// Returns the architecture for which the kernel of this host would take a program that begins with `first`, and true
    /// if it is a 64-bit architecture. The kernel must still support that architecture.
    ///
    /// Kernels with one word size for a machine number compare only this number, in their own byte order
    /// (`elf_check_arch`). They ignore `EI_CLASS`, `EI_DATA` and `EI_VERSION`.
    #[must_use]
    pub fn for_kernel(first: &[u8]) -> Option<(&'static Arch, bool)> {
        let machine = u16::from_ne_bytes(first.get(E_MACHINE..E_MACHINE + 2)?.try_into().ok()?);
        if machine == EM_X86_64 && is_x32(first) {
            return None;
        }
        let order = if cfg!(target_endian = "big") { ByteOrder::Big } else { ByteOrder::Little };
        let is_only_number = matches!(machine, EM_X86_64 | EM_386 | EM_IAMCU | EM_AARCH64 | EM_ARM);
        let arch = if is_only_number {
            let takes =
                |arch: &&Arch| arch.identity.order == order && arch.identity.machines.contains(&machine);
            ARCHES.iter().find(takes)
        } else {
            Self::from_header(first).filter(|arch| arch.identity.order == order)
        };
        arch.map(|arch| (arch, arch.identity.class == Class::Elf64))
    }

    /// Returns the architectures whose programs match the `pattern` of a handler, sorted by name. Usually there is one.
    ///
    /// A pattern belongs to an architecture if it compares all bits of the ELF magic and of the low byte of
    /// `e_machine`, and matches at least some programs of the architecture. The rules of other tools often ignore the
    /// high byte of `e_machine`, compare only some bits of `EI_DATA`, or require one value of `EI_OSABI`. A rule for
    /// 32-bit MIPS that ignores the ABI bit of `e_flags` matches the programs of two architectures, so both are
    /// returned.
    ///
    /// The result is empty for a pattern that matches no program, for example with numbers in the wrong byte order. It
    /// is also empty for a pattern that matches the programs of every architecture: `\x7fELF` alone, or an empty mask.
    #[must_use]
    pub fn matching_pattern(pattern: &Pattern) -> Vec<&'static Arch> {
        if !ELFMAG.iter().enumerate().all(|(position, &byte)| demands(pattern, position, byte)) {
            return Vec::new();
        }
        KNOWN
            .iter()
            .filter(|known| {
                let [_, low] = known.machine.to_be_bytes();
                let position = match known.arch.identity.order {
                    ByteOrder::Little => E_MACHINE,
                    ByteOrder::Big => E_MACHINE + 1,
                };
                demands(pattern, position, low) && known.pattern.overlaps(pattern)
            })
            .map(|known| known.arch)
            .collect()
    }
}

/// Reports whether `pattern` matches only files that have the value `byte` at the offset `position`.
fn demands(pattern: &Pattern, position: usize, byte: u8) -> bool {
    position.checked_sub(pattern.offset()).is_some_and(|index| {
        pattern.magic().get(index) == Some(&byte)
            && pattern.mask().is_none_or(|mask| mask.get(index) == Some(&0xff))
    })
}

/// Reports whether a program with the machine number of x86_64 is an x32 program: its headers are 32-bit headers.
fn is_x32(first: &[u8]) -> bool {
    first.get(4) == Some(&1) && first.get(42..44) == Some(&[32, 0])
}
