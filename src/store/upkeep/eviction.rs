//! Dropping contents that can be fetched again, to keep a state within a size.
//!
//! What is dropped are the chunks of a tree; the tree itself, the path infos and the ordinals
//! stay, so that everything but reading goes on. The least recently used tree goes first; a tree
//! is as young as the youngest of its paths. A chunk goes with the last complete tree that names
//! it.
//!
//! # Why nothing is deleted that is needed
//!
//! Four things stand between a chunk and its deletion, and they are locks in this order:
//!
//! 1. `removing`: one removal (eviction or collection) at a time.
//! 2. `publishing`: a removal counts how often complete trees name each chunk, from a snapshot that it
//!    takes under this lock, and leaves a [`Removal`](crate::store::paths::Removal) behind the lock. A
//!    publication, under the same lock, adds to it what its trees name. So under the lock the counts are
//!    those of the database, although paths are published while a removal runs. The lock is held for one
//!    victim at a time; publications come in between. An eviction leaves both for the next one, which goes
//!    on with them: publications in between keep the counts right, and a collection begins anew.
//! 3. The deletion lock: shared to find, hold or write a chunk, held alone to delete chunks.
//! 4. Holds: what an ingest has been told it may use, or has written, is held from under
//!    the deletion lock on until its path is published or given up.
//!
//! A removal deletes a chunk in one batch with its digest and the numbers in the tree that named
//! it, under `publishing` and the deletion lock, if its count is 0 and no ingest holds it:
//!
//! - *put (chunk is there), then removal*: the put holds the chunk before it gives the deletion
//!   lock back under which it found it, so the removal sees the hold.
//! - *Removal, then put*: the put finds no digest, and writes the chunk under a new number.
//! - *put (chunk is new), then removal*: it is held under the same lock, as above. Two puts
//!   of one chunk exclude each other under `writing`; the later one finds it, and holds it.
//! - *Publication*: its chunks are held until it has returned, when the count has them: a chunk
//!   is never neither held nor counted. A publication of a tree that is there and complete
//!   relies on chunks that it need not hold; but it is the tree that is looked at under
//!   `publishing`, and the batch is written under the same lock, so that the tree stays complete
//!   until then. After that the removal knows the tree as just published, and leaves it alone.
//! - *put of a damaged chunk* replaces it under its number; it is held as well.
//! - *A chunk that is held when its last tree is dropped* stays, and is unreferenced if the
//!   ingest fails: the hold says so when it is given up, and the next removal looks for it.
//! - *Read*: nothing keeps a chunk from being deleted under a reader. It then finds what became of
//!   it in the tree record (see `reading.rs`).
//! - *Crash*: the batch is atomic and in the log, so that a tree is complete or dropped, and a
//!   digest never names a chunk that is not there. If the log loses the batch, the tree is complete
//!   again. Chunks are written without the log; where one is deleted that was never flushed, the
//!   batch deletes nothing. The batch notes the next chunk number, so that a restart gives none
//!   twice.
//!
//! The caches in memory: trees are taken out of theirs after each write of their record (see
//! `trees.rs`); chunks are named by their digest and are right whether they are on disk or not.

use std::collections::HashSet;

use super::Upkeep;
use super::candidates::{Candidate, Candidates};
use crate::chunk::ChunkDigest;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::error::StoreError;
use crate::store::paths::{InUse, RunningRemoval, Watch};
use crate::sync::lock;

/// What an eviction dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eviction {
    /// Paths whose contents are gone.
    pub paths: Vec<StorePath>,
    /// Bytes of stored records that this freed.
    pub bytes: u64,
}

/// Trees that are looked at together, at first and at most: the kernel forgets what it has of all of
/// them, so that they should not be many more than go.
const FIRST_BATCH: usize = 16;
const LARGEST_BATCH: usize = 1024;

/// An eviction that runs.
struct Evicting<'e> {
    to: u64,
    keep: &'e HashSet<StorePathHash>,
    in_use: InUse<'e>,
    watch: Option<&'e Watch<'e>>,
    /// Whether all that may be dropped was listed just now.
    has_all: bool,
    eviction: &'e mut Eviction,
    /// What is kept or in use now.
    left: &'e mut Vec<Candidate>,
    /// What was dropped, or cannot be.
    seen: &'e mut HashSet<ChunkDigest>,
}

impl Evicting<'_> {
    /// Drops candidates until there is room or none is left.
    fn drop_oldest(
        &mut self,
        upkeep: &Upkeep,
        running: &RunningRemoval<'_>,
        candidates: &mut Candidates,
    ) -> Result<(), StoreError> {
        let mut used_since = HashSet::new();
        let mut at_once = FIRST_BATCH;
        while upkeep.stored_bytes()? > self.to {
            let batch = candidates.take(&upkeep.paths, &mut used_since, self.has_all, at_once);
            at_once = (at_once * 4).min(LARGEST_BATCH);
            if batch.is_empty() {
                break;
            }
            let in_keep = |c: &Candidate| c.is_in(self.keep);
            let (kept, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(in_keep);
            self.left.extend(kept);
            let used = match self.watch {
                Some(watch) => {
                    let leaving = batch.iter().flat_map(Candidate::leaving);
                    watch.used(&leaving.collect::<Vec<_>>(), self.in_use)?
                }
                None => (self.in_use)()?,
            };
            for candidate in batch {
                if candidate.is_in(&used) || upkeep.stored_bytes()? <= self.to {
                    self.left.push(candidate);
                    continue;
                }
                self.seen.insert(candidate.tree);
                if let Some(freed) = upkeep.drop_tree(running, &candidate, self.watch)? {
                    self.eviction.bytes += freed;
                    let paths = candidate.paths.into_iter().map(|(path, _)| path);
                    self.eviction.paths.extend(paths);
                }
            }
        }
        if !self.has_all {
            self.seen.extend(used_since);
        }
        Ok(())
    }
}

