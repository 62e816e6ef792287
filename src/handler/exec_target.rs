//! Inspection of a file that a user wants to execute: the kind of the file, and the reason why the kernel would not
//! execute it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use goblin::elf::header::{EM_AARCH64, EM_LOONGARCH, EM_X86_64};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{AccessFlags, access, faccessat};

use crate::arch::Arch;
use crate::arch::elf::FIRST_READ;
use crate::arch::load::{self, Flaw};
use crate::binfmt::HEADER_LEN;
use crate::system::file_id::{FileId, open_without_waiting};

/// A file that a user wants to execute.
#[derive(Clone, Debug)]
pub struct ExecTarget {
    /// The path, as `execve(2)` receives it.
    pub path: PathBuf,
    /// Identity of the file; `None` if the file could not be opened.
    pub id: Option<FileId>,
    /// The first bytes of the file, at most [`HEADER_LEN`].
    pub header: Vec<u8>,
    /// Kind of the file, according to its content.
    pub kind: Kind,
    /// True if the file has the setuid or setgid bit.
    pub is_set_id: bool,
    /// True if other users may execute the file, but not read it (mode 0711).
    pub is_execute_only: bool,
    /// Reason why the kernel refuses the file before it reads the content (K41); `None` if it reads the content.
    pub denied: Option<AccessError>,
}

/// Reason why a file cannot be executed, independent of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// The file does not exist.
    Missing,
    /// The path cannot be resolved: a component is not a directory, cannot be searched, or is part of a symlink loop.
    Path(Errno),
    /// The path is a directory, a device or a pipe.
    NotAFile,
    /// This user has no permission to execute the file.
    NotExecutable,
    /// The file system of the file is mounted `noexec`.
    NoExec,
}

impl AccessError {
    /// Returns the error number with which `execve(2)` fails for this reason.
    #[must_use]
    pub fn errno(self) -> Errno {
        match self {
            Self::Missing => Errno::ENOENT,
            Self::Path(errno) => errno,
            Self::NotAFile | Self::NotExecutable | Self::NoExec => Errno::EACCES,
        }
    }
}

impl fmt::Display for AccessError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => formatter.write_str("does not exist"),
            Self::Path(errno) => write!(formatter, "cannot be reached: {}", io::Error::from(*errno)),
            Self::NotAFile => formatter.write_str("is not a regular file"),
            Self::NotExecutable => formatter.write_str("may not be executed by this user"),
            Self::NoExec => formatter.write_str("is on a file system that is mounted noexec"),
        }
    }
}

/// Kind of a file, according to its first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ELF program or shared object.
    Elf(Elf),
    /// A script.
    Script {
        /// Path of the interpreter in the first line.
        interpreter: PathBuf,
    },
    /// A program for Windows or DOS, which begins with `MZ`. The value is the `Machine` of a PE header.
    Windows(Option<u16>),
    /// An Actually Portable Executable, which begins like a Windows program.
    Ape,
    /// A Mach-O program of macOS; true if it has parts for several architectures.
    MachO(bool),
    /// A Java class file.
    JavaClass,
    /// A `.jar` archive.
    Jar,
    /// A WebAssembly module.
    Wasm,
    /// A file without any bytes.
    Empty,
    /// A file of any other kind.
    Unknown,
}

/// Fields of an ELF header, and the path of the program loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Architecture of the file; `None` if qus supports no architecture with this header.
    pub arch: Option<&'static Arch>,
    /// `EI_CLASS`: 1 is 32-bit, 2 is 64-bit.
    pub class: u8,
    /// True if the file is big-endian.
    pub big_endian: bool,
    /// `e_machine`: number of the architecture in the ELF specification.
    pub machine: u16,
    /// `e_type`: type of the file, such as executable or shared object.
    pub e_type: u16,
    /// `EI_OSABI`: operating system and ABI of the file.
    pub os_abi: u8,
    /// `EI_ABIVERSION` and the next two bytes, which are padding.
    pub abi_version: [u8; 3],
    /// Path of the program loader (`PT_INTERP`).
    pub loader: Option<PathBuf>,
    /// Operating system other than Linux that a note of the program names.
    pub noted_system: Option<&'static str>,
    /// Architecture for which the kernel of this host takes the file, if the host runs this architecture natively
    /// ([`Arch::for_kernel`]).
    pub native_arch: Option<&'static Arch>,
    /// Damage that makes the kernel fail, if the program is native.
    pub kernel_flaw: Option<Flaw>,
    /// Damage that makes an emulator fail.
    pub emulator_flaw: Option<Flaw>,
}

