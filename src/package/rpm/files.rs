//! List of files in the header of an rpm package. In packages of format 6 the members of the payload have only a number,
//! which is an index into this list ("RPM V6 Package format" in `docs/manual/format_v6.md` of rpm).

use std::collections::BTreeMap;

use super::{Header, Headers, TYPE_INT16, TYPE_INT32, TYPE_INT64, TYPE_STRING_ARRAY, word};
use crate::package::PackageError;
use crate::package::cpio::ListedFile;
use crate::package::limit::{MEMBERS, NAME_SIZE};

/// Tags of the lists that describe files (`docs/manual/tags.md` of rpm). Each list has an item for every file, except
/// `DIRNAMES`, whose items `DIRINDEXES` counts.
const FILESIZES: u32 = 1028;
const FILEMODES: u32 = 1030;
const FILEDEVICES: u32 = 1095;
const FILEINODES: u32 = 1096;
const DIRINDEXES: u32 = 1116;
const BASENAMES: u32 = 1117;
const DIRNAMES: u32 = 1118;
const LONGFILESIZES: u32 = 5008;

/// Mask for the file type in a file's mode, and two types (inode(7)).
const TYPE: u64 = 0o170_000;
const REGULAR: u64 = 0o100_000;
const SYMBOLIC_LINK: u64 = 0o120_000;

/// Maximum size of the texts of one list, in bytes.
const TEXTS_SIZE: u64 = 16 << 20;

/// Lists of a header, as they are stored.
#[derive(Default)]
struct Lists {
    base_names: Vec<Vec<u8>>,
    directory_names: Vec<Vec<u8>>,
    directories: Vec<u64>,
    modes: Vec<u64>,
    sizes: Vec<u64>,
    devices: Vec<u64>,
    inodes: Vec<u64>,
}

/// Reads the list of files from `header`. The list is empty if the package has no files, or if its lists do not fit
/// together. Packages of format 4 do not need the list.
pub(super) fn read(headers: &Headers<'_>, header: &Header) -> Result<Vec<ListedFile>, PackageError> {
    let mut lists = Lists::default();
    for entry in 0..header.entries {
        let bytes: [u8; 16] = headers.bytes(header.index.saturating_add(u64::from(entry) * 16))?;
        let (kind, count) = (word(&bytes, 4), u64::from(word(&bytes, 12)));
        let at = header.data.saturating_add(u64::from(word(&bytes, 8)));
        let list = match (word(&bytes, 0), kind) {
            (BASENAMES, TYPE_STRING_ARRAY) => {
                lists.base_names = texts(headers, header, at, count)?;
                continue;
            }
            (DIRNAMES, TYPE_STRING_ARRAY) => {
                lists.directory_names = texts(headers, header, at, count)?;
                continue;
            }
            (DIRINDEXES, TYPE_INT32) => &mut lists.directories,
            (FILEMODES, TYPE_INT16) => &mut lists.modes,
            (FILESIZES, TYPE_INT32) | (LONGFILESIZES, TYPE_INT64) => &mut lists.sizes,
            (FILEDEVICES, TYPE_INT32) => &mut lists.devices,
            (FILEINODES, TYPE_INT32) => &mut lists.inodes,
            _ => continue,
        };
        *list = numbers(headers, at, count, kind)?;
    }
    Ok(lists.files().unwrap_or_default())
}

/// Reads `count` texts at the offset `at` of the package file. Each text ends with a zero byte.
fn texts(headers: &Headers<'_>, header: &Header, at: u64, count: u64) -> Result<Vec<Vec<u8>>, PackageError> {
    let too_large = || headers.malformed("a list of files is too large".to_owned());
    if count > MEMBERS {
        return Err(too_large());
    }
    // The bytes after the texts belong to other entries of the header.
    let bytes = headers.part(at, header.end.saturating_sub(at).min(TEXTS_SIZE))?;
    let mut texts = bytes.split(|byte| *byte == 0);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let list: Vec<Vec<u8>> = texts.by_ref().take(count).map(<[u8]>::to_vec).collect();
    // The text after the last zero byte has no end.
    if texts.next().is_none() || list.iter().any(|text| text.len() as u64 > NAME_SIZE) {
        return Err(too_large());
    }
    Ok(list)
}

/// Reads `count` big-endian numbers of a type at the offset `at` of the package file.
fn numbers(headers: &Headers<'_>, at: u64, count: u64, kind: u32) -> Result<Vec<u64>, PackageError> {
    let width = match kind {
        TYPE_INT16 => 2,
        TYPE_INT32 => 4,
        _ => 8,
    };
    if count > MEMBERS {
        return Err(headers.malformed("a list of files is too large".to_owned()));
    }
    let bytes = headers.part(at, count * width as u64)?;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    Ok(bytes.chunks_exact(width).map(number).collect())
}

impl Lists {
    /// Combines the lists. Returns `None` if a list is too short.
    fn files(&self) -> Option<Vec<ListedFile>> {
        let mut files = Vec::new();
        let mut last_link = BTreeMap::new();
        for (index, base_name) in self.base_names.iter().enumerate() {
            let directory = usize::try_from(*self.directories.get(index)?).ok()?;
            let name = [b".", self.directory_names.get(directory)?.as_slice(), base_name].concat();
            let mode = *self.modes.get(index)? & TYPE;
            let has_content = matches!(mode, REGULAR | SYMBOLIC_LINK);
            let size = if has_content { *self.sizes.get(index)? } else { 0 };
            let inode = (*self.devices.get(index)?, *self.inodes.get(index)?);
            let regular = mode == REGULAR;
            if regular {
                let (last, links) = last_link.entry(inode).or_insert((index, 0));
                (*last, *links) = (index, *links + 1);
            }
            files.push(ListedFile { name, regular, size, inode, links: 1 });
        }
        for (index, file) in files.iter_mut().enumerate().filter(|(_, file)| file.regular) {
            let (last, links) = *last_link.get(&file.inode)?;
            file.links = links;
            if index != last {
                file.size = 0;
            }
        }
        Some(files)
    }
}
