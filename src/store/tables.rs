//! Profiles and closure views as readers see them, and how both change.
//!
//! Invariants: changes come one after the other, each made of what is true until it is made. A change of
//! profiles is one batch with the change of the views that follow them, so after a crash it is there
//! whole or not at all; it can be seen when it survives a power loss, all at once. The observer is told
//! after the lock is released, by the thread that made the change. The records are the truth; what
//! readers see are tables in memory that each change replaces.
//!
//! # Locks
//!
//! `changing`, held from before a change is planned until it is seen, is taken before the lock of the
//! temporary roots and with no other; the observer is called with none.

use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::changes::{Change, Observers};
use super::clock;
use super::error::StoreError;
use super::paths::Paths;
use super::profiles::{ProfileTable, ProfileUpdate};
use super::records::{Batch, Durability, Records};
use super::temporary_roots::AllTemporaryRoots;
use super::views::{ViewEdit, ViewTable, ViewUpdate, set_told};
use crate::nix::store_path::StorePath;
use crate::sync::{self, lock};

/// The tables of profiles and of views.
pub(super) struct Tables {
    pub(super) records: Arc<Records>,
    pub(super) paths: Arc<Paths>,
    temporary_roots: AllTemporaryRoots,
    observers: Arc<Observers>,
    /// Held while profiles or views change.
    changing: Mutex<()>,
    seen: RwLock<Seen>,
}

/// What readers see.
#[derive(Clone)]
struct Seen {
    profiles: Arc<ProfileTable>,
    views: Arc<ViewTable>,
}

/// The tables while no other change comes between.
pub(super) struct Changing<'t> {
    pub(super) profiles: Arc<ProfileTable>,
    pub(super) views: Arc<ViewTable>,
    tables: &'t Tables,
    lock: MutexGuard<'t, ()>,
}

impl Tables {
    pub(super) fn open(
        records: Arc<Records>,
        paths: Arc<Paths>,
        temporary_roots: AllTemporaryRoots,
        observers: Arc<Observers>,
    ) -> Result<Self, StoreError> {
        let seen = Seen {
            profiles: Arc::new(ProfileTable::read(&records)?),
            views: Arc::new(ViewTable::read(&records)?),
        };
        Ok(Self {
            records,
            paths,
            temporary_roots,
            observers,
            changing: Mutex::default(),
            seen: RwLock::new(seen),
        })
    }

    pub(super) fn profiles(&self) -> Arc<ProfileTable> {
        sync::read(&self.seen).profiles.clone()
    }

    pub(super) fn views(&self) -> Arc<ViewTable> {
        sync::read(&self.seen).views.clone()
    }

    /// Begins a change; waits for one that is being made.
    pub(super) fn begin(&self) -> Changing<'_> {
        let lock = lock(&self.changing);
        let Seen { profiles, views } = sync::read(&self.seen).clone();
        Changing {
            profiles,
            views,
            tables: self,
            lock,
        }
    }
}

impl<'t> Changing<'t> {
    /// Has a collection that runs leave alone what becomes a root with this change.
    pub(super) fn note_roots<'p>(&self, roots: impl Iterator<Item = &'p StorePath>) {
        self.tables.temporary_roots.note(roots.map(StorePath::hash));
    }

    /// Begins to edit views.
    pub(super) fn edit_views(&self) -> ViewEdit<'t> {
        ViewEdit::new(&self.tables.records, &self.tables.paths, &self.views)
    }

    /// Makes the change. When this returns, it survives a power loss, can be seen, and the observer has
    /// been told.
    ///
    /// # Errors
    /// The database failed; nothing has changed then.
    pub(super) fn commit(
        self,
        profiles: Option<ProfileUpdate>,
        views: Option<ViewUpdate>,
    ) -> Result<(), StoreError> {
        let Tables {
            records, observers, ..
        } = self.tables;
        let what = match profiles {
            Some(_) => "profiles were written",
            None => "a closure view was written",
        };
        let mut seen = Seen {
            profiles: self.profiles,
            views: self.views,
        };
        let mut writes = Batch::default();
        let profiles = profiles.map(|update| {
            writes.append(update.writes);
            seen.profiles = Arc::new(update.table);
            update.changed
        });
        let views = views.map(|update| {
            writes.append(update.writes);
            seen.views = Arc::new(update.table);
            update.changed
        });
        if !writes.is_empty() {
            records.write(writes, Durability::Power, what)?;
        }
        *sync::write(&self.tables.seen) = seen;
        drop(self.lock);
        if let Some(changed) = &profiles {
            observers.tell(&Change::Profiles(changed));
        }
        if let Some(changed) = &views
            && observers.tell(&Change::Views(changed))
        {
            set_told(records, changed);
        }
        Ok(())
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    i64::try_from(clock::seconds()).unwrap_or(i64::MAX)
}
