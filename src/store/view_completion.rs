//! Closures of views that are known in part: what is missing, and showing what has become known.
//!
//! A view shows what is known of its closures when it is made, or when a profile that it follows
//! is switched. Invariant: what it lacks then is noted with it in memory, so that a look for what
//! has become known costs nothing where nothing is missing; after a start each view is looked at
//! once.

use std::collections::{HashSet, VecDeque};

use super::views::now;
use super::{ProfileTable, Store, StoreError, View, ViewMembers, ViewRecord, lock};
use crate::nix::store_path::{StorePath, StorePathHash};

/// What closures consist of.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// All of it, what is only referred to included.
    pub(super) shown: Vec<StorePathHash>,
    /// What is referred to and not registered, in order.
    pub(super) unknown: Vec<StorePath>,
}

impl Store {
    /// What is not registered of the closures of `roots`, these included.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn unknown_of(&self, roots: &[StorePath]) -> Result<Vec<StorePath>, StoreError> {
        Ok(self.reach_from(roots.iter().cloned())?.unknown)
    }

    fn reach_from(&self, roots: impl IntoIterator<Item = StorePath>) -> Result<Reach, StoreError> {
        let mut seen = HashSet::new();
        let mut queue: VecDeque<_> = roots.into_iter().collect();
        let mut reach = Reach::default();
        while let Some(path) = queue.pop_front() {
            if !seen.insert(path.hash()) {
                continue;
            }
            reach.shown.push(path.hash());
            match self.paths.info(path.hash())? {
                Some(info) => queue.extend(info.registration.references),
                None => reach.unknown.push(path),
            }
        }
        reach.unknown.sort();
        Ok(reach)
    }

    /// What a view shows when profiles are as `table` says.
    pub(super) fn reach(
        &self,
        record: &ViewRecord,
        table: &ProfileTable,
    ) -> Result<Reach, StoreError> {
        let profiles = record.profiles.iter().filter_map(|p| table.profile(p));
        let current = profiles.filter_map(|p| Some(p.current_generation()?.path.clone()));
        self.reach_from(record.roots.iter().cloned().chain(current))
    }

    /// Has views show what has become known of their closures. When it returns, the change is
    /// durable, can be seen, and the observer has been told. Returns what is still not registered,
    /// in order.
    ///
    /// # Errors
    /// The database failed, a record is damaged, or numbers are used up.
    pub fn complete_views(&self) -> Result<Vec<StorePath>, StoreError> {
        let mut missing = Vec::new();
        let table = self.view_table();
        for view in table.views().filter(|view| view.may_be_incomplete()) {
            missing.extend(self.complete_view(&view.name)?);
        }
        missing.sort();
        missing.dedup();
        Ok(missing)
    }

    fn complete_view(&self, name: &str) -> Result<Vec<StorePath>, StoreError> {
        let changing = lock(&self.profiles.changing);
        let mut edit = self.begin_view_edit();
        let Some(view) = edit.table.named(name).cloned() else {
            return Ok(Vec::new());
        };
        let profiles = self.profile_table();
        let Reach { shown, unknown } = self.reach(&view.record, &profiles)?;
        if view.unknown.as_deref() == Some(unknown.as_slice()) {
            return Ok(unknown);
        }
        let is_shown = is_all(self.view_members(&view)?.as_ref(), &shown);
        let mut record = view.record.clone();
        if !is_shown || view.unknown.is_some() {
            record.changed = now();
        }
        self.show(&mut edit, name, record, Some(&view), &profiles)?;
        if is_shown && view.unknown.is_none() {
            // Nothing is to be written; whether names have become known is for listings to tell.
            edit.records.clear();
        } else {
            self.write_views(&edit)?;
        }
        let changed = self.replace_views(edit);
        drop(changing);
        self.tell_views(&changed);
        Ok(unknown)
    }

    /// What is not registered of what a view shows.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn unknown_in(&self, view: &View) -> Result<Vec<StorePath>, StoreError> {
        Ok(self.reach(&view.record, &self.profile_table())?.unknown)
    }
}

/// Whether these are all that is shown.
fn is_all(members: &ViewMembers, hashes: &[StorePathHash]) -> bool {
    let mut all = hashes.iter();
    members.from(1).count() == hashes.len() && all.all(|hash| members.place(*hash).is_some())
}
