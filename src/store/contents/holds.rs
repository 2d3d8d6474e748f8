//! Chunks that ingests in flight rely on.
//!
//! Invariant: a chunk that a living [`Hold`] names is not deleted. A hold is taken under the deletion
//! lock (see `upkeep/eviction.rs`), which is not given back between finding or writing the chunk and
//! holding it; it is given up after the path that needs the chunk is published, when the tree of that
//! path names it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// What all holds of a state hold.
#[derive(Debug, Default)]
pub(in crate::store) struct Held {
    /// For each chunk number, how many times it is held.
    counts: Mutex<HashMap<u64, u32>>,
    /// Whether there may be chunks that no tree names and no ingest holds.
    unreferenced: AtomicBool,
}

impl Held {
    pub(in crate::store) fn contains(&self, number: u64) -> bool {
        lock(&self.counts).contains_key(&number)
    }

    /// Says that there may be chunks that no tree names.
    pub(in crate::store) fn note_unreferenced(&self) {
        self.unreferenced.store(true, Ordering::Release);
    }

    /// Whether there may be chunks that no tree names; asks once.
    pub(in crate::store) fn take_unreferenced(&self) -> bool {
        self.unreferenced.swap(false, Ordering::AcqRel)
    }
}

/// Keeps the chunks of a path in flight from being deleted, until dropped.
pub struct Hold {
    held: Arc<Held>,
    numbers: Vec<u64>,
    published: AtomicBool,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hold({} chunks)", self.numbers.len())
    }
}

impl Hold {
    pub(super) fn new(held: Arc<Held>) -> Self {
        Self {
            held,
            numbers: Vec::new(),
            published: AtomicBool::new(false),
        }
    }

    /// Holds one more chunk. The caller shares the deletion lock.
    pub(super) fn add(&mut self, number: u64) {
        *lock(&self.held.counts).entry(number).or_default() += 1;
        self.numbers.push(number);
    }

    /// The chunks.
    pub(in crate::store) fn numbers(&self) -> &[u64] {
        &self.numbers
    }

    /// Says that a tree names the chunks now, so that giving them up leaves nothing behind.
    pub(in crate::store) fn set_published(&self) {
        self.published.store(true, Ordering::Release);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.numbers.is_empty() {
            return;
        }
        let mut counts = lock(&self.held.counts);
        for number in &self.numbers {
            if let Some(count) = counts.get_mut(number) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(number);
                }
            }
        }
        drop(counts);
        // After they are given up: an eviction that asks in between finds them held, and is told.
        if !self.published.load(Ordering::Acquire) {
            self.held.note_unreferenced();
        }
    }
}
