//! How many paths have their trees here, at no cost.
//!
//! Counted once from a snapshot, and then kept up to date. Both happen under the lock of `next_ordinal`, so
//! that every change is either in the snapshot or in what is added to it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::sync::lock;

#[derive(Debug, Default)]
pub(super) struct LocalCount {
    /// How many there were when the state was opened, once they are counted.
    opened: Mutex<Option<i64>>,
    grown: AtomicI64,
}

impl LocalCount {
    pub(super) fn grow(&self, by: i64) {
        self.grown.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn grown(&self) -> i64 {
        self.grown.load(Ordering::Relaxed)
    }

    /// `None` if it was not counted yet how many there were.
    pub(super) fn count(&self) -> Option<u64> {
        let opened = (*lock(&self.opened))?;
        Some((opened + self.grown()).max(0) as u64)
    }

    /// Says how many there were. Returns how many there are.
    pub(super) fn set_opened(&self, opened: i64) -> u64 {
        let opened = *lock(&self.opened).get_or_insert(opened);
        (opened + self.grown()).max(0) as u64
    }

    /// Has it be counted anew. A count that runs now is not kept: it meets what cannot be read.
    pub(super) fn forget(&self) {
        *lock(&self.opened) = None;
    }
}
