//! The architectures that qus supports: one table with their names and ELF identities, and lookup by name or by bytes.
//!
//! A row has the name of QEMU's linux-user target. It stores class, byte order, machine and ABI bits, and the bytes of
//! patterns are computed from these. So nobody has to type bytes in the right order.

mod decode;
pub mod elf;
mod identity;
#[cfg(test)]
mod invariants;
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
    /// ELF header fields that identify its programs.
    pub identity: Identity,
    /// Names other than QEMU's.
    pub names: Names,
}

impl Arch {
    /// Returns the usual name of a handler for each pattern of the [`identity`](Arch::identity), in the same order:
    /// `qemu-NAME` for the first machine, then the names for further machines.
    ///
    /// QEMU's `scripts/qemu-binfmt-conf.sh` uses `qemu-i486` for machine 6. No tool has a name for the old number of
    /// `MicroBlaze`, so its name ends in `-old`.
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

    /// Finds the architecture with exactly QEMU's target `name`.
    #[must_use]
    pub fn from_qemu_target(name: &str) -> Option<&'static Arch> {
        ARCHES.iter().find(|arch| arch.name == name)
    }

    /// Returns the code of this architecture's probe. Every architecture has a probe, which a test checks.
    #[must_use]
    pub fn probe_code(&self) -> Option<&'static ProbeCode> {
        probe_code::PROBE_CODE.iter().find(|code| code.arch == self.name)
    }

    /// Returns the header of the simplest program that current toolchains link, the first of the
    /// [typical headers](Self::typical_headers).
    #[must_use]
    pub fn plain_header(&self) -> Option<Vec<u8>> {
        let machine = *self.identity.machines.first()?;
        Some(self.identity.header(machine, ET_EXEC, 0))
    }

    /// Returns the headers of programs that current toolchains link: fixed-position and position-independent, for
    /// System V and for GNU (static glibc). On MIPS there is one for every `EI_ABIVERSION` that GNU ld writes.
    ///
    /// A handler that matches all these headers serves the architecture, even if its rule is narrower than
    /// [`Identity`].
    #[must_use]
    pub fn typical_headers(&self) -> Vec<Vec<u8>> {
        /// Position of `EI_OSABI` in the header; `EI_ABIVERSION` follows it.
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

    /// Returns the architectures of the same family, which a host of this architecture may run natively: the 32-bit
    /// companions of a 64-bit architecture, and the reverse. Only running a program shows which of them work.
    #[must_use]
    pub fn same_family(&self) -> &'static [&'static str] {
        /// Families of architectures whose programs one kernel may run.
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
