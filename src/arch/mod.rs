//! The architectures whose programs qus can make run: one table, with names, ELF identity, and lookup both ways.
//!
//! A row is named as QEMU's linux-user target. It stores what the ELF identity *means* (class, byte order, machine, ABI
//! bits) and derives the bytes from that, so that a byte-order slip cannot be typed in.

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

/// One architecture: a row of [`ARCHES`]. Two are equal when they have the same name.
#[derive(Debug)]
pub struct Arch {
    /// The name of QEMU's linux-user target (`configs/targets/*-linux-user.mak` in QEMU).
    pub name: &'static str,
    /// Description for people: `64-bit Arm, little-endian`.
    pub description: &'static str,
    /// Which files are its programs.
    pub identity: Identity,
    /// Other names.
    pub names: Names,
}

impl Arch {
    /// The conventional name of a `binfmt_misc` handler for each pattern of the [`identity`](Arch::identity), in the
    /// same order: `qemu-NAME`, then those of further machines.
    ///
    /// `qemu-i486` is what QEMU's `scripts/qemu-binfmt-conf.sh` calls machine 6; for the old number of `MicroBlaze`
    /// there is no name in use, so it gets `-old`.
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

    /// The row of QEMU's target `name`, exactly as QEMU writes it.
    #[must_use]
    pub fn from_qemu_target(name: &str) -> Option<&'static Arch> {
        ARCHES.iter().find(|arch| arch.name == name)
    }

    /// Code of this architecture's probe. Every row has one, which a test checks.
    #[must_use]
    pub fn probe_code(&self) -> Option<&'static ProbeCode> {
        probe_code::PROBE_CODE.iter().find(|code| code.arch == self.name)
    }

    /// Header of the plainest program that today's toolchains link, the first of the
    /// [typical ones](Self::typical_headers).
    #[must_use]
    pub fn plain_header(&self) -> Option<Vec<u8>> {
        let machine = *self.identity.machines.first()?;
        Some(self.identity.header(machine, ET_EXEC, 0))
    }

    /// Headers of the programs that today's toolchains link: fixed and position-independent, for System V and for GNU
    /// (static glibc), on MIPS with every `EI_ABIVERSION` that GNU ld writes.
    ///
    /// A handler that takes them all serves the architecture, even where its rule is narrower than [`Identity`].
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

    /// Architectures of the same family, which a host of this one may run natively: 32-bit companions, and the other
    /// way round. Only an execution shows which of them it runs.
    #[must_use]
    pub fn same_family(&self) -> &'static [&'static str] {
        /// Architectures that one kernel may be able to run.
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
