//! Closure views: which paths a container sees, and what keeps these.
//!
//! A view shows what is known of its closures when it is made, or when a profile that it follows is
//! switched. Invariants: the paths that a view names are roots; the profiles that it follows have roots
//! of their own. A view that was made as a volume is one for as long as it is there. What a view lacks
//! is noted with it in memory, so that a look for what has become known costs nothing where nothing is
//! missing; after a start each view is looked at once. `tables.rs` says what a change is.

mod changed;
mod edit;
mod members;
mod name;
mod table;

use std::sync::Arc;

pub use changed::ChangedView;
pub(super) use changed::set_told;
pub(super) use edit::{ViewEdit, ViewUpdate};
pub use members::ViewMembers;
pub use name::{ViewName, ViewNameError};
pub use table::{View, ViewRecord, ViewTable};

use super::error::StoreError;
use super::paths::Reach;
use super::profiles::ProfileTable;
use super::tables::{Tables, now};
use crate::nix::store_path::{StorePath, StorePathHash};
use edit::reach_of;

/// The closure views of a state.
///
/// A method that changes views does as [`Profiles::change`](super::Profiles::change) does: when it
/// returns, the change survives a power loss, can be seen, and the observer has been told; after a crash
/// before it is there whole or not at all.
pub struct Views(Arc<Tables>);

impl Views {
    pub(super) fn new(tables: Arc<Tables>) -> Self {
        Self(tables)
    }

    /// All views as they are now, whatever changes later. What is in it survives a power loss.
    pub fn table(&self) -> Arc<ViewTable> {
        self.0.views()
    }

    /// All views, in the order of their names.
    ///
    /// # Errors
    /// A record is damaged.
    pub fn list(&self) -> Result<Vec<Arc<View>>, StoreError> {
        let table = self.table();
        table.check()?;
        Ok(table.views().cloned().collect())
    }

