//! The state: chunks, trees, path infos, profiles and what else is kept, with one owner at a time.
//!
//! `docs/format.md` specifies every key and value.
//!
//! # Rooms
//!
//! Each room owns its fields and its locks, and knows only rooms that come before it:
//!
//! - `records/`: keys and values in RocksDB, written in batches; it alone knows of the database.
//! - `contents/`: chunks and trees.
//! - `paths/`: path infos, ordinals, publishing, looking up.
//! - `profiles/` and `views/`, over one pair of tables (`tables.rs`); `roots/`, `traces.rs`,
//!   `channels.rs`.
//! - `upkeep/`: collection, eviction, reclaiming, statistics.
//!
//! A [`Store`] makes them and hands each out; it has no other work.
//!
//! # Crashes
//!
//! A method says what its change survives when it returns: a *kill* of this process, or a *power loss*
//! too. A change is there whole after a crash, or not at all, and so is one that was being made. Methods
//! that say nothing of it write nothing. Two invariants hold after any crash: all of a published path is
//! there, and a digest never names a chunk that is not there.
//!
//! # Locks
//!
//! Each room lists its locks in the order in which they are taken. Of several rooms, those of `upkeep/`
//! come first, then those of `tables.rs`, `roots/` and `channels.rs`, of `paths/`, and of `contents/`.
//! No lock is held while the observer is told.

mod cache;
mod changes;
mod channels;
mod clock;
mod contents;
mod descriptors;
mod directory;
mod error;
mod format;
mod paths;
mod profiles;
mod rebuild;
mod records;
mod restore;
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
pub use contents::{
    CacheCounts, ChunkWriter, Hold, Ingested, InspectedChunk, InspectedTree, PathContents,
    ServedContents, StoredContents, damaged_chunks,
};
pub use directory::{Inspected, Ownership, RESERVE, inspect};
pub(crate) use directory::{make_directory, sync_names};
pub use error::StoreError;
pub use paths::{Cached, InUse, KernelCaches, Leaving};
pub use paths::{
    Contents, LoadedPath, Origin, PathInfo, PathOrdinal, Paths, Publication, Registration,
    RootKind, ServedPath, Shown, Unreadable, UnreadablePath,
};
pub use profiles::{
    ChangedDirectory, ChangedIn, ChangedProfile, GenerationRecord, ProfileChange, ProfileDirectory,
    ProfileMember, ProfileRecord, ProfileTable, Profiles, ProfilesChanged,
};
pub use rebuild::{Rebuilt, open_repaired};
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
use directory::{Directory, SPOOL};
use format::Needs;
use records::Records;
use tables::Tables;
use temporary_roots::AllTemporaryRoots;

/// Tables of the database that are taken out at most until a state is opened: each may have what an opening
/// reads.
const TABLES: usize = 100;

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
    /// Programs that transfers hold; and as much again for decoders with large windows, of which there are
    /// few.
    transfers: u64,
    /// What one decoder may have alone.
    decoder: u64,
}

/// Memory that one decoder may have whatever the bound: a window of 128 MiB, the largest that `zstd` makes
/// without `--long=28` or more, and its tables.
const DECODER: u64 = 136 << 20;

/// Memory that transfers share, in two parts: who waits for one does not depend on the other.
#[derive(Debug)]
pub struct TransferMemory {
    /// Programs, which are held to be cut at their sections.
    pub programs: Arc<Allowance>,
    /// Decoders with windows that are larger than usual.
    pub decoders: Arc<Allowance>,
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
            decoder: DECODER.max(bytes / 2),
        }
    }
}

/// An open state.
pub struct Store {
    records: Arc<Records>,
    contents: Arc<StoredContents>,
    paths: Arc<Paths>,
    upkeep: Upkeep,
    transfers: TransferMemory,
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
    /// Opens the state in `dir` and owns it until dropped. A state that is made for it survives a power
    /// loss; a crash before that leaves what the next one makes. One of an older format stays as it is
    /// until a record is written that needs a newer format.
    ///
    /// # Errors
    /// See [`StoreError`]: absent, foreign, newer, owned by another process, unusable.
    pub fn open(dir: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        Self::open_owned(dir, options, None)
    }

