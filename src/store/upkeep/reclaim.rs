//! Giving the space of deleted chunks back to the disk.
//!
//! Chunks lie in blob files, of which the database deletes those that nothing refers to any more.
//! So where something of a file is still needed, that has to be written anew first. All of it at
//! once would need as much room again as the state takes, and moving whatever is old, as RocksDB
//! would by itself, costs many times what it gains. Here it goes in steps:
//!
//! 1. Keys meet their deletions: a compaction of the whole family, which moves no blob. It rewrites
//!    some 30 bytes for each chunk, and the files of which nothing is left are deleted.
//! 2. The files are looked into (`survey.rs`, `records/blob_files.rs`): which chunks each has, and what
//!    of these is needed. A chunk that was moved is in several; what counts is the last one.
//! 3. From the files of which the least is needed, that is written anew as if it had just come,
//!    some megabytes at a time, and the keys meet those that they replace, until enough is given back.
//!
//! Invariant: when it ends, and nothing was deleted meanwhile, garbage is at most what [`Worth`] says,
//! or it is said in the log why not. It follows from the files themselves, so that neither a kill at any
//! moment nor what another version has left behind leaves garbage that is never found.
//!
//! A chunk is written anew under its number and as it is, while nothing can be deleted and
//! nothing else is written. A crash before the next flush leaves it where it was: its old file goes
//! with a compaction, which comes after the flush.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Upkeep;
use super::survey::{KnownFiles, Surveyed, survey};
use crate::store::error::StoreError;
use crate::store::records::{Batch, Durability, Family, OVERHEAD};
use crate::sync::lock;

/// What garbage is worth moving something for.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Worth {
    /// Bytes of garbage, at least …
    pub(in crate::store) least: u64,
    /// … and the part that garbage is, at least: one byte of so many, of all files and of the one that
    /// is emptied.
    pub(in crate::store) part: u64,
}

impl Worth {
    /// What is dropped for a budget makes room for what comes next anyway.
    const EVICTED: Self = Self {
        least: 16 << 20,
        part: 5,
    };
    /// A user who asks for a collection or an eviction wants the space.
    const ASKED: Self = Self {
        least: 1 << 20,
        part: 16,
    };

    fn is_given(self, garbage: u64, total: u64) -> bool {
        garbage >= self.least && garbage >= total / self.part
    }
}

/// Bytes that are moved before what that frees is given back, or one of [`STEPS`] of all if that is
/// more: for a moment they are there twice.
const STEP: u64 = 32 << 20;
const STEPS: u64 = 64;

/// Times that the files are looked into at most: what is moved makes a new file, of which something may
/// be deleted meanwhile.
const ROUNDS: u32 = 8;
/// Families besides that of chunks from which much is deleted.
const METADATA: [Family; 5] = [
    Family::Trees,
    Family::Paths,
    Family::Ordinals,
    Family::Digests,
    Family::Uses,
];

