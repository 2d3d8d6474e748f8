//! Path infos and ordinals that cannot be read.
//!
//! A path info that cannot be read is damage of that path alone: it is registered anew when a source is
//! asked for the path, under the ordinal that it has. Its name is known from the record of its ordinal, or
//! from what refers to it; the record of an ordinal is written anew from the path info. Only where both
//! cannot be read a path has no name any more. Invariant: what cannot be read is never taken for absent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::loaded::PathRecord;
use super::lost::{Listed, Unreadable, UnreadablePath};
use super::ordinals::{HERE, NOT_HERE, name_path, named_path};
use super::path_info::{PathInfo, PathOrdinal};
use super::{Paths, ordinals};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::error::StoreError;
use crate::store::records::{Batch, Durability, Family, Gap};
use crate::sync::lock;

impl Paths {
    /// Visits all path infos, with the lengths of their records. Those that a listing passes over are read
    /// by their keys, as far as these are known: from ordinals, from references, or from `also`.
    pub(in crate::store) fn scan_infos(
        &self,
        listed: &Listed<'_>,
        also: &mut dyn Iterator<Item = StorePathHash>,
        visit: &mut dyn FnMut(PathInfo, u64) -> Result<(), StoreError>,
    ) -> Result<Unreadable, StoreError> {
        let gaps = listed.scan(Family::Paths, |key, record| {
            visit(PathInfo::scanned(key, record)?, record.len() as u64)?;
            Ok(true)
        })?;
        if gaps.is_empty() {
            return Ok(Unreadable::default());
        }
        let is_passed_over =
            |hash: StorePathHash| gaps.iter().any(|gap| gap.contains(hash.as_bytes()));
        let mut sought = HashMap::new();
        let mut unnamed = self.scan_ordinals(listed, &mut |ordinal, state, path| {
            if is_passed_over(path.hash()) {
                let mut named = UnreadablePath::new(path.hash(), Some(path));
                (named.ordinal, named.was_here) = (Some(ordinal), state != NOT_HERE);
                sought.insert(named.hash, named);
            }
        })?;
        let seek = |sought: &mut HashMap<_, _>, info: &PathInfo| {
            for path in needed(info).filter(|path| is_passed_over(path.hash())) {
                let hash = path.hash();
                let unknown = || UnreadablePath::new(hash, Some(path.clone()));
                sought.entry(hash).or_insert_with(unknown);
            }
        };
        listed.scan(Family::Paths, |key, record| {
            let info = PathInfo::scanned(key, record)?;
            unnamed.remove(&info.ordinal);
            seek(&mut sought, &info);
            Ok(true)
        })?;
        for hash in also.filter(|hash| is_passed_over(*hash)) {
            let unknown = || UnreadablePath::new(hash, None);
            sought.entry(hash).or_insert_with(unknown);
        }
        let mut paths = Vec::new();
        let mut seen = HashSet::new();
        // What is found may name others.
        while let Some(hash) = sought.keys().next().copied() {
            let Some(path) = sought.remove(&hash).filter(|_| seen.insert(hash)) else {
                continue;
            };
            match self.read_info(hash) {
                Ok(None) => {}
                Ok(Some((info, length))) => {
                    unnamed.remove(&info.ordinal);
                    seek(&mut sought, &info);
                    visit(info, length)?;
                }
                Err(e) if e.is_damage() => paths.push(path),
                Err(e) => return Err(e),
            }
        }
        paths.sort_by(|a, b| (&a.path, a.hash).cmp(&(&b.path, b.hash)));
        let mut unnamed: Vec<_> = unnamed.into_iter().collect();
        unnamed.sort_unstable();
        Ok(Unreadable { paths, unnamed })
    }

    /// Visits the records of all ordinals. Returns those that cannot be read.
    fn scan_ordinals(
        &self,
        listed: &Listed<'_>,
        visit: &mut dyn FnMut(PathOrdinal, u8, StorePath),
    ) -> Result<HashSet<PathOrdinal>, StoreError> {
        let gaps = listed.scan(Family::Ordinals, |key, record| {
            let ordinal = ordinals::of_key(key)?;
            let (state, path) = named_path(ordinal, record)?;
            visit(ordinal, state, path);
            Ok(true)
        })?;
        let mut unreadable = HashSet::new();
        for ordinal in self.passed_over(&gaps, PathOrdinal(0))? {
            match self.read_ordinal(ordinal) {
                Ok(None) => {}
                Ok(Some((state, path))) => visit(ordinal, state, path),
                Err(e) if e.is_damage() => drop(unreadable.insert(ordinal)),
                Err(e) => return Err(e),
            }
        }
        Ok(unreadable)
    }

    /// The ordinals from one on that a listing may have passed over.
    pub(super) fn passed_over(
        &self,
        gaps: &[Gap],
        from: PathOrdinal,
    ) -> Result<Vec<PathOrdinal>, StoreError> {
        if gaps.is_empty() {
            return Ok(Vec::new());
        }
        let end = ordinals::end(&self.records)?;
        let each = gaps.iter().flat_map(|gap| {
            let (first, last) = gap.numbers();
            let numbers = (first.max(from.0)..end).take_while(move |number| *number <= last);
            numbers.filter(|number| gap.contains(&number.to_be_bytes()))
        });
        Ok(each.map(PathOrdinal).collect())
    }

