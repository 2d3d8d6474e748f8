//! Dropping contents that can be fetched again, to keep a state within a size.
//!
//! What is dropped are the chunks of a tree; the tree itself, the path infos and the ordinals
//! stay, so that everything but reading goes on. The least recently used tree goes first; a tree
//! is as young as the youngest of its paths. A chunk goes with the last complete tree that names
//! it.
//!
//! # Why nothing is deleted that somebody needs
//!
//! Four things stand between a chunk and its deletion, and they are locks in this order:
//!
//! 1. `removing`: one removal (eviction or collection) at a time.
//! 2. `publishing`: a removal counts how often complete trees name each chunk, from a snapshot
//!    that it takes under this lock, and leaves a [`Removal`] behind the lock. Whoever publishes,
//!    under the same lock, adds to it what its trees name. So under the lock the counts are those
//!    of the database, although paths are published while a removal runs. The lock is held for
//!    one victim at a time; publications come in between.
//! 3. The gate, entered by whoever finds, holds or writes a chunk, and shut while chunks are
//!    deleted.
//! 4. Holds: what an ingest has been told it may use, or has written, is held from inside the
//!    gate until its path is published or given up.
//!
//! A removal deletes a chunk in one batch with its digest and the numbers in the tree that named
//! it, under `publishing` and with the gate shut, if its count is 0 and nobody holds it:
//!
//! - *put (chunk is there), then removal*: the put holds the chunk in the same entry of the gate
//!   in which it found it, so the removal sees the hold.
//! - *Removal, then put*: the put finds no digest, and writes the chunk under a new number.
//! - *put (chunk is new), then removal*: it is held before the gate is left, as above. Two puts
//!   of one chunk exclude each other under `writing`; the later one finds it, and holds it.
//! - *Publication*: its chunks are held until it has returned, when the count has them: a chunk
//!   is never neither held nor counted. A publication of a tree that is there and complete
//!   relies on chunks that it need not hold; but it is the tree that is looked at under
//!   `publishing`, and the batch is written under the same lock, so that the tree stays complete
//!   until then. After that the removal knows the tree as just published, and leaves it alone.
//! - *put of a damaged chunk* replaces it under its number; it is held as well.
//! - *A chunk that is held when its last tree is dropped* stays, and is litter if the ingest
//!   fails: the hold says so when it is given up, and the next eviction looks for it.
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

use super::chunks::{Located, NEXT_CHUNK};
use super::database::{CHUNKS, DIGESTS, Database, META, PATHS, Snapshot, TREES};
use super::kernel_caches::{InUse, Leaving, Watch};
use super::trees::{StoredTree, TreeRecord};
use super::write_batch::WriteBatch;
use super::{Origin, PathInfo, PathOrdinal, Store, StoreError, lock, shut};
use crate::chunk::ChunkDigest;
use crate::nix::store_path::{StorePath, StorePathHash};

/// Chunks that no tree names are deleted so many at once: the gate is shut meanwhile.
const LITTER_BATCH: usize = 1000;

/// What an eviction dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eviction {
    /// Paths whose contents are gone.
    pub paths: Vec<StorePath>,
    /// Bytes of stored records that this freed.
    pub bytes: u64,
}

/// How often complete trees name each chunk.
pub(super) struct ChunkUses {
    /// The lowest number of a chunk that is there; what is lower is not judged.
    first: u64,
    /// From `first` on.
    counts: Vec<u32>,
}

/// Trees that are looked at together, at first and at most: the kernel forgets what it has of all of
/// them, so that they should not be many more than go.
const FIRST_BATCH: usize = 16;
const LARGEST_BATCH: usize = 1024;

/// Set in the count of a chunk that a kept tree names.
const KEPT: u32 = 1 << 31;

impl ChunkUses {
    /// None yet, of the chunks that are there now and will be.
    pub(super) fn new(database: &Database) -> Result<Self, StoreError> {
        let first = database.first_key(CHUNKS)?;
        let first = first.and_then(|k| Some(u64::from_be_bytes(k.as_slice().try_into().ok()?)));
        Ok(Self {
            first: first.unwrap_or(0),
            counts: Vec::new(),
        })
    }

