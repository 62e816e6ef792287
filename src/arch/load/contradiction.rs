//! Finds contradictions in the headers of an ELF program. The program is started, but probably fails.

use std::borrow::Cow;

use goblin::elf::header::{EM_PPC64, EM_RISCV, ET_DYN, ET_EXEC};
use goblin::elf::program_header::{
    PF_W, PF_X, PT_DYNAMIC, PT_GNU_EH_FRAME, PT_GNU_PROPERTY, PT_GNU_RELRO, PT_GNU_STACK, PT_INTERP, PT_LOAD,
    PT_NOTE, PT_NULL, PT_PHDR, PT_SHLIB, PT_TLS,
};

use super::headers::{Headers, PAGE, Program, Segment};

/// Largest alignment of a segment, in bytes, that does not count as damage.
const ALIGN_MAX: u64 = 1 << 32;
/// Largest memory of a segment without content in the file, in bytes, that does not count as damage.
const MEMORY_MAX: u64 = 1 << 36;
/// First of the types that the specification leaves to operating systems (`PT_LOOS`).
const PT_LOOS: u32 = 0x6000_0000;

/// Returns a description of the first contradiction.
pub(super) fn find(program: &Program<'_>, first: &[u8]) -> Option<Cow<'static, str>> {
    if let Some(text) = truncated(program) {
        return Some(text.into());
    }
    let each = program.segments.iter().find_map(|segment| in_segment(program, segment));
    let found = each
        .or_else(|| in_order(program))
        .or_else(|| in_entry(program))
        .or_else(|| in_kinds(program))
        .or_else(|| in_table(program, first));
    found.map(Cow::from)
}

/// Returns a description of flags in the ELF header for which an emulator uses another calling convention than the
/// program, or refuses the program.
pub(super) fn in_flags(headers: &Headers) -> Option<&'static str> {
    let flags = headers.flags;
    let is_odd = match headers.machine {
        // The second version of the ABI, which all little-endian programs use.
        EM_PPC64 => flags & !3 != 0 || flags & 3 != 2 && !headers.view.big,
        // The bits are RVC, two for the floating-point ABI, RVE and TSO. No emulator for Linux runs RVE programs.
        EM_RISCV => flags & 8 != 0,
        _ => false,
    };
    is_odd.then_some("the flags in its ELF header are for an ABI that Linux does not have")
}

fn truncated(program: &Program<'_>) -> Option<String> {
    let in_file = program.segments.iter().filter(|segment| segment.kind != PT_NULL && segment.filesz > 0);
    let end = in_file.map(|segment| segment.offset.saturating_add(segment.filesz)).max()?;
    (end > program.size).then(|| {
        format!("it is truncated: its segments end at byte {end}, but it has {} bytes", program.size)
    })
}

/// Returns a contradiction in one program header.
fn in_segment(program: &Program<'_>, segment: &Segment) -> Option<&'static str> {
    let kind = segment.kind;
    let has_content = segment.filesz > 0 || segment.memsz > 0;
    if kind == PT_NULL && has_content || kind == PT_SHLIB || kind > PT_TLS && kind < PT_LOOS {
        return Some("a program header has an unknown type");
    }
    if segment.align > 1 && (!segment.align.is_power_of_two() || segment.align > ALIGN_MAX) {
        return Some("the alignment of a segment is impossible");
    }
    if segment.memsz.saturating_sub(segment.filesz) > MEMORY_MAX && kind != PT_GNU_STACK {
        return Some("a segment needs too much memory");
    }
    match kind {
        PT_LOAD => in_loadable(segment),
        PT_TLS if segment.filesz > segment.memsz => Some("a segment is larger in the file than in memory"),
        PT_PHDR if !is_table(program, segment) => Some("a program header describes a different table"),
        PT_DYNAMIC | PT_GNU_EH_FRAME | PT_GNU_PROPERTY | PT_GNU_RELRO | PT_NOTE | PT_PHDR | PT_TLS => {
            (!is_loaded(program, segment)).then_some("its program headers contradict one another")
        }
        _ => None,
    }
}

fn in_loadable(segment: &Segment) -> Option<&'static str> {
    if segment.memsz == 0 {
        return None;
    }
    if segment.align > 1
        && segment.vaddr % segment.align != segment.offset % segment.align
        && segment.filesz > 0
    {
        return Some("the position and the address of a segment do not fit together");
    }
    if !segment.is_readable() {
        return Some("a segment cannot be read");
    }
    if segment.memsz > segment.filesz && segment.flags & PF_W == 0 {
        return Some("a segment for variables cannot be written");
    }
    (segment.vaddr.checked_add(segment.memsz).is_none()).then_some("a segment is outside of the memory")
}

