//! Showing paths to programs before they are published.
//!
//! Invariants: what is shown was verified as a whole; its ordinal is registered, with this NarHash and with
//! this kind of root, so that a crash leaves what can be fetched again under the same inode numbers; and
//! whoever else asks what is here sees it when it is published.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Paths;
use super::loaded::{PathRecord, ServedPath};
use super::path_info::{Contents, PathInfo, PathOrdinal, RootKind};
use super::publish::{Publication, root_kind};
use super::shown::Shown;
use crate::nix::store_path::StorePath;
use crate::store::changes::Change;
use crate::store::error::StoreError;
use crate::sync::lock;

impl Paths {
    /// Has mounts read a path that is about to be published, whose contents were verified; `None` where that
    /// has to wait: its contents were here before, its root was not said to be a directory, or it is
    /// large for the memory.
    ///
    /// # Errors
    /// The database failed.
    pub fn show(&self, publication: &Publication) -> Result<Option<Shown>, StoreError> {
        let said = &publication.registration;
        let Some(there) = self.readable_info(said.path.hash())? else {
            return Ok(None);
        };
        let is_as_told = there.contents == Contents::Absent(Some(RootKind::Directory))
            && root_kind(&publication.tree) == Some(RootKind::Directory)
            && there.registration.path == said.path
            && there.registration.nar_hash == said.nar_hash;
        if !is_as_told {
            return Ok(None);
        }
        let Some(tree) = self.contents.arrived(&publication.tree)? else {
            return Ok(None);
        };
        let ordinal = there.ordinal;
        let info = PathInfo {
            registration: said.clone(),
            contents: Contents::Local(publication.tree.digest()),
            ..there
        };
        let Some(record) = PathRecord::new(info) else {
            return Ok(None);
        };
        record.check(tree.references())?;
        let path = ServedPath { record, tree };
        lock(&self.shown.paths).insert(ordinal, path);
        // Listings that the kernel keeps lack it.
        self.observers.tell(&Change::Paths);
        let all = self.shown.clone();
        Ok(Some(Shown { all, ordinal }))
    }

    pub(super) fn shown(&self, ordinal: PathOrdinal) -> Option<ServedPath> {
        lock(&self.shown.paths).get(&ordinal).cloned()
    }

    /// As [`Paths::list`], with what is shown.
    pub(super) fn list_with_shown(
        &self,
        from: PathOrdinal,
        limit: usize,
    ) -> Result<Vec<(PathOrdinal, StorePath, bool)>, StoreError> {
        let name = |path: &ServedPath| path.info().registration.path.clone();
        let shown: Vec<_> = {
            let shown = lock(&self.shown.paths);
            let shown = shown.iter().filter(|(ordinal, _)| **ordinal >= from);
            shown.map(|(at, path)| (*at, name(path), true)).collect()
        };
        // After that, so that what is published meanwhile is not left out.
        let mut listed = self.list(from, limit)?;
        if !shown.is_empty() {
            listed.extend(shown);
            listed.sort_by_key(|(ordinal, ..)| *ordinal);
            listed.dedup_by_key(|(ordinal, ..)| *ordinal);
            listed.truncate(limit);
        }
        Ok(listed)
    }

    /// Waits until what is shown by now is published, or has failed; not longer than `most`.
    pub fn await_shown(&self, most: Duration) {
        let until = Instant::now() + most;
        let mut shown = lock(&self.shown.paths);
        let mut left: Vec<_> = shown.keys().copied().collect();
        loop {
            left.retain(|ordinal| shown.contains_key(ordinal));
            let rest = until.saturating_duration_since(Instant::now());
            if left.is_empty() || rest.is_zero() {
                return;
            }
            let waited = self.shown.fewer.wait_timeout(shown, rest);
            (shown, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}
