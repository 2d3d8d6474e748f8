//! Transfer of a response body from the tasks of the network to a blocking thread.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Bytes of a body, or the error that ends it.
pub(super) type Piece = io::Result<Bytes>;

/// The blocking reader of a body.
pub(super) struct Body {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
}

impl Body {
    pub(super) fn new(pieces: mpsc::Receiver<Piece>) -> Self {
        Self {
            pieces,
            current: Bytes::new(),
        }
    }
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let n = out.len().min(self.current.len());
        out[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}
