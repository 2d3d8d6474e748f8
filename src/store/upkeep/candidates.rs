//! Trees that may be dropped, the least recently used first, and small ones last.
//!
//! To list them takes a look at all trees and path infos. So they are listed for many evictions at once: some
//! of the oldest, which the evictions to come take one after the other, until none is left. What was
//! published since is younger; what was used since waits for the next listing; what is kept by now is left
//! alone by whoever takes it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::chunk::ChunkDigest;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::paths::{Leaving, PathInfo, PathOrdinal, Paths};

/// Length of a NAR, in bytes, below which a path is small: many of them would have to go for one of usual
/// size, and each takes as long to be fetched again.
const SMALL: u64 = 16 << 10;
/// Paths that are listed at once: some 5 MB of memory, and a look at 60 records for each path that goes where
/// there are a million.
pub(super) const LISTED: usize = 1 << 14;

/// A tree that may be dropped.
pub(super) struct Candidate {
    pub(super) tree: ChunkDigest,
    pub(super) paths: Vec<(StorePath, PathOrdinal)>,
    nar_size: u64,
    /// The later it goes, the higher.
    pub(super) rank: u64,
    /// Kept by the caller, or not to be had again.
    pub(super) kept: bool,
}

/// The rank of a path whose NAR has `nar_size` bytes and that was used last at a time, in milliseconds
/// since 1970: small ones go after all others.
pub(super) fn rank(nar_size: u64, last_use: u64) -> u64 {
    let is_small = nar_size < SMALL;
    last_use | u64::from(is_small) << 63
}

impl Candidate {
    pub(super) fn new(tree: ChunkDigest) -> Self {
        Self {
            tree,
            paths: Vec::new(),
            rank: 0,
            nar_size: 0,
            kept: false,
        }
    }

    /// The rank by the last use of the youngest of its paths, as far as one is known.
    fn rank_in(&self, paths: &Paths) -> u64 {
        let each = self.paths.iter();
        let each = each.map(|(_, ordinal)| paths.last_use(*ordinal));
        rank(self.nar_size, each.max().unwrap_or(0))
    }

    /// Adds a path that has it.
    pub(super) fn add(&mut self, info: PathInfo, age: u64) {
        let r = info.registration;
        self.nar_size = r.nar_size;
        self.rank = self.rank.max(rank(r.nar_size, age));
        self.paths.push((r.path, info.ordinal));
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
    /// By rank.
    oldest: BinaryHeap<Reverse<(u64, ChunkDigest)>>,
    /// Whether there were more, which are younger.
    pub(super) is_cut: bool,
    /// Whether all trees could be read when these were listed.
    pub(super) all_read: bool,
}

impl Candidates {
    /// Of those that were listed; `is_cut` if there are more.
    pub(super) fn new(
        listed: impl IntoIterator<Item = Candidate>,
        is_cut: bool,
        all_read: bool,
    ) -> Self {
        let mut candidates = Self {
            all: HashMap::new(),
            oldest: BinaryHeap::new(),
            is_cut,
            all_read,
        };
        let listed = listed.into_iter();
        listed.for_each(|candidate| candidates.put_back(candidate));
        candidates
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes the oldest `count` of them. One that was used since it was listed is passed over, and added to
    /// `used`. It comes back for a later time, once, unless there are others that are not listed and may be
    /// older: then the next listing has it.
    pub(super) fn take(
        &mut self,
        paths: &Paths,
        used: &mut HashSet<ChunkDigest>,
        has_all: bool,
        count: usize,
    ) -> Vec<Candidate> {
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(Reverse((rank, tree))) = self.oldest.pop()
        {
            let Some(candidate) = self.all.remove(&tree) else {
                continue;
            };
            let now = candidate.rank_in(paths);
            if now <= rank || !used.insert(tree) {
                taken.push(candidate);
            } else if has_all {
                self.put_back(Candidate {
                    rank: now,
                    ..candidate
                });
            }
        }
        taken
    }

    /// Has one that was taken and not dropped be taken again later.
    pub(super) fn put_back(&mut self, candidate: Candidate) {
        self.oldest.push(Reverse((candidate.rank, candidate.tree)));
        self.all.insert(candidate.tree, candidate);
    }
}
