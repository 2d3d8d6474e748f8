//! Keeping a state small: collection, eviction, giving space back, and what is counted for them.
//!
//! Invariant: nothing is removed that is needed; `eviction.rs` says why.
//!
//! # Locks
//!
//! In the order in which they are taken, before those of `paths/` and `contents/`:
//!
//! 1. `collecting`: held by a collection, from before roots are looked for: one at a time.
//! 2. `removing`: held by what drops or collects contents: one at a time.
//!
//! `reclaiming`, held while space is given back, is taken with none of these. `counting`, held while the
//! state is counted for the first time, is taken after any of them.

mod candidates;
mod collection;
mod eviction;
mod lengths;
mod listing;
mod reclaim;
mod sizes;
mod statistics;
mod survey;
mod unreferenced;

use std::sync::{Arc, Mutex, OnceLock};

pub use collection::{Collected, Collection};
pub use eviction::Eviction;
#[cfg(test)]
pub(super) use lengths::Lengths;
#[cfg(test)]
pub(super) use reclaim::Worth;
pub use sizes::Stored;
pub use statistics::{PathStatistics, Statistics};

use super::changes::Observers;
use super::contents::{Growth, StoredContents};
use super::error::StoreError;
use super::paths::Paths;
use super::records::Records;
use super::temporary_roots::AllTemporaryRoots;
use crate::nix::store_path::StoreDir;
use candidates::Candidates;
use survey::KnownFiles;

/// What keeps a state small. Methods that say nothing of a crash write nothing.
pub struct Upkeep {
    records: Arc<Records>,
    contents: Arc<StoredContents>,
    paths: Arc<Paths>,
    temporary_roots: AllTemporaryRoots,
    observers: Arc<Observers>,
    store_dir: StoreDir,
    collecting: Mutex<()>,
    /// What is known of what may be dropped, from one eviction to the next.
    removing: Mutex<Option<Candidates>>,
    /// What is known of the blob files.
    reclaiming: Mutex<KnownFiles>,
    counting: Mutex<()>,
    /// What was stored when the state was opened, once it is counted.
    opened: OnceLock<Growth>,
}

impl std::fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upkeep({:?})", self.opened.get())
    }
}

impl Upkeep {
    pub(super) fn new(
        records: Arc<Records>,
        contents: Arc<StoredContents>,
        paths: Arc<Paths>,
        (temporary_roots, observers): (AllTemporaryRoots, Arc<Observers>),
        store_dir: StoreDir,
    ) -> Self {
        Self {
            records,
            contents,
            paths,
            temporary_roots,
            observers,
            store_dir,
            collecting: Mutex::default(),
            removing: Mutex::default(),
            reclaiming: Mutex::default(),
            counting: Mutex::default(),
            opened: OnceLock::new(),
        }
    }

    /// Says that a verification of all paths has fetched again what was lost with damaged tables of the
    /// database. A kill or a power loss now has it lost still.
    pub fn set_mended(&self) {
        self.records.set_mended();
    }

    /// Reads all of the second copy of what no source can bring back. Returns what is wrong with it.
    pub fn check_second_copy(&self) -> Option<StoreError> {
        self.records.check_second_copy()
    }

    /// Makes the second copy anew from the database. When it returns, it survives a power loss.
    ///
    /// # Errors
    /// The database cannot be read, or the file cannot be written; it is as it was then.
    pub fn renew_second_copy(&self) -> Result<(), StoreError> {
        self.records.renew_second_copy()
    }
}
