//! Judges from the headers of an ELF program whether it can be loaded: by the kernel (`fs/binfmt_elf.c`:
//! `load_elf_binary`) or by an emulator (QEMU, `linux-user/elfload.c`: `load_elf_image`).
//!
//! Headers cannot show that a program works. They show that it does not: if it is truncated, or if its headers contradict
//! one another.

mod contradiction;
mod headers;
mod notes;

use std::borrow::Cow;
use std::os::unix::fs::FileExt;

use goblin::elf::header::{ET_DYN, ET_EXEC};
use goblin::elf::program_header::{PF_W, PF_X, PT_INTERP};
use nix::errno::Errno;

use self::headers::{Headers, PAGE, Program, Segment, View};
use super::elf::{ElfError, LOADER_MAX, PROGRAM_HEADERS_BYTES_MAX, bytes_at};

/// Description of program headers that a short file does not have.
const BEYOND_END: &str = "its program headers are beyond its end";
/// Size of the buffer into which QEMU reads the beginning of a program, in bytes (`BPRM_BUF_SIZE`).
const QEMU_BUFFER: u64 = 1024;

/// Result of the judgement about the headers of an ELF program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loading {
    /// Path of the program loader (`PT_INTERP`); `None` for a static program.
    pub loader: Option<Vec<u8>>,
    /// Operating system other than Linux that a note at the beginning of the file names.
    pub system: Option<&'static str>,
    /// First flaw that was found; `None` if the program can be loaded.
    pub flaw: Option<Flaw>,
}

