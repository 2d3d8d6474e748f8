//! Buffered output in chunks of a good size for the control socket.

use crate::command::Output;

/// Gathers small writes of a NAR into larger chunks.
pub(super) struct Chunked<'o> {
    output: &'o mut dyn Output,
    buffer: Vec<u8>,
}

impl<'o> Chunked<'o> {
    const FULL: usize = 256 << 10;

    pub(super) fn new(output: &'o mut dyn Output) -> Self {
        let buffer = Vec::with_capacity(Self::FULL);
        Self { output, buffer }
    }

    pub(super) fn finish(mut self) -> std::io::Result<()> {
        std::io::Write::flush(&mut self)
    }
}

impl std::io::Write for Chunked<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= Self::FULL {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.data(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
