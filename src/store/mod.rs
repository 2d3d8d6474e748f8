//! The state: chunks, trees and path infos in one RocksDB, with one owner at a time.
//!
//! `format.md` beside this file specifies every key and value. Invariant: a path is published
//! after everything that it needs is durable, so whoever sees a path can read all of it; a
//! digest never names a chunk that is not there.

mod changes;
mod channels;
mod contents;
mod descriptors;
mod directory;
mod error;
mod paths;
mod profiles;
mod records;
mod roots;
mod tables;
mod temporary_roots;
mod traces;
mod upkeep;
mod views;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use changes::Change;
pub use channels::{
    Channel, ChannelList, ChannelName, ChannelNameError, ChannelWriter, Channels, Replaces,
};
pub use contents::{CacheCounts, ChunkWriter, Hold, Ingested, PathContents, StoredContents};
pub use directory::{Inspected, Ownership, RESERVE, inspect};
pub use error::StoreError;
pub use paths::{Cached, InUse, KernelCaches, Leaving};
pub use paths::{
    Contents, LoadedPath, Origin, PathInfo, PathOrdinal, Paths, Publication, Registration, RootKind,
};
pub use profiles::{
    ChangedDirectory, ChangedIn, ChangedProfile, GenerationRecord, ProfileChange, ProfileDirectory,
    ProfileMember, ProfileRecord, ProfileTable, Profiles, ProfilesChanged,
};
#[cfg(test)]
pub(crate) use records::{Loss, MemoryBackend};
pub use roots::{LinkedRoot, LinkedRoots, Pin, Roots};
pub use temporary_roots::TemporaryRoots;
pub use traces::Traces;
pub use upkeep::{Collected, Collection, Eviction, PathStatistics, Statistics, Stored, Upkeep};
pub use views::{
    ChangedView, View, ViewMembers, ViewName, ViewNameError, ViewRecord, ViewTable, Views,
};

use crate::measure::Allowance;
use crate::nix::store_path::StoreDir;
use changes::Observers;
use directory::Directory;
use records::Records;
use tables::Tables;
use temporary_roots::AllTemporaryRoots;

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

/// An open state.
pub struct Store {
    records: Arc<Records>,
    contents: Arc<StoredContents>,
    paths: Arc<Paths>,
    upkeep: Upkeep,
    /// What transfers hold in memory.
    transfers: Arc<Allowance>,
    profiles: Profiles,
    views: Views,
    channels: Channels,
    roots: Roots,
    traces: Traces,
    observers: Arc<Observers>,
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
        let open_files = descriptors::for_database(descriptors);
        let memory = Parts::of(options.memory).database;
        let records = |dir: &Path| Records::open(dir, memory, open_files);
        Self::open_over(dir, options, ownership, records)
    }

    /// Opens the state in `dir` over records in memory, which may be those of a process that has ended.
    #[cfg(test)]
    pub(crate) fn open_in_memory(
        dir: &Path,
        options: &StoreOptions,
        records: MemoryBackend,
    ) -> Result<Self, StoreError> {
        let records = |dir: &Path| Ok(Records::in_memory(dir, records));
        Self::open_over(dir, options, None, records)
    }

    fn open_over(
        dir: &Path,
        options: &StoreOptions,
        ownership: Option<Ownership>,
        records: impl FnOnce(&Path) -> Result<Records, StoreError>,
    ) -> Result<Self, StoreError> {
        let wanted = options.store_dir.as_ref();
        let directory = Directory::open(dir, wanted, options.create, ownership)?;
        let parts = Parts::of(options.memory);
        let records = Arc::new(records(dir)?);
        let temporary_roots = AllTemporaryRoots::default();
        let observers = Arc::new(Observers::default());
        let contents = StoredContents::open(records.clone(), parts.chunks, parts.trees)?;
        let contents = Arc::new(contents);
        let paths = Arc::new(Paths::open(
            records.clone(),
            contents.clone(),
            temporary_roots.clone(),
            observers.clone(),
            parts.paths,
        )?);
        let tables = Arc::new(Tables::open(
            records.clone(),
            paths.clone(),
            temporary_roots.clone(),
            observers.clone(),
        )?);
        let upkeep = Upkeep::new(
            records.clone(),
            contents.clone(),
            paths.clone(),
            (temporary_roots.clone(), observers.clone()),
            directory.store_dir().clone(),
        );
        Ok(Self {
            profiles: Profiles::new(tables.clone()),
            views: Views::new(tables),
            channels: Channels::new(dir),
            roots: Roots::new(records.clone(), temporary_roots),
            traces: Traces::new(records.clone()),
            records,
            contents,
            paths,
            upkeep,
            transfers: Allowance::new(parts.transfers),
            observers,
            directory,
        })
    }

    /// Chunks and trees.
    pub fn contents(&self) -> &StoredContents {
        &self.contents
    }

    /// Path infos: what is registered, published and looked up.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Profiles, with their generations.
    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// Closure views.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// Channels.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Pins, links outside of the state, and temporary roots.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Traces.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Collection, eviction, reclaiming, and what is counted.
    pub fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    /// Memory that transfers may hold together.
    pub fn transfers(&self) -> &Arc<Allowance> {
        &self.transfers
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
        self.records.refuses_writes()
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

    /// Has `observer` called after each change of the set of paths, of profiles or of views, by the
    /// thread that made the change and before it goes on. There is one; a second takes its place.
    pub fn observe(&self, observer: impl Fn(&Change<'_>) + Send + Sync + 'static) {
        self.observers.set(observer);
    }
}

#[cfg(test)]
mod tests;
