//! Decoding LZ4 frames.
//!
//! The crate's decoder takes an input that ends between two blocks for complete, so the frame
//! structure is followed here as the bytes pass to it. Invariant: the input ends between frames, or
//! it is an error.

use std::io::{self, BufRead, ErrorKind, Read};

use lz4_flex::frame::FrameDecoder;

const FRAME_MAGIC: u32 = 0x184D_2204;
const FLAG_BLOCK_CHECKSUM: u8 = 1 << 4;
const FLAG_CONTENT_SIZE: u8 = 1 << 3;
const FLAG_CONTENT_CHECKSUM: u8 = 1 << 2;
const FLAG_DICTIONARY: u8 = 1;

/// The bit of a block size that says that the block is stored.
const BLOCK_STORED: u32 = 1 << 31;

/// Decodes concatenated LZ4 frames.
pub(super) struct Decoder<R: BufRead> {
    frames: FrameDecoder<Follower<R>>,
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            frames: FrameDecoder::new(Follower {
                input,
                part: Part::Magic,
                word: [0; 4],
                filled: 0,
                flags: 0,
            }),
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let read = self.frames.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            // The end of a frame, or of the input.
            let follower = self.frames.get_mut();
            if follower.input.fill_buf()?.is_empty() {
                return follower.end().map(|()| 0);
            }
        }
    }
}

/// The part of a frame that the next bytes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The four magic bytes.
    Magic,
    /// The flag byte of the frame descriptor.
    Flags,
    /// The four bytes of a block size, or the end mark.
    BlockSize,
    /// So many bytes that do not matter, then a block size.
    Block(u64),
    /// So many bytes that do not matter, then the end of the frame.
    Trailer(u64),
}

/// Passes bytes through, and knows where in a frame they end.
struct Follower<R> {
    input: R,
    part: Part,
    word: [u8; 4],
    filled: usize,
    flags: u8,
}

impl<R> Follower<R> {
    fn end(&self) -> io::Result<()> {
        if self.part == Part::Magic && self.filled == 0 {
            return Ok(());
        }
        Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            "truncated LZ4 frame",
        ))
    }

    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((&first, rest)) = bytes.split_first() {
            match self.part {
                Part::Flags => {
                    self.flags = first;
                    self.part = Part::Block(self.descriptor_rest());
                    bytes = rest;
                }
                Part::Magic | Part::BlockSize => {
                    self.word[self.filled] = first;
                    self.filled = (self.filled + 1) % 4;
                    if self.filled == 0 {
                        self.part = self.part_after_word()?;
                    }
                    bytes = rest;
                }
                Part::Block(left) => {
                    let left = skip(&mut bytes, left);
                    self.part = if left == 0 {
                        Part::BlockSize
                    } else {
                        Part::Block(left)
                    };
                }
                Part::Trailer(left) => {
                    let left = skip(&mut bytes, left);
                    self.part = if left == 0 {
                        Part::Magic
                    } else {
                        Part::Trailer(left)
                    };
                }
            }
        }
        Ok(())
    }

    /// Bytes of the frame descriptor after the flags: block sizes, optional fields, and a checksum.
    const fn descriptor_rest(&self) -> u64 {
        let size = if self.flags & FLAG_CONTENT_SIZE != 0 {
            8
        } else {
            0
        };
        let dictionary = if self.flags & FLAG_DICTIONARY != 0 {
            4
        } else {
            0
        };
        2 + size + dictionary
    }

    fn part_after_word(&self) -> io::Result<Part> {
        let word = u32::from_le_bytes(self.word);
        if self.part == Part::Magic {
            if word != FRAME_MAGIC {
                // Legacy frames have no end mark, so truncation could not be told.
                return Err(io::Error::new(ErrorKind::InvalidData, "not an LZ4 frame"));
            }
            return Ok(Part::Flags);
        }
        if word == 0 {
            return Ok(if self.flags & FLAG_CONTENT_CHECKSUM == 0 {
                Part::Magic
            } else {
                Part::Trailer(4)
            });
        }
        let checksum = if self.flags & FLAG_BLOCK_CHECKSUM == 0 {
            0
        } else {
            4
        };
        Ok(match u64::from(word & !BLOCK_STORED) + checksum {
            0 => Part::BlockSize,
            left => Part::Block(left),
        })
    }
}

/// Drops up to `left` bytes; says how many are left to drop.
fn skip(bytes: &mut &[u8], left: u64) -> u64 {
    let step = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *bytes = &bytes[step..];
    left - step as u64
}

impl<R: BufRead> Read for Follower<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.follow(&buffer[..read])?;
        Ok(read)
    }
}
