//! What writers of chunks share.

use std::collections::HashMap;

use super::stored_tree::{Located, TreeRecord};
use crate::chunk::ChunkDigest;
use crate::store::error::StoreError;
use crate::store::records::{Batch, Durability, Family, Records};

/// The number after the last chunk that ever was, as far as chunks were deleted.
pub(super) const NEXT_CHUNK: &[u8] = b"next-chunk";
/// Numbers that are passed over where it cannot be read which was the last one.
const MARGIN: u64 = 1 << 20;

/// What writers of chunks share.
#[derive(Debug)]
pub(super) struct Writing {
    /// The number that the next new chunk gets: none is given twice, even where the last ones were
    /// deleted.
    pub(super) next_chunk: u64,
    /// Chunks that a crash would lose, by number.
    fresh: HashMap<u64, Fresh>,
    /// Bytes of their records.
    fresh_bytes: u64,
    /// Bytes of chunks that a crash would leave where they were.
    moved: u64,
    /// How many chunks were written so far.
    written: u64,
}

/// A chunk that a crash would lose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fresh {
    pub(super) digest: ChunkDigest,
    /// Bytes of its record.
    pub(super) length: u64,
    /// How many were written before it.
    at: u64,
}

/// What a flush that begins now makes durable.
pub(super) struct Flushing {
    written: u64,
    moved: u64,
}

impl Writing {
    pub(super) fn open(records: &Records) -> Result<Self, StoreError> {
        let last = match records.last_key(Family::Chunks) {
            Ok(last) => last.and_then(|k| Some(u64::from_be_bytes(k.as_slice().try_into().ok()?))),
            Err(e) if e.is_damage() => {
                tracing::error!("chunks of the state are damaged: {e}");
                Some(highest_named(records)? + MARGIN)
            }
            Err(e) => return Err(e),
        };
        let noted = match records.get(Family::Meta, NEXT_CHUNK) {
            Err(e) if e.is_damage() => {
                tracing::error!("which chunk number is next cannot be read: {e}");
                let last = last.unwrap_or(0).max(highest_named(records)?) + MARGIN;
                return Ok(Self::new(last));
            }
            noted => noted?,
        };
        let noted = noted.and_then(|v| Some(u64::from_le_bytes(v.as_ref().try_into().ok()?)));
        let next = last.map_or(0, |n| n + 1).max(noted.unwrap_or(0));
        Ok(Self::new(next))
    }

    fn new(next_chunk: u64) -> Self {
        Self {
            next_chunk,
            fresh: HashMap::new(),
            fresh_bytes: 0,
            moved: 0,
            written: 0,
        }
    }

    /// Bytes of chunks that wait for a flush.
    pub(super) fn unflushed(&self) -> u64 {
        self.fresh_bytes + self.moved
    }

    /// Notes a chunk that was written to memory.
    pub(super) fn note(&mut self, number: u64, digest: ChunkDigest, length: u64) {
        let at = self.written;
        self.written += 1;
        self.set_durable(number);
        self.fresh.insert(number, Fresh { digest, length, at });
        self.fresh_bytes += length;
    }

    /// Notes bytes that were written to memory and are on disk as well.
    pub(super) fn note_moved(&mut self, bytes: u64) {
        self.moved += bytes;
    }

    /// A chunk, if a crash would lose it.
    pub(super) fn fresh(&self, number: u64) -> Option<Fresh> {
        self.fresh.get(&number).copied()
    }

    /// Notes that a chunk survives a crash.
    pub(super) fn set_durable(&mut self, number: u64) {
        let fresh = self.fresh.remove(&number);
        self.fresh_bytes -= fresh.map_or(0, |fresh| fresh.length);
    }

    /// What a flush that begins now makes durable: what is written while it runs is not.
    pub(super) fn begin_flush(&self) -> Flushing {
        Flushing {
            written: self.written,
            moved: self.moved,
        }
    }

    pub(super) fn set_flushed(&mut self, flushing: &Flushing) {
        self.fresh.retain(|_, fresh| fresh.at >= flushing.written);
        self.fresh_bytes = self.fresh.values().map(|fresh| fresh.length).sum();
        self.moved -= flushing.moved;
    }
}

/// Notes which number the next new chunk gets, in a database that may lack chunks: none that a record names.
pub(in crate::store) fn note_next_chunk(records: &Records) -> Result<(), StoreError> {
    let last = records.last_key(Family::Chunks)?;
    let last = last.and_then(|key| Some(u64::from_be_bytes(key.as_slice().try_into().ok()?)));
    let next = last.unwrap_or(0).max(highest_named(records)?) + 1;
    let mut batch = Batch::default();
    batch.put(Family::Meta, NEXT_CHUNK, next.to_le_bytes());
    records.write(batch, Durability::Power, "the next chunk number was noted")
}

/// The highest chunk number in the records that can be read and name one.
pub(super) fn highest_named(records: &Records) -> Result<u64, StoreError> {
    let mut highest = 0;
    records.scan_readable(Family::Digests, &[], |_, record| {
        highest = highest.max(Located::decode(record).map_or(0, |l| l.number));
        Ok(true)
    })?;
    records.scan_readable(Family::Trees, &[], |_, record| {
        let numbers = TreeRecord::parse(record).map(|r| r.numbers().max());
        highest = highest.max(numbers.flatten().unwrap_or(0));
        Ok(true)
    })?;
    Ok(highest)
}
