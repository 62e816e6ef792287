//! xz decoder: unpacks the blocks of an xz stream in parallel if possible, otherwise in one thread.
//!
//! Threaded xz, which dpkg uses, writes independent blocks and an index of the blocks at the end. `XzReaderMt` of
//! lzma-rust2 also unpacks blocks in parallel, but it ignores their checksums and has no memory limit.

use std::collections::VecDeque;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use flate2::Crc;
use lzma_rust2::XzReader;

use super::BUFFER;
use crate::package::Progress;
use crate::package::file_slice::FileSlice;
use crate::package::limit::XZ_MEMORY_KIB;

/// Maximum size of an unpacked block, in bytes. The whole unpacked block is in memory. dpkg writes blocks of 24 MiB.
const BLOCK_SIZE: u64 = 64 << 20;

/// Maximum number of blocks in an xz stream. This number suffices for `UNPACKED_SIZE` bytes in blocks of any common
/// size.
const BLOCKS: u64 = 1 << 16;

/// Maximum number of threads that unpack blocks. Each thread may hold a block and a dictionary in memory.
const THREADS: usize = 4;

/// Number of bytes that a thread unpacks before it checks again whether it must stop.
const STEP: u64 = 1 << 20;

const HEADER: u64 = 12;
const FOOTER: u64 = 12;

/// Reader that unpacks xz. All uses have one type of input, because the decoder is compiled anew for each other type.
type Reader<'a> = XzReader<Box<dyn Read + 'a>>;

/// Returns a reader that unpacks one or more xz streams in the current thread.
pub(super) fn stream<'a>(packed: impl Read + 'a) -> Reader<'a> {
    XzReader::new_mem_limit(Box::new(packed), true, XZ_MEMORY_KIB)
}

/// Returns a reader that unpacks exactly one xz stream, and refuses one that needs more than `memory` KiB.
pub(crate) fn single_stream<'a>(packed: impl Read + 'a, memory: u32) -> Reader<'a> {
    XzReader::new_mem_limit(Box::new(packed), false, memory)
}

/// Position and sizes of a block, as the index of the xz stream states them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    offset: u64,
    /// Compressed size of the block in bytes, without the padding to a multiple of four.
    unpadded: u64,
    unpacked: u64,
}

/// Reader for the unpacked content of an xz stream. Threads unpack the next blocks in advance. The reader returns the
/// content of a block only after the block's checksum was verified.
pub(super) struct Blocks<'a> {
    section: FileSlice,
    header: [u8; 12],
    waiting: VecDeque<Block>,
    running: VecDeque<Running>,
    threads: usize,
    current: Cursor<Vec<u8>>,
    stop: Arc<AtomicBool>,
    progress: &'a dyn Progress,
}

struct Running {
    block: Block,
    /// The thread that unpacks the block; `None` if it could not be started.
    thread: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl<'a> Blocks<'a> {
    /// Creates a reader for the xz stream in `section`. Returns `None` if the stream has no valid index, or too many or
    /// too large blocks. The caller then uses the single-threaded reader, which also reports errors.
    pub(super) fn new(section: &FileSlice, progress: &'a dyn Progress) -> Option<Self> {
        let (header, blocks) = index(section)?;
        Some(Self {
            section: section.clone(),
            header,
            waiting: blocks.into(),
            running: VecDeque::new(),
            threads: thread::available_parallelism().map_or(1, usize::from).min(THREADS),
            current: Cursor::new(Vec::new()),
            stop: Arc::new(AtomicBool::new(false)),
            progress,
        })
    }

    fn start(&mut self) {
        while self.running.len() < self.threads {
            let Some(block) = self.waiting.pop_front() else { return };
            let (section, header) = (self.section.clone(), self.header);
            let (stop, its_block) = (Arc::clone(&self.stop), block.clone());
            let thread = thread::Builder::new()
                .name("unpack".to_owned())
                .spawn(move || unpack(&section, header, &its_block, &stop))
                .ok();
            self.running.push_back(Running { block, thread });
        }
    }

    fn next_block(&mut self) -> io::Result<Option<Vec<u8>>> {
        // Frees the memory of the old block before the next block is unpacked.
        self.current = Cursor::new(Vec::new());
        self.start();
        let Some(Running { block, thread }) = self.running.pop_front() else { return Ok(None) };
        let content = match thread {
            Some(thread) => {
                thread.join().map_err(|_| io::Error::other("the xz decoder failed on a block"))??
            }
            None => unpack(&self.section, self.header, &block, &self.stop)?,
        };
        self.start();
        self.progress.advance(block.unpadded.next_multiple_of(4));
        Ok(Some(content))
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.current.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            let Some(content) = self.next_block()? else { return Ok(0) };
            self.current = Cursor::new(content);
        }
    }
}

