//! Giving the space of deleted chunks back to the disk.
//!
//! Chunks lie in blob files, of which the database deletes those that nothing refers to any more.
//! So where something of a file is still needed, that has to be written anew first. All of it at
//! once would need as much room again as the state takes, and moving whatever is old, as RocksDB
//! would by itself, costs many times what it gains. Here it goes in steps:
//!
//! 1. Keys meet their deletions: a compaction of the whole family, which moves no blob. It rewrites
//!    some 30 bytes for each chunk, and the files of which nothing is left are deleted.
//! 2. The files are looked into (`blob_files.rs`): which chunks each has, and what of these is
//!    needed. A chunk that was moved is in several; what counts is the last one.
//! 3. From the files of which the least is needed, that is written anew as if it had just come,
//!    some megabytes at a time, and the keys meet those that they replace, until enough is given back.
//!
//! Invariant: when it ends, and nothing was deleted meanwhile, garbage is at most what [`Worth`] says, or it
//! is said in the log why not. It follows from the files themselves, so that neither a kill at any
//! moment nor what another version has left behind leaves garbage that is never found.
//!
//! A chunk is written anew under its number and as it is, while nothing can be deleted (the gate) and
//! nothing else is written. A crash before the next flush leaves it where it was: its old file goes
//! with a compaction, which comes after the flush.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::blob_files::{BlobFile, OVERHEAD};
use super::chunks::Located;
use super::database::{CHUNKS, DIGESTS, RECLAIMED};
use super::write_batch::WriteBatch;
use super::{Store, StoreError, enter, lock};

/// What garbage is worth moving something for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Worth {
    /// At least so many bytes of garbage …
    pub(super) least: u64,
    /// … and at least one of so many bytes, of all and of the file that is emptied.
    pub(super) part: u64,
}

impl Worth {
    /// What is dropped for a budget makes room for what comes next anyway.
    const EVICTED: Self = Self {
        least: 16 << 20,
        part: 5,
    };
    /// Who asks for a collection or an eviction wants the space.
    const ASKED: Self = Self {
        least: 1 << 20,
        part: 16,
    };

    fn is_given(self, garbage: u64, total: u64) -> bool {
        garbage >= self.least && garbage >= total / self.part
    }
}

/// So much is moved before what that frees is given back, or one of [`STEPS`] of all if that is
/// more: for a moment it is there twice.
const STEP: u64 = 32 << 20;
const STEPS: u64 = 64;

/// So often the files are looked into: what is moved makes a new file, of which something may be
/// deleted meanwhile.
const ROUNDS: u32 = 8;

/// What is known of blob files: ranges of the numbers of the chunks in each.
pub(super) type KnownFiles = BTreeMap<u64, Vec<Range<u64>>>;

/// A blob file, and what of it is needed.
struct Surveyed {
    file: BlobFile,
    /// Bytes of what is needed.
    live: u64,
    /// Numbers of chunks that are in no later file.
    last: Vec<Range<u64>>,
}

impl Surveyed {
    fn garbage(&self) -> u64 {
        self.file.size.saturating_sub(self.live)
    }
}

/// Which file a chunk is in: for the start of each range of numbers, its end and the file.
#[derive(Default)]
struct Owners(BTreeMap<u64, (u64, usize)>);

impl Owners {
    /// Notes what is in a file, as far as no file that was noted before has it.
    fn add(&mut self, range: &Range<u64>, file: usize) {
        let mut at = range.start;
        if let Some((_, (end, _))) = self.0.range(..=at).next_back() {
            at = at.max(*end);
        }
        while at < range.end {
            let next = self.0.range(at..range.end).next();
            let next = next.map(|(start, (end, _))| (*start, *end));
            let end = next.map_or(range.end, |(start, _)| start);
            if at < end {
                self.0.insert(at, (end, file));
            }
            at = next.map_or(range.end, |(_, end)| end);
        }
    }

    fn of(&self, number: u64) -> Option<usize> {
        let (_, (end, file)) = self.0.range(..=number).next_back()?;
        (number < *end).then_some(*file)
    }
}

/// A reclamation that runs.
struct Reclaiming<'s> {
    store: &'s Store,
    worth: Worth,
    stop: &'s AtomicBool,
    /// How often a file was emptied, and was there after that.
    emptied: HashMap<u64, u32>,
    /// Bytes that were written anew.
    moved: u64,
    /// Chunks that could not be read.
    damaged: u64,
    /// There was no room to move something.
    no_room: bool,
}

