//! Profiles: generations, which are roots, and the directories that profiles lie in.
//!
//! The database is the truth; what readers see is a table in memory that each change replaces.
//! `tables.rs` says what a change is.

mod change;
mod table;

use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) use change::ProfileUpdate;
pub use change::{ChangedDirectory, ChangedIn, ChangedProfile, ProfileChange, ProfilesChanged};
pub use table::{GenerationRecord, ProfileDirectory, ProfileMember, ProfileRecord, ProfileTable};

use super::error::StoreError;
use super::tables::{Tables, now};
use crate::nix::store_path::StorePath;

/// The profiles of a state.
pub struct Profiles(Arc<Tables>);

impl Profiles {
    pub(super) fn new(tables: Arc<Tables>) -> Self {
        Self(tables)
    }

    /// All profiles as they are now, whatever changes later. What is in it survives a power loss.
    pub fn table(&self) -> Arc<ProfileTable> {
        self.0.profiles()
    }

    /// A profile.
    ///
    /// # Errors
    /// Its record is damaged.
    pub fn get(&self, name: &str) -> Result<Option<ProfileRecord>, StoreError> {
        let table = self.table();
        let found = table.checked(name)?;
        Ok(found.map(|profile| ProfileRecord::clone(profile)))
    }

    /// All profiles, in the order of their names.
    ///
    /// # Errors
    /// A record is damaged.
    pub fn list(&self) -> Result<Vec<(String, ProfileRecord)>, StoreError> {
        let table = self.table();
        let profiles = table.profiles()?;
        let owned = profiles.map(|(name, profile)| (name.to_owned(), profile.clone()));
        Ok(owned.collect())
    }

    /// What every generation of every profile points to, each once, in order.
    ///
    /// # Errors
    /// A record is damaged.
    pub fn roots(&self) -> Result<Vec<StorePath>, StoreError> {
        let table = self.table();
        let generations = table.profiles()?.flat_map(|(_, p)| &p.generations);
        let paths: BTreeSet<_> = generations.map(|g| &g.path).collect();
        Ok(paths.into_iter().cloned().collect())
    }

    /// Makes profiles what `plan` says that they are to be, all together, with the closure views that
    /// follow them. `plan` sees what is true until the change is made: no other change comes between, so
    /// it must be quick, and change nothing itself. A generation that is there already, with the same
    /// number, path and time, keeps its link number.
    ///
    /// When this returns, the change survives a power loss, can be seen, and the observer has been told;
    /// after a crash before it is there whole or not at all.
    ///
    /// # Errors
    /// Those of `plan`; the database failed, numbers are used up, or a profile would have the name of a
    /// directory of profiles. Nothing has changed then.
    pub fn change(
        &self,
        plan: impl FnOnce(&ProfileTable) -> Result<Vec<ProfileChange>, StoreError>,
    ) -> Result<(), StoreError> {
        let changing = self.0.begin();
        let changes = plan(&changing.profiles)?;
        if changes.is_empty() {
            return Ok(());
        }
        let generations = changes.iter().flat_map(|change| &change.generations);
        changing.note_roots(generations.map(|(_, path, _)| path));
        let now = now();
        let Some(changed) = change::changed(&changing.profiles, &changes, now)? else {
            return Ok(());
        };
        let views = changing.edit_views();
        let views = views.follow(&changed.changed.switched(), &changed.table, now)?;
        changing.commit(Some(changed), views)
    }
}