impl Drop for Blocks<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.running.drain(..).filter_map(|running| running.thread) {
            // The result is no longer needed.
            let _ = thread.join();
        }
    }
}

/// Unpacks one block of an xz stream. The decoder gets the block as a separate stream: header, block, index of this
/// block, footer.
fn unpack(section: &FileSlice, header: [u8; 12], block: &Block, stop: &AtomicBool) -> io::Result<Vec<u8>> {
    let packed =
        section.part(block.offset, block.unpadded.next_multiple_of(4)).ok_or(io::ErrorKind::UnexpectedEof)?;
    let end = Cursor::new(end_of_stream(header, block));
    let packed = header.chain(BufReader::with_capacity(BUFFER, packed)).chain(end);
    let mut reader = single_stream(packed, XZ_MEMORY_KIB);
    let mut content = Vec::with_capacity(usize::try_from(block.unpacked).unwrap_or_default());
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let read = reader.by_ref().take(STEP).read_to_end(&mut content)?;
        if read == 0 && content.len() as u64 == block.unpacked {
            return Ok(content);
        }
        if read == 0 || content.len() as u64 > block.unpacked {
            return Err(invalid("a block does not have the size in the index"));
        }
    }
}

/// Returns the index and the footer of an xz stream that contains only `block`.
fn end_of_stream(header: [u8; 12], block: &Block) -> Vec<u8> {
    let mut out = vec![0, 1];
    write_integer(&mut out, block.unpadded);
    write_integer(&mut out, block.unpacked);
    out.resize(out.len().next_multiple_of(4), 0);
    let words = u32::try_from(out.len() / 4).unwrap_or_default();
    out.extend(crc32(&out).to_le_bytes());
    // The footer stores the index size in 32-bit words, minus one. Because `words` excludes the index checksum, it
    // already has this value.
    let [_, _, _, _, _, _, first_flag, second_flag, ..] = header;
    let mut fields = words.to_le_bytes().to_vec();
    fields.extend([first_flag, second_flag]);
    out.extend(crc32(&fields).to_le_bytes());
    out.extend(fields);
    out.extend(b"YZ");
    out
}

