//! Chunks in the database: written once, found by digest, read by number.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, sync_channel};

use bytes::Bytes;

use super::StoredContents;
use super::decoded::{Decoded, Frames};
use super::holds::Hold;
use super::stored_tree::Located;
use super::writing::NEXT_CHUNK;
use crate::chunk::{ChunkDigest, ChunkHash, ChunkRecord, Encoder, RecordError};
use crate::store::error::StoreError;
use crate::store::format::Feature;
use crate::store::records::{Batch, Durability, Family, Record};
use crate::sync::{lock, read};
use crate::tree::ChunkSink;

/// After this many bytes of new chunks an ingest looks whether the disk is full.
const CHECK_ROOM_EVERY: u64 = 16 << 20;
/// Bytes of chunks of one publication that go to the log, and with the next flush to a file as well. Of
/// more, to write them twice takes longer than the ten or so syncs of a flush.
const LOGGED: u64 = 1 << 20;

/// The number of chunks of one path that are compressed beside the rest of its work.
const BESIDE: usize = 4;

/// Why a chunk cannot be read, before it is known for which path.
pub(super) enum ChunkFault {
    Missing,
    Damaged(Option<RecordError>),
    Database(StoreError),
}

impl StoredContents {
    /// Where the chunk of a digest is. A record that cannot be read names none, and is replaced when the
    /// chunk comes again.
    pub(in crate::store) fn locate(
        &self,
        digest: &ChunkDigest,
    ) -> Result<Option<Located>, StoreError> {
        let located = match self.records.get(Family::Digests, &digest.0) {
            Ok(None) => return Ok(None),
            Ok(Some(value)) => Located::decode(&value),
            Err(e) if e.is_damage() => None,
            Err(e) => return Err(e),
        };
        if located.is_none() {
            tracing::warn!(
                "the digest record of chunk {digest} is damaged; the chunk is not found by it"
            );
        }
        Ok(located)
    }

    /// The masked bytes of chunk `number`, checked against `digest`; kept in memory.
    pub(super) fn chunk(&self, number: u64, digest: &ChunkDigest) -> Result<Bytes, ChunkFault> {
        let read = || {
            self.chunk_misses.fetch_add(1, Relaxed);
            self.read_chunk(number, digest).map(Decoded::Whole)
        };
        loop {
            if let Decoded::Whole(bytes) = self.chunk_cache.get_or_insert_with(digest, read)? {
                return Ok(bytes);
            }
            // Parts of it are there, which are of no use then.
            let is_in_part = |there: &Decoded| matches!(there, Decoded::Frames(_));
            self.chunk_cache.remove_if(digest, is_in_part);
        }
    }

    /// What memory has of chunk `number` once these bytes of it are there, checked against `digest`.
    pub(super) fn chunk_in_part(
        &self,
        number: u64,
        digest: &ChunkDigest,
        wanted: &Range<usize>,
    ) -> Result<Decoded, ChunkFault> {
        let there = self.chunk_cache.get(digest);
        let frames = match there {
            Some(there) if there.has(wanted) => return Ok(there),
            Some(Decoded::Frames(frames)) => Some(frames),
            _ => None,
        };
        self.chunk_misses.fetch_add(1, Relaxed);
        let record = self.chunk_record(number)?;
        let damaged = |e| ChunkFault::Damaged(Some(e));
        let record = ChunkRecord::parse(&record).map_err(damaged)?;
        let decoded = match record.frame_length() {
            None => Decoded::Whole(record.decode(digest).map_err(damaged)?.into()),
            Some(frame_length) => {
                let there = frames.filter(|there| there.frame_length() == frame_length);
                let mut frames = there.map_or_else(
                    || Frames::new(record.length(), frame_length),
                    |there| (*there).clone(),
                );
                frames.add(&record, digest, wanted).map_err(damaged)?;
                Decoded::Frames(frames.into())
            }
        };
        self.chunk_cache.insert(*digest, decoded.clone());
        Ok(decoded)
    }

    /// The bytes of chunk `number` from the database in any case.
    pub(super) fn read_chunk(
        &self,
        number: u64,
        digest: &ChunkDigest,
    ) -> Result<Bytes, ChunkFault> {
        let record = self.chunk_record(number)?;
        let bytes = ChunkRecord::parse(&record).and_then(|r| r.decode(digest));
        let bytes = bytes.map_err(|e| ChunkFault::Damaged(Some(e)))?;
        Ok(bytes.into())
    }

