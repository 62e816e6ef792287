//! Targets for every reader of archives. Checksums are corrected first, because a wrong one would stop the reader
//! early.

use std::io::{Read, Write};

use flate2::Crc;
use lzma_rust2::XzReader;

use crate::unpack::{State, unpack};

/// Magic of a tar header, and its offset in the header.
const USTAR: &[u8] = b"ustar";
const USTAR_AT: usize = 257;
/// Size of a tar header, and the range of its checksum, in bytes.
const BLOCK: usize = 512;
const SUM: std::ops::Range<usize> = 148..156;

/// Tests any bytes as a Debian package.
pub fn deb(input: &[u8]) {
    let mut content = input.to_vec();
    fix_tar(&mut content);
    unpack(&content);
}

/// Tests any bytes as an rpm package, which has no checksums inside.
pub fn rpm(input: &[u8]) {
    unpack(input);
}

/// Tests any bytes as a tar archive: a package of Arch, or an image.
pub fn tar(input: &[u8]) {
    let mut content = input.to_vec();
    fix_tar(&mut content);
    unpack(&content);
}

/// Tests any bytes as a gzip stream. Also packs the bytes as a tar archive in two members, which must give the same
/// files.
pub fn gzip(input: &[u8]) {
    unpack(input);
    let mut tar = input.to_vec();
    fix_tar(&mut tar);
    let (one, two) = tar.split_at(tar.len() / 2);
    same(&tar, &[gzipped(one), gzipped(two)].concat());
}

fn gzipped(content: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(content).and_then(|()| out.finish()).expect("memory can be written")
}

/// Tests any bytes as a zstd frame.
pub fn zstd(input: &[u8]) {
    unpack(input);
}

/// Tests any bytes as an xz stream with correct checksums. The unpacked archive must give the same files.
pub fn xz(input: &[u8]) {
    let mut content = input.to_vec();
    fix_xz(&mut content);
    let placed = unpack(&content);
    let mut whole = Vec::new();
    let limit = 2 << 20;
    let read =
        XzReader::new_mem_limit(content.as_slice(), true, 16 << 10).take(limit).read_to_end(&mut whole);
    if let (Some(placed), Ok(length)) = (placed, read)
        && (length as u64) < limit
        && whole.get(USTAR_AT..).is_some_and(|rest| rest.starts_with(USTAR))
    {
        assert_eq!(unpack(&whole), Some(placed));
    }
}

/// Checks that a plain archive and its packed form give the same files. Skips content that is not a tar archive,
/// because qus detects the format by the content.
fn same(plain: &[u8], packed: &[u8]) {
    if plain.get(USTAR_AT..).is_none_or(|rest| !rest.starts_with(USTAR)) || is_other(plain) {
        return;
    }
    let (plain, packed): (Option<State>, Option<State>) = (unpack(plain), unpack(packed));
    assert_eq!(plain, packed);
}

fn is_other(content: &[u8]) -> bool {
    let magics: [&[u8]; 6] =
        [b"!<arch>\n", b"\x7fELF", b"\xed\xab\xee\xdb", b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    // The last pattern is for zstd's skippable frames.
    magics.iter().any(|magic| content.starts_with(magic))
        || matches!(content, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Tests an image in one archive, described as text. Lines of `==` separate the members, and the first line of a member
/// is its name. If the content begins with `tar`, each line is a member of an inner archive: its type, a blank, its
/// path and its content.
pub fn image(input: &[u8]) {
    let mut archive = tar::Builder::new(Vec::new());
    for part in split(input, b"\n==\n") {
        let (name, content) = split_line(part);
        let content = match content.strip_prefix(b"tar\n") {
            Some(lines) => layer(lines),
            None => content.to_vec(),
        };
        append(&mut archive, b'0', name, &content);
    }
    unpack(&archive.into_inner().expect("memory can be written"));
}

fn layer(lines: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for line in lines.split(|byte| *byte == b'\n') {
        let Some((&kind, rest)) = line.split_first() else { continue };
        let mut words = rest.strip_prefix(b" ").unwrap_or(rest).splitn(2, |byte| *byte == b' ');
        let (path, content) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        append(&mut archive, kind, path, content);
    }
    archive.into_inner().expect("memory can be written")
}

fn append(archive: &mut tar::Builder<Vec<u8>>, kind: u8, path: &[u8], content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::new(kind));
    let length = path.len().min(100);
    header.as_mut_bytes()[..length].copy_from_slice(&path[..length]);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.append(&header, content).expect("memory can be written");
}

fn split<'a>(mut text: &'a [u8], by: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = text.windows(by.len()).position(|window| window == by) {
        parts.push(&text[..at]);
        text = &text[at + by.len()..];
    }
    parts.push(text);
    parts
}

fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}

/// Corrects the checksum of everything that looks like a tar header.
fn fix_tar(content: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = content.get_mut(at..at + BLOCK) {
        if !block[USTAR_AT..].starts_with(USTAR) {
            at += 1;
            continue;
        }
        block[SUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        at += BLOCK;
    }
}

/// Corrects the checksums of an xz stream in its header, footer, index and block headers (the .xz file format, sections
/// 2 to 4). Checksums of block contents stay unchanged; a block need not have one.
fn fix_xz(content: &mut [u8]) {
    let length = content.len();
    if length < 24 {
        return;
    }
    content[..6].copy_from_slice(b"\xfd7zXZ\0");
    put(content, 8, 6..8);
    content.copy_within(6..8, length - 4);
    content[length - 2..].copy_from_slice(b"YZ");
    put(content, length - 12, length - 8..length - 2);
    let words = u32::from_le_bytes([8, 7, 6, 5].map(|back| content[length - back]));
    let size = (words as usize).saturating_add(1).saturating_mul(4);
    let Some(index) = (length - 12).checked_sub(size).filter(|index| *index >= 12 && size >= 8) else {
        fix_block(content, 12);
        return;
    };
    content[index] = 0;
    put(content, length - 16, index..length - 16);
    let records = content[index + 1..length - 16].to_vec();
    let mut records = records.as_slice();
    let (mut at, count) = (12_u64, integer(&mut records).unwrap_or(0));
    for _ in 0..count.min(1000) {
        let Some(unpadded) = integer(&mut records).filter(|_| fix_block(content, at).is_some()) else {
            return;
        };
        let _unpacked = integer(&mut records);
        at = at.saturating_add(unpadded).saturating_add(unpadded.wrapping_neg() % 4);
    }
}

/// Corrects the checksum of the block header at `at`.
fn fix_block(content: &mut [u8], at: u64) -> Option<()> {
    let at = usize::try_from(at).ok()?;
    let size = (usize::from(*content.get(at)?) + 1) * 4;
    let sum = at.checked_add(size)?.checked_sub(4).filter(|sum| *sum > at && sum + 4 <= content.len())?;
    put(content, sum, at..sum);
    Some(())
}

fn put(content: &mut [u8], at: usize, of: std::ops::Range<usize>) {
    let mut crc = Crc::new();
    crc.update(&content[of]);
    content[at..at + 4].copy_from_slice(&crc.sum().to_le_bytes());
}

/// Reads an integer of the xz format: seven bits in each byte, lowest bits first.
fn integer(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