fn is_table(program: &Program<'_>, segment: &Segment) -> bool {
    segment.offset == program.headers.phoff && segment.filesz == program.headers.table_size() as u64
}

/// Reports whether a loadable segment loads the content of `segment` to the address of `segment`.
fn is_loaded(program: &Program<'_>, segment: &Segment) -> bool {
    // A note of the linker that is not loaded has no address.
    if segment.filesz == 0 || segment.vaddr == 0 && segment.kind == PT_NOTE {
        return true;
    }
    // Linkers pad the read-only data behind its content in the file.
    let must_be_writable = segment.kind == PT_GNU_RELRO;
    let limit = |load: &Segment| if must_be_writable { load.memsz } else { load.filesz };
    program.loads().any(|load| {
        let distance = segment.offset.checked_sub(load.offset);
        distance.is_some_and(|distance| {
            distance.checked_add(segment.filesz).is_some_and(|end| end <= limit(load))
                && segment.vaddr.checked_sub(load.vaddr) == Some(distance)
                && (!must_be_writable || load.flags & PF_W != 0)
        })
    })
}

/// Returns a contradiction between loadable segments, which are in the order of their addresses and do not overlap.
fn in_order(program: &Program<'_>) -> Option<&'static str> {
    let loads = program.loads();
    let is_ordered =
        loads.clone().zip(loads.clone().skip(1)).all(|(one, next)| one.memory().end <= next.vaddr);
    if !is_ordered {
        return Some("its segments overlap");
    }
    let base = loads.map(|load| load.vaddr).next()?;
    match program.headers.e_type {
        ET_EXEC if base < PAGE => Some("it needs the memory at address 0"),
        ET_DYN if base >= PAGE && program.is_static => {
            Some("it is position-independent, but has a fixed address")
        }
        _ => None,
    }
}

fn in_entry(program: &Program<'_>) -> Option<&'static str> {
    let entry = program.headers.entry;
    let is_executable = |load: &Segment| load.flags & PF_X != 0 && load.memory().contains(&entry);
    // The entry point of big-endian 64-bit PowerPC is a function descriptor, which is data.
    let is_descriptor = program.headers.machine == EM_PPC64 && program.headers.flags & 3 != 2;
    let mut loads = program.loads();
    (!is_descriptor && !loads.any(is_executable)).then_some("its entry point is in no executable segment")
}

/// Returns a contradiction between the types of the program headers.
fn in_kinds(program: &Program<'_>) -> Option<&'static str> {
    let count = |kind| program.segments.iter().filter(|segment| segment.kind == kind).count();
    let is_unique = [PT_DYNAMIC, PT_INTERP, PT_PHDR, PT_TLS, PT_GNU_STACK, PT_GNU_RELRO, PT_GNU_EH_FRAME];
    is_unique.into_iter().any(|kind| count(kind) > 1).then_some("two program headers have the same type")
}

/// Returns a contradiction in the number of program headers: the last one is followed by another.
fn in_table(program: &Program<'_>, first: &[u8]) -> Option<&'static str> {
    let headers = program.headers;
    let size = headers.view.entry_size();
    let at = usize::try_from(headers.phoff).ok()?.checked_add(headers.table_size())?;
    let next = headers.view.segment(first.get(at..at.checked_add(size)?)?);
    let is_header = matches!(
        next.kind,
        PT_LOAD
            | PT_DYNAMIC
            | PT_NOTE
            | PT_TLS
            | PT_GNU_EH_FRAME
            | PT_GNU_STACK
            | PT_GNU_RELRO
            | PT_GNU_PROPERTY
    ) && next.flags <= 7
        && next.align.is_power_of_two()
        && next.offset.checked_add(next.filesz).is_some_and(|end| end <= program.size);
    is_header.then_some("it has more program headers than its ELF header states")
}
