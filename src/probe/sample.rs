//! Samples: tiny files of kinds that are no ELF programs. Each exits with a certain status when it is executed, which
//! shows that the handler of its kind works.

use flate2::Crc;
use goblin::elf::header::SIZEOF_IDENT;

use super::STATUS_PATH;
use super::image::{Variant, image};
use crate::arch::{Arch, Class};

/// Exit status of every sample.
const SAMPLE_STATUS: i32 = STATUS as i32;
/// The exit status as a byte of machine code.
const STATUS: u8 = 42;
/// Offset of the program in an APE. It is a multiple of every page size.
const APE_PROGRAM: usize = 0x1_0000;
/// Value of `EI_OSABI` in an APE: FreeBSD.
const ELFOSABI_FREEBSD: u8 = 9;

/// Kind of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// Actually Portable Executable: a shell script that contains the ELF headers of a program.
    Ape,
    /// Java archive with one class.
    Jar,
    /// WebAssembly module that calls `proc_exit` of WASI.
    Wasm,
}

impl Sample {
    /// Returns the file name of the sample.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Ape => "sample.com",
            Self::Jar => "sample.jar",
            Self::Wasm => "sample.wasm",
        }
    }

    /// Returns the content of the sample for a host of the architecture `own`. Returns `None` if there is no such sample.
    #[must_use]
    pub fn image(self, own: &Arch) -> Option<Vec<u8>> {
        match self {
            Self::Ape => ape(own),
            Self::Jar => Some(jar()),
            Self::Wasm => Some(wasm()),
        }
    }

    /// Reports whether `status` shows that the sample was executed.
    #[must_use]
    pub fn is_success(self, status: i32) -> bool {
        // The program in the APE exits with the first byte of its `argv[0]`, as a probe does.
        status == SAMPLE_STATUS || self == Self::Ape && status == STATUS_PATH
    }
}

/// Returns an APE for hosts of the architecture `own`: a script that prints the ELF header of the program that follows it.
/// The loader of Cosmopolitan reads this header from the script; a shell executes `exit`. Returns `None` for a 32-bit
/// architecture, which has no APEs.
fn ape(own: &Arch) -> Option<Vec<u8>> {
    if own.identity.class != Class::Elf64 {
        return None;
    }
    let machine = *own.identity.machines.first()?;
    let mut program = image(own, machine, Variant { os_abi: ELFOSABI_FREEBSD, ..Variant::default() });
    let order = own.identity.order;
    let [header_size, ..] = own.identity.class.header_sizes().map(usize::from);
    // `e_phoff` follows `e_type`, `e_machine`, `e_version` and `e_entry`; `p_offset` follows `p_type` and `p_flags`.
    let (e_phoff, p_offset) = (SIZEOF_IDENT + 16, header_size + 8);
    for (at, value) in [(e_phoff, APE_PROGRAM + header_size), (p_offset, APE_PROGRAM)] {
        let value = order.xword(u64::try_from(value).ok()?);
        program.get_mut(at..at + value.len())?.copy_from_slice(&value);
    }
    let mut file = b"MZqFpD='\n'\nprintf '".to_vec();
    for byte in program.get(..header_size)? {
        file.extend(format!("\\{byte:03o}").bytes());
    }
    file.extend(format!("' >/dev/null\nexit {STATUS}\n").bytes());
    file.resize(APE_PROGRAM, 0);
    file.extend(program);
    Some(file)
}

