//! The memory limit of a daemon.
//!
//! Caches, buffers and transfers have their shares of the limit (`store/mod.rs`), but the allocator
//! does not return freed memory to the system by itself; it keeps it in several heaps, each with
//! holes. The resident size is therefore checked regularly: shortly below the limit the holes are
//! returned, and if that is not enough, decompressed chunks are dropped from the cache.

use std::fs;
use std::time::Duration;

use crate::store::Store;

/// Interval of the check; a fast network delivers some 20 MB in this time.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Shares of the limit, in eighths, above which holes are returned …
const TRIM: u64 = 5;
/// … and cached chunks are dropped.
const FORGET: u64 = 6;

/// Growth, as a fraction of the limit, after which returning holes is worthwhile again.
const MORE: u64 = 16;

/// The limit, and the resident size after the last trim.
pub(super) struct Bound {
    bytes: u64,
    after: u64,
}

impl Bound {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, after: 0 }
    }

    /// Checks the resident size once.
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

/// Resident bytes of this process; 0 if unknown.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim does not touch memory in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
