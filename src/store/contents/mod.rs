//! The contents of paths: chunks and trees, which are kept, found, read and dropped here.
//!
//! Nothing here knows of paths; what is read is a tree with the hashes of one path. Invariants: a digest
//! never names a chunk that is not there, and the chunks of a complete tree are there.
//!
//! # Locks
//!
//! In the order in which they are taken; `upkeep/eviction.rs` has the reasons, and the locks that come
//! before these.
//!
//! 1. `flushing`: held while chunks are flushed, so that each flush takes off what it has flushed
//!    itself.
//! 2. The deletion lock, `deleting`: shared to find, hold or write chunks, and to write trees and path
//!    infos; held alone to delete chunks.
//! 3. `writing`: held while a chunk is written, so that two ingests of the same chunk write it once, and
//!    so that what is counted as unflushed is written.
//! 4. What is in `damaged`, and the counts of holds: held for a moment.

mod chunk_uses;
mod chunks;
mod damage;
mod decoded;
mod deletion;
mod holds;
mod inspection;
mod reading;
mod served_tree;
mod size;
mod stored_tree;
mod trees;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};

use quick_cache::sync::Cache;

pub(super) use chunk_uses::ChunkUses;
pub use chunks::ChunkWriter;
pub(super) use deletion::Deletion;
pub use holds::Hold;
pub use inspection::{InspectedChunk, InspectedTree};
pub use reading::{PathContents, ServedContents};
pub(super) use served_tree::ServedTree;
pub(super) use size::Growth;
pub use size::Ingested;
pub(super) use stored_tree::{Located, StoredTree, TreeRecord};
pub(super) use trees::Writes;

use super::cache;
use super::directory::SPOOL;
use super::error::StoreError;
use super::records::{Records, Snapshot};
use crate::chunk::ChunkDigest;
use crate::sync::{Workers, write};
use damage::DamagedChunks;
pub use damage::damaged_chunks;
use decoded::Decoded;
use holds::Held;
use size::Size;
use writing::Writing;
pub(super) use writing::note_next_chunk;

/// Part of the cache of trees that a tree may take in memory, so that many fit.
const LARGE: u64 = 16;
/// Length of an encoding that stays in memory whatever the bound, in bytes: in a temporary file a tree takes
/// half as much.
const SMALL: u64 = 1 << 20;

/// The contents of the paths of a state. Methods that say nothing of a crash write nothing.
pub struct StoredContents {
    records: Arc<Records>,
    /// Masked chunks, or parts of them, decompressed and checked. They are named by their digests, and so
    /// are right whether they are on disk or not.
    chunk_cache: Cache<ChunkDigest, Decoded, Weight>,
    tree_cache: Cache<ChunkDigest, ServedTree, Weight>,
    /// Length of encoding from which on a tree is unpacked into a temporary file, in bytes.
    large: usize,
    /// The directory of temporary files.
    spool: PathBuf,
    /// What was read because it was not in memory. The caches count a miss when they are asked, and again
    /// when a place is reserved.
    chunk_misses: AtomicU64,
    tree_misses: AtomicU64,
    size: Size,
    held: Arc<Held>,
    flushing: Mutex<()>,
    deleting: RwLock<()>,
    writing: Mutex<Writing>,
    /// Compress chunks of large paths.
    compressors: Workers,
    damaged: DamagedChunks,
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<ChunkDigest, Decoded> for Weight {
    fn weight(&self, _: &ChunkDigest, chunk: &Decoded) -> u64 {
        chunk.weight() + 96
    }
}

impl quick_cache::Weighter<ChunkDigest, ServedTree> for Weight {
    fn weight(&self, _: &ChunkDigest, tree: &ServedTree) -> u64 {
        tree.weight() as u64
    }
}

/// How often the caches in memory had what was needed so far, and how much is in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CacheCounts {
    /// Chunks that were there, uncompressed.
    pub chunk_hits: u64,
    /// Chunks that were read from the database.
    pub chunk_misses: u64,
    /// Bytes of chunks that are there.
    pub chunk_bytes: u64,
    /// Trees that were there.
    pub tree_hits: u64,
    /// Trees that were read from the database.
    pub tree_misses: u64,
    /// Bytes of trees that are there.
    pub tree_bytes: u64,
}

impl std::fmt::Debug for StoredContents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredContents({:?})", self.cache_counts())
    }
}

impl StoredContents {
    /// The contents in `records`, with caches of `chunk_bytes` bytes of chunks and `tree_bytes` of
    /// trees; `state` is the directory.
    pub(super) fn open(
        state: &Path,
        records: Arc<Records>,
        chunk_bytes: u64,
        tree_bytes: u64,
    ) -> Result<Self, StoreError> {
        let writing = Mutex::new(Writing::open(&records)?);
        let held = Arc::new(Held::default());
        // A crash may have left chunks behind that no tree names.
        held.note_unreferenced();
        let chunks = chunk_bytes as usize / crate::chunk::AVERAGE;
        Ok(Self {
            records,
            chunk_cache: cache::filled_ahead(chunks, chunk_bytes, Weight),
            tree_cache: cache::of_few_shards(tree_bytes, Weight),
            large: SMALL.max(tree_bytes / LARGE) as usize,
            spool: state.join(SPOOL),
            chunk_misses: AtomicU64::default(),
            tree_misses: AtomicU64::default(),
            size: Size::default(),
            held,
            flushing: Mutex::default(),
            deleting: RwLock::default(),
            writing,
            compressors: Workers::new("compress", 0),
            damaged: DamagedChunks::open(state),
        })
    }

    /// The bytes of chunks that memory may hold.
    pub fn chunk_capacity(&self) -> u64 {
        self.chunk_cache.capacity()
    }

    /// Drops all chunks from memory. None is lost: they are in the database as well.
    pub fn forget_chunks(&self) {
        self.chunk_cache.clear();
    }

    /// How often the caches in memory had what was needed since the state was opened, and their bytes.
    pub fn cache_counts(&self) -> CacheCounts {
        CacheCounts {
            chunk_hits: self.chunk_cache.hits(),
            chunk_misses: self.chunk_misses.load(Relaxed),
            chunk_bytes: self.chunk_cache.weight(),
            tree_hits: self.tree_cache.hits(),
            tree_misses: self.tree_misses.load(Relaxed),
            tree_bytes: self.tree_cache.weight(),
        }
    }

    /// Chunks whose records were found missing or damaged, and were not replaced since.
    pub fn damaged_chunks(&self) -> u64 {
        self.damaged.count() as u64
    }

    /// What ingests in flight hold.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// What records grew by since the state was opened.
    pub(super) fn growth(&self) -> Growth {
        self.size.growth()
    }

    /// The records as they are now, with what they grew by: each change is in both or in neither.
    pub(super) fn snapshot(&self) -> (Snapshot<'_>, Growth) {
        let _alone = write(&self.deleting);
        (self.records.snapshot(), self.size.growth())
    }

    /// The chunks that were ingested since the state was opened.
    pub(super) fn ingested(&self) -> Ingested {
        self.size.ingested()
    }

    /// The number of the next new chunk.
    pub(super) fn next_chunk(&self) -> u64 {
        crate::sync::lock(&self.writing).next_chunk
    }

    /// Drops all chunks and trees from memory.
    #[cfg(test)]
    pub(super) fn forget_all(&self) {
        self.chunk_cache.clear();
        self.tree_cache.clear();
    }
}