/// Returns the header and the blocks of the xz stream in `section`. Returns `None` if the stream's index is not valid,
/// or if the stream does not fill the whole section.
fn index(section: &FileSlice) -> Option<([u8; 12], Vec<Block>)> {
    let mut header = [0; 12];
    section.part(0, HEADER)?.read_exact(&mut header).ok()?;
    let mut footer = [0; 12];
    let footer_offset = section.len().checked_sub(FOOTER)?;
    section.part(footer_offset, FOOTER)?.read_exact(&mut footer).ok()?;
    let [c0, c1, c2, c3, s0, s1, s2, s3, flag0, flag1, b'Y', b'Z'] = footer else { return None };
    if crc32(&[s0, s1, s2, s3, flag0, flag1]) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return None;
    }
    if header.get(6..8) != Some(&[flag0, flag1]) {
        return None;
    }
    let size = (u64::from(u32::from_le_bytes([s0, s1, s2, s3])) + 1) * 4;
    let index_offset = footer_offset.checked_sub(size).filter(|offset| *offset >= HEADER)?;
    // The index has two integers of at most nine bytes per block, and some fixed fields.
    if size > BLOCKS * 18 + 32 {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    section.part(index_offset, size)?.read_exact(&mut bytes).ok()?;
    let (records, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32(records) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (0, mut records) = records.split_first().map(|(first, rest)| (*first, rest))? else {
        return None;
    };
    let count = read_integer(&mut records).filter(|count| *count <= BLOCKS)?;
    let mut offset = HEADER;
    let mut blocks = Vec::new();
    for _ in 0..count {
        let unpadded = read_integer(&mut records)?;
        let unpacked = read_integer(&mut records).filter(|size| *size <= BLOCK_SIZE)?;
        blocks.push(Block { offset, unpadded, unpacked });
        offset = offset.checked_add(unpadded.checked_next_multiple_of(4)?)?;
    }
    let padding = records.len() < 4 && records.iter().all(|byte| *byte == 0);
    (offset == index_offset && padding).then_some((header, blocks))
}

/// Reads a variable-length integer of the xz format from the beginning of `bytes`: seven bits per byte, lowest bits
/// first. The highest bit of a byte is set if another byte follows.
fn read_integer(bytes: &mut &[u8]) -> Option<u64> {
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

fn write_integer(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::num::NonZeroU64;

    use lzma_rust2::{XzOptions, XzWriter};

    use super::*;

    fn packed(content: &[u8], block: u64) -> (tempfile::NamedTempFile, FileSlice) {
        let mut options = XzOptions::with_preset(1);
        options.lzma_options.dict_size = 64 << 10;
        options.set_block_size(NonZeroU64::new(block));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = XzWriter::new(file.as_file_mut(), options).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
        let section = FileSlice::whole(file.reopen().unwrap(), file.as_file().metadata().unwrap().len());
        (file, section)
    }

    fn content() -> Vec<u8> {
        (0..150_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect()
    }

    #[test]
    fn blocks_come_in_order() {
        let content = content();
        let (_file, section) = packed(&content, 64 << 10);
        assert_eq!(index(&section).unwrap().1.len(), 10);
        let mut out = Vec::new();
        Blocks::new(&section, &()).unwrap().read_to_end(&mut out).unwrap();
        assert!(out == content);
    }

    #[test]
    fn a_changed_byte_is_never_returned() {
        let content = content();
        let (file, section) = packed(&content, 256 << 10);
        let (_, blocks) = index(&section).unwrap();
        for block in &blocks {
            // The last byte of a block belongs to its checksum.
            let at = block.offset + block.unpadded - 1;
            let mut byte = [0];
            section.part(at, 1).unwrap().read_exact(&mut byte).unwrap();
            std::os::unix::fs::FileExt::write_all_at(file.as_file(), &[byte[0] ^ 1], at).unwrap();
            let mut out = Vec::new();
            Blocks::new(&section, &()).unwrap().read_to_end(&mut out).unwrap_err();
            assert_eq!(out.len() % (256 << 10), 0, "only whole blocks before the changed one");
            assert!(content.starts_with(&out));
            std::os::unix::fs::FileExt::write_all_at(file.as_file(), &byte, at).unwrap();
        }
    }

    #[test]
    fn a_block_whose_size_differs_from_the_index_is_refused() {
        let (_file, section) = packed(&content(), 256 << 10);
        let (header, blocks) = index(&section).unwrap();
        for unpacked in [0, (256 << 10) - 1, (256 << 10) + 1] {
            let block = Block { unpacked, ..blocks[0].clone() };
            unpack(&section, header, &block, &AtomicBool::new(false)).unwrap_err();
        }
    }

    #[test]
    fn integers_survive() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), (1 << 63) - 1] {
            let mut bytes = Vec::new();
            write_integer(&mut bytes, value);
            let mut rest = bytes.as_slice();
            assert_eq!((read_integer(&mut rest), rest.len()), (Some(value), 0));
        }
        assert_eq!(read_integer(&mut &[0xff; 12][..]), None);
        assert_eq!(read_integer(&mut &[0x80][..]), None);
    }
}
