//! What the records of a state grow by, counted as they are written.
//!
//! Invariant: what records grow by is counted before the deletion lock is given back under which they
//! were written. So what is counted while the lock is held alone is what was written.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(super) struct Size {
    /// What records grew by since the state was opened.
    grown: AtomicI64,
    /// The same of the chunks among them.
    chunks_grown: AtomicI64,
    /// The same of the chunks as they are uncompressed.
    unique_grown: AtomicI64,
    /// How many chunks more there are.
    count_grown: AtomicI64,
    /// Bytes of chunks that were ingested since then, and of those of them that were here.
    ingested: AtomicU64,
    known: AtomicU64,
}

impl Size {
    /// Trees and path infos grew. The caller has the deletion lock.
    pub(super) fn grow(&self, by: i64) {
        self.grown.fetch_add(by, Ordering::Relaxed);
    }

    /// Chunks grew. The caller has the deletion lock.
    pub(super) fn grow_chunks(&self, by: i64) {
        self.grown.fetch_add(by, Ordering::Relaxed);
        self.chunks_grown.fetch_add(by, Ordering::Relaxed);
    }

    /// There are `chunks` more chunks, of `bytes` bytes uncompressed. The caller has the deletion lock.
    pub(super) fn grow_unique(&self, chunks: i64, bytes: i64) {
        self.count_grown.fetch_add(chunks, Ordering::Relaxed);
        self.unique_grown.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A chunk of `bytes` bytes, uncompressed, was ingested.
    pub(super) fn count_ingested(&self, bytes: usize, was_known: bool) {
        self.ingested.fetch_add(bytes as u64, Ordering::Relaxed);
        if was_known {
            self.known.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn ingested(&self) -> Ingested {
        // In this order, so that no more was known than was ingested.
        let known_bytes = self.known.load(Ordering::Relaxed);
        let bytes = self.ingested.load(Ordering::Relaxed);
        Ingested { bytes, known_bytes }
    }

    pub(super) fn growth(&self) -> Growth {
        let get = |n: &AtomicI64| n.load(Ordering::Relaxed);
        Growth {
            all: get(&self.grown),
            chunk_bytes: get(&self.chunks_grown),
            unique_bytes: get(&self.unique_grown),
            chunks: get(&self.count_grown),
        }
    }
}

/// What records grew by; or what there was before.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Growth {
    /// Bytes of all records of chunks, trees and path infos.
    pub(in crate::store) all: i64,
    /// Bytes of the records of chunks.
    pub(in crate::store) chunk_bytes: i64,
    /// Bytes of the chunks, uncompressed.
    pub(in crate::store) unique_bytes: i64,
    /// How many chunks.
    pub(in crate::store) chunks: i64,
}

/// What was ingested since the state was opened, and what of it took no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ingested {
    /// Lengths of all chunks of what was added, uncompressed, in bytes.
    pub bytes: u64,
    /// Of these, the chunks that the state had already.
    pub known_bytes: u64,
}
