//! The paths of a state: what is registered, found, published and looked up.
//!
//! Invariants: a path is published after everything that it needs survives a power loss, so that all of
//! a path that can be seen can be read; an ordinal, its part of inode numbers, means one path with one
//! NAR for ever.
//!
//! # Locks
//!
//! In the order in which they are taken, before those of `contents/`; `upkeep/eviction.rs` has the
//! reasons, and the locks that come before these.
//!
//! 1. `publishing`: held while paths are published and while something is removed; what a running
//!    removal must know of publications.
//! 2. The temporary roots: held while a path is removed, so that a command that looks for it later does
//!    not find it.
//! 3. The lock of lookups (`kernel_caches.rs`): shared by lookups, held alone while a path or its
//!    contents are removed.
//! 4. `next_ordinal`: held while path infos are written.
//! 5. `unreadable`: what is known of path infos that cannot be read; held while it is found out.

mod closure;
mod find;
mod kernel_caches;
mod loaded;
mod local;
mod lost;
mod merge;
mod ordinals;
mod path_info;
mod publish;
mod removal;
mod remove;
mod revise;
mod settle;
mod show;
mod shown;
mod small;
mod unreadable;
mod uses;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use quick_cache::sync::Cache;

pub(super) use closure::Reach;
pub(super) use kernel_caches::Watch;
pub use kernel_caches::{Cached, InUse, KernelCaches, Leaving};
pub use loaded::{LoadedPath, ServedPath};
pub(super) use lost::Listed;
pub use lost::{Unreadable, UnreadablePath};
pub(super) use ordinals::skip as skip_ordinals;
pub use path_info::{Contents, Origin, PathInfo, PathOrdinal, Registration, RootKind};
pub use publish::Publication;
pub(super) use removal::Removal;
pub(super) use remove::RunningRemoval;
pub(super) use settle::settled;
pub use shown::Shown;

use super::cache;
use super::changes::Observers;
use super::clock::milliseconds;
use super::contents::StoredContents;
use super::error::StoreError;
use super::records::{Batch, Durability, Family, Records};
use super::temporary_roots::AllTemporaryRoots;
use crate::sync::lock;
use kernel_caches::Lookups;
use loaded::PathRecord;
use local::LocalCount;
use lost::Known;
use ordinals::Ordinals;
use shown::AllShown;
use uses::Uses;

/// The paths of a state. Methods that say nothing of a crash write nothing to the database.
pub struct Paths {
    records: Arc<Records>,
    contents: Arc<StoredContents>,
    temporary_roots: AllTemporaryRoots,
    observers: Arc<Observers>,
    /// What was read of paths. A path is taken out after its path info was written.
    cache: Cache<PathOrdinal, Arc<PathRecord>, Weight>,
    shown: Arc<AllShown>,
    uses: Uses,
    lookups: Lookups,
    publishing: Mutex<Option<Removal>>,
    /// The ordinals that the next new paths get.
    next_ordinal: Mutex<Ordinals>,
    local: LocalCount,
    /// Whether a path got other references, so that closures are not what they were.
    corrected: AtomicBool,
    /// What cannot be read.
    unreadable: Mutex<Known>,
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<PathOrdinal, Arc<PathRecord>> for Weight {
    fn weight(&self, _: &PathOrdinal, record: &Arc<PathRecord>) -> u64 {
        record.weight() as u64
    }
}

impl std::fmt::Debug for Paths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Paths({:?})", self.next_ordinal)
    }
}

impl Paths {
    /// The paths in `records`, with `cache_bytes` bytes for what was read of them.
    pub(super) fn open(
        records: Arc<Records>,
        contents: Arc<StoredContents>,
        temporary_roots: AllTemporaryRoots,
        observers: Arc<Observers>,
        cache_bytes: u64,
    ) -> Result<Self, StoreError> {
        let uses = Uses::open(&records)?;
        let next_ordinal = Mutex::new(Ordinals::open(&records)?);
        Ok(Self {
            records,
            contents,
            temporary_roots,
            observers,
            cache: cache::of_few_shards(cache_bytes, Weight),
            shown: Arc::default(),
            uses,
            lookups: Lookups::default(),
            publishing: Mutex::default(),
            next_ordinal,
            local: LocalCount::default(),
            corrected: AtomicBool::new(false),
            unreadable: Mutex::default(),
        })
    }

    /// Has removals ask `kernel` what is in use, as long as this process runs. There is one; a second
    /// takes its place.
    pub fn set_kernel_caches(&self, kernel: Arc<dyn KernelCaches>) {
        self.lookups.set_kernel(kernel);
    }

    /// Notes in memory that a path is used now. Cheap enough for every read. [`Paths::save_uses`] has it
    /// survive a kill.
    pub fn touch(&self, ordinal: PathOrdinal) {
        self.uses.set(ordinal, milliseconds());
    }

    /// Writes the uses that were noted since the last time. They survive a kill; a power loss may take
    /// them. Only the order of eviction depends on them.
    ///
    /// # Errors
    /// The database failed.
    pub fn save_uses(&self) -> Result<(), StoreError> {
        let unsaved = self.uses.unsaved();
        if unsaved.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for (ordinal, millis) in unsaved.records() {
            batch.put(Family::Uses, ordinal.to_be_bytes(), millis.to_le_bytes());
        }
        self.records
            .write(batch, Durability::Process, "last uses were written")?;
        unsaved.set_saved();
        Ok(())
    }

    /// When a path was used last, in milliseconds since 1970; 0 if no use is known.
    pub fn last_use(&self, ordinal: PathOrdinal) -> u64 {
        self.uses.last(ordinal)
    }

    /// Whether a path got other references since that was set back; `set_back` does.
    pub(super) fn is_corrected(&self, set_back: bool) -> bool {
        self.corrected.fetch_and(!set_back, Ordering::SeqCst)
    }

    /// Begins to watch what is looked up, for a removal.
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch::begin(&self.lookups)
    }

    #[cfg(test)]
    pub(super) fn set_last_use(&self, ordinal: PathOrdinal, millis: u64) {
        self.uses.set(ordinal, millis);
    }

    /// Drops all paths from memory.
    #[cfg(test)]
    pub(super) fn forget_all(&self) {
        self.cache.clear();
    }
}

impl Drop for Paths {
    fn drop(&mut self) {
        if let Err(e) = self.save_uses() {
            tracing::warn!("the last uses of paths are not kept: {e}");
        }
        if let Err(e) = lock(&self.next_ordinal).close(&self.records) {
            tracing::warn!("path numbers are left out: {e}");
        }
    }
}
