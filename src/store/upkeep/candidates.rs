//! Trees that may be dropped, the least recently used first.
//!
//! To list them takes a look at all trees and path infos. So they are listed for many evictions at once: some
//! of the oldest, which the evictions to come take one after the other, until none is left. What was
//! published since is younger; what was used since goes back into its place; what is kept by now is left
//! alone by whoever takes it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::{Upkeep, unreferenced};
use crate::chunk::ChunkDigest;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::contents::TreeRecord;
use crate::store::error::StoreError;
use crate::store::paths::{Leaving, Origin, PathInfo, PathOrdinal, Paths, RunningRemoval};
use crate::store::records::Family;

/// Paths that are listed at once: some 5 MB of memory, and a look at 60 records for each path that goes where
/// there are a million.
const LISTED: usize = 1 << 14;

/// A tree that may be dropped.
pub(super) struct Candidate {
    pub(super) tree: ChunkDigest,
    pub(super) paths: Vec<(StorePath, PathOrdinal)>,
    /// Of the youngest of its paths, in milliseconds since 1970.
    last_use: u64,
    /// Kept by the caller, or not to be had again.
    kept: bool,
}

impl Candidate {
    fn new(tree: ChunkDigest) -> Self {
        Self {
            tree,
            paths: Vec::new(),
            last_use: 0,
            kept: false,
        }
    }

    /// When the youngest of its paths was used last, in milliseconds since 1970; 0 if that is not known.
    fn last_use_in(&self, paths: &Paths) -> u64 {
        let each = self.paths.iter();
        let each = each.map(|(_, ordinal)| paths.last_use(*ordinal));
        each.max().unwrap_or(0)
    }

    pub(super) fn leaving(&self) -> impl Iterator<Item = Leaving> {
        self.paths.iter().map(|(path, ordinal)| Leaving {
            hash: path.hash(),
            ordinal: *ordinal,
        })
    }

    /// Whether one of its paths is in a set.
    pub(super) fn is_in(&self, set: &HashSet<StorePathHash>) -> bool {
        self.paths
            .iter()
            .any(|(path, _)| set.contains(&path.hash()))
    }
}

/// Trees that may be dropped.
pub(super) struct Candidates {
    all: HashMap<ChunkDigest, Candidate>,
    /// By last use.
    oldest: BinaryHeap<Reverse<(u64, ChunkDigest)>>,
    /// Whether there were more, which are younger.
    pub(super) is_cut: bool,
    /// Whether all trees could be read when these were listed.
    pub(super) all_read: bool,
}

impl Candidates {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes the oldest `count` of them. One that was used since it was listed comes back for a later time,
    /// but only once for each `put_back`, so that this ends.
    pub(super) fn take(
        &mut self,
        paths: &Paths,
        put_back: &mut HashSet<ChunkDigest>,
        count: usize,
    ) -> Vec<Candidate> {
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(Reverse((age, tree))) = self.oldest.pop()
        {
            let Some(candidate) = self.all.remove(&tree) else {
                continue;
            };
            let last_use = candidate.last_use_in(paths);
            if last_use > age && put_back.insert(tree) {
                self.put_back(Candidate {
                    last_use,
                    ..candidate
                });
            } else {
                taken.push(candidate);
            }
        }
        taken
    }

    /// Has one that was taken and not dropped be taken again later.
    pub(super) fn put_back(&mut self, candidate: Candidate) {
        self.oldest
            .push(Reverse((candidate.last_use, candidate.tree)));
        self.all.insert(candidate.tree, candidate);
    }
}

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

    /// Visits all path infos whose trees are here.
    fn each_path(
        running: &RunningRemoval<'_>,
        mut visit: impl FnMut(ChunkDigest, PathInfo),
    ) -> Result<(), StoreError> {
        running.snapshot.scan(Family::Paths, &[], |key, record| {
            let info = PathInfo::scanned(key, record)?;
            if let Some(tree) = info.tree() {
                visit(tree, info);
            }
            Ok(true)
        })
    }

    /// Counts the uses of all chunks, and lists the oldest of the trees that have some and may be dropped:
    /// none of `but`, none with a path that is in `keep` or was added.
    pub(super) fn candidates(
        &self,
        running: &RunningRemoval<'_>,
        keep: &HashSet<StorePathHash>,
        but: &HashSet<ChunkDigest>,
    ) -> Result<Candidates, StoreError> {
        // In the order of the digests.
        let mut full = Vec::new();
        let all_read = unreferenced::count_uses(running, |tree, record| {
            if record.numbers().len() > 0 {
                full.push(short(tree));
            }
        })?;
        let is_kept = |info: &PathInfo| {
            info.origin == Origin::Added || keep.contains(&info.registration.path.hash())
        };
        let (mut kept, mut oldest, mut is_cut) = (HashSet::new(), BinaryHeap::new(), false);
        Self::each_path(running, |tree, info| {
            if is_kept(&info) {
                kept.insert(tree);
            } else if full.binary_search(&short(&tree)).is_ok() && !but.contains(&tree) {
                oldest.push((self.age(&info), tree));
                is_cut |= oldest.len() > LISTED;
                if oldest.len() > LISTED {
                    oldest.pop();
                }
            }
        })?;
        for tree in &kept {
            self.keep_chunks(running, tree)?;
        }
        let youngest = oldest.peek().map_or(0, |(age, _)| *age);
        let mut all: HashMap<_, _> = oldest
            .into_iter()
            .map(|(_, tree)| (tree, Candidate::new(tree)))
            .collect();
        Self::each_path(running, |tree, info| {
            if let Some(candidate) = all.get_mut(&tree) {
                candidate.kept |= is_kept(&info);
                candidate.last_use = candidate.last_use.max(self.age(&info));
                candidate.paths.push((info.registration.path, info.ordinal));
            }
        })?;
        all.retain(|_, candidate| !candidate.kept);
        // Where other paths of the same trees are younger, there may be older ones that were left out.
        if all.values().any(|candidate| candidate.last_use <= youngest) {
            all.retain(|_, candidate| candidate.last_use <= youngest);
        }
        let ages = all.values().map(|c| Reverse((c.last_use, c.tree)));
        Ok(Candidates {
            oldest: ages.collect(),
            all,
            is_cut,
            all_read,
        })
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