    fn chunk_record(&self, number: u64) -> Result<Record<'_>, ChunkFault> {
        match self.records.get(Family::Chunks, &number.to_be_bytes()) {
            Ok(record) => record.ok_or(ChunkFault::Missing),
            // RocksDB has checksums of its own, and mostly sees it first.
            Err(e) if e.is_damage() => Err(ChunkFault::Damaged(None)),
            Err(e) => Err(ChunkFault::Database(e)),
        }
    }

    /// Bytes of chunks that wait for the flush that a publication makes, and that a kill would lose.
    pub fn unflushed(&self) -> u64 {
        lock(&self.writing).unflushed()
    }

    /// Has all chunks that were kept so far survive a power loss. Without it a kill loses them, which is
    /// no damage: they are fetched again.
    ///
    /// # Errors
    /// The database failed, or the disk is full.
    pub fn flush(&self) -> Result<(), StoreError> {
        let _flushing = lock(&self.flushing);
        // Whatever is counted is written: both happen under the lock. What is written while the
        // flush runs stays counted.
        let flushing = {
            let writing = lock(&self.writing);
            (writing.unflushed() > 0).then(|| writing.begin_flush())
        };
        if let Some(flushing) = flushing {
            self.records.flush()?;
            lock(&self.writing).set_flushed(&flushing);
        }
        Ok(())
    }

    /// Has those of some chunks that a crash would lose survive a kill, and a power loss if the log is
    /// synced later: by a batch of [`Durability::Power`], or [`StoredContents::sync`]. Few are written to
    /// the log, more are flushed.
    pub(in crate::store) fn secure(
        &self,
        numbers: impl Iterator<Item = u64>,
    ) -> Result<(), StoreError> {
        match self.log(numbers)? {
            true => Ok(()),
            false => self.flush(),
        }
    }

    /// Has all that was written to the log survive a power loss.
    pub(in crate::store) fn sync(&self) -> Result<(), StoreError> {
        let next = lock(&self.writing).next_chunk.to_le_bytes();
        let mut batch = Batch::default();
        batch.put(Family::Meta, NEXT_CHUNK, next);
        let what = "the log was synced";
        self.records.write(batch, Durability::Power, what)
    }

    /// Writes those of some chunks to the log that a crash would lose; `false`, and nothing, if they are
    /// too large for that.
    fn log(&self, numbers: impl Iterator<Item = u64>) -> Result<bool, StoreError> {
        let _shared = read(&self.deleting);
        let mut writing = lock(&self.writing);
        let fresh = numbers.filter_map(|number| Some((number, writing.fresh(number)?)));
        let fresh: BTreeMap<_, _> = fresh.collect();
        if fresh.values().map(|fresh| fresh.length).sum::<u64>() > LOGGED {
            return Ok(false);
        }
        let mut batch = Batch::default();
        for (number, fresh) in &fresh {
            let (chunk, digest) = (number.to_be_bytes(), fresh.digest.0);
            let record = self.records.get(Family::Chunks, &chunk)?;
            let located = self.records.get(Family::Digests, &digest)?;
            if let Some((record, located)) = record.zip(located) {
                put_chunk(&mut batch, *number, &*record);
                batch.put(Family::Digests, digest, &*located);
            }
        }
        if !batch.is_empty() {
            let what = "chunks were written";
            self.records.write(batch, Durability::Process, what)?;
        }
        fresh.keys().for_each(|number| writing.set_durable(*number));
        Ok(true)
    }

    /// Writes a chunk anew as it is, to memory as a new one, if it is still there. A kill before the
    /// next flush leaves it where it was. Returns its length in bytes.
    pub(in crate::store) fn write_anew(&self, number: u64) -> Result<u64, StoreError> {
        let key = number.to_be_bytes();
        // The wait for the disk holds up no one else here.
        if self.records.get(Family::Chunks, &key)?.is_none() {
            return Ok(0);
        }
        let _shared = read(&self.deleting);
        let mut writing = lock(&self.writing);
        let Some(record) = self.records.get(Family::Chunks, &key)? else {
            return Ok(0);
        };
        let bytes = record.len() as u64;
        let mut batch = Batch::default();
        put_chunk(&mut batch, number, &*record);
        drop(record);
        self.records
            .write(batch, Durability::Flush, "a chunk was written")?;
        writing.note_moved(bytes);
        Ok(bytes)
    }

    /// A sink for the chunks of one path. A chunk is written to memory; a publication, or
    /// [`StoredContents::flush`], has it survive a kill and a power loss.
    ///
    /// # Errors
    /// No memory for a compressor.
    pub fn chunk_writer(&self) -> Result<ChunkWriter<'_>, StoreError> {
        Ok(ChunkWriter {
            contents: self,
            encoder: Encoder::new().map_err(StoreError::Compress)?,
            begun: false,
            compressed: VecDeque::new(),
            unchecked: CHECK_ROOM_EVERY,
            hold: Hold::new(self.held.clone()),
        })
    }
}

/// Writes the record of a chunk.
fn put_chunk(batch: &mut Batch, number: u64, record: impl Into<Vec<u8>>) {
    let record = record.into();
    if ChunkRecord::has_frames(&record) {
        batch.need(Feature::Frames);
    }
    batch.put(Family::Chunks, number.to_be_bytes(), record);
}

/// A chunk that another thread compresses.
#[derive(Debug)]
struct Compressed {
    digest: ChunkDigest,
    /// Its bytes before that.
    length: usize,
    record: Receiver<std::io::Result<Vec<u8>>>,
}

/// Keeps the chunks of one path, and holds them: none of them is deleted before the path is
/// published or given up.
#[derive(Debug)]
pub struct ChunkWriter<'c> {
    contents: &'c StoredContents,
    encoder: Encoder,
    /// Whether a chunk was compressed already.
    begun: bool,
    /// Chunks that others compress, in their order.
    compressed: VecDeque<Compressed>,
    /// Bytes written since the last look at the disk.
    unchecked: u64,
    hold: Hold,
}

