//! Giving the space of deleted chunks back to the disk.
//!
//! Chunks lie in blob files, of which the database deletes those that nothing refers to any more.
//! So where something of a file is still needed, that has to be moved into another file first.
//! All of it at once would need as much room again as the state takes, and moving whatever is old,
//! as RocksDB would by itself, costs many times what it gains. Here it goes in steps:
//!
//! 1. Keys meet their deletions: a compaction of the whole family that moves no blob. It rewrites
//!    some 30 bytes for each chunk, and the files of which nothing is left are deleted.
//! 2. The files of keys that are left are disjoint. Those of which the most chunks are gone are
//!    compacted, a few neighbours at once, and their blobs are moved, until enough is given back.
//!    What that needs for a moment is the size of what is left in these few.
//!
//! Which deleted chunks still take room nobody can be asked. So it is written down for each
//! *bucket* of numbers, after it was compacted, how many chunks were left in it; before that, all
//! that ever were count as there.
//!
//! Measured with chunks that do not compress, the worst case. Of 3,000 MB (20,423 chunks) two
//! thirds are evicted, spread evenly: 3,047 MB on disk become 1,046 MB in 4 s, with 1,003 MB
//! written, and 3,247 MB at most on the way. While 6,000 MB pass through a state that is held at
//! 1,500 MB and of which a tenth is used again and again, 9,033 MB are written in all, and at most
//! 2,092 MB are taken. With RocksDB's own moving of the oldest quarter of the blob files at each
//! compaction, 1,400 MB through 200 MB wrote 8,524 MB; without it, 1,448 MB.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::{BottommostLevelCompaction, CompactOptions, WriteBatch};

use super::chunks::Located;
use super::database::{CHUNKS, DIGESTS, RECLAIMED};
use super::error::database;
use super::{Store, StoreError, lock};

/// Chunk numbers in one bucket. A file of keys has some 2,000, so that what the buckets at its
/// ends count wrongly is little.
const BUCKET: u64 = 128;
/// What garbage is worth moving something for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Worth {
    /// At least so many bytes of garbage …
    pub(super) least: u64,
    /// … and at least one of so many bytes.
    pub(super) part: u64,
    /// A file is compacted when at least one of so many of its chunks is gone.
    pub(super) file: u64,
}

impl Worth {
    /// What is dropped for a budget makes room for what comes next anyway.
    const EVICTED: Self = Self {
        least: 16 << 20,
        part: 4,
        file: 8,
    };
    /// Who asks for a collection wants the space.
    const COLLECTED: Self = Self {
        least: 1 << 20,
        part: 64,
        file: 16,
    };
}

/// Neighbours are compacted together up to this many bytes.
const RUN: u64 = 128 << 20;

/// How many of the blob files that a compaction meets it moves.
const AGE_CUTOFF: &str = "blob_garbage_collection_age_cutoff";
const MOVE_NONE: &str = "0.0";
const MOVE_ALL: &str = "1.0";

/// What is in one bucket.
#[derive(Clone, Copy, Default)]
struct Bucket {
    /// Chunks that are needed.
    live: u32,
    /// Bytes of their records.
    bytes: u64,
    /// When it was compacted last: chunks that were left …
    left: u32,
    /// … and numbers that were given.
    given: u32,
}

/// A file of keys, or several neighbours.
struct Run {
    numbers: RangeInclusive<u64>,
    /// Chunks that take room.
    there: u64,
    /// Of these, not needed.
    gone: u64,
    /// Bytes of records that are needed.
    bytes: u64,
}

/// All buckets from the first with a chunk on.
struct Buckets {
    next: u64,
    each: BTreeMap<u64, Bucket>,
}

