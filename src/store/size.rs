//! How many bytes the state stores, at no cost.
//!
//! Counted once from a snapshot, and then kept up to date: whoever writes records adds what they
//! grew by before it leaves the gate (see `eviction.rs`), and the snapshot is taken while the gate
//! is shut. So every change is either in the snapshot or in what is added to it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use super::chunks::Located;
use super::records::{Family, Snapshot};
use super::{Store, StoreError, lock, shut};

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
    /// Bytes of chunks that were brought since then, and of those of them that were here.
    brought: AtomicU64,
    known: AtomicU64,
    /// What was stored when it was opened.
    opened: OnceLock<Opened>,
    /// Held while it is counted, so that only one does.
    counting: Mutex<()>,
}

impl Size {
    /// Trees and path infos grew. The caller is inside the gate.
    pub(super) fn grow(&self, by: i64) {
        self.grown.fetch_add(by, Ordering::Relaxed);
    }

    /// Chunks grew. The caller is inside the gate.
    pub(super) fn grow_chunks(&self, by: i64) {
        self.grown.fetch_add(by, Ordering::Relaxed);
        self.chunks_grown.fetch_add(by, Ordering::Relaxed);
    }

    /// There are so many chunks more, of so many bytes uncompressed. The caller is inside the gate.
    pub(super) fn grow_unique(&self, chunks: i64, bytes: i64) {
        self.count_grown.fetch_add(chunks, Ordering::Relaxed);
        self.unique_grown.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A chunk was brought, uncompressed of so many bytes.
    pub(super) fn brought(&self, bytes: usize, was_known: bool) {
        self.brought.fetch_add(bytes as u64, Ordering::Relaxed);
        if was_known {
            self.known.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    fn grown(&self) -> Opened {
        let get = |n: &AtomicI64| n.load(Ordering::Relaxed);
        Opened {
            all: get(&self.grown),
            chunk_bytes: get(&self.chunks_grown),
            unique_bytes: get(&self.unique_grown),
            chunks: get(&self.count_grown),
        }
    }
}

/// What was counted when a state was opened, or what came since then.
#[derive(Clone, Copy, Debug)]
struct Opened {
    all: i64,
    chunk_bytes: i64,
    unique_bytes: i64,
    chunks: i64,
}

/// What a state stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stored {
    /// The sum of the lengths of all records of chunks, trees and path infos, in bytes.
    pub stored_bytes: u64,
    /// Lengths of the different chunks, uncompressed, in bytes.
    pub unique_bytes: u64,
    /// Chunks that are kept.
    pub chunks: u64,
}

/// What was brought into a state since it was opened, and what of it took no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ingested {
    /// Lengths of all chunks of what was added, uncompressed, in bytes.
    pub bytes: u64,
    /// Of these, the chunks that the state had already.
    pub known_bytes: u64,
}

/// Lengths of all records.
pub(super) struct Lengths {
    pub(super) chunks: u64,
    pub(super) unique_bytes: u64,
    pub(super) chunk_bytes: u64,
    pub(super) trees: u64,
    pub(super) tree_bytes: u64,
    pub(super) path_info_bytes: u64,
}

impl Lengths {
    pub(super) fn count(snapshot: &Snapshot<'_>) -> Result<Self, StoreError> {
        let mut l = Self {
            chunks: 0,
            unique_bytes: 0,
            chunk_bytes: 0,
            trees: 0,
            tree_bytes: 0,
            path_info_bytes: 0,
        };
        snapshot.scan(Family::Digests, &[], |_, value| {
            if let Some(located) = Located::decode(value) {
                l.chunks += 1;
                l.unique_bytes += u64::from(located.raw_length);
                l.chunk_bytes += u64::from(located.stored_length);
            }
            Ok(true)
        })?;
        snapshot.scan(Family::Trees, &[], |_, value| {
            l.trees += 1;
            l.tree_bytes += value.len() as u64;
            Ok(true)
        })?;
        snapshot.scan(Family::Paths, &[], |_, value| {
            l.path_info_bytes += value.len() as u64;
            Ok(true)
        })?;
        Ok(l)
    }

    pub(super) fn total(&self) -> u64 {
        self.chunk_bytes + self.tree_bytes + self.path_info_bytes
    }
}

impl Store {
    /// The sum of the lengths of all records of chunks, trees and path infos, as
    /// [`crate::store::Statistics`] counts it. Costs a scan when first asked for, and nothing
    /// after that.
    ///
    /// # Errors
    /// The database failed.
    pub fn stored_bytes(&self) -> Result<u64, StoreError> {
        Ok(sum(self.stored_when_opened()?.all, self.size.grown().all))
    }

    /// What is stored, at no cost; `None` before [`Store::stored_bytes`] was asked for once.
    pub fn stored_so_far(&self) -> Option<Stored> {
        let (opened, grown) = (self.size.opened.get()?, self.size.grown());
        Some(Stored {
            stored_bytes: sum(opened.all, grown.all),
            unique_bytes: sum(opened.unique_bytes, grown.unique_bytes),
            chunks: sum(opened.chunks, grown.chunks),
        })
    }

    /// What was brought since the state was opened.
    pub fn brought(&self) -> Ingested {
        // In this order, so that no more was known than was brought.
        let known_bytes = self.size.known.load(Ordering::Relaxed);
        let bytes = self.size.brought.load(Ordering::Relaxed);
        Ingested { bytes, known_bytes }
    }

    /// The sum of the lengths of all records of chunks.
    pub(super) fn chunk_bytes(&self) -> Result<u64, StoreError> {
        let opened = self.stored_when_opened()?.chunk_bytes;
        Ok(sum(opened, self.size.grown().chunk_bytes))
    }

    /// How many chunks there are.
    pub(super) fn chunk_count(&self) -> Result<u64, StoreError> {
        let opened = self.stored_when_opened()?.chunks;
        Ok(sum(opened, self.size.grown().chunks))
    }

    fn stored_when_opened(&self) -> Result<Opened, StoreError> {
        let size = &self.size;
        if let Some(opened) = size.opened.get() {
            return Ok(*opened);
        }
        let _counting = lock(&size.counting);
        if let Some(opened) = size.opened.get() {
            return Ok(*opened);
        }
        let (snapshot, grown) = {
            let _shut = shut(&self.gate);
            (self.records.snapshot(), size.grown())
        };
        let lengths = Lengths::count(&snapshot)?;
        let opened = Opened {
            all: lengths.total() as i64 - grown.all,
            chunk_bytes: lengths.chunk_bytes as i64 - grown.chunk_bytes,
            unique_bytes: lengths.unique_bytes as i64 - grown.unique_bytes,
            chunks: lengths.chunks as i64 - grown.chunks,
        };
        Ok(*size.opened.get_or_init(|| opened))
    }
}

fn sum(opened: i64, grown: i64) -> u64 {
    (opened + grown).max(0) as u64
}
