//! Tests of the conditions that every architecture in `ARCHES` must fulfil.

mod bytes;
mod foreign;
mod names;
mod qemu;

use goblin::elf::header::{EM_LOONGARCH, EM_MIPS, EM_X86_64, ET_CORE, ET_DYN, ET_EXEC, ET_NONE, ET_REL};

use super::{ARCHES, Arch, ByteOrder, Class, Identity};
use crate::binfmt::Pattern;

/// Length of the longest ELF header, in bytes.
const HEADER: usize = 64;

/// Returns the pattern with this magic and this mask, both in hexadecimal digits. An empty `mask` means a pattern
/// without a mask.
fn pattern(magic: &str, mask: &str) -> Pattern {
    let mask = if mask.is_empty() { None } else { Some(unhex(mask)) };
    Pattern::new(0, unhex(magic), mask).unwrap()
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Returns the mask of `pattern` for the byte at `position`, and the required value of the bits in this mask.
fn at(pattern: &Pattern, position: usize) -> (u8, u8) {
    assert_eq!(pattern.offset(), 0);
    let mask = pattern.mask().unwrap().get(position).copied().unwrap_or(0);
    (mask, pattern.magic().get(position).copied().unwrap_or(0) & mask)
}

/// Returns ELF headers of programs for `arch` as old and new toolchains and `AppImage` write them, each with its
/// machine number.
fn headers(arch: &Arch) -> Vec<(u16, Vec<u8>)> {
    let mut headers = Vec::new();
    for &machine in arch.identity.machines {
        for e_type in [ET_EXEC, ET_DYN] {
            for e_flags in [0, 0x20, 0x7000_1007, u32::MAX] {
                for osabi in [0, 3, 65, 97, 255] {
                    for abi_version in 0..=5 {
                        let mut header = arch.identity.header(machine, e_type, e_flags);
                        header[7] = osabi;
                        header[8] = abi_version;
                        headers.push((machine, header));
                    }
                }
                let mut header = arch.identity.header(machine, e_type, e_flags);
                header[8..11].copy_from_slice(b"AI\x02");
                headers.push((machine, header));
            }
        }
    }
    headers
}

#[test]
fn rows_are_sorted_and_unique() {
    assert!(ARCHES.windows(2).all(|pair| pair[0].name < pair[1].name));
    assert_eq!(ARCHES.len(), 35);
}

#[test]
fn descriptions_are_unique_and_name_the_byte_order() {
    let mut descriptions: Vec<_> = ARCHES.iter().map(|arch| arch.description).collect();
    descriptions.sort_unstable();
    descriptions.dedup();
    assert_eq!(descriptions.len(), ARCHES.len());
    for arch in ARCHES {
        let order = match arch.identity.order {
            ByteOrder::Little => ", little-endian",
            ByteOrder::Big => ", big-endian",
        };
        assert!(arch.description.ends_with(order), "{}", arch.name);
        let width = match arch.identity.class {
            Class::Elf32 if arch.name.starts_with("mipsn32") => "64-bit ",
            Class::Elf32 => "32-bit ",
            Class::Elf64 => "64-bit ",
        };
        assert!(arch.description.starts_with(width), "{}", arch.name);
    }
}

#[test]
fn abi_bits_are_within_their_mask() {
    for abi in ARCHES.iter().filter_map(|arch| arch.identity.abi) {
        assert_eq!(abi.value & !abi.mask, 0);
    }
}

#[test]
fn no_two_patterns_match_the_same_file() {
    let patterns: Vec<_> = ARCHES
        .iter()
        .flat_map(|arch| arch.identity.patterns().into_iter().map(move |pattern| (arch, pattern)))
        .collect();
    for (index, (arch, pattern)) in patterns.iter().enumerate() {
        for (other, other_pattern) in &patterns[index + 1..] {
            assert!(!pattern.overlaps(other_pattern), "{} and {}", arch.name, other.name);
        }
    }
}

#[test]
fn a_program_matches_its_own_row_only() {
    for arch in ARCHES {
        for (machine, header) in headers(arch) {
            let mut takers = Vec::new();
            for other in ARCHES {
                let patterns = other.identity.patterns();
                takers.extend(patterns.iter().filter(|pattern| pattern.matches(&header)).map(|_| other.name));
            }
            assert_eq!(takers, [arch.name], "machine {machine:#x}");
            assert_eq!(Arch::from_header(&header), Some(arch));
        }
    }
}

#[test]
fn headers_are_whole() {
    for arch in ARCHES {
        let Identity { class, machines, .. } = arch.identity;
        let header = arch.identity.header(machines[0], ET_EXEC, 0);
        let parsed = goblin::elf::Elf::parse_header(&header).unwrap();
        let length = match class {
            Class::Elf32 => 52,
            Class::Elf64 => 64,
        };
        assert_eq!(header.len(), length, "{}", arch.name);
        assert_eq!(usize::from(parsed.e_ehsize), length, "{}", arch.name);
        assert_eq!(parsed.e_machine, machines[0], "{}", arch.name);
        assert_eq!((parsed.e_type, parsed.e_version, parsed.e_phnum), (ET_EXEC, 1, 0), "{}", arch.name);
        let abi = arch.identity.abi.map_or(0, |abi| abi.value);
        assert_eq!(parsed.e_flags, abi, "{}", arch.name);
    }
}

#[test]
fn other_file_types_do_not_match() {
    for arch in ARCHES {
        let Identity { machines, .. } = arch.identity;
        for e_type in [ET_NONE, ET_REL, ET_CORE, 5, 0xfe00, 0xff02] {
            let header = arch.identity.header(machines[0], e_type, 0);
            assert_eq!(Arch::from_header(&header), None, "{} type {e_type:#x}", arch.name);
        }
        // Magic, EI_CLASS, EI_DATA and EI_VERSION.
        for position in 0..7 {
            let mut header = arch.identity.header(machines[0], ET_EXEC, 0);
            header[position] = 0;
            assert_eq!(Arch::from_header(&header), None, "{} byte {position}", arch.name);
        }
    }
    for header in [&b""[..], b"\x7fELF", b"MZ", b"#!/bin/sh\n", &[0; 256], &[0xff; 256]] {
        assert_eq!(Arch::from_header(header), None, "{header:x?}");
    }
}

#[test]
fn unsupported_machines_do_not_match() {
    let foreign = [
        ("x32", Class::Elf32, ByteOrder::Little, EM_X86_64),
        ("nanoMIPS", Class::Elf32, ByteOrder::Little, 249),
        ("machine 0x115", Class::Elf64, ByteOrder::Little, 0x0115),
        ("aarch64 ILP32", Class::Elf32, ByteOrder::Little, 183),
        ("big-endian RISC-V", Class::Elf64, ByteOrder::Big, 243),
        ("loongarch32", Class::Elf32, ByteOrder::Little, EM_LOONGARCH),
        ("31-bit s390", Class::Elf32, ByteOrder::Big, 22),
        ("little-endian 32-bit PowerPC", Class::Elf32, ByteOrder::Little, 20),
        ("old Xtensa", Class::Elf32, ByteOrder::Little, 0xabc7),
        ("byte-swapped machine", Class::Elf32, ByteOrder::Big, EM_MIPS.swap_bytes()),
    ];
    for (name, class, order, machine) in foreign {
        let identity = Identity { class, order, machines: &[], abi: None };
        assert_eq!(Arch::from_header(&identity.header(machine, ET_EXEC, 0)), None, "{name}");
        assert_eq!(Arch::from_header(&identity.header(machine, ET_DYN, 0)), None, "{name}");
    }
}
