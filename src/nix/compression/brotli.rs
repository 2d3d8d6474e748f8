//! Decoding a brotli stream.
//!
//! The decoder of the crate is driven by hand, since its own reader allows windows of 1 GiB.
//! Invariant: exactly one stream, with a window of the standard format (16 MiB at most), and
//! nothing after it.

use std::io::{self, BufRead, ErrorKind, Read};

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};

type State = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// Decodes one brotli stream.
pub(super) struct Decoder<R> {
    input: R,
    state: Box<State>,
    finished: bool,
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(input: R) -> Self {
        let alloc = StandardAlloc::default;
        Self {
            input,
            // "Strict" is the format of RFC 7932, without the large window extension.
            state: Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())),
            finished: false,
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while !self.finished {
            let input = self.input.fill_buf()?;
            let at_end = input.is_empty();
            let (mut available_in, mut consumed) = (input.len(), 0);
            let (mut available_out, mut produced, mut total) = (buffer.len(), 0, 0);
            let result = BrotliDecompressStream(
                &mut available_in,
                &mut consumed,
                input,
                &mut available_out,
                &mut produced,
                buffer,
                &mut total,
                &mut self.state,
            );
            self.input.consume(consumed);
            match result {
                BrotliResult::ResultSuccess => self.finished = true,
                BrotliResult::ResultFailure => {
                    return Err(io::Error::new(
                        ErrorKind::InvalidData,
                        "corrupt brotli stream",
                    ));
                }
                BrotliResult::NeedsMoreInput if at_end && produced == 0 => {
                    return Err(io::Error::new(
                        ErrorKind::UnexpectedEof,
                        "truncated brotli stream",
                    ));
                }
                BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
            }
            if produced > 0 {
                return Ok(produced);
            }
        }
        if !self.input.fill_buf()?.is_empty() {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "trailing bytes after the brotli stream",
            ));
        }
        Ok(0)
    }
}