impl ChunkWriter<'_> {
    /// What keeps the chunks from being deleted, for [`crate::store::Publication::hold`].
    ///
    /// # Errors
    /// Those of [`ChunkSink::put`], of chunks that were still compressed.
    pub fn finish(mut self) -> Result<Hold, StoreError> {
        while self.keep_next()? {}
        Ok(self.hold)
    }

    /// Has another thread compress a chunk, if one is free.
    fn compress_beside(&mut self, hash: &ChunkHash, chunk: &[u8]) -> bool {
        let (sender, record) = sync_channel(1);
        let (bytes, digest): (Box<[u8]>, _) = (chunk.into(), hash.digest);
        let hash = hash.clone();
        let compress = move || {
            thread_local! {
                static ENCODER: RefCell<Option<Encoder>> = const { RefCell::new(None) };
            }
            let record = ENCODER.with_borrow_mut(|slot| {
                let encoder = match slot {
                    Some(encoder) => encoder,
                    None => slot.insert(Encoder::new()?),
                };
                encoder.encode(&hash, &bytes)
            });
            // Whoever gave it up does not want it.
            let _ = sender.send(record);
        };
        let is_taken = self.contents.compressors.try_run(compress);
        if is_taken {
            self.compressed.push_back(Compressed {
                digest,
                length: chunk.len(),
                record,
            });
        }
        is_taken
    }

    /// Keeps the chunk that was given to another thread first; `false` if there is none.
    fn keep_next(&mut self) -> Result<bool, StoreError> {
        let Some(next) = self.compressed.pop_front() else {
            return Ok(false);
        };
        let ended = || {
            Err(std::io::Error::other(
                "the thread that compresses has ended",
            ))
        };
        let record = next.record.recv().unwrap_or_else(|_| ended());
        let record = record.map_err(StoreError::Compress)?;
        self.keep(next.digest, next.length, record)?;
        Ok(true)
    }

    /// Writes the record of a chunk of `raw_length` bytes, unless another ingest has, and holds the chunk.
    fn keep(
        &mut self,
        digest: ChunkDigest,
        raw_length: usize,
        record: Vec<u8>,
    ) -> Result<(), StoreError> {
        let contents = self.contents;
        if self.unchecked >= CHECK_ROOM_EVERY {
            contents.records.check_reserve()?;
            self.unchecked = 0;
        }
        self.unchecked += record.len() as u64;
        let _shared = read(&contents.deleting);
        let mut writing = lock(&contents.writing);
        // Another ingest may have written it while this one compressed. A damaged record is
        // replaced where it is: trees know it by that number.
        let found = contents.locate(&digest)?;
        let number = match found {
            None => writing.next_chunk,
            Some(found) if contents.damaged.contains(&digest) => found.number,
            Some(found) => {
                self.hold.add(found.number);
                contents.size.count_ingested(raw_length, true);
                return Ok(());
            }
        };
        let located = Located {
            number,
            raw_length: raw_length as u32,
            stored_length: record.len() as u32,
        };
        let mut batch = Batch::default();
        let length = record.len();
        put_chunk(&mut batch, number, record);
        batch.put(Family::Digests, digest.0, located.encode());
        contents
            .records
            .write(batch, Durability::Flush, "a chunk was written")?;
        let before = found.map_or(0, |f| i64::from(f.stored_length));
        contents.size.grow_chunks(length as i64 - before);
        if found.is_none() {
            contents.size.grow_unique(1, raw_length as i64);
        }
        contents.size.count_ingested(raw_length, false);
        self.hold.add(number);
        contents.damaged.remove(&digest);
        writing.next_chunk = writing.next_chunk.max(number + 1);
        writing.note(number, digest, length as u64);
        Ok(())
    }

    /// Holds the chunk if it is there and can be read.
    fn reuse(&mut self, digest: &ChunkDigest) -> Result<bool, StoreError> {
        let _shared = read(&self.contents.deleting);
        let found = self.contents.locate(digest)?;
        let found = found.filter(|_| !self.contents.damaged.contains(digest));
        if let Some(found) = found {
            self.hold.add(found.number);
        }
        Ok(found.is_some())
    }
}

impl ChunkSink for ChunkWriter<'_> {
    type Error = StoreError;

    fn put(&mut self, hash: ChunkHash, chunk: &[u8]) -> Result<(), StoreError> {
        let contents = self.contents;
        if self.reuse(&hash.digest)? {
            contents.size.count_ingested(chunk.len(), true);
            return Ok(());
        }
        // Most paths have one chunk, for which nobody else needs to be asked.
        if self.begun && self.compress_beside(&hash, chunk) {
            if self.compressed.len() > BESIDE {
                self.keep_next()?;
            }
            return Ok(());
        }
        self.begun = true;
        let record = self.encoder.encode(&hash, chunk);
        self.keep(
            hash.digest,
            chunk.len(),
            record.map_err(StoreError::Compress)?,
        )
    }
}
