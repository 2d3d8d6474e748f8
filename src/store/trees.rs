//! Trees in the database: their record, and whether their chunks are here.
//!
//! Invariant: a tree record has the numbers of all chunks of its tree, or of none. With all of
//! them it is *complete*, and each of the chunks is there; with none its contents were dropped,
//! and everything but them can still be read. A tree without chunks is always complete.

use std::sync::Arc;

use super::database::TREES;
use super::paths::PathRecord;
use super::publish::Batch;
use super::{LoadedPath, PathInfo, Store, StoreError};
use crate::chunk::ChunkDigest;
use crate::tree::Tree;

/// Codec of a tree record: zstd.
const ZSTD: u8 = 1;
const HEADER: usize = 9;
/// Trees are small and read whole: worth a higher level than chunks.
const LEVEL: i32 = 9;
/// Longest encoded tree that is read: [`crate::tree::MAX_NODES`] nodes with their text.
const LIMIT: usize = 3 << 30;

/// A tree with the numbers of its chunks.
#[derive(Debug)]
pub(super) struct StoredTree {
    pub(super) tree: Tree,
    /// In the order of the stream; none if the contents were dropped.
    pub(super) numbers: Vec<u64>,
}

impl StoredTree {
    pub(super) fn weight(&self) -> usize {
        self.tree.weight() + self.numbers.len() * 8
    }

    pub(super) fn is_complete(&self) -> bool {
        self.numbers.len() == self.tree.chunks().len()
    }
}

/// A tree record taken apart, not decompressed.
pub(super) struct TreeRecord<'a> {
    /// Length of the encoded tree.
    length: usize,
    numbers: &'a [[u8; 8]],
    packed: &'a [u8],
}

impl<'a> TreeRecord<'a> {
    pub(super) fn parse(record: &'a [u8]) -> Option<Self> {
        let (header, rest) = record.split_first_chunk::<HEADER>()?;
        let [codec, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let chunks = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
        if codec != ZSTD || length > LIMIT {
            return None;
        }
        let (numbers, packed) = rest.split_at_checked(chunks.checked_mul(8)?)?;
        Some(Self {
            length,
            numbers: numbers.as_chunks().0,
            packed,
        })
    }

    /// The chunk numbers, in the order of the stream.
    pub(super) fn numbers(&self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.numbers.iter().map(|n| u64::from_le_bytes(*n))
    }

    pub(super) fn number(&self, index: usize) -> Option<u64> {
        self.numbers.get(index).map(|n| u64::from_le_bytes(*n))
    }

    /// The same record without its numbers.
    pub(super) fn dropped(&self) -> Vec<u8> {
        encode(self.length, &[], self.packed)
    }
}

fn encode(length: usize, numbers: &[u64], packed: &[u8]) -> Vec<u8> {
    let mut record = vec![ZSTD];
    record.extend_from_slice(&(length as u32).to_le_bytes());
    record.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
    for number in numbers {
        record.extend_from_slice(&number.to_le_bytes());
    }
    record.extend_from_slice(packed);
    record
}

fn damaged(digest: ChunkDigest) -> StoreError {
    StoreError::Damaged {
        what: format!("the record of tree {digest}"),
    }
}

impl Store {
    /// The tree of a path, from memory if it is there.
    ///
    /// The cache is never behind the database: whoever writes a tree record takes the tree out of
    /// the cache after that, and with it the place of whoever is just reading it, so that what
    /// was read before does not get in.
    pub(super) fn with_tree(&self, record: Arc<PathRecord>) -> Result<LoadedPath, StoreError> {
        let stored = self.cached_tree(record.tree)?;
        if stored.tree.references() as usize != record.table.len() {
            return Err(StoreError::Damaged {
                what: format!("the references of {}", record.info.registration.path),
            });
        }
        Ok(LoadedPath { record, stored })
    }