impl Upkeep {
    /// Drops contents of paths that were fetched, the least recently used first, until the state stores
    /// at most `to` bytes ([`Upkeep::stored_bytes`]) or nothing more can be dropped. What is in `keep`
    /// stays, what is in use (`paths/kernel_caches.rs`), and what shares its tree. Chunks that no path
    /// has go first. A caller for which a fetch waits must not be `patient`: what `in_use` says is then
    /// all that counts as in use.
    ///
    /// Each tree is dropped whole or not at all. What was dropped stays so after a kill; a power loss
    /// may bring contents back, whole. The space comes back with [`Upkeep::reclaim`].
    ///
    /// # Errors
    /// The database failed or a record is damaged; what was dropped until then is.
    pub fn evict(
        &self,
        to: u64,
        keep: &HashSet<StorePathHash>,
        in_use: InUse<'_>,
        patient: bool,
    ) -> Result<Eviction, StoreError> {
        let mut eviction = Eviction::default();
        if self.stored_bytes()? <= to {
            return Ok(eviction);
        }
        let _room = self.records.give_back();
        // Before the lock: fetches wait for that, and lookups for fetches.
        let watch = patient.then(|| self.paths.watch());
        let mut known = lock(&self.removing);
        if self.stored_bytes()? <= to {
            return Ok(eviction);
        }
        self.paths.save_uses()?;
        let resumed = self.paths.resume_removal().zip(known.take());
        let mut is_resumed = resumed.is_some();
        let (mut running, mut candidates) = match resumed {
            Some(resumed) => resumed,
            None => self.begin_eviction(keep, &HashSet::new())?,
        };
        eviction.bytes += self.remove_unreferenced(&running, candidates.all_read)?;
        let (mut left, mut seen) = (Vec::new(), HashSet::new());
        loop {
            let has_all = !is_resumed && !candidates.is_cut;
            let mut evicting = Evicting {
                to,
                has_all,
                keep,
                in_use,
                watch: watch.as_ref(),
                eviction: &mut eviction,
                left: &mut left,
                seen: &mut seen,
            };
            evicting.drop_oldest(self, &running, &mut candidates)?;
            if self.stored_bytes()? <= to || has_all {
                break;
            }
            drop(running);
            if is_resumed {
                // What was known of them when they were listed may have changed.
                left.clear();
                seen.clear();
            }
            seen.extend(left.iter().map(|c: &Candidate| c.tree));
            (running, candidates) = self.begin_eviction(keep, &seen)?;
            is_resumed = false;
            if candidates.is_empty() {
                break;
            }
        }
        left.into_iter().for_each(|c| candidates.put_back(c));
        running.keep();
        *known = Some(candidates);
        Ok(eviction)
    }

    fn begin_eviction(
        &self,
        keep: &HashSet<StorePathHash>,
        but: &HashSet<ChunkDigest>,
    ) -> Result<(RunningRemoval<'_>, Candidates), StoreError> {
        let running = self.paths.begin_removal()?;
        let candidates = self.candidates(&running, keep, but)?;
        Ok((running, candidates))
    }

    /// Drops the chunks of a tree, unless it is to be left alone after all; then `None`. Returns the
    /// bytes that this freed.
    fn drop_tree(
        &self,
        running: &RunningRemoval<'_>,
        candidate: &Candidate,
        watch: Option<&Watch<'_>>,
    ) -> Result<Option<u64>, StoreError> {
        let digest = candidate.tree;
        let mut publishing = running.lock();
        let Some(removal) = publishing.as_mut() else {
            return Ok(None);
        };
        if removal.trees.contains(&digest) {
            return Ok(None);
        }
        let stored = match self.contents.read_tree(digest) {
            Ok(stored) => stored,
            Err(e) => {
                tracing::warn!("not dropped: {e}");
                return Ok(None);
            }
        };
        // Nothing would be gained where each of its chunks stays.
        let stays = |number: &u64| removal.uses.is_kept(*number);
        if stored.numbers.iter().all(stays) {
            return Ok(None);
        }
        let ordinals = candidate.paths.iter().map(|(_, ordinal)| *ordinal);
        let mut drop = || {
            let mut deletion = self.contents.begin_deletion();
            deletion.contents(&mut removal.uses, digest, &stored)?;
            deletion.commit()
        };
        let freed = match watch {
            Some(watch) => watch.unless_looked_up(ordinals, drop),
            None => Some(drop()),
        };
        freed.transpose()
    }
}