impl Elf {
    /// Returns the operating system of the program if it is another one than Linux, and what runs the program.
    #[must_use]
    pub fn other_system(&self) -> Option<(&'static str, String)> {
        let has_loader = |start| self.loader.as_ref().is_some_and(|loader| loader.starts_with(start));
        if has_loader("/nonexistent/solo5") {
            return Some(("Solo5", "start it with solo5-hvt or solo5-spt".to_owned()));
        }
        // Loongson's first ABI has other system calls and structures (libLoL, "Old world and new world").
        if self.machine == EM_LOONGARCH && has_loader("/lib64/ld.so.1") {
            let advice = "get a program of the new world, or use libLoL on a LoongArch host";
            return Some(("the old world of LoongArch", advice.to_owned()));
        }
        let system = match (self.noted_system, self.os_abi) {
            (Some(system), _) => system,
            (_, 2) => "NetBSD",
            (_, 6) => "Solaris or illumos",
            (_, 9) => "FreeBSD",
            (_, 12) => "OpenBSD",
            (_, 255) => {
                let system = "a machine without an operating system, such as Hermit";
                return Some((system, "start a Hermit program with uhyve".to_owned()));
            }
            (_, 0 | 3 | 64 | 65 | 97) => return None,
            _ => {
                return Some((
                    "another operating system",
                    "run it on the system that its header names".to_owned(),
                ));
            }
        };
        Some((system, format!("run it on {system}, for example in a virtual machine")))
    }

    /// Reports whether the file is an AppImage, which stores its own magic in the padding of the ELF header.
    #[must_use]
    pub fn is_app_image(&self) -> bool {
        matches!(self.abi_version, [b'A', b'I', 1 | 2])
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(elf) => write!(formatter, "{elf}"),
            Self::Script { interpreter } => {
                write!(formatter, "script (#!{})", crate::base::escape::display_path(interpreter))
            }
            Self::Windows(None) => formatter.write_str("Windows or DOS program (MZ)"),
            Self::Windows(Some(machine)) => {
                write!(formatter, "Windows program (PE, {})", pe_machine(*machine))
            }
            Self::Ape => formatter.write_str("Actually Portable Executable (APE)"),
            Self::MachO(false) => formatter.write_str("macOS program (Mach-O)"),
            Self::MachO(true) => formatter.write_str("macOS program (Mach-O, universal)"),
            Self::JavaClass => formatter.write_str("Java class file"),
            Self::Jar => formatter.write_str("Java archive"),
            Self::Wasm => formatter.write_str("WebAssembly module"),
            Self::Empty => formatter.write_str("empty file"),
            Self::Unknown => formatter.write_str("unknown kind of file"),
        }
    }
}

impl fmt::Display for Elf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.arch {
            Some(arch) => formatter.write_str(arch.name)?,
            None if self.class == 1 && self.machine == EM_X86_64 => formatter.write_str("x32")?,
            None if self.class == 1 && self.machine == EM_AARCH64 => formatter.write_str("aarch64 ILP32")?,
            None => write!(formatter, "machine {:#06x}", self.machine)?,
        }
        let kind = match self.e_type {
            1 => " object file",
            4 => " core dump",
            _ if self.is_app_image() => " AppImage",
            _ => " program",
        };
        let bits = match self.class {
            1 => "32-bit",
            2 => "64-bit",
            _ => "of an unknown class",
        };
        let order = if self.big_endian { "big-endian" } else { "little-endian" };
        write!(formatter, "{kind} (ELF, {bits}, {order}{})", os_abi(self.os_abi))?;
        match &self.loader {
            Some(loader) => write!(formatter, ", loader {}", crate::base::escape::display_path(loader)),
            None => Ok(()),
        }
    }
}

