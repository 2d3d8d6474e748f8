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

impl Removal {
    /// Called under `publishing`, after these were written.
    pub(super) fn published(&mut self, writes: &Writes) {
        self.trees.extend(&writes.trees);
        for number in writes.completed.iter().flat_map(|(_, numbers)| numbers) {
            self.uses.add(*number, false);
        }
    }
}
