//! Removing paths: path info, ordinal and last use, in one batch with what else goes.

use std::sync::MutexGuard;

use super::path_info::{Origin, PathInfo, PathOrdinal};
use super::publish::set_changed;
use super::removal::Removal;
use super::{Paths, ordinals, small};
use crate::chunk::ChunkDigest;
use crate::nix::store_path::StorePathHash;
use crate::store::contents::{ChunkUses, Deletion};
use crate::store::error::StoreError;
use crate::store::records::{Family, Snapshot};
use crate::sync::lock;

/// A removal that runs. Publications tell it what they add, until it is dropped.
pub(in crate::store) struct RunningRemoval<'p> {
    paths: &'p Paths,
    /// The records when it began, or went on.
    pub(in crate::store) snapshot: Snapshot<'p>,
    /// Whether the next removal goes on where this one ends.
    is_kept: bool,
}

impl Drop for RunningRemoval<'_> {
    fn drop(&mut self) {
        let mut publishing = lock(&self.paths.publishing);
        match publishing.as_mut().filter(|_| self.is_kept) {
            Some(removal) => removal.is_waiting = true,
            None => *publishing = None,
        }
    }
}

impl RunningRemoval<'_> {
    /// What it knows of publications. None comes while this is held.
    pub(in crate::store) fn lock(&self) -> MutexGuard<'_, Option<Removal>> {
        lock(&self.paths.publishing)
    }

    /// Ends, and has publications tell the next removal what they add.
    pub(in crate::store) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Paths {
    /// From now on publications tell what they add. One removal runs at a time.
    pub(in crate::store) fn begin_removal(&self) -> Result<RunningRemoval<'_>, StoreError> {
        let mut publishing = lock(&self.publishing);
        *publishing = Some(Removal::new(ChunkUses::new(&self.records)?));
        Ok(RunningRemoval {
            paths: self,
            snapshot: self.records.snapshot(),
            is_kept: false,
        })
    }

    /// Goes on with the last removal, if that was kept.
    pub(in crate::store) fn resume_removal(&self) -> Option<RunningRemoval<'_>> {
        let mut publishing = lock(&self.publishing);
        let next = self.contents.next_chunk();
        *publishing = publishing.take().filter(|r| r.can_go_on(next));
        publishing.as_mut()?.is_waiting = false;
        Some(RunningRemoval {
            paths: self,
            snapshot: self.records.snapshot(),
            is_kept: false,
        })
    }

    /// Removes a path if it still has this ordinal and this tree, with what `more` adds to the deletion;
    /// `None` if it has not. One whose path info cannot be read has no tree. All goes or nothing; a power
    /// loss may bring it back, unless the deletion is durable. Returns the bytes that this freed.
    pub(in crate::store) fn remove(
        &self,
        (hash, ordinal, tree): (StorePathHash, Option<PathOrdinal>, Option<ChunkDigest>),
        more: impl FnOnce(&mut Deletion<'_>) -> Result<(), StoreError>,
    ) -> Result<Option<u64>, StoreError> {
        let _next = lock(&self.next_ordinal);
        let is_same = |info: &PathInfo| Some(info.ordinal) == ordinal && info.tree() == tree;
        let (there, was_here) = match self.read_info(hash) {
            Err(e) if e.is_damage() => {
                let lost = self.unreadable_path(hash)?;
                if lost.ordinal != ordinal || tree.is_some() {
                    return Ok(None);
                }
                (None, lost.was_here)
            }
            there => match there?.filter(|(info, _)| is_same(info)) {
                Some((info, _)) => (Some(info), tree.is_some()),
                None => return Ok(None),
            },
        };
        let mut deletion = self.contents.begin_deletion();
        deletion.record(Family::Paths, hash.as_bytes())?;
        let writes = deletion.writes();
        if let Some(ordinal) = ordinal {
            let key = ordinal.0.to_be_bytes();
            writes.delete(Family::Ordinals, key);
            writes.delete(Family::Uses, key);
        }
        if let Some(info) = &there {
            ordinals::keep(writes, info);
            if info.origin == Origin::Added {
                small::remove(writes, &info.registration.path);
            }
        }
        set_changed(writes);
        more(&mut deletion)?;
        let freed = deletion.commit()?;
        self.local.grow(-i64::from(was_here));
        if let Some(ordinal) = ordinal {
            self.cache.remove(&ordinal);
            self.uses.clear(ordinal);
        }
        lock(&self.unreadable).forget(hash);
        Ok(Some(freed))
    }
}
