//! The architectures that qus supports: one table, [`ARCHES`], with their names and the ELF header fields of their
//! programs. An architecture is found by a name, by an ELF header, or by a pattern.
//!
//! Each row of the table has the name of QEMU's linux-user target. The row stores the class, byte order, machine
//! numbers and ABI bits, and qus computes the bytes of the patterns from them. So nobody has to type bytes in the right
//! order.

mod decode;
pub mod elf;
mod identity;
#[cfg(test)]
mod invariants;
pub mod load;
mod lookup;
mod names;
mod probe_code;
mod table;

use std::hash::{Hash, Hasher};

use goblin::elf::header::{EM_IAMCU, EM_MIPS, ET_DYN, ET_EXEC};

pub use identity::{ByteOrder, Class, EF_MIPS_ABI2, EM_ALPHA, EM_MICROBLAZE_OLD, FlagBits, Identity};
pub use lookup::UnknownArch;
pub use names::Names;
pub use probe_code::ProbeCode;
pub use table::ARCHES;

/// One architecture: a row of [`ARCHES`]. Two values are equal if they have the same name.
#[derive(Debug)]
pub struct Arch {
    /// The name of QEMU's linux-user target (`configs/targets/*-linux-user.mak` in QEMU).
    pub name: &'static str,
    /// Description for users, such as `64-bit Arm, little-endian`.
    pub description: &'static str,
    /// ELF header fields that identify programs of this architecture.
    pub identity: Identity,
    /// Names of this architecture other than QEMU's.
    pub names: Names,
}

impl Arch {
    /// Returns the usual handler name for each pattern of the [`identity`](Arch::identity), in the same order.
    /// `qemu-NAME` belongs to the first machine number; other names belong to further machine numbers.
    ///
    /// QEMU's `scripts/qemu-binfmt-conf.sh` uses `qemu-i486` for machine number 6. No tool has a handler name for the
    /// old machine number of `MicroBlaze`, so qus appends `-old` to the first name.
    #[must_use]
    pub fn handler_names(&self) -> Vec<String> {
        let machines = self.identity.machines.iter();
        machines
            .map(|&machine| match machine {
                EM_IAMCU => "qemu-i486".to_owned(),
                EM_MICROBLAZE_OLD => format!("qemu-{}-old", self.name),
                _ => format!("qemu-{}", self.name),
            })
            .collect()
    }

    /// Returns the architecture for which QEMU's target has exactly this `name`.
    #[must_use]
    pub fn from_qemu_target(name: &str) -> Option<&'static Arch> {
        ARCHES.iter().find(|arch| arch.name == name)
    }

    /// Returns the machine code of this architecture's probe. Every architecture has a probe, which a test checks.
    #[must_use]
    pub fn probe_code(&self) -> Option<&'static ProbeCode> {
        probe_code::PROBE_CODE.iter().find(|code| code.arch == self.name)
    }

    /// Returns the ELF header of the simplest program that current toolchains link. It is the first of
    /// [`typical_headers`](Self::typical_headers).
    #[must_use]
    pub fn plain_header(&self) -> Option<Vec<u8>> {
        let machine = *self.identity.machines.first()?;
        Some(self.identity.header(machine, ET_EXEC, 0))
    }

    /// Returns the ELF headers of programs that current toolchains link: fixed-position and position-independent
    /// programs, each for System V and for GNU (static glibc). On MIPS, each of these has one header for every
    /// `EI_ABIVERSION` that GNU ld writes.
    ///
    /// A handler that matches all these headers is enough for the architecture, even if its pattern matches fewer files
    /// than the [`Identity`].
    #[must_use]
    pub fn typical_headers(&self) -> Vec<Vec<u8>> {
        /// Offset of `EI_OSABI` in the ELF header, in bytes. `EI_ABIVERSION` is the next byte.
        const EI_OSABI: usize = 7;
        let Some(&machine) = self.identity.machines.first() else { return Vec::new() };
        let abi_versions: &[u8] = if machine == EM_MIPS { &[0, 1, 3, 5] } else { &[0] };
        let mut headers = Vec::new();
        for e_type in [ET_EXEC, ET_DYN] {
            for os_abi in [0, 3] {
                for &abi_version in abi_versions {
                    let mut header = self.identity.header(machine, e_type, 0);
                    header.splice(EI_OSABI..EI_OSABI + 2, [os_abi, abi_version]);
                    headers.push(header);
                }
            }
        }
        headers
    }

    /// Returns the names of the architectures in the same family, including this one. A family has a 64-bit
    /// architecture and its 32-bit companions. A host of one architecture may run programs of the whole family
    /// natively, but only running a program shows whether it does.
    #[must_use]
    pub fn same_family(&self) -> &'static [&'static str] {
        /// Families of architectures. One kernel may run the programs of a whole family.
        const FAMILIES: [&[&str]; 7] = [
            &["i386", "x86_64"],
            &["aarch64", "arm"],
            &["mips", "mips64", "mipsn32"],
            &["mips64el", "mipsel", "mipsn32el"],
            &["ppc", "ppc64"],
            &["riscv32", "riscv64"],
            &["sparc", "sparc32plus", "sparc64"],
        ];
        FAMILIES.into_iter().find(|family| family.contains(&self.name)).unwrap_or_default()
    }
}

impl PartialEq for Arch {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Arch {}

impl Hash for Arch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}