/// Damage in the headers of an ELF program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The program is refused. The kernel returns the error; an emulator prints a message and ends.
    Refused(Errno, Cow<'static, str>),
    /// The kernel has already given up the old program when it fails, so a signal ends the process (`SIGSEGV` or
    /// `SIGBUS`).
    Killed(Cow<'static, str>),
    /// The program is started, but the headers are damaged, and its code decides what happens.
    Unclear(Cow<'static, str>),
}

impl Flaw {
    /// Returns the description of the damage.
    #[must_use]
    pub fn description(&self) -> &str {
        let (Self::Refused(_, text) | Self::Killed(text) | Self::Unclear(text)) = self;
        text
    }
}

/// Judges whether the kernel of this host can load a program. `wide` is true for a 64-bit program. The byte order is
/// that of the host, because the kernel does not look at `EI_DATA`. `size` is the size of the file, in bytes.
pub(crate) fn by_kernel(file: &impl FileExt, first: &[u8], size: u64, wide: bool) -> Loading {
    let headers = Headers::parse(first, View { wide, big: cfg!(target_endian = "big") });
    let refused = |text: &'static str| flawed(Flaw::Refused(Errno::ENOEXEC, text.into()));
    if !matches!(headers.e_type, ET_EXEC | ET_DYN) {
        return refused("it is not a program");
    }
    let segments = match table(&headers, file, first) {
        Ok(segments) => segments,
        Err(text) => return refused(text),
    };
    let loader = match kernel_loader(&segments, file, first) {
        Ok(loader) => loader,
        Err(flaw) => return flawed(flaw),
    };
    let program = Program { headers: &headers, segments: &segments, is_static: loader.is_none(), size };
    let flaw = program.killed().map(|text| Flaw::Killed(text.into()));
    let flaw = flaw.or_else(|| contradiction::find(&program, first).map(Flaw::Unclear));
    Loading { loader, flaw, ..Loading::default() }
}

/// Judges whether QEMU can load a program, with the class and the byte order in its header.
pub(crate) fn by_emulator(file: &impl FileExt, first: &[u8], size: u64) -> Loading {
    let headers = Headers::parse(first, View::of(first));
    let refused = |text: &'static str| flawed(Flaw::Refused(Errno::ENOEXEC, text.into()));
    if !matches!(headers.e_type, ET_EXEC | ET_DYN) {
        return refused("it is not a program");
    }
    if usize::from(headers.ehsize) != headers.view.header_size() {
        return refused("the size of its ELF header is wrong");
    }
    let segments = match table(&headers, file, first) {
        Ok(segments) => segments,
        // QEMU has a buffer of zeros for the beginning of a short file.
        Err(BEYOND_END) if headers.table_end() <= QEMU_BUFFER => {
            return flawed(Flaw::Unclear(BEYOND_END.into()));
        }
        Err(text) => return refused(text),
    };
    let mut interpreters = segments.iter().filter(|segment| segment.kind == PT_INTERP);
    let loader = match interpreters.next().map(|segment| path_of(segment, file, first)) {
        None => None,
        Some(Ok(path)) if interpreters.next().is_none() => Some(path),
        _ => return refused("the path of its loader cannot be read"),
    };
    let program = Program { headers: &headers, segments: &segments, is_static: loader.is_none(), size };
    let flaw = contradiction::in_flags(&headers).map(Cow::from);
    let flaw =
        flaw.or_else(|| program.killed().map(Cow::from)).or_else(|| contradiction::find(&program, first));
    let system = notes::operating_system(&segments, first, headers.view);
    Loading { loader, system, flaw: flaw.map(Flaw::Unclear) }
}

fn flawed(flaw: Flaw) -> Loading {
    Loading { flaw: Some(flaw), ..Loading::default() }
}

/// Reads the program headers, with the checks of `load_elf_phdrs`.
fn table(headers: &Headers, file: &impl FileExt, first: &[u8]) -> Result<Vec<Segment>, &'static str> {
    if usize::from(headers.phentsize) != headers.view.entry_size() {
        return Err("the size of its program headers is wrong");
    }
    match headers.table_size() {
        0 => return Err("it has no program headers"),
        PROGRAM_HEADERS_BYTES_MAX.. => return Err("it has too many program headers"),
        _ => {}
    }
    let bytes = bytes_at(file, first, headers.phoff, headers.table_size());
    let bytes = bytes.map_err(|_| BEYOND_END)?;
    Ok(bytes.chunks_exact(headers.view.entry_size()).map(|entry| headers.view.segment(entry)).collect())
}

/// Returns the path of the loader, with the errors of `load_elf_binary`.
fn kernel_loader(segments: &[Segment], file: &impl FileExt, first: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
    let Some(segment) = segments.iter().find(|segment| segment.kind == PT_INTERP) else { return Ok(None) };
    let refused = |errno, text: &'static str| Flaw::Refused(errno, text.into());
    if !(2..=LOADER_MAX as u64).contains(&segment.filesz) {
        return Err(refused(Errno::ENOEXEC, "the length of its loader's path is impossible"));
    }
    // `rw_verify_area` refuses an offset that is negative as a signed number.
    if i64::try_from(segment.offset).ok().and_then(|at| at.checked_add_unsigned(segment.filesz)).is_none() {
        return Err(refused(Errno::EINVAL, "the path of its loader is beyond its end"));
    }
    match path_of(segment, file, first) {
        Ok(path) => Ok(Some(path)),
        Err(ElfError::Damaged(text)) if text == UNTERMINATED => Err(refused(Errno::ENOEXEC, text)),
        Err(_) => Err(refused(Errno::EIO, "the path of its loader is beyond its end")),
    }
}

/// Description of a loader's path without a NUL at its end.
const UNTERMINATED: &str = "the path of its loader has no end";

fn path_of(segment: &Segment, file: &impl FileExt, first: &[u8]) -> Result<Vec<u8>, ElfError> {
    let length = usize::try_from(segment.filesz).ok().filter(|length| *length <= LOADER_MAX);
    let length = length.ok_or(ElfError::Damaged(UNTERMINATED))?;
    let path = bytes_at(file, first, segment.offset, length)?;
    match path.split_last() {
        Some((0, _)) => Ok(path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
        _ => Err(ElfError::Damaged(UNTERMINATED)),
    }
}

impl Program<'_> {
    /// Returns the reason why the kernel cannot map the program.
    fn killed(&self) -> Option<&'static str> {
        if self.is_static && self.loads().next().is_none() {
            return Some("it has no loadable segment");
        }
        self.loads().find_map(|segment| self.unmappable(segment)).or_else(|| self.without_entry())
    }

    /// Returns the reason why the kernel cannot map `segment` (`elf_load`, `elf_map`).
    fn unmappable(&self, segment: &Segment) -> Option<&'static str> {
        if segment.filesz > segment.memsz {
            return Some("a segment is larger in the file than in memory");
        }
        if segment.filesz == 0 {
            return None;
        }
        if segment.vaddr % PAGE != segment.offset % PAGE {
            return Some("the position and the address of a segment do not fit together");
        }
        // The kernel fills the rest of the last page with zeros, which fails if the file has no such page.
        let end = segment.offset.saturating_add(segment.filesz);
        let is_filled =
            segment.memsz > segment.filesz && segment.flags & PF_W != 0 && !end.is_multiple_of(PAGE);
        let has_page = end - end % PAGE < self.size;
        (is_filled && !has_page).then_some("it is truncated")
    }

    /// Returns the reason why a static program fails at its first instruction.
    fn without_entry(&self) -> Option<&'static str> {
        // A 32-bit program without `PT_GNU_STACK` may execute all its memory, and a loader comes before the program.
        if !self.is_static || !self.headers.view.wide {
            return None;
        }
        let Some(segment) =
            self.loads().filter(|segment| segment.memory().contains(&self.headers.entry)).last()
        else {
            return Some("its entry point is outside of its segments");
        };
        if segment.flags & PF_X == 0 {
            return Some("its entry point is in a segment that is not executable");
        }
        let entry = segment.offset.checked_add(self.headers.entry - segment.vaddr)?;
        let in_file = self.headers.entry - segment.vaddr < segment.filesz;
        (in_file && entry >= self.size.next_multiple_of(PAGE)).then_some("it is truncated")
    }
}