/// Returns a WebAssembly module whose function `_start` calls `proc_exit` with [`SAMPLE_STATUS`] (WebAssembly core
/// specification, chapter "Binary Format"; WASI preview 1). The module exports a memory, as WASI requires.
fn wasm() -> Vec<u8> {
    let name = |text: &str| [&[length(text.len())], text.as_bytes()].concat();
    let section = |id: u8, content: &[u8]| [&[id, length(content.len())], content].concat();
    let import = [&[1], name("wasi_snapshot_preview1").as_slice(), &name("proc_exit"), &[0, 0]].concat();
    let exports = [&[2], name("memory").as_slice(), &[2, 0], &name("_start"), &[0, 1]].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        // Two types: a function with one i32 as parameter, and one without parameters.
        section(1, &[2, 0x60, 1, 0x7f, 0, 0x60, 0, 0]),
        section(2, &import),
        section(3, &[1, 1]),
        section(5, &[1, 0, 1]),
        section(7, &exports),
        // `i32.const 42`, `call 0` and `end`.
        section(10, &[1, 6, 0, 0x41, STATUS, 0x10, 0, 0x0b]),
    ]
    .concat()
}

/// Converts a length below 128, which is one byte in LEB128.
fn length(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

/// Returns an archive with a manifest and a class whose `main` calls `System.exit` with [`SAMPLE_STATUS`]. The first
/// entry has the extra field 0xCAFE, which `jexec` of OpenJDK requires.
fn jar() -> Vec<u8> {
    let files: [(&str, Vec<u8>, &[u8]); 2] = [
        (
            "META-INF/MANIFEST.MF",
            b"Manifest-Version: 1.0\r\nMain-Class: S\r\n\r\n".to_vec(),
            &[0xfe, 0xca, 0, 0],
        ),
        ("S.class", class(), &[]),
    ];
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content, extra) in &files {
        let mut crc = Crc::new();
        crc.update(content);
        let word = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        let half = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
        let size = word(content.len());
        // Version 1.0, no flags, stored without compression, at midnight of 1 January 1980.
        let common = [
            &[10, 0, 0, 0, 0, 0, 0, 0, 0x21, 0][..],
            &crc.sum().to_le_bytes(),
            &size,
            &size,
            &half(name.len()),
            &half(extra.len()),
        ]
        .concat();
        let offset = word(archive.len());
        archive.extend([b"PK\x03\x04", common.as_slice(), name.as_bytes(), extra, content].concat());
        let rest = [0; 10];
        directory.extend(
            [b"PK\x01\x02\x0a\0", common.as_slice(), &rest, &offset, name.as_bytes(), extra].concat(),
        );
    }
    let word = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let end =
        [b"PK\x05\x06\0\0\0\0\x02\0\x02\0".as_slice(), &word(directory.len()), &word(archive.len()), &[0, 0]]
            .concat();
    [archive, directory, end].concat()
}

/// Returns the class `S` (The Java Virtual Machine Specification, chapter 4), in the version of Java 1.1, which every
/// Java runs.
fn class() -> Vec<u8> {
    let text = |text: &str| [&[1, 0, length(text.len())], text.as_bytes()].concat();
    let code = [0x10, STATUS, 0xb8, 0, 1, 0xb1];
    [
        vec![0xca, 0xfe, 0xba, 0xbe, 0, 3, 0, 45, 0, 14],
        // 1: the method System.exit(I)V, of the class 2 and with the name and type 3.
        vec![10, 0, 2, 0, 3],
        vec![7, 0, 4],
        vec![12, 0, 5, 0, 6],
        text("java/lang/System"),
        text("exit"),
        text("(I)V"),
        // 7: this class; 9: its superclass.
        vec![7, 0, 8],
        text("S"),
        vec![7, 0, 10],
        text("java/lang/Object"),
        text("main"),
        text("([Ljava/lang/String;)V"),
        text("Code"),
        // Public class, no interfaces and no fields, one public static method `main`.
        vec![0, 0x21, 0, 7, 0, 9, 0, 0, 0, 0, 0, 1],
        vec![0, 9, 0, 11, 0, 12, 0, 1],
        // Its code: one stack slot, one local variable; `bipush 42`, `invokestatic 1`, `return`.
        vec![0, 13, 0, 0, 0, 18, 0, 1, 0, 1, 0, 0, 0, 6],
        code.to_vec(),
        vec![0, 0, 0, 0],
        vec![0, 0],
    ]
    .concat()
}
