//! Chunks in the database: written once, found by digest, read by number.

use super::database::{CHUNKS, DIGESTS, Database, META};
use super::write_batch::WriteBatch;
use super::{Hold, Store, StoreError, enter, lock};
use crate::chunk::{ChunkDigest, ChunkRecord, Encoder, RecordError};
use crate::tree::ChunkSink;
use bytes::Bytes;

/// After this many bytes of new chunks an ingest looks whether the disk is full.
const CHECK_ROOM_EVERY: u64 = 16 << 20;

/// Where a chunk is and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) number: u64,
    pub(super) raw_length: u32,
    pub(super) stored_length: u32,
}

impl Located {
    fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.number.to_le_bytes());
        out[8..12].copy_from_slice(&self.raw_length.to_le_bytes());
        out[12..].copy_from_slice(&self.stored_length.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk()?;
        let (raw, rest) = rest.split_first_chunk()?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            raw_length: u32::from_le_bytes(*raw),
            stored_length: u32::from_le_bytes(rest.try_into().ok()?),
        })
    }
}

/// The number after the last chunk that ever was, as far as chunks were deleted.
pub(super) const NEXT_CHUNK: &[u8] = b"next-chunk";

/// The number of the next new chunk: none is given twice, even where the last ones were deleted.
pub(super) fn next_number(database: &Database) -> Result<u64, StoreError> {
    let last = database.last_key(CHUNKS)?;
    let last = last.and_then(|k| Some(u64::from_be_bytes(k.as_slice().try_into().ok()?)));
    let noted = database.get(META, NEXT_CHUNK)?;
    let noted = noted.and_then(|v| Some(u64::from_le_bytes(v.as_ref().try_into().ok()?)));
    Ok(last.map_or(0, |n| n + 1).max(noted.unwrap_or(0)))
}

/// Why a chunk cannot be read, before it is known for which path.
pub(super) enum ChunkFault {
    Missing,
    Damaged(Option<RecordError>),
    Database(StoreError),
}

impl Store {
    pub(super) fn locate(&self, digest: &ChunkDigest) -> Result<Option<Located>, StoreError> {
        let Some(value) = self.database.get(DIGESTS, &digest.0)? else {
            return Ok(None);
        };
        let located = Located::decode(&value).ok_or_else(|| StoreError::Damaged {
            what: format!("the digest record of chunk {digest}"),
        })?;
        Ok(Some(located))
    }

    /// The masked bytes of chunk `number`, checked against `digest`; kept in memory.
    pub(super) fn chunk(&self, number: u64, digest: &ChunkDigest) -> Result<Bytes, ChunkFault> {
        self.chunk_cache
            .get_or_insert_with(digest, || self.read_chunk(number, digest))
    }

    /// The same from the database in any case.
    pub(super) fn read_chunk(
        &self,
        number: u64,
        digest: &ChunkDigest,
    ) -> Result<Bytes, ChunkFault> {
        let record = match self.database.get(CHUNKS, &number.to_be_bytes()) {
            Ok(record) => record.ok_or(ChunkFault::Missing)?,
            // RocksDB has checksums of its own, and mostly sees it first.
            Err(e) if e.is_corruption() => return Err(ChunkFault::Damaged(None)),
            Err(e) => return Err(ChunkFault::Database(e)),
        };
        let bytes = ChunkRecord::parse(&record)
            .and_then(|r| r.decode())
            .map_err(|e| ChunkFault::Damaged(Some(e)))?;
        if ChunkDigest::of(&bytes) != *digest {
            return Err(ChunkFault::Damaged(None));
        }
        Ok(bytes.into())
    }

    /// Has the next ingest of this chunk replace its record, which cannot be read.
    pub(super) fn mark_damaged(&self, digest: ChunkDigest) {
        lock(&self.damaged).insert(digest);
    }

    fn is_damaged(&self, digest: &ChunkDigest) -> bool {
        lock(&self.damaged).contains(digest)
    }

