//! zstd decoder for streams with several frames.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::package::limit::ZSTD_WINDOW;

/// Reader that unpacks all frames of a zstd stream. The reader of the crate ruzstd stops after the first frame and does
/// not verify the checksum.
pub(super) struct Frames<R: Read> {
    packed: R,
    state: State,
}

enum State {
    Between,
    Within(Box<FrameDecoder>),
    Done,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(packed: R) -> Self {
        Self { packed, state: State::Between }
    }

    /// Returns a decoder for the next frame with content, or `None` at the end of the stream. Skippable frames (RFC
    /// 8878, section 3.1.2) are left out. They contain private data of tools, for example the tables of podman's
    /// `zstd:chunked`.
    fn next_frame(&mut self) -> io::Result<Option<Box<FrameDecoder>>> {
        while !self.packed.fill_buf()?.is_empty() {
            let mut frame = Box::new(FrameDecoder::new());
            frame.set_max_window_size(ZSTD_WINDOW);
            let error = match frame.init(&mut self.packed) {
                Ok(()) => return Ok(Some(frame)),
                Err(error) => error,
            };
            let kind = match error {
                FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length, ..
                }) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.packed.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    continue;
                }
                FrameDecoderError::WindowSizeTooBig { .. } => io::ErrorKind::OutOfMemory,
                _ => io::ErrorKind::InvalidData,
            };
            return Err(io::Error::new(kind, error));
        }
        Ok(None)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // After an error the reader returns no more data.
            match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Ok(0),
                State::Between => {
                    let Some(frame) = self.next_frame()? else { return Ok(0) };
                    self.state = State::Within(frame);
                }
                State::Within(mut frame) => {
                    while frame.can_collect() == 0 && !frame.is_finished() {
                        let one = BlockDecodingStrategy::UptoBlocks(1);
                        frame.decode_blocks(&mut self.packed, one).map_err(io::Error::other)?;
                    }
                    let length = frame.read(buffer)?;
                    if length > 0 {
                        self.state = State::Within(frame);
                        return Ok(length);
                    }
                    if let Some(checksum) = frame.get_checksum_from_data()
                        && frame.get_calculated_checksum() != Some(checksum)
                    {
                        let text = "the zstd checksum does not match";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                    self.state = State::Between;
                }
            }
        }
    }
}
