//! Reads the notes of an ELF program that name its operating system (`elf(5)`, "Notes (Nhdr)"). Programs of NetBSD and
//! OpenBSD have no other mark: their `EI_OSABI` is that of System V.

use goblin::elf::program_header::PT_NOTE;

use super::headers::{Segment, View};

/// Type of a note that names an operating system. All owners of such notes use the same number (`NT_GNU_ABI_TAG`,
/// `NT_NETBSD_IDENT`).
const IDENT: u32 = 1;

/// Returns the operating system that a note in `first`, the beginning of the file, names. Returns `None` if that is
/// Linux, or if no note names one.
pub(super) fn operating_system(segments: &[Segment], first: &[u8], view: View) -> Option<&'static str> {
    let notes = segments.iter().filter(|segment| segment.kind == PT_NOTE);
    notes.filter_map(|segment| content(segment, first)).find_map(|mut notes| {
        while let Some((system, rest)) = next(notes, view) {
            if system.is_some() {
                return system;
            }
            notes = rest;
        }
        None
    })
}

fn content<'a>(segment: &Segment, first: &'a [u8]) -> Option<&'a [u8]> {
    let start = usize::try_from(segment.offset).ok()?;
    first.get(start..start.checked_add(usize::try_from(segment.filesz).ok()?)?)
}

/// Parses the first note. Returns the operating system that it names, and the notes after it.
fn next(notes: &[u8], view: View) -> Option<(Option<&'static str>, &[u8])> {
    let (header, rest) = notes.split_at_checked(12)?;
    let [name_size, size, kind] = [0, 4, 8].map(|position| view.word(header, position));
    let (name, rest) = split_padded(rest, name_size)?;
    let (content, rest) = split_padded(rest, size)?;
    let system = match (name, kind) {
        (b"NetBSD\0", IDENT) => Some("NetBSD"),
        (b"OpenBSD\0", IDENT) => Some("OpenBSD"),
        (b"FreeBSD\0", IDENT) => Some("FreeBSD"),
        (b"DragonFly\0", IDENT) => Some("DragonFly BSD"),
        // The number of the kernel (Linux Standard Base, "ABI note tag"); Linux has 0.
        (b"GNU\0", IDENT) => match view.word(content, 0) {
            1 => Some("GNU Hurd"),
            2 => Some("Solaris or illumos"),
            3 => Some("Debian GNU/kFreeBSD"),
            _ => None,
        },
        _ => None,
    };
    Some((system, rest))
}

/// Returns the first `size` bytes, and what follows them at the next multiple of four bytes.
fn split_padded(bytes: &[u8], size: u32) -> Option<(&[u8], &[u8])> {
    let size = usize::try_from(size).ok()?;
    let rest = bytes.get(size.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some((bytes.get(..size)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View { wide: true, big: true };

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for number in [name.len(), content.len()] {
            note.extend(u32::try_from(number).unwrap().to_be_bytes());
        }
        note.extend(kind.to_be_bytes());
        for part in [name, content] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    fn system(notes: &[u8]) -> Option<&'static str> {
        let first = [&[0; 8], notes].concat();
        let segment = Segment {
            kind: PT_NOTE,
            flags: 4,
            offset: 8,
            vaddr: 8,
            filesz: notes.len() as u64,
            memsz: notes.len() as u64,
            align: 4,
        };
        operating_system(&[segment], &first, VIEW)
    }

    #[test]
    fn a_note_names_the_operating_system() {
        assert_eq!(system(&note(b"NetBSD\0", 1, &[0; 4])), Some("NetBSD"));
        assert_eq!(system(&note(b"OpenBSD\0", 1, &[0; 4])), Some("OpenBSD"));
        let linux = note(b"GNU\0", 1, &[0; 16]);
        assert_eq!(system(&linux), None);
        assert_eq!(system(&note(b"GNU\0", 1, &[0, 0, 0, 1])), Some("GNU Hurd"));
        // The identifier of a build comes first.
        let build = note(b"GNU\0", 3, &[7; 20]);
        assert_eq!(system(&[build.clone(), note(b"NetBSD\0", 1, &[0; 4])].concat()), Some("NetBSD"));
        assert_eq!(system(&[build, linux].concat()), None);
        // NetBSD also has notes for other purposes.
        assert_eq!(system(&note(b"NetBSD\0", 2, b"earmv7hf\0")), None);
    }

    #[test]
    fn damaged_notes_name_nothing() {
        let whole = note(b"NetBSD\0", 1, &[0; 4]);
        for length in 0..whole.len() {
            assert_eq!(system(&whole[..length]), None);
        }
        assert_eq!(system(&[0xff; 40]), None);
        assert_eq!(system(&[0; 40]), None);
    }
}