    fn slot(&mut self, number: u64) -> Option<&mut u32> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts.get_mut(at)
    }

    fn get(&self, number: u64) -> Option<u32> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        Some(self.counts.get(at).copied().unwrap_or(0))
    }

    pub(super) fn add(&mut self, number: u64, kept: bool) {
        if let Some(count) = self.slot(number) {
            *count += 1;
            *count |= if kept { KEPT } else { 0 };
        }
    }

    pub(super) fn remove(&mut self, number: u64) {
        if let Some(count) = self.slot(number) {
            *count = (*count & KEPT) | (*count & !KEPT).saturating_sub(1);
        }
    }

    /// Whether some complete tree names the chunk.
    pub(super) fn is_used(&self, number: u64) -> bool {
        self.get(number).is_none_or(|count| count & !KEPT > 0)
    }

    fn is_kept(&self, number: u64) -> bool {
        self.get(number).is_none_or(|count| count & KEPT != 0)
    }
}

/// What a running removal knows, kept up to date by publications.
pub(super) struct Removal {
    pub(super) uses: ChunkUses,
    /// Trees that were published since it began.
    pub(super) trees: HashSet<ChunkDigest>,
}

impl Removal {
    /// Called under `publishing`, after the batch is written.
    pub(super) fn published(
        &mut self,
        trees: &HashSet<ChunkDigest>,
        completed: &[(ChunkDigest, Vec<u64>)],
    ) {
        self.trees.extend(trees);
        for number in completed.iter().flat_map(|(_, numbers)| numbers) {
            self.uses.add(*number, false);
        }
    }
}

/// Takes the [`Removal`] away when a removal ends, however it does.
pub(super) struct Running<'s> {
    store: &'s Store,
    pub(super) snapshot: Snapshot<'s>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *lock(&self.store.publishing) = None;
    }
}

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
        store: &Store,
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
            let last_use = store.last_use(&candidate.paths);
            if last_use > age && self.put_back.insert(tree) {
                self.heap.push(Reverse((last_use, tree)));
            } else {
                taken.push(candidate);
            }
        }
        taken
    }
}

/// Chunks that are about to be deleted. Made with the gate shut.
#[derive(Default)]
pub(super) struct Deletion {
    pub(super) writes: WriteBatch,
    /// Bytes of records of trees and path infos that it frees.
    pub(super) freed: u64,
    /// The same of chunks.
    pub(super) freed_chunks: u64,
    /// How many chunks these are, and how long uncompressed.
    pub(super) freed_unique: (u64, u64),
}

