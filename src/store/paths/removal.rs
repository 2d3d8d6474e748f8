//! What a running removal knows of publications.

use std::collections::HashSet;

use crate::chunk::ChunkDigest;
use crate::store::contents::{ChunkUses, Writes};

/// What a running removal knows, kept up to date by publications.
pub(in crate::store) struct Removal {
    pub(in crate::store) uses: ChunkUses,
    /// Trees that were published since it began.
    pub(in crate::store) trees: HashSet<ChunkDigest>,
}

/// Trees that were published since, and memory for uses in bytes, with which a removal is not kept for the
/// next one.
const MOST_TREES: usize = 1 << 16;
const MOST_MEMORY: usize = 8 << 20;

impl Removal {
    /// Whether it is small enough to be kept up to date until the next removal, which begins where the next
    /// chunk gets the number `next`.
    pub(super) fn can_be_kept(&self, next: u64) -> bool {
        self.trees.len() < MOST_TREES && self.uses.weight() < MOST_MEMORY && self.uses.judges(next)
    }

    /// Called under `publishing`, after these were written.
    pub(super) fn published(&mut self, writes: &Writes) {
        self.trees.extend(&writes.trees);
        for number in writes.completed.iter().flat_map(|(_, numbers)| numbers) {
            self.uses.add(*number);
        }
    }
}
