//! [`FileSlice`]: reader for a part of a file. Reading does not change the position of the open file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Reader for a part of a file. Its clones read independently of each other, also in several threads.
#[derive(Clone, Debug)]
pub(super) struct FileSlice {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl FileSlice {
    /// Creates a slice of the whole `file`, which has `length` bytes.
    pub(super) fn whole(file: File, length: u64) -> Self {
        Self { file: Arc::new(file), position: 0, end: length }
    }

    /// Returns the part of this slice that begins `offset` bytes after the present position and has `length` bytes, or
    /// `None` if the slice is too short.
    pub(super) fn part(&self, offset: u64, length: u64) -> Option<Self> {
        let position = self.position.checked_add(offset)?;
        let end = position.checked_add(length).filter(|end| *end <= self.end)?;
        Some(Self { file: Arc::clone(&self.file), position, end })
    }

    /// Returns the number of bytes of this slice that were not read yet.
    pub(super) fn len(&self) -> u64 {
        self.end - self.position
    }

    /// Copies `content` into an unnamed temporary file, and returns a slice of that file. The error `None` means that
    /// `content` has more than `limit` bytes.
    pub(super) fn spool(content: &mut dyn Read, limit: u64) -> Result<Self, Option<io::Error>> {
        let mut file = tempfile::tempfile()?;
        let length = io::copy(&mut content.take(limit.saturating_add(1)), &mut file)?;
        if length > limit {
            return Err(None);
        }
        Ok(Self::whole(file, length))
    }

    /// Fills `buffer` with the next bytes of the slice, without advancing the slice. Returns their number, which is
    /// smaller than the buffer only at the end of the slice.
    pub(super) fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut copy = self.clone();
        let mut filled = 0;
        loop {
            let read = copy.read(buffer.get_mut(filled..).unwrap_or_default())?;
            filled += read;
            if read == 0 {
                return Ok(filled);
            }
        }
    }
}

impl Read for FileSlice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.len()).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..length) else { return Ok(0) };
        let read = self.file.read_at(buffer, self.position)?;
        if read == 0 && length > 0 {
            // The file was truncated while it was being read.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += read as u64;
        Ok(read)
    }
}
