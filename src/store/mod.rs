//! The state: chunks, trees and path infos in one RocksDB, with one owner at a time.
//!
//! `docs/format.md` specifies every key and value. Invariant: a path is published
//! after everything that it needs is durable, so whoever sees a path can read all of it; a
//! digest never names a chunk that is not there.

mod blob_files;
mod channels;
mod chunks;
mod collection;
mod database;
mod descriptors;
mod directory;
mod error;
mod eviction;
mod holds;
mod inspection;
mod kernel_caches;
mod linked_roots;
mod ordinals;
mod path_info;
mod paths;
mod pins;
mod profile_table;
mod profiles;
mod publish;
mod reading;
mod reclaim;
mod said_again;
mod size;
mod statistics;
mod temporary_roots;
mod traces;
mod trees;
mod uses;
mod view_completion;
mod view_table;
mod views;
mod write_batch;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use quick_cache::sync::Cache;

pub use channels::{Channel, ChannelList, ChannelName, ChannelNameError, ChannelWriter, Replaces};
pub use chunks::ChunkWriter;
pub use collection::{Collected, Collection};
pub use directory::{Inspected, Ownership, RESERVE, inspect};
pub use error::StoreError;
pub use eviction::Eviction;
pub use holds::Hold;
pub use inspection::{InspectedChunk, InspectedTree};
pub use kernel_caches::{Cached, InUse, KernelCaches, Leaving};
pub use linked_roots::{LinkedRoot, LinkedRoots};
pub use path_info::{Contents, Origin, PathInfo, PathOrdinal, Registration, RootKind};
pub use paths::LoadedPath;
pub use pins::Pin;
pub use profile_table::{
    GenerationRecord, ProfileDirectory, ProfileMember, ProfileRecord, ProfileTable,
};
pub use profiles::{ChangedDirectory, ChangedIn, ChangedProfile, ProfileChange, ProfilesChanged};
pub use publish::Publication;
pub use size::{Ingested, Stored};
pub use statistics::{PathStatistics, Statistics};
pub use temporary_roots::TemporaryRoots;
pub use view_table::{View, ViewMembers, ViewName, ViewNameError, ViewRecord, ViewTable};
pub use views::ChangedView;

use crate::chunk::ChunkDigest;
use crate::measure::Allowance;
use crate::nix::store_path::{StoreDir, StorePath};
use crate::sync::{self, lock, read as enter, write as shut};
use database::Database;
use directory::Directory;
use eviction::Removal;
use holds::Held;
use kernel_caches::Lookups;
use ordinals::Ordinals;
use paths::PathRecord;
use profiles::Profiles;
use reclaim::KnownFiles;
use size::Size;
use temporary_roots::TemporaryHashes;
use trees::StoredTree;
use uses::Uses;
use views::Views;

/// How to open a state.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Bound of the memory of a process that serves the state, in bytes.
    pub memory: usize,
    /// Make the state if there is none.
    pub create: bool,
    /// The store directory that the paths must be of; `None` takes the state's, or `/nix/store`.
    pub store_dir: Option<StoreDir>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            create: false,
            store_dir: None,
        }
    }
}

/// What the bound of the memory is divided into, in bytes. The rest, a fifth, is for the program
/// itself, its threads and what each transfer needs anyway.
#[derive(Clone, Copy, Debug)]
struct Parts {
    /// Blocks of the database and what is not yet flushed, half each.
    database: usize,
    /// Decompressed chunks.
    chunks: u64,
    trees: u64,
    paths: u64,
    /// What transfers hold.
    transfers: u64,
}