/// Returns a description of the `EI_OSABI` value `value` (ELF specification). The description is empty for System V and
/// GNU, the usual values of Linux programs.
fn os_abi(value: u8) -> &'static str {
    match value {
        0 | 3 => "",
        2 => ", for NetBSD",
        6 => ", for Solaris or illumos",
        9 => ", for FreeBSD",
        12 => ", for OpenBSD",
        65 => ", FDPIC",
        97 => ", old Arm ABI",
        255 => ", without an operating system",
        _ => ", for an unusual system",
    }
}

impl ExecTarget {
    /// Inspects the file at `path` with one open and one read.
    #[must_use]
    pub fn inspect(path: &Path) -> Self {
        let mut target = Self {
            path: path.to_owned(),
            id: None,
            header: Vec::new(),
            kind: Kind::Unknown,
            is_set_id: false,
            is_execute_only: false,
            denied: None,
        };
        let file = match open_without_waiting(path) {
            Ok(file) => file,
            Err(error) => {
                target.denied = denied_unread(path, &error);
                return target;
            }
        };
        let Ok(metadata) = file.metadata() else { return target };
        target.id = Some(FileId::of(&metadata));
        target.is_set_id = metadata.mode() & 0o6000 != 0;
        target.is_execute_only = metadata.mode() & 0o005 == 0o001;
        target.denied = if !metadata.is_file() {
            Some(AccessError::NotAFile)
        } else if metadata.mode() & 0o111 == 0 || !may_execute(&file, path) {
            // Root needs at least one x bit as well.
            Some(if is_noexec(&file) { AccessError::NoExec } else { AccessError::NotExecutable })
        } else {
            None
        };
        if metadata.is_file() {
            let mut first = [0; FIRST_READ];
            let length = file.read_at(&mut first, 0).unwrap_or(0);
            let first = first.get(..length).unwrap_or_default();
            target.kind = classify(first, path, &file, metadata.len());
            target.header = first.get(..HEADER_LEN).unwrap_or(first).to_vec();
        }
        target
    }
}

/// Returns the reason why a file that this process cannot read cannot be executed either. Returns `None` if the file is
/// executable although it is unreadable, for example with mode 0711.
fn denied_unread(path: &Path, error: &io::Error) -> Option<AccessError> {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::ENOENT => Some(AccessError::Missing),
        Errno::EACCES if access(path, AccessFlags::X_OK).is_ok() => None,
        Errno::EACCES => Some(AccessError::NotExecutable),
        Errno::ENXIO => Some(AccessError::NotAFile),
        errno => Some(AccessError::Path(errno)),
    }
}

/// Reports whether this process may execute a file. The check includes `noexec` mounts (`fs/open.c`: `do_faccessat`).
/// Before Linux 5.8 the kernel cannot check an open file, so the check then uses `path`.
fn may_execute(file: &File, path: &Path) -> bool {
    faccessat(file, "", AccessFlags::X_OK, AtFlags::AT_EMPTY_PATH).is_ok()
        || access(path, AccessFlags::X_OK).is_ok()
}

fn is_noexec(file: &File) -> bool {
    fstatvfs(file).is_ok_and(|filesystem| filesystem.flags().contains(FsFlags::ST_NOEXEC))
}

fn classify(first: &[u8], path: &Path, file: &File, size: u64) -> Kind {
    if let Some(header) = elf_header(first) {
        let emulator = load::by_emulator(file, first, size);
        let native = Arch::for_kernel(first);
        let kernel = native.map(|(_, wide)| load::by_kernel(file, first, size, wide));
        let loader = kernel.as_ref().map_or(&emulator, |kernel| kernel).loader.as_deref();
        return Kind::Elf(Elf {
            loader: loader.map(|loader| PathBuf::from(OsStr::from_bytes(loader))),
            noted_system: emulator.system,
            native_arch: native.map(|(arch, _)| arch),
            kernel_flaw: kernel.and_then(|kernel| kernel.flaw),
            emulator_flaw: emulator.flaw,
            ..header
        });
    }
    let extension = path.extension().map(OsStr::as_bytes);
    match first {
        [] => Kind::Empty,
        [b'#', b'!', ..] => {
            script_interpreter(first).map_or(Kind::Unknown, |interpreter| Kind::Script { interpreter })
        }
        _ if first.starts_with(b"MZqFpD='") || first.starts_with(b"jartsr='") => Kind::Ape,
        [b'M', b'Z', ..] => Kind::Windows(pe(first)),
        // In a universal program the number of parts comes next, in a class file its version, which is at least 45.
        [0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 0..45, ..] | [0xca, 0xfe, 0xba, 0xbf, ..] => Kind::MachO(true),
        [0xca, 0xfe, 0xba, 0xbe, ..] => Kind::JavaClass,
        [0xce | 0xcf, 0xfa, 0xed, 0xfe, ..] | [0xfe, 0xed, 0xfa, 0xce | 0xcf, ..] => Kind::MachO(false),
        [b'P', b'K', 3, 4, ..] if extension == Some(b"jar") => Kind::Jar,
        [0, b'a', b's', b'm', ..] => Kind::Wasm,
        _ => Kind::Unknown,
    }
}

