//! zstd: one frame after the other.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::{StreamingDecoder, errors::FrameDecoderError};

use crate::package::limit::ZSTD_WINDOW;

/// All frames of a stream. ruzstd's own reader stops behind the first, and leaves the checksum to be compared.
pub(super) struct Frames<R: Read> {
    state: State<R>,
}

enum State<R: Read> {
    /// Between two frames.
    Between(R),
    Within(Box<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
    Done,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(packed: R) -> Self {
        Self { state: State::Between(packed) }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Ok(0),
                State::Between(mut packed) => {
                    if packed.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    let decoder =
                        StreamingDecoder::new_with_max_window_size(packed, ZSTD_WINDOW).map_err(|error| {
                            match error {
                                FrameDecoderError::WindowSizeTooBig { .. } => {
                                    io::Error::new(io::ErrorKind::OutOfMemory, error)
                                }
                                error => io::Error::new(io::ErrorKind::InvalidData, error),
                            }
                        })?;
                    self.state = State::Within(Box::new(decoder));
                }
                State::Within(mut decoder) => {
                    let length = decoder.read(buffer)?;
                    if length > 0 {
                        self.state = State::Within(decoder);
                        return Ok(length);
                    }
                    let (packed, frame) = decoder.into_parts();
                    if let Some(stored) = frame.get_checksum_from_data()
                        && frame.get_calculated_checksum() != Some(stored)
                    {
                        let text = "the zstd checksum does not match";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                    self.state = State::Between(packed);
                }
            }
        }
    }
}
