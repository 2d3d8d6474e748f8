//! Chunks that no tree names: counting what trees name, and deleting the rest.

use super::Upkeep;
use crate::chunk::ChunkDigest;
use crate::store::contents::{Located, TreeRecord};
use crate::store::error::StoreError;
use crate::store::paths::RunningRemoval;
use crate::store::records::Family;

/// Chunks that are deleted under one hold of the deletion lock, for which ingests wait.
const BATCH: usize = 1000;

/// Counts what all trees of the snapshot name, and shows each to `see`. Returns whether all of them could be
/// read.
pub(super) fn count_uses(
    running: &RunningRemoval<'_>,
    mut see: impl FnMut(&ChunkDigest, &TreeRecord<'_>),
) -> Result<bool, StoreError> {
    let mut all_read = true;
    running.snapshot.scan(Family::Trees, &[], |key, record| {
        let tree = key.try_into().map(ChunkDigest);
        let (Ok(tree), Some(record)) = (tree, TreeRecord::parse(record)) else {
            all_read = false;
            return Ok(true);
        };
        see(&tree, &record);
        if let Some(removal) = running.lock().as_mut() {
            for number in record.numbers() {
                removal.uses.add(number);
            }
        }
        Ok(true)
    })?;
    Ok(all_read)
}

impl Upkeep {
    /// Deletes the chunks that no tree names and no ingest holds, if there may be any. Returns the
    /// bytes that this freed.
    pub(super) fn remove_unreferenced(
        &self,
        running: &RunningRemoval<'_>,
        all_read: bool,
    ) -> Result<u64, StoreError> {
        if !self.contents.held().take_unreferenced() {
            return Ok(0);
        }
        let removed = match all_read {
            true => self.remove_unused(running),
            // What a tree that cannot be read names is not known.
            false => Ok(0),
        };
        if removed.is_err() || !all_read {
            self.contents.held().note_unreferenced();
        }
        removed
    }

    fn remove_unused(&self, running: &RunningRemoval<'_>) -> Result<u64, StoreError> {
        let mut unused = Vec::new();
        let snapshot = self.records.snapshot();
        snapshot.scan(Family::Digests, &[], |key, record| {
            let digest = key.try_into().map(ChunkDigest);
            if let (Ok(digest), Some(located)) = (digest, Located::decode(record)) {
                let publishing = running.lock();
                let uses = publishing.as_ref().map(|r| &r.uses);
                if uses.is_some_and(|u| !u.is_used(located.number)) {
                    unused.push((digest, located.number));
                }
            }
            Ok(true)
        })?;
        let mut freed = 0;
        for some in unused.chunks(BATCH) {
            let publishing = running.lock();
            let Some(removal) = publishing.as_ref() else {
                break;
            };
            let mut deletion = self.contents.begin_deletion();
            for (digest, number) in some {
                deletion.chunk(&removal.uses, digest, *number)?;
            }
            freed += deletion.commit()?;
        }
        Ok(freed)
    }
}