impl Buckets {
    fn read(store: &Store) -> Result<Self, StoreError> {
        let next = lock(&store.writing).next_chunk;
        let snapshot = store.database.snapshot();
        let mut each = BTreeMap::<u64, Bucket>::new();
        snapshot.scan(DIGESTS, &[], |_, value| {
            if let Some(located) = Located::decode(value) {
                let bucket = each.entry(located.number / BUCKET).or_default();
                bucket.live += 1;
                bucket.bytes += u64::from(located.stored_length);
            }
            Ok(true)
        })?;
        let first = each.keys().next().copied().unwrap_or(next / BUCKET);
        for bucket in first..next.div_ceil(BUCKET) {
            each.entry(bucket).or_default();
        }
        snapshot.scan(RECLAIMED, &first.to_be_bytes(), |key, value| {
            if let Ok(bucket) = key.try_into()
                && let [l0, l1, l2, l3, g0, g1, g2, g3] = *value
            {
                let entry = each.entry(u64::from_be_bytes(bucket)).or_default();
                entry.left = u32::from_le_bytes([l0, l1, l2, l3]);
                entry.given = u32::from_le_bytes([g0, g1, g2, g3]);
            }
            Ok(true)
        })?;
        Ok(Self { next, each })
    }

    /// How many numbers of a bucket were given so far.
    fn given(&self, bucket: u64) -> u32 {
        (self.next.saturating_sub(bucket * BUCKET)).min(BUCKET) as u32
    }

    /// What lies in a range of numbers, as far as whole buckets tell.
    fn run(&self, numbers: RangeInclusive<u64>) -> Run {
        let mut run = Run {
            there: 0,
            gone: 0,
            bytes: 0,
            numbers: numbers.clone(),
        };
        let buckets = numbers.start() / BUCKET..=numbers.end() / BUCKET;
        for (bucket, b) in self.each.range(buckets) {
            let since = self.given(*bucket).saturating_sub(b.given);
            let there = u64::from(b.left) + u64::from(since);
            run.there += there;
            run.gone += there.saturating_sub(b.live.into());
            run.bytes += b.bytes;
        }
        run
    }

    /// The files of which the most is gone, until of the `garbage` among `total` bytes only half of
    /// what is worth it is left; in the order of their numbers, neighbours together.
    fn dirtiest(
        &self,
        files: Vec<RangeInclusive<u64>>,
        garbage: u64,
        total: u64,
        worth: Worth,
    ) -> Vec<Run> {
        let rest = total / worth.part / 2;
        let runs = files.into_iter().map(|f| self.run(f));
        let is_dirty = |r: &Run| r.gone > 0 && r.gone * worth.file >= r.there;
        let mut dirty: Vec<_> = runs.enumerate().filter(|(_, r)| is_dirty(r)).collect();
        dirty.sort_by_key(|(_, r)| Reverse(r.gone * 1000 / r.there));
        let gone: u64 = dirty.iter().map(|(_, r)| r.gone).sum();
        let each = garbage / gone.max(1);
        let mut left = garbage;
        let enough = dirty.iter().position(|(_, r)| {
            let enough = left <= rest;
            left = left.saturating_sub(r.gone * each);
            enough
        });
        dirty.truncate(enough.unwrap_or(dirty.len()));
        dirty.sort_by_key(|(index, _)| *index);
        let mut merged: Vec<(usize, Run)> = Vec::new();
        for (index, run) in dirty {
            match merged.last_mut() {
                Some((last, into)) if *last + 1 == index && into.bytes + run.bytes <= RUN => {
                    *last = index;
                    into.bytes += run.bytes;
                    into.numbers = *into.numbers.start()..=*run.numbers.end();
                }
                _ => merged.push((index, run)),
            }
        }
        merged.into_iter().map(|(_, run)| run).collect()
    }
}

