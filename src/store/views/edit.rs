//! A change of closure views in the making.

use std::collections::HashSet;
use std::sync::Arc;

use super::changed::{ChangedView, add_untold};
use super::members::{self, ViewMembers};
use super::table::{self, View, ViewRecord, ViewTable};
use crate::nix::store_path::StorePathHash;
use crate::store::error::StoreError;
use crate::store::paths::{PathInfo, Paths, Reach};
use crate::store::profiles::ProfileTable;
use crate::store::records::{Batch, Family, Records};

/// A change of views in the making.
pub(in crate::store) struct ViewEdit<'r> {
    records: &'r Records,
    paths: &'r Paths,
    pub(super) table: ViewTable,
    writes: Batch,
    changed: Vec<ChangedView>,
}

/// A change that is made: a table, what has changed in it, and the records.
pub(in crate::store) struct ViewUpdate {
    pub(in crate::store) table: ViewTable,
    pub(in crate::store) changed: Vec<ChangedView>,
    pub(in crate::store) writes: Batch,
}

/// What a view shows when profiles are as `profiles` says.
pub(super) fn reach_of(
    paths: &Paths,
    view: &ViewRecord,
    profiles: &ProfileTable,
) -> Result<Reach, StoreError> {
    let followed = view.profiles.iter().filter_map(|p| profiles.profile(p));
    let current = followed.filter_map(|p| Some(p.current_generation()?.path.clone()));
    paths.reach(view.roots.iter().cloned().chain(current))
}

impl<'r> ViewEdit<'r> {
    pub(in crate::store) fn new(
        records: &'r Records,
        paths: &'r Paths,
        before: &ViewTable,
    ) -> Self {
        Self {
            records,
            paths,
            table: before.clone(),
            writes: Batch::default(),
            changed: Vec::new(),
        }
    }

    /// Has a view show what closures have of it; its list is as `before`, or is to be numbered.
    pub(super) fn show(
        &mut self,
        name: &str,
        mut record: ViewRecord,
        before: Option<&View>,
        profiles: &ProfileTable,
    ) -> Result<(), StoreError> {
        let Reach { all, unknown } = reach_of(self.paths, &record, profiles)?;
        let there = before.map(|view| view.members(self.records)).transpose()?;
        let there = there.unwrap_or_default();
        let gone = there.from(1).map(|(_, hash)| hash);
        let (members, gone) = match there.showing(&all).filter(|_| before.is_some()) {
            Some(members) => {
                let gone = gone.filter(|hash| members.place(*hash).is_none());
                let gone: Vec<_> = gone.collect();
                (members, gone)
            }
            // It is new, or its places are used up: all get other numbers.
            None => {
                self.writes.delete(Family::Views, members::key(record.list));
                record.list = self.table.number()?;
                let members = ViewMembers::default().showing(&all);
                let members = members.ok_or_else(|| StoreError::TooLargeView {
                    name: name.to_owned(),
                    paths: all.len(),
                    most: ViewMembers::MAX,
                })?;
                (members, gone.collect())
            }
        };
        let list = members::key(record.list);
        self.writes.put(Family::Views, list, members.encode());
        let view = table::key(name);
        self.writes.put(Family::Views, view, record.encode());
        if record.is_volume {
            let volume = table::volume_key(record.id);
            self.writes.put(Family::Views, volume, []);
        }
        self.changed.push(ChangedView {
            id: record.id,
            name: name.to_owned(),
            came_or_went: before.is_none(),
            entries: self.names(gone)?,
        });
        let members = Some(Arc::new(members));
        self.table.put(name, record, members, Some(unknown.into()));
        Ok(())
    }

    /// Names of the paths that are known: no others were ever shown.
    fn names(
        &self,
        hashes: impl IntoIterator<Item = StorePathHash>,
    ) -> Result<Vec<String>, StoreError> {
        let infos = hashes.into_iter().map(|hash| self.paths.info(hash));
        let names = infos.filter_map(|info| {
            let name = |i: PathInfo| i.registration.path.base_name();
            info.map(|i| i.map(name)).transpose()
        });
        names.collect()
    }

    /// Removes a view, whether it is damaged or not.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.writes.delete(Family::Views, table::key(name));
        if let Some(view) = self.table.remove(name) {
            let ViewRecord { id, list, .. } = view.record;
            self.writes.delete(Family::Views, members::key(list));
            self.writes.delete(Family::Views, table::volume_key(id));
            let entries = match view.members(self.records) {
                Ok(members) => self.names(members.from(1).map(|(_, hash)| hash))?,
                // Whoever looks for it there is told that it is stale.
                Err(_) => Vec::new(),
            };
            self.changed.push(ChangedView {
                id,
                name: name.to_owned(),
                came_or_went: true,
                entries,
            });
        }
        Ok(())
    }

    /// What becomes of the views that follow profiles of these names, when profiles are as `profiles`
    /// says; `None` if there are none. `now` is in seconds since 1970.
    pub(in crate::store) fn follow(
        mut self,
        names: &HashSet<&str>,
        profiles: &ProfileTable,
        now: i64,
    ) -> Result<Option<ViewUpdate>, StoreError> {
        let all: Vec<_> = self.table.views().cloned().collect();
        for view in all {
            let follows = |p: &String| names.contains(p.as_str());
            if view.record.profiles.iter().any(follows) {
                let record = ViewRecord {
                    changed: now,
                    ..view.record.clone()
                };
                self.show(&view.name, record, Some(&view), profiles)?;
            }
        }
        match self.changed.is_empty() {
            true => Ok(None),
            false => self.finish().map(Some),
        }
    }

    /// The change, with all that is to be written of it.
    pub(super) fn finish(mut self) -> Result<ViewUpdate, StoreError> {
        let next = self.table.next.to_le_bytes();
        self.writes.put(Family::Meta, table::NEXT, next);
        add_untold(self.records, &self.changed, &mut self.writes)?;
        Ok(ViewUpdate {
            table: self.table,
            changed: self.changed,
            writes: self.writes,
        })
    }

    /// The change, if it says only what the records say already.
    pub(super) fn finish_unwritten(self) -> ViewUpdate {
        ViewUpdate {
            table: self.table,
            changed: self.changed,
            writes: Batch::default(),
        }
    }
}
