//! What a running removal knows of publications.

use std::collections::HashSet;

use crate::chunk::ChunkDigest;
use crate::store::contents::{ChunkUses, Writes};

/// What a running removal knows, kept up to date by publications.
pub(in crate::store) struct Removal {
    pub(in crate::store) uses: ChunkUses,
    /// Trees that were published since it began.
    pub(in crate::store) trees: HashSet<ChunkDigest>,
    /// Whether it waits for the next one to go on with it.
    pub(super) is_waiting: bool,
}

/// Trees that were published since, and memory for uses in bytes, with which a removal does not wait for the
/// next one.
const MOST_TREES: usize = 1 << 16;
const MOST_MEMORY: usize = 8 << 20;

impl Removal {
    /// Nothing yet.
    pub(super) fn new(uses: ChunkUses) -> Self {
        Self {
            uses,
            trees: HashSet::new(),
            is_waiting: false,
        }
    }

    /// Whether it can go on as the next removal, where the next chunk gets the number `next`.
    pub(super) fn can_go_on(&self, next: u64) -> bool {
        self.is_small() && self.uses.judges(next)
    }

    fn is_small(&self) -> bool {
        self.trees.len() < MOST_TREES && self.uses.weight() < MOST_MEMORY
    }

    /// Called under `publishing`, after these were written.
    pub(super) fn tell(publishing: &mut Option<Self>, writes: &Writes) {
        let Some(removal) = publishing else {
            return;
        };
        removal.trees.extend(&writes.trees);
        for number in writes.completed.iter().flat_map(|(_, numbers)| numbers) {
            removal.uses.add(*number);
        }
        if removal.is_waiting && !removal.is_small() {
            *publishing = None;
        }
    }
}