    /// Bytes of chunks that wait for the flush that a publication makes.
    pub fn unflushed(&self) -> u64 {
        lock(&self.writing).unflushed
    }

    /// Makes all chunks durable that were kept so far.
    ///
    /// # Errors
    /// The database failed.
    pub fn flush(&self) -> Result<(), StoreError> {
        let _flushing = lock(&self.flushing);
        // Whatever is counted is written: both happen under the lock. What is written while the
        // flush runs stays counted.
        let unflushed = self.unflushed();
        if unflushed > 0 {
            self.database.flush()?;
            lock(&self.writing).unflushed -= unflushed;
        }
        Ok(())
    }

    /// A sink for the chunks of one path.
    ///
    /// # Errors
    /// No memory for a compressor.
    pub fn chunk_writer(&self) -> Result<ChunkWriter<'_>, StoreError> {
        Ok(ChunkWriter {
            store: self,
            encoder: Encoder::new().map_err(StoreError::Compress)?,
            unchecked: CHECK_ROOM_EVERY,
            hold: Hold::new(self.held.clone()),
        })
    }
}

/// Keeps the chunks of one path, and holds them: none of them is deleted before the path is
/// published or given up.
#[derive(Debug)]
pub struct ChunkWriter<'s> {
    store: &'s Store,
    encoder: Encoder,
    /// Bytes written since the last look at the disk.
    unchecked: u64,
    hold: Hold,
}

impl ChunkWriter<'_> {
    /// What keeps the chunks from being deleted, for [`super::Publication::hold`].
    pub fn finish(self) -> Hold {
        self.hold
    }

    /// Holds the chunk if it is there and can be read.
    fn reuse(&mut self, digest: &ChunkDigest) -> Result<bool, StoreError> {
        let _gate = enter(&self.store.gate);
        let found = self.store.locate(digest)?;
        let found = found.filter(|_| !self.store.is_damaged(digest));
        if let Some(found) = found {
            self.hold.add(found.number);
        }
        Ok(found.is_some())
    }
}

impl ChunkSink for ChunkWriter<'_> {
    type Error = StoreError;

    fn put(&mut self, digest: ChunkDigest, chunk: &[u8]) -> Result<(), StoreError> {
        let store = self.store;
        if self.reuse(&digest)? {
            store.size.brought(chunk.len(), true);
            return Ok(());
        }
        if self.unchecked >= CHECK_ROOM_EVERY {
            store.directory.check_room(store.database.unwritten())?;
            self.unchecked = 0;
        }
        let record = self.encoder.encode(chunk).map_err(StoreError::Compress)?;
        self.unchecked += record.len() as u64;
        let _gate = enter(&store.gate);
        let mut writing = lock(&store.writing);
        // Another ingest may have brought it while this one compressed. A damaged record is
        // replaced where it is: trees know it by that number.
        let found = store.locate(&digest)?;
        let number = match found {
            None => writing.next_chunk,
            Some(found) if store.is_damaged(&digest) => found.number,
            Some(found) => {
                self.hold.add(found.number);
                store.size.brought(chunk.len(), true);
                return Ok(());
            }
        };
        let located = Located {
            number,
            raw_length: chunk.len() as u32,
            stored_length: record.len() as u32,
        };
        let mut batch = WriteBatch::default();
        let database = &store.database;
        batch.put(CHUNKS, located.number.to_be_bytes(), &record);
        batch.put(DIGESTS, digest.0, located.encode());
        database.write_unlogged(batch)?;
        let before = found.map_or(0, |f| i64::from(f.stored_length));
        store.size.grow_chunks(record.len() as i64 - before);
        if found.is_none() {
            store.size.grow_unique(1, chunk.len() as i64);
        }
        store.size.brought(chunk.len(), false);
        self.hold.add(number);
        lock(&store.damaged).remove(&digest);
        writing.next_chunk = writing.next_chunk.max(number + 1);
        writing.unflushed += record.len() as u64;
        Ok(())
    }
}