impl Store {
    /// Bytes of files that hold no chunk any more, as far as is known.
    ///
    /// # Errors
    /// The database failed.
    pub fn reclaimable_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.garbage()?.0)
    }

    /// Garbage and size of the blob files.
    fn garbage(&self) -> Result<(u64, u64), StoreError> {
        let size = "rocksdb.live-blob-file-size";
        let total = self.database.number_of(CHUNKS, size)?;
        Ok((total.saturating_sub(self.chunk_bytes()?), total))
    }

    /// Gives the space of deleted chunks back to the disk, if it is worth it. May take long;
    /// ingests, readers and evictions go on meanwhile. Ends early when `stop` is set. Returns the
    /// bytes that were given back.
    ///
    /// # Errors
    /// The database failed.
    pub fn reclaim(&self, stop: &AtomicBool) -> Result<u64, StoreError> {
        self.reclaim_worth(Worth::EVICTED, stop)
    }

    /// The same after a collection: also where little is to be had, and with the metadata.
    ///
    /// # Errors
    /// The database failed.
    pub fn reclaim_after_collection(&self, stop: &AtomicBool) -> Result<u64, StoreError> {
        self.database.compact_metadata();
        self.reclaim_worth(Worth::COLLECTED, stop)
    }

    pub(super) fn reclaim_worth(&self, worth: Worth, stop: &AtomicBool) -> Result<u64, StoreError> {
        let _one = lock(&self.reclaiming);
        let is_worth = |garbage, total| garbage >= worth.least && garbage >= total / worth.part;
        let (garbage, before) = self.garbage()?;
        if !is_worth(garbage, before) {
            return Ok(0);
        }
        self.merge_deletions();
        let (garbage, total) = self.garbage()?;
        if is_worth(garbage, total) {
            let buckets = Buckets::read(self)?;
            let files = self.database.settled_files(CHUNKS)?;
            for run in buckets.dirtiest(files, garbage, total, worth) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                self.move_run(run, &buckets)?;
            }
        }
        Ok(before.saturating_sub(self.garbage()?.1))
    }

    /// Has keys meet their deletions, without moving a blob.
    fn merge_deletions(&self) {
        let family = self.database.family(CHUNKS);
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        let db = &self.database.db;
        db.compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options);
    }

    /// Moves what is needed of some files, and writes down how much that is.
    fn move_run(&self, run: Run, buckets: &Buckets) -> Result<(), StoreError> {
        // Deletions lie over all that there is, and a compaction takes in what they lie over.
        if self.database.has_deletions(CHUNKS)? {
            self.merge_deletions();
        }
        let (first, last) = run.numbers.into_inner();
        let family = self.database.family(CHUNKS);
        let db = &self.database.db;
        let set = |cutoff| {
            let set = db.set_options_cf(family, &[(AGE_CUTOFF, cutoff)]);
            set.map_err(database("space was reclaimed"))
        };
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        // Not `ForceOptimized`: that passes over files that are younger than itself, also those
        // that RocksDB has just rewritten by itself, when a snapshot went, without moving a blob.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        set(MOVE_ALL)?;
        let keys = (first.to_be_bytes(), last.to_be_bytes());
        let before = self.garbage()?.1;
        db.compact_range_cf_opt(family, Some(keys.0), Some(keys.1), &options);
        set(MOVE_NONE)?;
        if self.garbage()?.1 >= before {
            tracing::info!(
                first,
                last,
                "no space came back, which is tried again later"
            );
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        let family = self.database.family(RECLAIMED);
        // Whole buckets; of those at the ends, others may be left elsewhere.
        let whole = buckets.each.range(first.div_ceil(BUCKET)..);
        let end = last.saturating_add(1) / BUCKET;
        for (bucket, b) in whole.take_while(|(bucket, _)| **bucket < end) {
            let mut value = b.live.to_le_bytes().to_vec();
            value.extend_from_slice(&buckets.given(*bucket).to_le_bytes());
            batch.put_cf(family, bucket.to_be_bytes(), value);
        }
        if let Some(first) = buckets.each.keys().next() {
            batch.delete_range_cf(family, 0u64.to_be_bytes(), first.to_be_bytes());
        }
        self.database.write(batch, "space was reclaimed")
    }
}