/// Returns the field `Machine` of a PE header (Microsoft, "PE Format").
fn pe(first: &[u8]) -> Option<u16> {
    let at = u32::from_le_bytes(first.get(0x3c..0x40)?.try_into().ok()?);
    let header = first.get(usize::try_from(at).ok()?..)?.strip_prefix(b"PE\0\0")?;
    Some(u16::from_le_bytes(header.get(..2)?.try_into().ok()?))
}

fn pe_machine(machine: u16) -> &'static str {
    match machine {
        0x14c => "i386",
        0x8664 => "x86_64",
        0x1c0 | 0x1c2 | 0x1c4 => "arm",
        0xaa64 | 0xa641 | 0xa64e => "aarch64",
        0x5064 => "riscv64",
        0x6264 => "loongarch64",
        _ => "another machine",
    }
}

/// Parses the fields of an ELF header up to `e_machine`. The rest of the header may be incomplete.
fn elf_header(first: &[u8]) -> Option<Elf> {
    let &[0x7f, b'E', b'L', b'F', class, data, _, os_abi, abi_0, abi_1, abi_2, ..] = first else {
        return None;
    };
    let big_endian = data == 2;
    let half = |position: usize| {
        let bytes: [u8; 2] = first.get(position..position + 2)?.try_into().ok()?;
        Some(if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    Some(Elf {
        arch: Arch::from_header(first),
        class,
        big_endian,
        machine: half(18)?,
        e_type: half(16)?,
        os_abi,
        abi_version: [abi_0, abi_1, abi_2],
        loader: None,
        noted_system: None,
        native_arch: None,
        kernel_flaw: None,
        emulator_flaw: None,
    })
}

/// Returns the path of the interpreter in the first line of a script, as the kernel parses it (`fs/binfmt_script.c`:
/// `load_script`). Only the first [`HEADER_LEN`] bytes of the script count. The interpreter's path starts after any
/// blanks and ends at a blank, a NUL, or the end of the line.
///
/// Bytes after the end of a short file count as NUL (K34). The interpreter's path is empty if a NUL directly follows
/// the blanks.
#[must_use]
pub fn script_interpreter(header: &[u8]) -> Option<PathBuf> {
    let mut window = [0; HEADER_LEN];
    let length = header.len().min(HEADER_LEN);
    window.get_mut(..length)?.copy_from_slice(header.get(..length)?);
    let line = window.strip_prefix(b"#!")?;
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    // The kernel stops at a NUL when it searches for the end of the line.
    let end =
        line.iter().position(|byte| matches!(byte, b'\n' | 0)).filter(|at| line.get(*at) == Some(&b'\n'));
    // Without an end of the line, the last byte of the window can only end a name.
    let (_, before_last) = line.split_last()?;
    if end.is_none() && before_last.iter().all(is_blank) {
        return None;
    }
    let line = line.get(..end.unwrap_or(line.len()))?;
    let rest = line.get(line.iter().position(|byte| !is_blank(byte))?..)?;
    let length = rest.iter().position(|byte| is_blank(byte) || *byte == 0);
    // If the line is longer than the window, the name must still end inside the window.
    let length = length.or(end.map(|_| rest.len()))?;
    Some(PathBuf::from(OsStr::from_bytes(rest.get(..length)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn scripts_name_their_interpreter_as_the_kernel_reads_it() {
        let interpreter =
            |header: &[u8]| script_interpreter(header).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(interpreter(b"#!/bin/sh\necho"), Some("/bin/sh".to_owned()));
        assert_eq!(interpreter(b"#! \t/usr/bin/env -S python3\n"), Some("/usr/bin/env".to_owned()));
        assert_eq!(interpreter(b"#!/bin/sh"), Some("/bin/sh".to_owned()));
        assert_eq!(interpreter(b"#!\n"), None);
        assert_eq!(interpreter(b"#!  \n"), None);
        assert_eq!(interpreter(b"#!/a\0b\n"), Some("/a".to_owned()));
        assert_eq!(interpreter(b"#! \0/a\n"), Some(String::new()));
        assert_eq!(interpreter(b"#!"), Some(String::new()));
        assert_eq!(interpreter(&[b"#!".as_slice(), &[b' '; 253]].concat()), None);
        assert_eq!(interpreter(&[b"#!".as_slice(), &[b' '; 252]].concat()), Some(String::new()));
        let endless = [b"#!/".as_slice(), &[b'a'; 300]].concat();
        assert_eq!(interpreter(&endless), None);
        let long_argument = [b"#!/a ".as_slice(), &[b'b'; 300]].concat();
        assert_eq!(interpreter(&long_argument), Some("/a".to_owned()));
    }

    #[test]
    fn the_content_decides_the_kind() {
        let directory = tempfile::tempdir().unwrap();
        let kind = |name: &str, content: &[u8]| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            ExecTarget::inspect(&path).kind.to_string()
        };
        assert_eq!(kind("a", b""), "empty file");
        assert_eq!(kind("b", b"MZ\x90"), "Windows or DOS program (MZ)");
        assert_eq!(kind("c", b"#!/bin/sh -e\n"), "script (#!/bin/sh)");
        assert_eq!(kind("d.jar", b"PK\x03\x04"), "Java archive");
        assert_eq!(kind("h", b"\xca\xfe\xba\xbe\0\0\0\x41"), "Java class file");
        assert_eq!(kind("i", b"\xca\xfe\xba\xbe\0\0\0\x02"), "macOS program (Mach-O, universal)");
        assert_eq!(kind("j", b"\xcf\xfa\xed\xfe"), "macOS program (Mach-O)");
        assert_eq!(kind("k", b"MZqFpD='\n"), "Actually Portable Executable (APE)");
        assert_eq!(kind("l", b"jartsr='\n"), "Actually Portable Executable (APE)");
        let mut pe = b"MZ".to_vec();
        pe.resize(0x40, 0);
        pe[0x3c] = 0x40;
        pe.extend(b"PE\0\0\x64\xaa");
        assert_eq!(kind("m", &pe), "Windows program (PE, aarch64)");
        assert_eq!(kind("d.zip", b"PK\x03\x04"), "unknown kind of file");
        let arm = Arch::from_qemu_target("arm").unwrap().identity.header(40, 2, 0);
        assert_eq!(kind("e", &arm), "arm program (ELF, 32-bit, little-endian)");
        let mut app_image = arm.clone();
        app_image[8..11].copy_from_slice(b"AI\x02");
        assert_eq!(kind("f", &app_image), "arm AppImage (ELF, 32-bit, little-endian)");
        let object = Arch::from_qemu_target("s390x").unwrap().identity.header(22, 1, 0);
        assert_eq!(kind("g", &object), "machine 0x0016 object file (ELF, 64-bit, big-endian)");
    }

    #[test]
    fn the_reason_why_a_file_cannot_be_executed_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        fs::write(&plain, "x").unwrap();
        assert_eq!(ExecTarget::inspect(&plain).denied, Some(AccessError::NotExecutable));
        assert_eq!(ExecTarget::inspect(directory.path()).denied, Some(AccessError::NotAFile));
        assert_eq!(ExecTarget::inspect(&directory.path().join("none")).denied, Some(AccessError::Missing));
        assert_eq!(ExecTarget::inspect(&plain.join("x")).denied, Some(AccessError::Path(Errno::ENOTDIR)));
    }
}
