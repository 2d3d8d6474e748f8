//! Bytes in a temporary file, written once and read in pieces.
//!
//! Invariant: what is read is what was written: each piece is checked against its digest when it comes
//! from the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use quick_cache::sync::Cache;

use super::format::TreeError;
use crate::chunk::ChunkDigest;

/// Length of a piece, in bytes. A directory of some hundred names is in three or four of them; to read,
/// decompress and check one takes some 30 µs.
pub(super) const PIECE: usize = 16 << 10;
/// Pieces that stay in memory: those that a search in a large directory begins with, and what a few
/// listings at the same time are at.
const IN_MEMORY: usize = 32;
/// Level of compression: what is written is read in the same process, and soon.
const LEVEL: i32 = 1;

/// Bytes in an unlinked temporary file.
pub(super) struct Pieces {
    file: File,
    places: Vec<Place>,
    /// Length of the file.
    written: u64,
    /// What is not a whole piece yet.
    pending: Vec<u8>,
    cache: Cache<usize, Bytes>,
    #[cfg(test)]
    reads: std::sync::atomic::AtomicU64,
}

/// A piece in the file.
struct Place {
    at: u64,
    stored: u32,
    /// Of the uncompressed bytes.
    digest: ChunkDigest,
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pieces({} in {} bytes)", self.places.len(), self.written)
    }
}

impl Pieces {
    /// None yet; the file is in `dir`.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile_in(dir)?,
            places: Vec::new(),
            written: 0,
            pending: Vec::with_capacity(PIECE),
            cache: Cache::new(IN_MEMORY),
            #[cfg(test)]
            reads: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// Memory used at most, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.places.len() * size_of::<Place>() + (IN_MEMORY + 1) * PIECE
    }

    /// Where the next bytes go.
    pub(super) fn end(&self) -> usize {
        self.places.len() * PIECE + self.pending.len()
    }

    /// Adds bytes behind those that are there.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = (PIECE - self.pending.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.pending.extend_from_slice(now);
            bytes = later;
            if self.pending.len() == PIECE {
                self.write()?;
            }
        }
        Ok(())
    }

    /// Has all that was added be there to be read; what is added later begins with a piece of its own.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.pending.resize(PIECE, 0);
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let packed = zstd::bulk::compress(&self.pending, LEVEL)?;
        self.file.write_all_at(&packed, self.written)?;
        self.places.push(Place {
            at: self.written,
            stored: packed.len() as u32,
            digest: ChunkDigest::of(&self.pending),
        });
        self.written += packed.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// A range of what was added and sealed.
    pub(super) fn read(&self, at: usize, length: usize) -> Result<Vec<u8>, TreeError> {
        let mut out = Vec::with_capacity(length);
        while out.len() < length {
            let from = at + out.len();
            let piece = self.piece(from / PIECE)?;
            let from = from % PIECE;
            let to = (from + length - out.len()).min(PIECE);
            out.extend_from_slice(&piece[from..to]);
        }
        Ok(out)
    }

    fn piece(&self, number: usize) -> Result<Bytes, TreeError> {
        let place = self.places.get(number);
        let place = place.ok_or(TreeError::Malformed("cut short"))?;
        self.cache.get_or_insert_with(&number, || {
            #[cfg(test)]
            self.reads
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut packed = vec![0; place.stored as usize];
            let read = self.file.read_exact_at(&mut packed, place.at);
            read.map_err(TreeError::File)?;
            let bytes = zstd::bulk::decompress(&packed, PIECE).map_err(|_| TreeError::Changed)?;
            if bytes.len() != PIECE || ChunkDigest::of(&bytes) != place.digest {
                return Err(TreeError::Changed);
            }
            Ok(bytes.into())
        })
    }

    /// How many pieces were read from the file.
    #[cfg(test)]
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Changes the file, as a disk may that fails.
    #[cfg(test)]
    pub(super) fn damage(&self) {
        self.cache.clear();
        let nothing = vec![0; self.written as usize];
        self.file.write_all_at(&nothing, 0).unwrap();
    }
}
