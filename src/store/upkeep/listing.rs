//! Listing of what may be dropped: a look at all trees and path infos.

use std::collections::{BinaryHeap, HashMap, HashSet};

use super::Upkeep;
use super::candidates::{Candidate, Candidates, LISTED, rank};
use super::unreferenced::KnownTrees;
use crate::chunk::ChunkDigest;
use crate::nix::store_path::StorePathHash;
use crate::store::contents::TreeRecord;
use crate::store::error::StoreError;
use crate::store::paths::{Listed, Origin, PathInfo, Removal, RunningRemoval, Unreadable};
use crate::store::records::Family;

/// The first bytes of a digest, which tell it from the others.
fn short(digest: &ChunkDigest) -> u64 {
    let (first, _) = digest.0.split_at(8);
    first.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

impl Upkeep {
    /// When a path was used last, in milliseconds since 1970; one that never was is as old as its
    /// registration.
    fn age(&self, info: &PathInfo) -> u64 {
        let used = self.paths.last_use(info.ordinal);
        used.max(info.registered * 1000)
    }

    /// Visits all path infos whose trees are here. Returns those that cannot be read.
    fn each_path(
        &self,
        running: &RunningRemoval<'_>,
        mut visit: impl FnMut(ChunkDigest, PathInfo),
    ) -> Result<Unreadable, StoreError> {
        let (listed, nothing) = (Listed::Then(&running.snapshot), &mut std::iter::empty());
        self.paths.scan_infos(&listed, nothing, &mut |info, _| {
            if let Some(tree) = info.tree() {
                visit(tree, info);
            }
            Ok(())
        })
    }

    /// The trees of all paths that can be read, with whether they are kept.
    fn known_trees(
        &self,
        running: &RunningRemoval<'_>,
        is_kept: impl Fn(&PathInfo) -> bool,
    ) -> Result<KnownTrees, StoreError> {
        let mut trees: HashMap<_, bool> = HashMap::new();
        let unreadable = self.each_path(running, |tree, info| {
            *trees.entry(tree).or_default() |= is_kept(&info);
        })?;
        Ok(KnownTrees {
            trees: trees.into_iter().collect(),
            and_others: !unreadable.is_empty(),
        })
    }

    /// The trees of paths that are kept and whose path infos cannot be read, as the second copy has them;
    /// `None` if that cannot say it.
    fn unreadable_trees(
        &self,
        unreadable: &Unreadable,
        is_kept: impl Fn(&PathInfo) -> bool,
    ) -> Option<Vec<ChunkDigest>> {
        if unreadable.is_empty() {
            return Some(Vec::new());
        }
        let hashes: HashSet<_> = unreadable.paths.iter().map(|path| path.hash).collect();
        let is_meant = |info: &PathInfo| {
            hashes.contains(&info.registration.path.hash())
                || unreadable.unnamed.contains(&info.ordinal)
        };
        let read = |key: &[u8], record: &[u8]| PathInfo::scanned(key, record).ok();
        let copied = self.records.copied(Family::Paths, |key, record| {
            read(key, record).is_some_and(|info| is_meant(&info))
        })?;
        let infos = copied.iter().filter_map(|(key, record)| read(key, record));
        Some(
            infos
                .filter(is_kept)
                .filter_map(|info| info.tree())
                .collect(),
        )
    }

    /// Counts the uses of all chunks, and lists the oldest of the trees that have some and may be dropped:
    /// none of `but`, none with a path that is in `keep` or was added.
    pub(super) fn candidates(
        &self,
        running: &RunningRemoval<'_>,
        keep: &HashSet<StorePathHash>,
        but: &HashSet<ChunkDigest>,
    ) -> Result<Candidates, StoreError> {
        let is_kept = |info: &PathInfo| {
            info.origin == Origin::Added || keep.contains(&info.registration.path.hash())
        };
        let mut full = Vec::new();
        let known = || self.known_trees(running, is_kept);
        let all_read = self.count_uses(running, known, |tree, record| {
            if record.numbers().len() > 0 {
                full.push(short(tree));
            }
        })?;
        // Then nothing may go, and a look at each tree says no more.
        let judges_none = |removal: &Removal| removal.uses.judges_none();
        if running.lock().as_ref().is_none_or(judges_none) {
            return Ok(Candidates::new([], false, all_read));
        }
        full.sort_unstable();
        let (mut kept, mut oldest, mut is_cut) = (HashSet::new(), BinaryHeap::new(), false);
        let unreadable = self.each_path(running, |tree, info| {
            if is_kept(&info) {
                kept.insert(tree);
            } else if full.binary_search(&short(&tree)).is_ok() && !but.contains(&tree) {
                let nar_size = info.registration.nar_size;
                oldest.push((rank(nar_size, self.age(&info)), tree));
                is_cut |= oldest.len() > LISTED;
                if oldest.len() > LISTED {
                    oldest.pop();
                }
            }
        })?;
        // What was added here would be lost with a tree that a path has which can be fetched again.
        let Some(unread) = self.unreadable_trees(&unreadable, is_kept) else {
            tracing::warn!(
                "nothing is dropped, since path infos cannot be read, whose contents may be here only"
            );
            return Ok(Candidates::new([], false, all_read));
        };
        kept.extend(unread);
        for tree in &kept {
            self.keep_chunks(running, tree)?;
        }
        let last = oldest.peek().map_or(0, |(rank, _)| *rank);
        let mut all: HashMap<_, _> = oldest
            .into_iter()
            .map(|(_, tree)| (tree, Candidate::new(tree)))
            .collect();
        self.each_path(running, |tree, info| {
            if let Some(candidate) = all.get_mut(&tree) {
                candidate.kept |= is_kept(&info);
                let age = self.age(&info);
                candidate.add(info, age);
            }
        })?;
        all.retain(|tree, candidate| !candidate.kept && !kept.contains(tree));
        // Where other paths of the same trees are younger, there may be older ones that were left out.
        if all.values().any(|candidate| candidate.rank <= last) {
            all.retain(|_, candidate| candidate.rank <= last);
        }
        Ok(Candidates::new(all.into_values(), is_cut, all_read))
    }

    /// Notes the chunks of a kept tree.
    fn keep_chunks(
        &self,
        running: &RunningRemoval<'_>,
        tree: &ChunkDigest,
    ) -> Result<(), StoreError> {
        let record = match self.records.get(Family::Trees, &tree.0) {
            Err(e) if e.is_damage() => None,
            record => record?,
        };
        if let Some(record) = record.as_deref().and_then(TreeRecord::parse)
            && let Some(removal) = running.lock().as_mut()
        {
            record
                .numbers()
                .for_each(|number| removal.uses.keep(number));
        }
        Ok(())
    }
}
