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
//!    victim at a time; publications come in between.
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

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::Upkeep;
use super::unreferenced::KnownTrees;
use crate::chunk::ChunkDigest;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::error::StoreError;
use crate::store::paths::{
    InUse, Leaving, Listed, Origin, PathOrdinal, Paths, RunningRemoval, Watch,
};
use crate::store::records::Snapshot;
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

/// A tree that may be dropped.
struct Candidate {
    tree: ChunkDigest,
    paths: Vec<(StorePath, PathOrdinal)>,
    /// Of the youngest of its paths, in milliseconds since 1970.
    last_use: u64,
    /// Kept by the caller, or not to be had again.
    kept: bool,
}

impl Candidate {
    /// When the youngest of its paths was used last, in milliseconds since 1970; 0 if that is not known.
    fn last_use_in(&self, paths: &Paths) -> u64 {
        let each = self.paths.iter();
        let each = each.map(|(_, ordinal)| paths.last_use(*ordinal));
        each.max().unwrap_or(0)
    }

    fn leaving(&self) -> impl Iterator<Item = Leaving> {
        self.paths.iter().map(|(path, ordinal)| Leaving {
            hash: path.hash(),
            ordinal: *ordinal,
        })
    }
}

/// Trees that may be dropped, the least recently used first.
struct Oldest {
    heap: BinaryHeap<Reverse<(u64, ChunkDigest)>>,
    /// Those that were used since, for which others went first. Only once, so that this ends.
    put_back: HashSet<ChunkDigest>,
}

impl Oldest {
    /// The next `count` of them.
    fn take<'c>(
        &mut self,
        paths: &Paths,
        candidates: &'c HashMap<ChunkDigest, Candidate>,
        count: usize,
    ) -> Vec<&'c Candidate> {
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(Reverse((age, tree))) = self.heap.pop()
        {
            let Some(candidate) = candidates.get(&tree) else {
                continue;
            };
            let last_use = candidate.last_use_in(paths);
            if last_use > age && self.put_back.insert(tree) {
                self.heap.push(Reverse((last_use, tree)));
            } else {
                taken.push(candidate);
            }
        }
        taken
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
        let _one = lock(&self.removing);
        if self.stored_bytes()? <= to {
            return Ok(eviction);
        }
        self.paths.save_uses()?;
        let running = self.paths.begin_removal()?;
        let (mut candidates, and_others) = self.candidates(&running.snapshot, keep)?;
        let kept = |tree: &ChunkDigest| candidates.get(tree).is_none_or(|c: &Candidate| c.kept);
        let known = KnownTrees {
            trees: candidates.values().map(|c| (c.tree, c.kept)).collect(),
            and_others,
        };
        let all_read = self.count_uses(&running, known, kept)?;
        eviction.bytes += self.remove_unreferenced(&running, all_read)?;
        candidates.retain(|_, c| !c.kept);
        let ages = candidates.values().map(|c| Reverse((c.last_use, c.tree)));
        let mut oldest = Oldest {
            heap: ages.collect(),
            put_back: HashSet::new(),
        };
        let mut at_once = FIRST_BATCH;
        while self.stored_bytes()? > to {
            let batch = oldest.take(&self.paths, &candidates, at_once);
            at_once = (at_once * 4).min(LARGEST_BATCH);
            if batch.is_empty() {
                break;
            }
            let paths = batch.iter().flat_map(|c| c.leaving());
            let used = match &watch {
                Some(watch) => watch.used(&paths.collect::<Vec<_>>(), in_use)?,
                None => in_use()?,
            };
            for candidate in batch {
                if candidate
                    .paths
                    .iter()
                    .any(|(p, _)| used.contains(&p.hash()))
                {
                    continue;
                }
                if self.stored_bytes()? <= to {
                    break;
                }
                if let Some(freed) = self.drop_tree(&running, candidate, watch.as_ref())? {
                    eviction.bytes += freed;
                    let paths = candidate.paths.iter().map(|(path, _)| path.clone());
                    eviction.paths.extend(paths);
                }
            }
        }
        Ok(eviction)
    }

    /// All trees that paths have, with their paths; and whether there may be others, of paths that cannot
    /// be read.
    fn candidates(
        &self,
        snapshot: &Snapshot<'_>,
        keep: &HashSet<StorePathHash>,
    ) -> Result<(HashMap<ChunkDigest, Candidate>, bool), StoreError> {
        let mut candidates = HashMap::new();
        let (listed, nothing) = (Listed::Then(snapshot), &mut std::iter::empty());
        let unreadable = self.paths.scan_infos(&listed, nothing, &mut |info, _| {
            let Some(tree) = info.tree() else {
                return Ok(());
            };
            let candidate = candidates.entry(tree).or_insert(Candidate {
                tree,
                paths: Vec::new(),
                last_use: 0,
                kept: false,
            });
            let path = info.registration.path;
            candidate.kept |= info.origin == Origin::Added || keep.contains(&path.hash());
            candidate.paths.push((path, info.ordinal));
            // A path that was never used is as old as its registration.
            let age = self
                .paths
                .last_use(info.ordinal)
                .max(info.registered * 1000);
            candidate.last_use = candidate.last_use.max(age);
            Ok(())
        })?;
        Ok((candidates, !unreadable.is_empty()))
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
