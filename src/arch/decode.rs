//! Lookup of an [`Arch`] by bytes: those of a file, or of a registered pattern.

use std::sync::LazyLock;

use goblin::elf::header::ELFMAG;

use super::{ARCHES, Arch, ByteOrder};
use crate::binfmt::Pattern;

/// Where `e_machine` begins, in bytes from the beginning of the file; equal in both classes.
const E_MACHINE: usize = 18;

/// A pattern of the table, with the row and the machine it stands for.
struct Known {
    arch: &'static Arch,
    machine: u16,
    pattern: Pattern,
}

/// All patterns of the table, derived once.
static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let rows = ARCHES.iter().map(|arch| (arch, &arch.identity));
    rows.flat_map(|(arch, identity)| {
        let machines = identity.machines.iter().zip(identity.patterns());
        machines.map(move |(&machine, pattern)| Known { arch, machine, pattern })
    })
    .collect()
});

impl Arch {
    /// The architecture of a file that begins with `header`: an ELF program or shared object for one row of the table.
    ///
    /// 40 bytes are enough; what is missing counts as zero, as for the kernel (K34).
    #[must_use]
    pub fn from_header(header: &[u8]) -> Option<&'static Arch> {
        KNOWN.iter().find(|known| known.pattern.matches(header)).map(|known| known.arch)
    }

    /// The architectures whose programs a registered pattern takes, sorted by name; mostly one.
    ///
    /// A pattern belongs to an architecture when it demands the ELF magic and the low byte of `e_machine`, both bit
    /// for bit, and takes at least some of the architecture's programs. So tables may be sloppy: leave out the high
    /// byte of `e_machine`, compare half of `EI_DATA`, or insist on an `EI_OSABI`. A rule for 32-bit MIPS without the
    /// ABI bit takes the programs of two rows, and both are named.
    ///
    /// A pattern which takes no program at all (numbers in the wrong byte order) belongs to none, and neither does one
    /// which takes everybody's (`\x7fELF` alone, or an empty mask): it concerns the whole table, not a part of it.
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

/// Reports whether every file that `pattern` takes has `byte` at `position`.
fn demands(pattern: &Pattern, position: usize, byte: u8) -> bool {
    position.checked_sub(pattern.offset()).is_some_and(|index| {
        pattern.magic().get(index) == Some(&byte)
            && pattern.mask().is_none_or(|mask| mask.get(index) == Some(&0xff))
    })
}
