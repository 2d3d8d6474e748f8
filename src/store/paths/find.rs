//! Finding and listing paths, for this process and for the kernel.

use std::collections::HashSet;
use std::sync::Arc;

use super::Paths;
use super::loaded::{LoadedPath, PathRecord, ServedPath};
use super::lost::Listed;
use super::ordinals::{DIRECTORY_HERE, NOT_HERE, named_path, of_key};
use super::path_info::{PathInfo, PathOrdinal};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::clock::milliseconds;
use crate::store::error::StoreError;
use crate::store::records::Family;
use crate::sync::lock;

impl Paths {
    /// What is registered under a hash.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn info(&self, hash: StorePathHash) -> Result<Option<PathInfo>, StoreError> {
        match self.read_info(hash) {
            Ok(found) => Ok(found.map(|(info, _)| info)),
            Err(e) if e.is_damage() => Err(self.unreadable_error(hash)),
            Err(e) => Err(e),
        }
    }

    /// The same for those who ask the sources for what is not registered: what cannot be read is asked for
    /// as well.
    ///
    /// # Errors
    /// The database failed.
    pub fn readable_info(&self, hash: StorePathHash) -> Result<Option<PathInfo>, StoreError> {
        match self.info(hash) {
            Err(e) if e.is_damage() => Ok(None),
            info => info,
        }
    }

    /// The path with a hash, also where its path info cannot be read; one without a name then, if nothing
    /// has its name.
    ///
    /// # Errors
    /// The database failed.
    pub fn name(&self, hash: StorePathHash) -> Result<Option<StorePath>, StoreError> {
        match self.info(hash) {
            Err(e) if e.is_damage() => {
                let named = self.unreadable_path(hash)?.path;
                Ok(named.or_else(|| StorePath::new(hash, "unknown").ok()))
            }
            info => Ok(info?.map(|info| info.registration.path)),
        }
    }

    /// The ordinal of a path, also where its path info cannot be read.
    ///
    /// # Errors
    /// The database failed.
    pub fn ordinal(&self, hash: StorePathHash) -> Result<Option<PathOrdinal>, StoreError> {
        match self.info(hash) {
            Err(e) if e.is_damage() => Ok(self.unreadable_path(hash)?.ordinal),
            info => Ok(info?.map(|info| info.ordinal)),
        }
    }

    /// The path with an ordinal.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn with_ordinal(&self, ordinal: PathOrdinal) -> Result<Option<StorePath>, StoreError> {
        Ok(self.named(ordinal)?.map(|(_, path)| path))
    }

    /// What is here of the path with an ordinal, and its name.
    fn named(&self, ordinal: PathOrdinal) -> Result<Option<(u8, StorePath)>, StoreError> {
        match self.read_ordinal(ordinal) {
            Err(e) if e.is_damage() && self.mend_ordinals(ordinal)? => self.read_ordinal(ordinal),
            named => named,
        }
    }

    /// At most `limit` paths whose trees are here, from `ordinal` on, in the order of their
    /// ordinals; with `true` where it is noted that the root is a directory, else its tree says what
    /// it is.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn list(
        &self,
        ordinal: PathOrdinal,
        limit: usize,
    ) -> Result<Vec<(PathOrdinal, StorePath, bool)>, StoreError> {
        let mut out = Vec::new();
        let from = ordinal.0.to_be_bytes();
        let ordinals = Family::Ordinals;
        let gaps = self.records.scan_readable(ordinals, &from, |key, value| {
            if out.len() == limit {
                return Ok(false);
            }
            let ordinal = of_key(key)?;
            let (state, path) = named_path(ordinal, value)?;
            if state != NOT_HERE {
                out.push((ordinal, path, state == DIRECTORY_HERE));
            }
            Ok(true)
        })?;
        if gaps.is_empty() {
            return Ok(out);
        }
        let mut added = 0;
        for ordinal in self.passed_over(&gaps, ordinal)? {
            if added == limit {
                break;
            }
            match self.named(ordinal) {
                Ok(Some((state, path))) if state != NOT_HERE => {
                    out.push((ordinal, path, state == DIRECTORY_HERE));
                    added += 1;
                }
                Ok(_) => {}
                Err(e) if e.is_damage() => tracing::debug!("left out of a listing: {e}"),
                Err(e) => return Err(e),
            }
        }
        out.sort_by_key(|(ordinal, ..)| *ordinal);
        out.truncate(limit);
        Ok(out)
    }

    /// All paths whose contents are here, in the order of their ordinals.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn all(&self) -> Result<Vec<StorePath>, StoreError> {
        let listed = self.list(PathOrdinal(0), usize::MAX)?;
        Ok(listed.into_iter().map(|(_, path, _)| path).collect())
    }

    /// Visits all registered paths that can be read, also those of which nothing is here.
    ///
    /// # Errors
    /// The database failed.
    pub fn each_registered(&self, mut visit: impl FnMut(PathInfo)) -> Result<(), StoreError> {
        let listed = Listed::Now(&self.records);
        let unreadable = self.scan_infos(&listed, &mut std::iter::empty(), &mut |info, _| {
            visit(info);
            Ok(())
        })?;
        if !unreadable.is_empty() {
            tracing::debug!("left out of a listing: {} paths", unreadable.paths.len());
        }
        Ok(())
    }

    /// How many paths there are whose trees are here. Costs a scan when first asked for, and nothing after
    /// that.
    ///
    /// # Errors
    /// The database failed.
    pub fn count(&self) -> Result<u64, StoreError> {
        if let Some(count) = self.local.count() {
            return Ok(count);
        }
        let (snapshot, grown) = {
            let _next = lock(&self.next_ordinal);
            (self.records.snapshot(), self.local.grown())
        };
        let mut count = 0;
        let ordinals = Family::Ordinals;
        let gaps = snapshot.scan_readable(ordinals, &[], |_, value| {
            count += i64::from(value.first().is_some_and(|state| *state != NOT_HERE));
            Ok(true)
        })?;
        match gaps.is_empty() {
            true => Ok(self.local.set_opened(count - grown)),
            false => Ok(self.all()?.len() as u64),
        }
    }

    /// A path with its tree, ready to be read; `None` if there is no such path or its contents
    /// are not here.
    ///
    /// # Errors
    /// The database failed, or the record or the tree is damaged.
    pub fn load(&self, ordinal: PathOrdinal) -> Result<Option<LoadedPath>, StoreError> {
        let record = self.record(ordinal)?;
        record.map(|record| self.with_tree(record)).transpose()
    }

    /// The same for a mount, which sees what is shown as well.
    ///
    /// # Errors
    /// As [`Paths::load`].
    pub fn serve(&self, ordinal: PathOrdinal) -> Result<Option<ServedPath>, StoreError> {
        let Some(record) = self.record(ordinal)? else {
            return Ok(self.shown(ordinal));
        };
        let tree = self.contents.served(record.tree);
        let tree = tree.map_err(|e| record.named(e))?;
        record.check(tree.references())?;
        Ok(Some(ServedPath { record, tree }))
    }

    fn record(&self, ordinal: PathOrdinal) -> Result<Option<Arc<PathRecord>>, StoreError> {
        // As with trees: a write that comes while this is read takes the place in the cache away.
        let record = self.cache.get_or_insert_with(&ordinal, || {
            let record = self.read_path(ordinal).transpose();
            record.unwrap_or(Err(None))
        });
        match record {
            Ok(record) => Ok(Some(record)),
            Err(None) => Ok(None),
            Err(Some(e)) => Err(e),
        }
    }

    fn read_path(
        &self,
        ordinal: PathOrdinal,
    ) -> Result<Option<Arc<PathRecord>>, Option<StoreError>> {
        let Some(path) = self.with_ordinal(ordinal)? else {
            return Ok(None);
        };
        let info = self.info(path.hash())?;
        Ok(info.and_then(PathRecord::new))
    }

    fn with_tree(&self, record: Arc<PathRecord>) -> Result<LoadedPath, StoreError> {
        let stored = self.contents.tree(record.tree);
        let stored = stored.map_err(|e| record.named(e))?;
        record.check(stored.tree.references())?;
        Ok(LoadedPath { record, stored })
    }

    /// The same for a path info at hand.
    ///
    /// # Errors
    /// The database failed, or the tree is damaged.
    pub fn load_info(&self, info: PathInfo) -> Result<Option<LoadedPath>, StoreError> {
        let record = PathRecord::new(info);
        record.map(|record| self.with_tree(record)).transpose()
    }

    /// Whether the contents of a path are here, chunks included: false if they were never here,
    /// if they were dropped, or if they are known to be damaged.
    ///
    /// # Errors
    /// The database failed.
    pub fn has_contents(&self, info: &PathInfo) -> Result<bool, StoreError> {
        match info.tree() {
            Some(tree) => self.contents.is_complete(tree),
            None => Ok(false),
        }
    }

    /// Whether the chunks of a loaded path were here when it was loaded, and none is known to be damaged.
    ///
    /// # Errors
    /// See [`ServedPath`].
    pub fn can_be_read(&self, path: &ServedPath) -> Result<bool, StoreError> {
        Ok(path.tree.is_complete() && !self.contents.is_damaged(&path.tree)?)
    }

    /// Paths that were registered, looked up or read at this time or later, in seconds since 1970, and
    /// those of which that cannot be read.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn newer_than(&self, since: u64) -> Result<HashSet<StorePathHash>, StoreError> {
        let age = milliseconds().saturating_sub(since * 1000);
        let mut newer = HashSet::new();
        let (listed, nothing) = (Listed::Now(&self.records), &mut std::iter::empty());
        let unreadable = self.scan_infos(&listed, nothing, &mut |info, _| {
            if info.registered >= since
                || self.uses.last(info.ordinal) >= since * 1000
                || self.lookups.is_newer(info.ordinal, age)
            {
                newer.insert(info.registration.path.hash());
            }
            Ok(())
        })?;
        newer.extend(unreadable.paths.iter().map(|lost| lost.hash));
        Ok(newer)
    }

    /// What is registered under a hash, for an answer after which the kernel knows the path: a
    /// removal that is under way leaves it alone.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn look_up(&self, hash: StorePathHash) -> Result<Option<PathInfo>, StoreError> {
        let lookup = self.lookups.begin();
        let info = self.info(hash)?;
        if let Some(info) = &info {
            lookup.found(info.ordinal);
        }
        Ok(info)
    }

    /// The path with an ordinal, for an answer after which the kernel knows it.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn look_up_number(&self, ordinal: PathOrdinal) -> Result<Option<StorePath>, StoreError> {
        let lookup = self.lookups.begin();
        let path = self.with_ordinal(ordinal)?;
        if path.is_some() {
            lookup.found(ordinal);
        }
        Ok(path)
    }

    /// As [`Paths::list`], for an answer after which the kernel knows the paths.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn look_up_from(
        &self,
        ordinal: PathOrdinal,
        limit: usize,
    ) -> Result<Vec<(PathOrdinal, StorePath, bool)>, StoreError> {
        let lookup = self.lookups.begin();
        let found = self.list_with_shown(ordinal, limit)?;
        for (ordinal, ..) in &found {
            lookup.found(*ordinal);
        }
        Ok(found)
    }

    /// A path for a listing after which the kernel knows it: its ordinal, and whether its root is noted to be
    /// a directory, or `None` if its tree is not here.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn look_up_listed(
        &self,
        hash: StorePathHash,
    ) -> Result<Option<(PathOrdinal, StorePath, Option<bool>)>, StoreError> {
        let lookup = self.lookups.begin();
        loop {
            let Some(record) = self.records.get(Family::Paths, hash.as_bytes())? else {
                return Ok(None);
            };
            let ordinal = PathInfo::ordinal_of(hash, &record)?;
            let key = ordinal.0.to_be_bytes();
            // Without one the path has just got another ordinal.
            if let Some(named) = self.records.get(Family::Ordinals, &key)? {
                let (state, path) = named_path(ordinal, &named)?;
                lookup.found(ordinal);
                let is_directory = (state != NOT_HERE).then_some(state == DIRECTORY_HERE);
                return Ok(Some((ordinal, path, is_directory)));
            }
            let again = self.info(hash)?;
            if again.is_some_and(|info| info.ordinal == ordinal) {
                return Err(StoreError::Damaged {
                    what: format!("the record of ordinal {}", ordinal.0),
                });
            }
        }
    }
}
