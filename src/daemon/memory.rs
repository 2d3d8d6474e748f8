//! The bound of the memory of a daemon, kept from above.
//!
//! Caches, buffers and transfers have their parts of it (`store/mod.rs`), but what is freed does not
//! go back to the system by itself: the allocator keeps it for the next one, in heaps of which each
//! has holes of its own. So it is looked how much is resident, and before that reaches the bound the holes
//! are given back; where that is not enough, chunks that are in memory for speed alone go, too.

use std::fs;
use std::time::Duration;

use crate::store::Store;

/// How often it is looked: a fast network brings some 20 MB meanwhile.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Parts of the bound, in eighths, from which on holes are given back …
const TRIM: u64 = 5;
/// … and chunks are let go.
const FORGET: u64 = 6;

/// After how much more, in parts of the bound, it is worth to look for holes again.
const MORE: u64 = 16;

/// The bound, and how much there was after the last time that holes were given back.
pub(super) struct Bound {
    bytes: u64,
    after: u64,
}

impl Bound {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, after: 0 }
    }

    /// Looks once.
    pub(super) fn keep(&mut self, store: &Store) {
        let eighth = self.bytes / 8;
        let now = resident();
        if now <= eighth * TRIM {
            self.after = 0;
            return;
        }
        if now < self.after + self.bytes / MORE && now <= eighth * FORGET {
            return;
        }
        trim();
        if resident() > eighth * FORGET {
            store.contents().forget_chunks();
            trim();
        }
        self.after = resident();
    }
}

/// Bytes of memory that this process has; 0 if that cannot be told.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