    /// As [`Store::open`], with the ownership of a process that had the state open before.
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
        let records = |needs| Records::open(dir, needs, memory, open_files);
        Self::open_over(dir, options, ownership, records)
    }

    /// Opens the state in `dir` over records in memory, which may be those of a process that has ended.
    #[cfg(test)]
    pub(crate) fn open_in_memory(
        dir: &Path,
        options: &StoreOptions,
        records: MemoryBackend,
    ) -> Result<Self, StoreError> {
        let records = |needs| Ok(Records::in_memory(dir, needs, records.clone()));
        Self::open_over(dir, options, None, records)
    }

    fn open_over(
        dir: &Path,
        options: &StoreOptions,
        ownership: Option<Ownership>,
        records: impl Fn(Needs) -> Result<Records, StoreError>,
    ) -> Result<Self, StoreError> {
        let wanted = options.store_dir.as_ref();
        let directory = Directory::open(dir, wanted, options.create, ownership)?;
        let open = || records(directory.needs().clone());
        let mut records = open()?;
        for _ in 0..TABLES {
            if restore::is_readable(&records) || !records.has_new_damage() {
                break;
            }
            // What was met is taken out by another opening.
            drop(records);
            records = open()?;
        }
        let records = Arc::new(records);
        let has_copy = records.has_second_copy();
        let opened = Self::over(directory, options, records);
        opened.map_err(|e| e.of_opening(dir, has_copy))
    }

    fn over(
        directory: Directory,
        options: &StoreOptions,
        records: Arc<Records>,
    ) -> Result<Self, StoreError> {
        restore::restore(&records)?;
        let parts = Parts::of(options.memory);
        let dir = directory.path();
        let temporary_roots = AllTemporaryRoots::default();
        let observers = Arc::new(Observers::default());
        let contents = StoredContents::open(dir, records.clone(), parts.chunks, parts.trees)?;
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
            transfers: TransferMemory {
                programs: Allowance::new(parts.transfers, parts.transfers),
                decoders: Allowance::new(parts.transfers, parts.decoder),
            },
            observers,
            directory,
        })
    }

    /// The room of chunks and trees.
    pub fn contents(&self) -> &StoredContents {
        &self.contents
    }

    /// The room of paths: what is registered, published and looked up.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The room of profiles, with their generations.
    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// The room of closure views.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// The room of channels.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// The room of pins, links outside of the state, and temporary roots.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The room of traces.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// The room of collection, eviction, reclaiming, and what is counted.
    pub fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    /// The memory that transfers share.
    pub fn transfers(&self) -> &TransferMemory {
        &self.transfers
    }

    /// What makes this process the owner of the state. It ends with the process, unless another one has
    /// a copy of its descriptor.
    pub fn ownership(&self) -> &Ownership {
        self.directory.ownership()
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        self.directory.path()
    }

    /// Whether the database has met an error in the background, such as a full disk, after which it
    /// refuses to write until it is opened anew, and could write again.
    pub fn is_to_be_reopened(&self) -> bool {
        self.records.refuses_writes() && self.has_room()
    }

    /// Whether the database has met damage that the next opening of the state takes out.
    pub fn has_new_damage(&self) -> bool {
        self.records.has_new_damage()
    }

    /// Whether more than [`RESERVE`] bytes are free on the disk of the state.
    fn has_room(&self) -> bool {
        self.directory.check_room(0).is_ok()
    }

    /// The directory for temporary files, which is emptied when the state is opened.
    pub fn spool(&self) -> PathBuf {
        self.directory.path().join(SPOOL)
    }

    /// The store directory of the paths, usually `/nix/store`.
    pub fn store_dir(&self) -> &StoreDir {
        self.directory.store_dir()
    }

    /// Has `observer` called after each change of the set of paths, of profiles or of views, when it can
    /// be seen and survives what it says, by the thread that made it and before that goes on. There is
    /// one observer, until this process ends; a second takes its place.
    pub fn observe(&self, observer: impl Fn(&Change<'_>) + Send + Sync + 'static) {
        self.observers.set(observer);
    }
}

#[cfg(test)]
mod tests;