impl Store {
    /// Drops contents of paths that were fetched, the least recently used first, until the state
    /// stores at most `to` bytes ([`Store::stored_bytes`]) or nothing more can be dropped. What is
    /// in `keep` stays, what is in use (`kernel_caches.rs`), and what shares its tree. Chunks that no path
    /// has go first. Only who is not waited for by a fetch may be `patient`; another one takes what
    /// `in_use` says for all that is in use.
    ///
    /// The space comes back with [`Store::reclaim`].
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
        // Before the lock: fetches wait for that, and lookups for fetches.
        let watch = patient.then(|| Watch::begin(self));
        let _one = lock(&self.removing);
        if self.stored_bytes()? <= to {
            return Ok(eviction);
        }
        self.save_uses()?;
        let running = self.begin_removal()?;
        let mut candidates = self.candidates(&running.snapshot, keep)?;
        let kept = |tree: &ChunkDigest| candidates.get(tree).is_none_or(|c: &Candidate| c.kept);
        let all_read = self.count_uses(&running.snapshot, kept)?;
        eviction.bytes += self.remove_litter(all_read)?;
        candidates.retain(|_, c| !c.kept);
        let ages = candidates.values().map(|c| Reverse((c.last_use, c.tree)));
        let mut oldest = Oldest {
            heap: ages.collect(),
            put_back: HashSet::new(),
        };
        let mut at_once = FIRST_BATCH;
        while self.stored_bytes()? > to {
            let batch = oldest.take(self, &candidates, at_once);
            at_once = (at_once * 4).min(LARGEST_BATCH);
            if batch.is_empty() {
                break;
            }
            let paths = batch.iter().flat_map(|c| c.leaving());
            let used = match &watch {
                Some(watch) => watch.used(self, &paths.collect::<Vec<_>>(), in_use)?,
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
                if let Some(freed) = self.drop_tree(candidate, watch.as_ref())? {
                    eviction.bytes += freed;
                    let paths = candidate.paths.iter().map(|(path, _)| path.clone());
                    eviction.paths.extend(paths);
                }
            }
        }
        Ok(eviction)
    }

    /// From now on publications tell what they add.
    pub(super) fn begin_removal(&self) -> Result<Running<'_>, StoreError> {
        let mut publishing = lock(&self.publishing);
        *publishing = Some(Removal {
            uses: ChunkUses::new(&self.database)?,
            trees: HashSet::new(),
        });
        Ok(Running {
            store: self,
            snapshot: self.database.snapshot(),
        })
    }

    /// All trees that paths have, with their paths.
    fn candidates(
        &self,
        snapshot: &Snapshot<'_>,
        keep: &HashSet<StorePathHash>,
    ) -> Result<HashMap<ChunkDigest, Candidate>, StoreError> {
        let mut candidates = HashMap::new();
        snapshot.scan(PATHS, &[], |key, record| {
            let info = self.scanned_info(key, record)?;
            let Some(tree) = info.tree() else {
                return Ok(true);
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
            let age = self.uses.last(info.ordinal).max(info.registered * 1000);
            candidate.last_use = candidate.last_use.max(age);
            Ok(true)
        })?;
        Ok(candidates)
    }

    pub(super) fn scanned_info(&self, key: &[u8], record: &[u8]) -> Result<PathInfo, StoreError> {
        let hash = key.try_into().map(StorePathHash::from_bytes);
        let hash = hash.map_err(|_| StoreError::Damaged {
            what: "the key of a path info".into(),
        })?;
        PathInfo::decode(hash, record)
    }

    fn last_use(&self, paths: &[(StorePath, PathOrdinal)]) -> u64 {
        let each = paths.iter().map(|(_, ordinal)| self.uses.last(*ordinal));
        each.max().unwrap_or(0)
    }

    /// Counts what all trees of the snapshot name. Returns whether all of them could be read.
    pub(super) fn count_uses(
        &self,
        snapshot: &Snapshot<'_>,
        kept: impl Fn(&ChunkDigest) -> bool,
    ) -> Result<bool, StoreError> {
        let mut all_read = true;
        snapshot.scan(TREES, &[], |key, record| {
            let tree = key.try_into().map(ChunkDigest);
            let (Ok(tree), Some(record)) = (tree, TreeRecord::parse(record)) else {
                all_read = false;
                return Ok(true);
            };
            let kept = kept(&tree);
            if let Some(removal) = lock(&self.publishing).as_mut() {
                for number in record.numbers() {
                    removal.uses.add(number, kept);
                }
            }
            Ok(true)
        })?;
        Ok(all_read)
    }

    /// Deletes the chunks that no tree names and nobody holds, if there may be any. Returns the
    /// bytes that this freed.
    pub(super) fn remove_litter(&self, all_read: bool) -> Result<u64, StoreError> {
        if !self.held.take_litter() {
            return Ok(0);
        }
        let removed = match all_read {
            true => self.remove_unused(),
            // What a tree that cannot be read names is not known.
            false => Ok(0),
        };
        if removed.is_err() || !all_read {
            self.held.note_litter();
        }
        removed
    }

    fn remove_unused(&self) -> Result<u64, StoreError> {
        let mut unused = Vec::new();
        let snapshot = self.database.snapshot();
        snapshot.scan(DIGESTS, &[], |key, record| {
            let digest = key.try_into().map(ChunkDigest);
            if let (Ok(digest), Some(located)) = (digest, Located::decode(record)) {
                let publishing = lock(&self.publishing);
                let uses = publishing.as_ref().map(|r| &r.uses);
                if uses.is_some_and(|u| !u.is_used(located.number)) {
                    unused.push((digest, located.number));
                }
            }
            Ok(true)
        })?;
        let mut freed = 0;
        for some in unused.chunks(LITTER_BATCH) {
            let publishing = lock(&self.publishing);
            let Some(removal) = publishing.as_ref() else {
                break;
            };
            let _shut = shut(&self.gate);
            let mut deletion = Deletion::default();
            for (digest, number) in some {
                self.delete_chunk(&mut deletion, &removal.uses, digest, *number)?;
            }
            freed += self.delete(deletion)?;
        }
        Ok(freed)
    }

    /// Drops the chunks of a tree, unless it is to be left alone after all; then `None`. Returns the
    /// bytes that this freed.
    fn drop_tree(
        &self,
        candidate: &Candidate,
        watch: Option<&Watch>,
    ) -> Result<Option<u64>, StoreError> {
        let digest = candidate.tree;
        let mut publishing = lock(&self.publishing);
        let Some(removal) = publishing.as_mut() else {
            return Ok(None);
        };
        if removal.trees.contains(&digest) {
            return Ok(None);
        }
        let stored = match self.read_tree(digest) {
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
            for number in &stored.numbers {
                removal.uses.remove(*number);
            }
            self.delete_contents(&removal.uses, digest, &stored)
        };
        let freed = match watch {
            Some(watch) => watch.unless_looked_up(self, ordinals, drop),
            None => Some(drop()),
        };
        freed.transpose()
    }

    /// Deletes what nobody else needs of the chunks of a tree, and has it say that it was dropped.
    fn delete_contents(
        &self,
        uses: &ChunkUses,
        digest: ChunkDigest,
        stored: &StoredTree,
    ) -> Result<u64, StoreError> {
        let _shut = shut(&self.gate);
        let mut deletion = Deletion::default();
        self.delete_chunks(&mut deletion, uses, stored)?;
        if let Some(record) = self.database.get(TREES, &digest.0)?
            && let Some(parsed) = TreeRecord::parse(&record)
        {
            let dropped = parsed.dropped();
            deletion.freed += (record.len() - dropped.len()) as u64;
            deletion.writes.put(TREES, digest.0, dropped);
        }
        let freed = self.delete(deletion)?;
        self.tree_cache.remove(&digest);
        Ok(freed)
    }

    /// Adds to a deletion what nobody needs of the chunks of a tree.
    pub(super) fn delete_chunks(
        &self,
        deletion: &mut Deletion,
        uses: &ChunkUses,
        stored: &StoredTree,
    ) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        for (entry, number) in stored.tree.chunks().zip(&stored.numbers) {
            if seen.insert(*number) {
                self.delete_chunk(deletion, uses, &entry.digest, *number)?;
            }
        }
        Ok(())
    }

    fn delete_chunk(
        &self,
        deletion: &mut Deletion,
        uses: &ChunkUses,
        digest: &ChunkDigest,
        number: u64,
    ) -> Result<(), StoreError> {
        if uses.is_used(number) || self.held.contains(number) {
            return Ok(());
        }
        deletion.writes.delete(CHUNKS, number.to_be_bytes());
        // After damage the digest may name a chunk that was written anew.
        if let Some(located) = self.locate(digest)?.filter(|l| l.number == number) {
            deletion.writes.delete(DIGESTS, digest.0);
            deletion.freed_chunks += u64::from(located.stored_length);
            deletion.freed_unique.0 += 1;
            deletion.freed_unique.1 += u64::from(located.raw_length);
        }
        Ok(())
    }

    /// Writes a deletion. The gate is shut.
    pub(super) fn delete(&self, mut deletion: Deletion) -> Result<u64, StoreError> {
        let next = lock(&self.writing).next_chunk.to_le_bytes();
        deletion.writes.put(META, NEXT_CHUNK, next);
        let writes = deletion.writes;
        self.database.write(writes, "contents were dropped")?;
        self.size.grow(-(deletion.freed as i64));
        self.size.grow_chunks(-(deletion.freed_chunks as i64));
        let (chunks, bytes) = deletion.freed_unique;
        self.size.grow_unique(-(chunks as i64), -(bytes as i64));
        Ok(deletion.freed + deletion.freed_chunks)
    }
}