    /// The paths that a view shows.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn members(&self, view: &View) -> Result<Arc<ViewMembers>, StoreError> {
        view.members(&self.0.records)
    }

    /// What views name, each with the name of the view.
    ///
    /// # Errors
    /// A record is damaged.
    pub fn roots(&self) -> Result<Vec<(String, StorePath)>, StoreError> {
        let views = self.list()?;
        let roots = views.iter().flat_map(|view| {
            let roots = view.record.roots.iter();
            roots.map(|root| (view.name.to_string(), root.clone()))
        });
        Ok(roots.collect())
    }

    /// What is not registered of what a view shows, in order.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn unknown(&self, view: &View) -> Result<Vec<StorePath>, StoreError> {
        let profiles = self.0.profiles();
        Ok(reach_of(&self.0.paths, &view.record, &profiles)?.unknown)
    }

    /// Makes a view, or makes it what it is to be: the closures of paths and of the current
    /// generations of profiles, as far as they are known. A path that is referred to and not known
    /// belongs to it by its name.
    ///
    /// # Errors
    /// The database failed, or numbers are used up; nothing has changed then.
    pub fn define(
        &self,
        name: &ViewName,
        roots: &[StorePath],
        profiles: &[String],
    ) -> Result<(), StoreError> {
        self.make(name, roots, profiles, false).map(drop)
    }

    /// Makes a view as a volume of a container engine, which may thus remove it. One that is there
    /// already stays as it is, and is returned.
    ///
    /// # Errors
    /// As of [`Self::define`].
    pub fn make_volume(
        &self,
        name: &ViewName,
        roots: &[StorePath],
        profiles: &[String],
    ) -> Result<Option<Arc<View>>, StoreError> {
        self.make(name, roots, profiles, true)
    }

    fn make(
        &self,
        name: &ViewName,
        roots: &[StorePath],
        profiles: &[String],
        new_volume: bool,
    ) -> Result<Option<Arc<View>>, StoreError> {
        let changing = self.0.begin();
        let before = changing.views.named(name.as_str()).cloned();
        if before.is_some() && new_volume {
            return Ok(before);
        }
        changing.note_roots(roots.iter());
        if let Some(view) = &before
            && view.record.roots == roots
            && view.record.profiles == profiles
            && matches!(self.shows_all(view, &changing.profiles), Ok(true))
        {
            return Ok(None);
        }
        let mut edit = changing.edit_views();
        let now = now();
        let record = ViewRecord {
            id: match &before {
                Some(view) => view.record.id,
                None => edit.table.number()?,
            },
            list: before.as_ref().map_or(0, |view| view.record.list),
            created: before.as_ref().map_or(now, |v| v.record.created),
            changed: now,
            roots: roots.to_vec(),
            profiles: profiles.to_vec(),
            is_volume: before.as_ref().map_or(new_volume, |v| v.record.is_volume),
        };
        let (before, profiles) = (before.as_deref(), &changing.profiles);
        edit.show(name.as_str(), record, before, profiles)?;
        changing.commit(None, Some(edit.finish()?))?;
        Ok(None)
    }

    /// Whether a view shows its closures, and nothing of them is unknown.
    fn shows_all(&self, view: &View, profiles: &ProfileTable) -> Result<bool, StoreError> {
        let Reach { all, unknown } = reach_of(&self.0.paths, &view.record, profiles)?;
        Ok(unknown.is_empty() && is_all(self.members(view)?.as_ref(), &all))
    }

    /// Removes a view; `false` if there is none of this name.
    ///
    /// # Errors
    /// The database failed; nothing has changed then.
    pub fn remove(&self, name: &str) -> Result<bool, StoreError> {
        self.remove_if(name, |_| true)
    }

    /// Removes a view if it was made as a volume; `false` if it was not, or is not there.
    ///
    /// # Errors
    /// As of [`Self::remove`].
    pub fn remove_volume(&self, name: &str) -> Result<bool, StoreError> {
        self.remove_if(name, |view| view.is_some_and(|v| v.record.is_volume))
    }

    /// Removes a view that `is_meant`; one that is damaged is `None`.
    fn remove_if(
        &self,
        name: &str,
        is_meant: impl FnOnce(Option<&View>) -> bool,
    ) -> Result<bool, StoreError> {
        let changing = self.0.begin();
        let before = changing.views.named(name).map(|view| &**view);
        let is_there = before.is_some() || changing.views.is_damaged(name);
        if !is_there || !is_meant(before) {
            return Ok(false);
        }
        let mut edit = changing.edit_views();
        edit.remove(name)?;
        changing.commit(None, Some(edit.finish()?))?;
        Ok(true)
    }

    /// Whether there may be a view that does not show all of its closures.
    pub fn may_be_incomplete(&self) -> bool {
        let table = self.table();
        self.0.paths.is_corrected(false) || table.views().any(|view| view.may_be_incomplete())
    }

    /// Has views show what has become known of their closures, one after the other: all of them where a
    /// path got other references. Returns what is
    /// still not registered, in order.
    ///
    /// # Errors
    /// The database failed, a record is damaged, or numbers are used up.
    pub fn complete(&self) -> Result<Vec<StorePath>, StoreError> {
        let mut missing = Vec::new();
        let table = self.table();
        let corrected = self.0.paths.is_corrected(true);
        for view in table.views().filter(|v| corrected || v.may_be_incomplete()) {
            missing.extend(self.complete_one(&view.name)?);
        }
        missing.sort();
        missing.dedup();
        Ok(missing)
    }

    fn complete_one(&self, name: &str) -> Result<Vec<StorePath>, StoreError> {
        let changing = self.0.begin();
        let Some(view) = changing.views.named(name) else {
            return Ok(Vec::new());
        };
        let profiles = &changing.profiles;
        let Reach { all, unknown } = reach_of(&self.0.paths, &view.record, profiles)?;
        let is_shown = is_all(self.members(view)?.as_ref(), &all);
        if is_shown && view.unknown.as_deref() == Some(unknown.as_slice()) {
            return Ok(unknown);
        }
        // Then nothing is to be written; whether names have become known is for listings to tell.
        let is_recorded = is_shown && view.unknown.is_none();
        let mut record = view.record.clone();
        if !is_recorded {
            record.changed = now();
        }
        let mut edit = changing.edit_views();
        edit.show(name, record, Some(view), profiles)?;
        let update = match is_recorded {
            true => edit.finish_unwritten(),
            false => edit.finish()?,
        };
        changing.commit(None, Some(update))?;
        Ok(unknown)
    }

    /// What was changed and the kernel may not know yet, also before a crash.
    ///
    /// # Errors
    /// The database failed.
    pub fn untold(&self) -> Result<Vec<ChangedView>, StoreError> {
        changed::untold(&self.0.records)
    }

    /// Notes that the kernel knows these changes. Survives a kill, but not a power loss, which ends the
    /// kernel too. What was changed once more meanwhile stays noted; that it is told twice does no harm.
    pub fn told(&self, changed: &[ChangedView]) {
        set_told(&self.0.records, changed);
    }
}

/// Whether these are all that is shown.
fn is_all(members: &ViewMembers, hashes: &[StorePathHash]) -> bool {
    let mut all = hashes.iter();
    members.from(1).count() == hashes.len() && all.all(|hash| members.place(*hash).is_some())
}
