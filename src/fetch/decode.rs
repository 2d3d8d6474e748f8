//! The decoder of a NAR, with memory from what transfers share.
//!
//! Invariants: a decoder whose window is larger than usual has the memory for it before it allocates it, and
//! those with usual windows never wait; one that is slow while others wait for
//! memory has it taken from its account, and goes on when it is its turn again.

use std::io::{self, Cursor, ErrorKind, Read};
use std::sync::Arc;

use super::attempt::Attempt;
use crate::measure::Allowance;
use crate::nix::compression::{Compression, CompressionError, USUAL_MEMORY};

/// Bytes of the beginning that are read at once, to see what it needs.
const HEAD: usize = 64;
/// Longest beginning: headers of xz.
const LONGEST_HEAD: usize = 2 << 10;
/// Memory of a decoder beside what it has decoded.
const BESIDE: u64 = 1 << 20;

/// See the module.
pub(super) struct Decoder<R> {
    method: Compression,
    /// Until its beginning is known.
    input: Option<R>,
    decoder: Option<Box<dyn Read + Send>>,
    memory: Arc<Allowance>,
    /// What comes out at most, and fills no more than that of a window.
    nar_size: u64,
    /// What it needs, if that is more than usual.
    bytes: u64,
    attempt: Arc<Attempt>,
}

impl<R: Read + Send + 'static> Decoder<R> {
    pub(super) fn new(
        method: Compression,
        input: R,
        nar_size: u64,
        memory: &Arc<Allowance>,
        attempt: &Arc<Attempt>,
    ) -> Result<Self, CompressionError> {
        if !method.is_supported() {
            return Err(CompressionError::Unsupported { method });
        }
        Ok(Self {
            method,
            input: Some(input),
            decoder: None,
            memory: memory.clone(),
            nar_size,
            bytes: 0,
            attempt: attempt.clone(),
        })
    }

    fn begin(&mut self, mut input: R) -> io::Result<()> {
        let mut head = Vec::new();
        let needed = loop {
            if let Some(needed) = self.method.memory(&head) {
                break needed;
            }
            let before = head.len();
            let more = (&mut input).take(HEAD as u64).read_to_end(&mut head);
            more?;
            if head.len() == before || head.len() > LONGEST_HEAD {
                // The decoder says what is wrong with it.
                break 0;
            }
        };
        self.bytes = needed.min(self.nar_size.saturating_add(BESIDE));
        if self.bytes <= USUAL_MEMORY {
            self.bytes = 0;
        }
        let most = self.memory.most();
        if self.bytes > most {
            let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
            let (needed, most) = (mebibytes(self.bytes), mebibytes(most));
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                format!(
                    "it needs {needed} MiB of memory to be decompressed ({}), and one path may have {most} \
                     MiB; set --memory to {} or more",
                    self.method,
                    2 * needed
                ),
            ));
        }
        self.have_memory()?;
        let input = Cursor::new(head).chain(input);
        let decoder = self.method.reader_within(input, needed);
        self.decoder = Some(decoder.map_err(io::Error::other)?);
        Ok(())
    }

    /// Waits for its memory, unless it has it.
    fn have_memory(&self) -> io::Result<()> {
        let attempt = &self.attempt;
        if self.bytes == 0 || attempt.note_moved() {
            return Ok(());
        }
        let taken = self.memory.wait(self.bytes, |has_moved| {
            // Its turn comes nearer.
            attempt.note_turn(has_moved);
            attempt.check_wanted()
        })?;
        attempt.hold(taken);
        Ok(())
    }
}

impl<R: Read + Send + 'static> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.input.take() {
            Some(input) => self.begin(input)?,
            None => self.have_memory()?,
        }
        match &mut self.decoder {
            Some(decoder) => decoder.read(out),
            None => Err(io::Error::other("the decoder was not set up")),
        }
    }
}

impl<R> Drop for Decoder<R> {
    fn drop(&mut self) {
        self.decoder = None;
        self.attempt.give_back();
    }
}