/// A reclamation that runs.
struct Reclaiming<'s> {
    upkeep: &'s Upkeep,
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
            let files = survey(&self.upkeep.records, known)?;
            let chosen = self.dirtiest(files);
            if chosen.is_empty() || self.is_stopped() {
                break;
            }
            self.empty(&chosen)?;
            let left: HashSet<_> = self.upkeep.blob_numbers()?;
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

    /// Moves what is needed of the chosen files, in steps for which there is room.
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
            if self.upkeep.records.free_to_write()? < file.live * 2 {
                self.no_room = true;
                continue;
            }
            for number in file.last.iter().cloned().flatten() {
                if self.is_stopped() {
                    break;
                }
                match self.upkeep.contents.write_anew(number) {
                    Ok(bytes) => {
                        self.moved += bytes;
                        waiting += bytes;
                    }
                    Err(e) if e.is_damage() => {
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
        self.upkeep.contents.flush()?;
        self.upkeep.merge_deletions()
    }

    /// Says why more is left than should be.
    fn explain(&self) -> Result<(), StoreError> {
        let (garbage, total) = self.upkeep.garbage()?;
        if self.is_stopped() || !self.worth.is_given(garbage, total) {
            return Ok(());
        }
        let snapshots = self.upkeep.records.snapshots()?;
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

impl Upkeep {
    /// Bytes of the chunks' files that are not needed any more, as far as is known.
    ///
    /// # Errors
    /// The database failed.
    pub fn reclaimable_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.garbage()?.0)
    }

    /// Whether [`Upkeep::reclaim`] has something to do.
    ///
    /// # Errors
    /// The database failed.
    pub fn is_worth_reclaiming(&self) -> Result<bool, StoreError> {
        let (garbage, total) = self.garbage()?;
        Ok(Worth::EVICTED.is_given(garbage, total))
    }

    /// Garbage and size of the files with chunks and their keys.
    fn garbage(&self) -> Result<(u64, u64), StoreError> {
        let total = self.records.file_bytes(Family::Chunks)?;
        let needed = self.chunk_bytes()? + self.chunk_count()? * OVERHEAD;
        Ok((total.saturating_sub(needed), total))
    }

    /// Gives the space of deleted chunks back to the disk, if it is worth it: at least 16 MiB, and a
    /// fifth of all. May take long; ingests, readers and evictions go on meanwhile. Ends early when
    /// `stop` is set. A kill or a power loss at any moment loses no record; the rest of the space comes
    /// back the next time. Returns the bytes that were given back.
    ///
    /// # Errors
    /// The database failed, or the disk is full.
    pub fn reclaim(&self, stop: &AtomicBool) -> Result<u64, StoreError> {
        self.reclaim_worth(Worth::EVICTED, stop)
    }

    /// As [`Upkeep::reclaim`], where a user asks for it: also where it is only 1 MiB or a sixteenth.
    ///
    /// # Errors
    /// The database failed, or the disk is full.
    pub fn reclaim_all(&self, stop: &AtomicBool) -> Result<u64, StoreError> {
        self.reclaim_worth(Worth::ASKED, stop)
    }

    /// As [`Upkeep::reclaim_all`], with the space of metadata.
    ///
    /// # Errors
    /// The database failed, or the disk is full.
    pub fn reclaim_after_collection(&self, stop: &AtomicBool) -> Result<u64, StoreError> {
        let _room = self.records.give_back();
        for family in METADATA {
            self.records.merge(family, false)?;
        }
        self.reclaim_all(stop)
    }

    pub(in crate::store) fn reclaim_worth(
        &self,
        worth: Worth,
        stop: &AtomicBool,
    ) -> Result<u64, StoreError> {
        let mut known = lock(&self.reclaiming);
        let (garbage, total) = self.garbage()?;
        if !worth.is_given(garbage, total) {
            return Ok(0);
        }
        let _room = self.records.give_back();
        let before = self.records.blob_files()?;
        self.forget_buckets()?;
        self.merge_deletions()?;
        let mut reclaiming = Reclaiming {
            upkeep: self,
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
        let files = self.records.blob_files()?;
        Ok(files.iter().map(|f| f.number).collect())
    }

    /// Earlier versions kept here what they thought to have moved.
    fn forget_buckets(&self) -> Result<(), StoreError> {
        if self.records.first_key(Family::Reclaimed)?.is_none() {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.clear(Family::Reclaimed);
        self.records
            .write(batch, Durability::Process, "space was reclaimed")
    }

    /// Has keys meet their deletions, and what they replace, without moving a blob.
    fn merge_deletions(&self) -> Result<(), StoreError> {
        self.records.merge(Family::Chunks, false)?;
        // What a snapshot kept until now lies where nothing has to be merged any more.
        let has_hidden = self.records.file_records(Family::Chunks)? > self.chunk_count()?;
        if has_hidden && self.records.snapshots()? == 0 {
            self.records.merge(Family::Chunks, true)?;
        }
        Ok(())
    }
}