    /// What is registered under a hash, with the length of its record.
    pub(super) fn read_info(
        &self,
        hash: StorePathHash,
    ) -> Result<Option<(PathInfo, u64)>, StoreError> {
        match self.records.get(Family::Paths, hash.as_bytes())? {
            Some(record) => {
                let info = PathInfo::decode(hash, &record)?;
                Ok(Some((info, record.len() as u64)))
            }
            None => Ok(None),
        }
    }

    pub(super) fn read_ordinal(
        &self,
        ordinal: PathOrdinal,
    ) -> Result<Option<(u8, StorePath)>, StoreError> {
        let key = ordinal.0.to_be_bytes();
        let record = self.records.get(Family::Ordinals, &key)?;
        record
            .map(|record| named_path(ordinal, &record))
            .transpose()
    }

    /// What is known of a path whose path info cannot be read; said in the log once.
    ///
    /// # Errors
    /// The database failed.
    pub fn unreadable_path(&self, hash: StorePathHash) -> Result<UnreadablePath, StoreError> {
        let mut known = lock(&self.unreadable);
        if !known.paths.contains_key(&hash) {
            let mut also = std::iter::once(hash);
            let found = self.scan_infos(&self.listed(), &mut also, &mut |_, _| Ok(()))?;
            for path in found.paths {
                known.note(path);
            }
        }
        // Another thread may have registered it anew meanwhile.
        let known = known.paths.get(&hash).cloned();
        Ok(known.unwrap_or_else(|| UnreadablePath::new(hash, None)))
    }

    /// The error of a path info that cannot be read, with the name of the path.
    pub(super) fn unreadable_error(&self, hash: StorePathHash) -> StoreError {
        match self.unreadable_path(hash) {
            Ok(known) => StoreError::PathInfo {
                hash,
                path: known
                    .path
                    .map_or_else(|| hash.to_string(), |p| p.to_string()),
            },
            Err(e) => e,
        }
    }

    /// What this process has in memory of a path whose path info cannot be read.
    pub(super) fn remembered(&self, lost: &UnreadablePath) -> Option<PathInfo> {
        let record: Arc<PathRecord> = self.cache.peek(&lost.ordinal?)?;
        (record.info.registration.path.hash() == lost.hash).then(|| record.info.clone())
    }

    /// How many paths are known to have path infos that cannot be read.
    pub fn unreadable_count(&self) -> u64 {
        lock(&self.unreadable).paths.len() as u64
    }

    /// Looks for path infos that cannot be read.
    ///
    /// # Errors
    /// The database failed.
    pub fn unreadable(&self) -> Result<Unreadable, StoreError> {
        let nothing = &mut std::iter::empty();
        let found = self.scan_infos(&self.listed(), nothing, &mut |_, _| Ok(()))?;
        let mut known = lock(&self.unreadable);
        for path in &found.paths {
            known.note(path.clone());
        }
        Ok(found)
    }

    /// Visits the path infos that can be read.
    ///
    /// # Errors
    /// The database failed.
    pub fn each_readable(&self, visit: &mut dyn FnMut(&PathInfo)) -> Result<(), StoreError> {
        let nothing = &mut std::iter::empty();
        self.scan_infos(&self.listed(), nothing, &mut |info, _| {
            visit(&info);
            Ok(())
        })?;
        Ok(())
    }

    fn listed(&self) -> Listed<'_> {
        Listed::Now(&self.records)
    }

    /// Writes the records of ordinals that cannot be read anew, from the path infos; `false` if that of
    /// `wanted` is not among them. Survives a kill.
    pub(super) fn mend_ordinals(&self, wanted: PathOrdinal) -> Result<bool, StoreError> {
        let _next = lock(&self.next_ordinal);
        if lock(&self.unreadable).ordinals.contains(&wanted) {
            return Ok(false);
        }
        let mut lost = self.scan_ordinals(&self.listed(), &mut |_, _, _| {})?;
        let mut batch = Batch::default();
        let nothing = &mut std::iter::empty();
        self.scan_infos(&self.listed(), nothing, &mut |info, _| {
            if lost.remove(&info.ordinal) {
                let path = &info.registration.path;
                tracing::warn!(%path, "the record of its number was damaged, and is written anew");
                let state = info.tree().map_or(NOT_HERE, |_| HERE);
                let named = name_path(state, path);
                batch.put(Family::Ordinals, info.ordinal.0.to_be_bytes(), named);
            }
            Ok(())
        })?;
        if !batch.is_empty() {
            let (process, what) = (Durability::Process, "records of ordinals were mended");
            self.records.write(batch, process, what)?;
        }
        let is_mended = !lost.contains(&wanted);
        lock(&self.unreadable).ordinals = lost;
        Ok(is_mended)
    }

    /// Deletes the records of ordinals of which nothing else is known, so that nothing is expected of them
    /// any more. Survives a kill.
    ///
    /// # Errors
    /// The database failed; nothing has changed then.
    pub fn give_up_unnamed(&self, unnamed: &[PathOrdinal]) -> Result<(), StoreError> {
        if unnamed.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for ordinal in unnamed {
            batch.delete(Family::Ordinals, ordinal.0.to_be_bytes());
        }
        let what = "records without a name were deleted";
        self.records.write(batch, Durability::Process, what)?;
        // Whether they counted is not known.
        self.local.forget();
        let mut known = lock(&self.unreadable);
        known.ordinals.retain(|ordinal| !unnamed.contains(ordinal));
        Ok(())
    }
}

/// What a path info names besides its own path.
fn needed(info: &PathInfo) -> impl Iterator<Item = &StorePath> {
    let registration = &info.registration;
    registration.references.iter().chain(&registration.deriver)
}