impl Reclaiming<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Moves what is needed of the files that have the most garbage, until there is little enough.
    fn run(&mut self, known: &mut KnownFiles) -> Result<(), StoreError> {
        for _ in 0..ROUNDS {
            let files = self.store.survey(known)?;
            let chosen = self.dirtiest(files);
            if chosen.is_empty() || self.is_stopped() {
                break;
            }
            self.empty(&chosen)?;
            let left: HashSet<_> = self.store.blob_numbers()?;
            let stay = chosen.iter().map(|f| f.file.number);
            for number in stay.filter(|n| left.contains(n)) {
                *self.emptied.entry(number).or_default() += 1;
            }
        }
        Ok(())
    }

    /// The files of which the most is garbage, until only half of what is worth it is left.
    fn dirtiest(&self, files: Vec<Surveyed>) -> Vec<Surveyed> {
        let all: u64 = files.iter().map(|f| f.file.size).sum();
        let mut garbage: u64 = files.iter().map(Surveyed::garbage).sum();
        if !self.worth.is_given(garbage, all) {
            return Vec::new();
        }
        let enough = (all / self.worth.part / 2).max(self.worth.least / 2);
        let is_worth = |f: &Surveyed| {
            let gone = f.garbage();
            gone > 0 && gone >= f.file.size / self.worth.part
        };
        let mut dirty: Vec<_> = files.into_iter().filter(is_worth).collect();
        // Once is enough, unless something keeps the file for a moment.
        dirty.retain(|f| self.emptied.get(&f.file.number).is_none_or(|n| *n < 2));
        dirty.sort_by_key(|f| f.live * 1000 / f.file.size.max(1));
        let mut chosen = Vec::new();
        for file in dirty {
            if garbage <= enough {
                break;
            }
            garbage = garbage.saturating_sub(file.garbage());
            chosen.push(file);
        }
        chosen
    }

    /// Moves what is needed of the chosen files, so much at a time that there is room for it.
    fn empty(&mut self, chosen: &[Surveyed]) -> Result<(), StoreError> {
        let all: u64 = chosen.iter().map(|f| f.file.size).sum();
        let step = STEP.max(all / STEPS);
        let mut waiting = 0;
        for file in chosen {
            if self.is_stopped() {
                break;
            }
            if waiting > 0 && waiting + file.live > step {
                self.give_back()?;
                waiting = 0;
            }
            // What waits is counted as not yet written.
            if self.store.database.free_to_write()? < file.live * 2 {
                self.no_room = true;
                continue;
            }
            for number in file.last.iter().cloned().flatten() {
                if self.is_stopped() {
                    break;
                }
                match self.store.write_anew(number) {
                    Ok(bytes) => {
                        self.moved += bytes;
                        waiting += bytes;
                    }
                    Err(e) if e.is_corruption() => {
                        tracing::warn!(number, "a damaged chunk is not moved: {e}");
                        self.damaged += 1;
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        self.give_back()
    }

    /// Has what was moved leave its old place.
    fn give_back(&self) -> Result<(), StoreError> {
        self.store.flush()?;
        self.store.merge_deletions()
    }

    /// Says why more is left than should be.
    fn explain(&self) -> Result<(), StoreError> {
        let (garbage, total) = self.store.garbage()?;
        if self.is_stopped() || !self.worth.is_given(garbage, total) {
            return Ok(());
        }
        let snapshots = self.store.database.snapshots()?;
        let (damaged, no_room) = (self.damaged, self.no_room);
        if damaged > 0 {
            tracing::warn!(
                garbage,
                damaged,
                "not all space comes back, because chunks are damaged; `narfs verify --repair` mends them"
            );
        } else if no_room {
            tracing::warn!(
                garbage,
                "not all space comes back, because the disk is too full to move what is still needed; \
                 make room, and collect again"
            );
        } else if snapshots > 0 {
            tracing::info!(
                garbage,
                "space comes back when what reads the state is done"
            );
        } else {
            // Something was deleted meanwhile, or is read at this moment.
            tracing::debug!(garbage, total, "garbage is left for the next time");
        }
        Ok(())
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

    /// Whether [`Store::reclaim`] has something to do.
    ///
    /// # Errors
    /// The database failed.
    pub fn is_worth_reclaiming(&self) -> Result<bool, StoreError> {
        let (garbage, total) = self.garbage()?;
        Ok(Worth::EVICTED.is_given(garbage, total))
    }

    /// Garbage and size of the files with chunks and their keys.
    fn garbage(&self) -> Result<(u64, u64), StoreError> {
        let of = |name| self.database.number_of(CHUNKS, name);
        let total = of("rocksdb.live-blob-file-size")? + of("rocksdb.live-sst-files-size")?;
        let needed = self.chunk_bytes()? + self.chunk_count()? * OVERHEAD;
        Ok((total.saturating_sub(needed), total))
    }

    /// Gives the space of deleted chunks back to the disk, if it is worth it: at least 16 MiB, and a
    /// fifth of all. May take long; ingests, readers and evictions go on meanwhile. Ends early when
    /// `stop` is set. Returns the bytes that were given back.
    ///
    /// # Errors
    /// The database failed, or the disk is full.
    pub fn reclaim(&self, stop: &AtomicBool) -> Result<u64, StoreError> {
        self.reclaim_worth(Worth::EVICTED, stop)
    }

    /// The same for who asks for it: also where it is 1 MiB or a sixteenth.
    ///
    /// # Errors
    /// The database failed, or the disk is full.
    pub fn reclaim_all(&self, stop: &AtomicBool) -> Result<u64, StoreError> {
        self.reclaim_worth(Worth::ASKED, stop)
    }

    /// The same with the space of metadata.
    ///
    /// # Errors
    /// The database failed, or the disk is full.
    pub fn reclaim_after_collection(&self, stop: &AtomicBool) -> Result<u64, StoreError> {
        self.database.compact_metadata()?;
        self.reclaim_all(stop)
    }

    pub(super) fn reclaim_worth(&self, worth: Worth, stop: &AtomicBool) -> Result<u64, StoreError> {
        let mut known = lock(&self.reclaiming);
        let (garbage, total) = self.garbage()?;
        if !worth.is_given(garbage, total) {
            return Ok(0);
        }
        let before = self.database.blob_files()?;
        self.forget_buckets()?;
        self.merge_deletions()?;
        let mut reclaiming = Reclaiming {
            store: self,
            worth,
            stop,
            emptied: HashMap::new(),
            moved: 0,
            damaged: 0,
            no_room: false,
        };
        reclaiming.run(&mut known)?;
        reclaiming.explain()?;
        let left = self.blob_numbers()?;
        let gone = before.iter().filter(|f| !left.contains(&f.number));
        let gone: u64 = gone.map(|f| f.size).sum();
        Ok(gone.saturating_sub(reclaiming.moved))
    }

    fn blob_numbers(&self) -> Result<HashSet<u64>, StoreError> {
        let files = self.database.blob_files()?;
        Ok(files.iter().map(|f| f.number).collect())
    }

    /// Earlier versions kept here what they thought to have moved.
    fn forget_buckets(&self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        self.database.scan(RECLAIMED, &[], |key, _| {
            batch.delete(RECLAIMED, key);
            Ok(true)
        })?;
        if batch.is_empty() {
            return Ok(());
        }
        self.database.write(batch, "space was reclaimed")
    }

    /// Looks into the blob files.
    fn survey(&self, known: &mut KnownFiles) -> Result<Vec<Surveyed>, StoreError> {
        let files = self.database.blob_files()?;
        let there: HashSet<_> = files.iter().map(|f| f.number).collect();
        known.retain(|number, _| there.contains(number));
        let mut surveyed = Vec::new();
        let mut owners = Owners::default();
        // The latest first.
        for file in files.into_iter().rev() {
            let numbers = match known.entry(file.number) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    let numbers = file.chunk_numbers();
                    let fail = self.database.directory_error("a file was read");
                    let Some(numbers) = numbers.map_err(fail)? else {
                        continue;
                    };
                    unknown.insert(numbers)
                }
            };
            for range in numbers.iter() {
                owners.add(range, surveyed.len());
            }
            surveyed.push(Surveyed {
                file,
                live: 0,
                last: Vec::new(),
            });
        }
        self.database.snapshot().scan(DIGESTS, &[], |_, value| {
            if let Some(chunk) = Located::decode(value)
                && let Some(file) = owners.of(chunk.number)
                && let Some(file) = surveyed.get_mut(file)
            {
                file.live += u64::from(chunk.stored_length) + OVERHEAD;
            }
            Ok(true)
        })?;
        for (start, (end, file)) in owners.0 {
            if let Some(file) = surveyed.get_mut(file) {
                file.last.push(start..end);
            }
        }
        Ok(surveyed)
    }

    /// Has keys meet their deletions, and what they replace, without moving a blob.
    fn merge_deletions(&self) -> Result<(), StoreError> {
        self.database.merge(CHUNKS, false)?;
        // What a snapshot kept until now lies where nothing has to be merged any more.
        let has_hidden = self.database.entries(CHUNKS)? > self.chunk_count()?;
        if has_hidden && self.database.snapshots()? == 0 {
            self.database.merge(CHUNKS, true)?;
        }
        Ok(())
    }

    /// Writes a chunk anew as it is, if it is still there. Returns its length.
    pub(super) fn write_anew(&self, number: u64) -> Result<u64, StoreError> {
        let key = number.to_be_bytes();
        // The disk is waited for while nobody else is held up.
        if self.database.get(CHUNKS, &key)?.is_none() {
            return Ok(0);
        }
        let _gate = enter(&self.gate);
        let mut writing = lock(&self.writing);
        let Some(record) = self.database.get(CHUNKS, &key)? else {
            return Ok(0);
        };
        let bytes = record.len() as u64;
        let mut batch = WriteBatch::default();
        batch.put(CHUNKS, key, &record);
        drop(record);
        self.database.write_unlogged(batch)?;
        writing.unflushed += bytes;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_in_the_last_file_that_has_it() {
        let mut owners = Owners::default();
        // The latest first.
        for (file, range) in [
            (0, 10..12),
            (0, 20..21),
            (1, 5..11),
            (1, 12..20),
            (2, 0..30),
            (3, 10..12),
            (3, 29..31),
        ] {
            owners.add(&range, file);
        }
        let of: Vec<_> = (0..32).map(|n| owners.of(n)).collect();
        let mut expected = vec![Some(2); 30];
        expected[5..10].fill(Some(1));
        expected[10..12].fill(Some(0));
        expected[12..20].fill(Some(1));
        expected[20] = Some(0);
        expected.extend([Some(3), None]);
        assert_eq!(of, expected);
    }
}