impl Parts {
    fn of(memory: usize) -> Self {
        let bytes = memory as u64;
        Self {
            database: memory / 4,
            chunks: bytes / 5,
            trees: bytes / 8,
            paths: bytes / 32,
            transfers: bytes / 5,
        }
    }
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<ChunkDigest, Bytes> for Weight {
    fn weight(&self, _: &ChunkDigest, chunk: &Bytes) -> u64 {
        chunk.len() as u64 + 96
    }
}

impl quick_cache::Weighter<ChunkDigest, Arc<StoredTree>> for Weight {
    fn weight(&self, _: &ChunkDigest, tree: &Arc<StoredTree>) -> u64 {
        tree.weight() as u64
    }
}

impl quick_cache::Weighter<PathOrdinal, Arc<PathRecord>> for Weight {
    fn weight(&self, _: &PathOrdinal, record: &Arc<PathRecord>) -> u64 {
        record.weight() as u64
    }
}

/// What writers of chunks share.
#[derive(Debug)]
struct Writing {
    /// The number that the next new chunk gets.
    next_chunk: u64,
    /// Bytes of chunks that a crash would lose.
    unflushed: u64,
}

/// What has changed in a state.
#[derive(Clone, Copy, Debug)]
pub enum Change<'c> {
    /// The set of paths: there are more.
    Paths {
        /// Ids of the closure views that there are: they may show more, too.
        views: &'c [u32],
    },
    /// These paths are there no more.
    Removed(&'c [StorePath]),
    /// Profiles and their directories.
    Profiles(&'c ProfilesChanged),
    /// Closure views.
    Views(&'c [ChangedView]),
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

/// Called after every change.
type Observer = Arc<dyn Fn(&Change<'_>) + Send + Sync>;

/// An open state.
pub struct Store {
    database: Database,
    chunk_cache: Cache<ChunkDigest, Bytes, Weight>,
    tree_cache: Cache<ChunkDigest, Arc<StoredTree>, Weight>,
    path_cache: Cache<PathOrdinal, Arc<PathRecord>, Weight>,
    /// What transfers hold in memory.
    transfers: Arc<Allowance>,
    uses: Uses,
    lookups: Lookups,
    profiles: Profiles,
    views: Views,
    size: Size,
    held: Arc<Held>,
    // The locks, in the order in which they are taken; `eviction.rs` has the reasons.
    /// Held by collections, from before roots are looked for: one at a time.
    collecting: Mutex<()>,
    /// Held by what drops or collects contents: one at a time.
    removing: Mutex<()>,
    /// Held while paths are published and while contents are dropped; what a running removal must
    /// know of publications.
    publishing: Mutex<Option<Removal>>,
    /// What commands count on. Held while a path is collected.
    relied: Arc<Mutex<TemporaryHashes>>,
    /// The ordinals that the next new paths get. Held while path infos are written.
    next_ordinal: Mutex<Ordinals>,
    /// Held while chunks are flushed, so that each flush takes off what it has flushed itself.
    flushing: Mutex<()>,
    /// Entered to find, hold or write chunks, and to write trees and path infos; shut while
    /// chunks are deleted.
    gate: RwLock<()>,
    /// Held while a chunk is written, so that two ingests of the same chunk write it once, and so
    /// that what is counted as unflushed is written.
    writing: Mutex<Writing>,
    /// Held while space is given back; what is known of the blob files.
    reclaiming: Mutex<KnownFiles>,
    /// Held while pins, traces and channels change.
    changing_roots: Mutex<()>,
    /// Chunks whose records were found missing or damaged.
    damaged: Mutex<HashSet<ChunkDigest>>,
    observer: RwLock<Option<Observer>>,
    // Last: the lock goes after the database is closed.
    directory: Directory,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.directory.path().display())
    }
}

impl Store {
    /// Opens the state in `dir` and owns it until dropped.
    ///
    /// # Errors
    /// See [`StoreError`]: absent, foreign, newer, owned by another process, unusable.
    pub fn open(dir: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        Self::open_owned(dir, options, None)
    }

    /// Opens the state in `dir`, with the ownership of a process that had it open before.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_owned(
        dir: &Path,
        options: &StoreOptions,
        ownership: Option<Ownership>,
    ) -> Result<Self, StoreError> {
        // Before anything is made.
        let descriptors = descriptors::raise()?;
        let wanted = options.store_dir.as_ref();
        let directory = Directory::open(dir, wanted, options.create, ownership)?;
        let parts = Parts::of(options.memory);
        let database = Database::open(
            &dir.join("db"),
            directory.format(),
            parts.database,
            descriptors,
        )?;
        let next_chunk = chunks::next_number(&database)?;
        let next_ordinal = Ordinals::open(&database)?;
        let uses = Uses::open(&database)?;
        let profiles = Profiles::open(&database)?;
        let views = Views::open(&database)?;
        let held = Arc::new(Held::default());
        // A crash may have left chunks behind that no tree names.
        held.note_litter();
        let chunks = parts.chunks as usize / AVERAGE_ITEM;
        Ok(Self {
            database,
            chunk_cache: Cache::with_weighter(chunks, parts.chunks, Weight),
            tree_cache: tree_cache(parts.trees),
            path_cache: Cache::with_weighter(10_000, parts.paths, Weight),
            transfers: Allowance::new(parts.transfers),
            uses,
            lookups: Lookups::default(),
            profiles,
            views,
            size: Size::default(),
            held,
            collecting: Mutex::default(),
            removing: Mutex::default(),
            publishing: Mutex::default(),
            relied: Arc::default(),
            next_ordinal: Mutex::new(next_ordinal),
            flushing: Mutex::default(),
            gate: RwLock::default(),
            writing: Mutex::new(Writing {
                next_chunk,
                unflushed: 0,
            }),
            reclaiming: Mutex::default(),
            changing_roots: Mutex::default(),
            damaged: Mutex::default(),
            observer: RwLock::default(),
            directory,
        })
    }

    /// Memory that transfers may hold together.
    pub fn transfers(&self) -> &Arc<Allowance> {
        &self.transfers
    }

    /// Lets go of what is in memory for the sake of speed alone, and takes much.
    pub fn forget_chunks(&self) {
        self.chunk_cache.clear();
    }

    /// What makes this process the owner of the state.
    pub fn ownership(&self) -> &Ownership {
        self.directory.ownership()
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        self.directory.path()
    }

    /// Whether the database has met an error in the background, such as a full disk, after which it
    /// refuses to write until it is opened anew.
    pub fn has_given_up_writing(&self) -> bool {
        self.database.background_errors() > 0
    }

    /// Whether the disk has room for more.
    pub fn has_room(&self) -> bool {
        self.directory.check_room(0).is_ok()
    }

    /// Where an ingest may make temporary files.
    pub fn spool(&self) -> PathBuf {
        self.directory.path().join("tmp")
    }

    /// The store directory of the paths, usually `/nix/store`.
    pub fn store_dir(&self) -> &StoreDir {
        self.directory.store_dir()
    }

    /// How often the caches in memory had what was needed.
    pub fn cache_counts(&self) -> CacheCounts {
        CacheCounts {
            chunk_hits: self.chunk_cache.hits(),
            chunk_misses: self.chunk_cache.misses(),
            chunk_bytes: self.chunk_cache.weight(),
            tree_hits: self.tree_cache.hits(),
            tree_misses: self.tree_cache.misses(),
            tree_bytes: self.tree_cache.weight(),
        }
    }

    /// Has `observer` called after each change of the set of paths, of profiles or of views, by the
    /// thread that made the change and before it goes on. There is one; a second takes its place.
    pub fn observe(&self, observer: impl Fn(&Change<'_>) + Send + Sync + 'static) {
        let mut place = sync::write(&self.observer);
        *place = Some(Arc::new(observer));
    }

    /// Whether there is anybody to tell.
    fn tell(&self, change: &Change<'_>) -> bool {
        // It may take long, and another one may take its place meanwhile.
        let observer = sync::read(&self.observer).clone();
        if let Some(observer) = &observer {
            observer(change);
        }
        observer.is_some()
    }
}

/// A cache for trees, whose sizes differ by orders of magnitude: with few shards, so that a large
/// one still fits into one.
fn tree_cache(capacity: u64) -> Cache<ChunkDigest, Arc<StoredTree>, Weight> {
    let options = quick_cache::OptionsBuilder::new()
        .estimated_items_capacity(1000)
        .weight_capacity(capacity)
        .shards(2)
        .build();
    match options {
        Ok(options) => Cache::with_options(
            options,
            Weight,
            quick_cache::DefaultHashBuilder::default(),
            quick_cache::sync::DefaultLifecycle::default(),
        ),
        Err(_) => Cache::with_weighter(1000, capacity, Weight),
    }
}

/// Expected size of a decompressed chunk, for the cache's first size.
const AVERAGE_ITEM: usize = crate::chunk::AVERAGE;

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(e) = self.save_uses() {
            tracing::warn!("the last uses of paths are not kept: {e}");
        }
        self.close_ordinals();
    }
}

#[cfg(test)]
mod tests;