    fn cached_tree(&self, digest: ChunkDigest) -> Result<Arc<StoredTree>, StoreError> {
        self.tree_cache
            .get_or_insert_with(&digest, || self.read_tree(digest).map(Arc::new))
    }

    pub(super) fn read_tree(&self, digest: ChunkDigest) -> Result<StoredTree, StoreError> {
        let damaged = || damaged(digest);
        let record = self.database.get(TREES, &digest.0)?.ok_or_else(damaged)?;
        let record = TreeRecord::parse(&record).ok_or_else(damaged)?;
        let bytes = zstd::bulk::decompress(record.packed, record.length).map_err(|_| damaged())?;
        if ChunkDigest::of(&bytes) != digest {
            return Err(damaged());
        }
        let tree = Tree::parse(bytes).map_err(|source| StoreError::Tree { digest, source })?;
        let numbers = record.numbers();
        if numbers.len() != tree.chunks().len() && numbers.len() != 0 {
            return Err(damaged());
        }
        Ok(StoredTree {
            numbers: numbers.collect(),
            tree,
        })
    }

    /// The number that the record of a tree has now for one of its chunks; `None` if the contents
    /// were dropped, or the whole tree was collected.
    pub(super) fn current_number(
        &self,
        digest: ChunkDigest,
        index: usize,
    ) -> Result<Option<u64>, StoreError> {
        let Some(record) = self.database.get(TREES, &digest.0)? else {
            return Ok(None);
        };
        let record = TreeRecord::parse(&record).ok_or_else(|| damaged(digest))?;
        Ok(record.number(index))
    }

    /// Whether the contents of a path are here, chunks included: false if they were never here,
    /// or if they were dropped.
    ///
    /// # Errors
    /// The database failed or the record of the tree is damaged.
    pub fn has_contents(&self, info: &PathInfo) -> Result<bool, StoreError> {
        match info.tree() {
            Some(tree) => self.is_complete(tree),
            None => Ok(false),
        }
    }

    fn is_complete(&self, digest: ChunkDigest) -> Result<bool, StoreError> {
        if let Some(stored) = self.tree_cache.get(&digest) {
            return Ok(stored.is_complete());
        }
        let record = self.database.get(TREES, &digest.0)?;
        let record = record.as_deref().and_then(TreeRecord::parse);
        if record.ok_or_else(|| damaged(digest))?.numbers.is_empty() {
            // Only the tree itself can say that there are none to be had.
            return Ok(self.cached_tree(digest)?.is_complete());
        }
        Ok(true)
    }

    /// Adds the record of a tree to a batch, unless it is there and complete. One that was
    /// dropped gets its numbers back; one that cannot be read is written anew. The caller keeps
    /// evictions out until the batch is written.
    pub(super) fn put_tree(
        &self,
        batch: &mut Batch,
        tree: &Tree,
        digest: ChunkDigest,
    ) -> Result<(), StoreError> {
        if !batch.trees.insert(digest) {
            return Ok(());
        }
        if self.read_tree(digest).is_ok_and(|t| t.is_complete()) {
            return Ok(());
        }
        let mut numbers = Vec::with_capacity(tree.chunks().len());
        for chunk in tree.chunks() {
            let located = self
                .locate(&chunk.digest)?
                .ok_or_else(|| StoreError::Damaged {
                    what: format!("chunk {} was not kept", chunk.digest),
                })?;
            numbers.push(located.number);
        }
        let packed = zstd::bulk::compress(tree.bytes(), LEVEL).map_err(StoreError::Compress)?;
        let record = encode(tree.bytes().len(), &numbers, &packed);
        // What cannot be read at all is taken for nothing.
        let before = self.database.get(TREES, &digest.0).ok().flatten();
        batch.grown += record.len() as i64 - before.map_or(0, |b| b.len() as i64);
        batch.writes.put(TREES, digest.0, record);
        batch.completed.push((digest, numbers));
        Ok(())
    }
}
