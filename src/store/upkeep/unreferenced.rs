//! Chunks that no tree names: counting what trees name, and deleting the rest.

use super::Upkeep;
use crate::chunk::ChunkDigest;
use crate::store::contents::{Located, TreeRecord};
use crate::store::error::StoreError;
use crate::store::paths::RunningRemoval;
use crate::store::records::Family;

/// Chunks that are deleted under one hold of the deletion lock, for which ingests wait.
const BATCH: usize = 1000;

/// The trees of the paths, as far as these are known.
pub(super) struct KnownTrees {
    /// Each tree, with whether nothing can bring its contents again.
    pub(super) trees: Vec<(ChunkDigest, bool)>,
    /// Whether there may be others, of paths that cannot be read.
    pub(super) and_others: bool,
}

impl Upkeep {
    /// Counts what all trees of the snapshot name, and shows each to `see`; those that the listing passes
    /// over, last of all, are read by their names, which `known` has. Returns whether all of them could be
    /// read. Where contents that nothing can bring again may be those of a tree that cannot be read, no chunk
    /// is judged.
    pub(super) fn count_uses(
        &self,
        running: &RunningRemoval<'_>,
        known: impl FnOnce() -> Result<KnownTrees, StoreError>,
        mut see: impl FnMut(&ChunkDigest, &TreeRecord<'_>),
    ) -> Result<bool, StoreError> {
        let mut add = |tree: ChunkDigest, record: &[u8]| -> Result<(), StoreError> {
            let record = TreeRecord::parse(record).ok_or_else(|| StoreError::Damaged {
                what: format!("the record of tree {tree}"),
            })?;
            see(&tree, &record);
            if let Some(removal) = running.lock().as_mut() {
                for number in record.numbers() {
                    removal.uses.add(number);
                }
            }
            Ok(())
        };
        let trees = Family::Trees;
        let gaps = running.snapshot.scan_readable(trees, &[], |key, record| {
            let tree = key.try_into().map(ChunkDigest);
            let tree = tree.map_err(|_| StoreError::Damaged {
                what: "the key of a tree".into(),
            })?;
            add(tree, record).map(|()| true)
        })?;
        if gaps.is_empty() {
            return Ok(true);
        }
        let known = known()?;
        let mut all_read = !known.and_others;
        let mut may_be_last = known.and_others;
        let passed_over = |tree: &ChunkDigest| gaps.iter().any(|gap| gap.contains(&tree.0));
        let trees = known.trees.into_iter();
        for (tree, is_last) in trees.filter(|(tree, _)| passed_over(tree)) {
            let record = self.records.get(Family::Trees, &tree.0);
            let added = record.and_then(|record| record.map_or(Ok(()), |r| add(tree, &r)));
            match added {
                Err(e) if e.is_damage() => {
                    tracing::warn!("the chunks of tree {tree} are not known: {e}");
                    all_read = false;
                    may_be_last |= is_last;
                }
                added => added?,
            }
        }
        if may_be_last && let Some(removal) = running.lock().as_mut() {
            tracing::warn!(
                "chunks stay, since a tree cannot be read whose contents may be here only"
            );
            removal.uses.judge_none();
        }
        Ok(all_read)
    }

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
        let digests = Family::Digests;
        let gaps = snapshot.scan_readable(digests, &[], |key, record| {
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
        if !gaps.is_empty() {
            self.contents.held().note_unreferenced();
        }
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
