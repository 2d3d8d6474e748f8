//! How far a fetch is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a running copy has done; read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Narinfos that were read.
    pub narinfos: AtomicU64,
    /// Paths that are to be fetched, as far as is known.
    pub paths: AtomicU64,
    /// Of these, done.
    pub paths_done: AtomicU64,
    /// NAR bytes that are to be fetched, as far as is known.
    pub nar_bytes: AtomicU64,
    /// Of these, unpacked; of one path as far as any source has come.
    pub nar_bytes_done: AtomicU64,
    /// Bytes that the sources sent for NARs, compressed.
    pub fetched_bytes: AtomicU64,
    /// Grows with what is sent and with what is unpacked, as far as the source had not come before.
    pub(super) advanced: AtomicU64,
    pub stop: Arc<AtomicBool>,
}

/// [`Progress`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Snapshot {
    pub narinfos: u64,
    pub paths: u64,
    pub paths_done: u64,
    pub nar_bytes: u64,
    pub nar_bytes_done: u64,
    pub fetched_bytes: u64,
}

impl Progress {
    pub fn snapshot(&self) -> Snapshot {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Snapshot {
            narinfos: get(&self.narinfos),
            paths: get(&self.paths),
            paths_done: get(&self.paths_done),
            nar_bytes: get(&self.nar_bytes),
            nar_bytes_done: get(&self.nar_bytes_done),
            fetched_bytes: get(&self.fetched_bytes),
        }
    }

    /// Counts a path that is to be fetched.
    pub(super) fn expect(&self, nar_size: u64) {
        self.paths.fetch_add(1, Ordering::Relaxed);
        self.nar_bytes.fetch_add(nar_size, Ordering::Relaxed);
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
