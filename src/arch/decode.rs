//! Finds an [`Arch`] by bytes: the header of a file, or a registered pattern.

use std::sync::LazyLock;

use goblin::elf::header::ELFMAG;

use super::{ARCHES, Arch, ByteOrder};
use crate::binfmt::Pattern;

/// Offset of `e_machine` in the file, in bytes; the same for both classes.
const E_MACHINE: usize = 18;

/// A pattern of the table, with its architecture and machine number.
struct Known {
    arch: &'static Arch,
    machine: u16,
    pattern: Pattern,
}

/// All patterns of the table, computed once.
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
    /// 40 bytes are enough. Missing bytes count as zero, as in the kernel (K34).
    #[must_use]
    pub fn from_header(header: &[u8]) -> Option<&'static Arch> {
        KNOWN.iter().find(|known| known.pattern.matches(header)).map(|known| known.arch)
    }

    /// Returns the architectures whose programs match a registered pattern, sorted by name; usually one.
    ///
    /// A pattern belongs to an architecture if it compares all bits of the ELF magic and of the low byte of
    /// `e_machine`, and matches at least some programs of the architecture. Rules of other tools often leave out the
    /// high byte of `e_machine`, compare half of `EI_DATA`, or require an `EI_OSABI`. A rule for 32-bit MIPS without
    /// the ABI bit matches the programs of two architectures, so both are returned.
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

/// Reports whether `pattern` requires `byte` at `position`.
fn demands(pattern: &Pattern, position: usize, byte: u8) -> bool {
    position.checked_sub(pattern.offset()).is_some_and(|index| {
        pattern.magic().get(index) == Some(&byte)
            && pattern.mask().is_none_or(|mask| mask.get(index) == Some(&0xff))
    })
}
