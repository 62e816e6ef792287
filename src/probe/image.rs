//! Generates the ELF file of a probe from the table of architectures.

use goblin::elf::header::{ET_EXEC, SIZEOF_IDENT};
use goblin::elf::program_header::{PF_R, PF_X, PT_LOAD};

use crate::arch::{Arch, Class, ProbeCode};

/// Load address of a probe with the ELF type `ET_EXEC`. All known emulators accept this address.
const BASE: u64 = 0x40_0000;
/// Alignment of a probe's only segment, in bytes. It is the largest page size of Linux on the architectures of the
/// table.
const ALIGNMENT: u64 = 0x1_0000;
/// Offset of `EI_OSABI` in the file header (ELF specification). The next bytes are `EI_ABIVERSION` and the padding.
const EI_OSABI: usize = 7;

/// Fields of a probe's ELF header that do not depend on the architecture. The default values are those of a statically
/// linked program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variant {
    /// ELF type of the file (`e_type`), such as `ET_EXEC`.
    pub e_type: u16,
    /// Operating system ABI of the file (`EI_OSABI`).
    pub os_abi: u8,
    /// The byte `EI_ABIVERSION` and the two bytes after it. In an AppImage these are `A`, `I` and 2.
    pub abi_version: [u8; 3],
}

impl Default for Variant {
    fn default() -> Self {
        Self { e_type: ET_EXEC, os_abi: 0, abi_version: [0; 3] }
    }
}

/// Returns the ELF file of a probe: a program for `arch` that exits with the first byte of its `argv[0]` as status. The
/// file has less than 200 bytes.
///
/// `machine` is the value of `e_machine`. It should be one of the values in `arch.identity.machines`, because handlers
/// match only these. The file has one readable and executable segment, with the code after the headers. The result is
/// empty if the table of architectures has no machine code for a probe of `arch`. At present it has such code for every
/// architecture.
#[must_use]
pub fn image(arch: &Arch, machine: u16, variant: Variant) -> Vec<u8> {
    let Some(code) = arch.probe_code() else { return Vec::new() };
    with_code(arch, machine, variant, code)
}

/// Returns a static ELF program of `arch` that executes `code`.
pub(super) fn with_code(arch: &Arch, machine: u16, variant: Variant, code: &ProbeCode) -> Vec<u8> {
    let (class, order) = (arch.identity.class, arch.identity.order);
    let [header_size, program_header_size, _] = class.header_sizes();
    let start = u64::from(header_size) + u64::from(program_header_size);
    let size = start + code.code.len() as u64;
    let base = if variant.e_type == ET_EXEC { BASE } else { 0 };
    // Addresses and offsets have the width of the class. All values fit into 32 bits.
    let wide = |value: u64| match class {
        Class::Elf64 => order.xword(value).to_vec(),
        Class::Elf32 => order.word(u32::try_from(value).unwrap_or(u32::MAX)).to_vec(),
    };

    let mut header = arch.identity.header(machine, variant.e_type, code.e_flags);
    let [version_0, version_1, version_2] = variant.abi_version;
    header.splice(EI_OSABI..EI_OSABI + 4, [variant.os_abi, version_0, version_1, version_2]);
    // `e_entry` and `e_phoff` follow `e_type`, `e_machine` and `e_version`. `e_phnum` is the second half-word after
    // `e_ehsize`.
    let addresses = [wide(base + start), wide(u64::from(header_size))].concat();
    let entry = SIZEOF_IDENT + 8;
    header.splice(entry..entry + addresses.len(), addresses);
    let program_headers = class.flags_offset() + 8;
    header.splice(program_headers..program_headers + 2, order.half(1));

    let kind = order.word(PT_LOAD).to_vec();
    let flags = order.word(PF_R | PF_X).to_vec();
    let [offset, address, length, alignment] = [0, base, size, ALIGNMENT].map(wide);
    let program_header = match class {
        Class::Elf64 => [kind, flags, offset, address.clone(), address, length.clone(), length, alignment],
        Class::Elf32 => [kind, offset, address.clone(), address, length.clone(), length, flags, alignment],
    };
    [header, program_header.concat(), code.code.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ARCHES;
    use crate::arch::elf::Executable;

    #[test]
    fn every_architecture_has_a_static_probe_of_its_own() {
        for arch in ARCHES {
            for &machine in arch.identity.machines {
                let image = image(arch, machine, Variant::default());
                assert_eq!(Arch::from_header(&image), Some(arch), "{}", arch.name);
                let file = tempfile::tempfile().unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, &image, 0).unwrap();
                assert_eq!(Executable::read(&file).unwrap().loader, None, "{}", arch.name);
                assert!(image.len() < 200, "{}", arch.name);
            }
        }
    }

    #[test]
    fn the_probe_of_this_host_runs_and_returns_argv0() {
        let host = std::env::consts::ARCH;
        let name = match host {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "x86" => "i386",
            other => other,
        };
        let arch = Arch::from_qemu_target(name).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("probe");
        std::fs::write(&path, image(arch, arch.identity.machines[0], Variant::default())).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = std::process::Command::new(&path);
        std::os::unix::process::CommandExt::arg0(&mut command, super::super::ARGV0);
        assert_eq!(command.status().unwrap().code(), Some(super::super::STATUS_ARGV0));
    }
}
