//! Trees in the database: found, kept and written.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::StoredContents;
use super::damage::Soundness;
use super::served_tree::{ServedTree, StoredLargeTree};
use super::stored_tree::{StoredTree, TreeRecord, encode};
use crate::chunk::ChunkDigest;
use crate::store::error::StoreError;
use crate::store::records::{Batch, Durability, Family, Record};
use crate::sync::read;
use crate::tree::{LargeTree, Tree, TreeError};

/// Trees are small and read whole: worth a higher level than chunks.
const LEVEL: i32 = 9;

/// Trees and path infos that are about to be written together.
#[derive(Default)]
pub(in crate::store) struct Writes {
    pub(in crate::store) batch: Batch,
    /// What records of trees and path infos grow by, in bytes.
    pub(in crate::store) grown: i64,
    /// Trees that were looked at.
    pub(in crate::store) trees: HashSet<ChunkDigest>,
    /// Trees that become complete, with their chunk numbers.
    pub(in crate::store) completed: Vec<(ChunkDigest, Vec<u64>)>,
}

fn damaged(digest: ChunkDigest) -> StoreError {
    StoreError::Damaged {
        what: format!("the record of tree {digest}"),
    }
}

/// Decodes the record of a tree.
fn unpack(digest: ChunkDigest, record: &TreeRecord<'_>) -> Result<StoredTree, StoreError> {
    let damaged = || damaged(digest);
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
        soundness: Soundness::default(),
    })
}

impl StoredContents {
    /// A tree as a mount asks it, from memory if it is there.
    ///
    /// The cache is never behind the database: a tree is taken out of the cache after its record was
    /// written, and with it the place that a reader of the old record has reserved, so that what was
    /// read before does not get in.
    pub(in crate::store) fn served(&self, digest: ChunkDigest) -> Result<ServedTree, StoreError> {
        let load = || self.load_tree(digest);
        let served = self.tree_cache.get_or_insert_with(&digest, load)?;
        if !served.has_failed() {
            return Ok(served);
        }
        self.tree_cache.remove(&digest);
        self.tree_cache.get_or_insert_with(&digest, load)
    }

    /// A tree in memory whole.
    pub(in crate::store) fn tree(
        &self,
        digest: ChunkDigest,
    ) -> Result<Arc<StoredTree>, StoreError> {
        match self.served(digest)? {
            ServedTree::Whole(stored) => Ok(stored),
            ServedTree::Large(_) => self.read_tree(digest).map(Arc::new),
        }
    }

    /// A tree from the database, in memory or, if it is large, in a temporary file.
    fn load_tree(&self, digest: ChunkDigest) -> Result<ServedTree, StoreError> {
        self.tree_misses.fetch_add(1, Relaxed);
        let record = self.tree_record(digest)?;
        let record = TreeRecord::parse(&record).ok_or_else(|| damaged(digest))?;
        if record.length >= self.large {
            match self.unpack_large(digest, &record) {
                Ok(large) => return Ok(ServedTree::Large(Arc::new(large))),
                Err(StoreError::TemporaryTree { source, .. }) => {
                    tracing::warn!(
                        tree = %digest,
                        "a tree that is large for the memory is read whole at each request: {source}"
                    );
                }
                Err(StoreError::Full { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let stored = unpack(digest, &record)?;
        Ok(ServedTree::Whole(Arc::new(stored)))
    }

    /// Unpacks a tree into a temporary file.
    fn unpack_large(
        &self,
        digest: ChunkDigest,
        record: &TreeRecord<'_>,
    ) -> Result<StoredLargeTree, StoreError> {
        self.records.check_reserve()?;
        let bytes = zstd::stream::read::Decoder::with_buffer(record.packed);
        let bytes = bytes.map_err(|_| damaged(digest))?;
        let tree = LargeTree::unpack(bytes, record.length, &digest, &self.spool);
        let tree = tree.map_err(|source| match source {
            TreeError::File(_) | TreeError::Changed => StoreError::TemporaryTree { digest, source },
            TreeError::Version(_) => StoreError::Tree { digest, source },
            TreeError::Malformed(_) => damaged(digest),
        })?;
        let numbers = record.numbers();
        if numbers.len() != tree.chunk_count() && numbers.len() != 0 {
            return Err(damaged(digest));
        }
        Ok(StoredLargeTree::new(digest, tree, numbers.collect()))
    }

    fn tree_record(&self, digest: ChunkDigest) -> Result<Record<'_>, StoreError> {
        let record = self.records.get(Family::Trees, &digest.0)?;
        record.ok_or_else(|| damaged(digest))
    }

    /// A tree from the database in any case, in memory whole.
    pub(in crate::store) fn read_tree(
        &self,
        digest: ChunkDigest,
    ) -> Result<StoredTree, StoreError> {
        let record = self.tree_record(digest)?;
        let record = TreeRecord::parse(&record).ok_or_else(|| damaged(digest))?;
        unpack(digest, &record)
    }

    /// The number that the record of a tree has now for one of its chunks; `None` if the contents
    /// were dropped, or the whole tree was collected.
    pub(super) fn current_number(
        &self,
        digest: ChunkDigest,
        index: usize,
    ) -> Result<Option<u64>, StoreError> {
        let Some(record) = self.records.get(Family::Trees, &digest.0)? else {
            return Ok(None);
        };
        let record = TreeRecord::parse(&record).ok_or_else(|| damaged(digest))?;
        Ok(record.number(index))
    }

    /// Whether a tree and its chunks are here. What is known to be damaged is not.
    pub(in crate::store) fn is_complete(&self, digest: ChunkDigest) -> Result<bool, StoreError> {
        let is_complete = || {
            // With a damaged chunk somewhere, or none to be had, only the tree itself can say it.
            if self.damaged.count() == 0 && self.tree_cache.get(&digest).is_none() {
                let record = self.records.get(Family::Trees, &digest.0)?;
                let record = record.as_deref().and_then(TreeRecord::parse);
                if record.ok_or_else(|| damaged(digest))?.numbers().len() > 0 {
                    return Ok(true);
                }
            }
            let stored = self.served(digest)?;
            Ok(stored.is_complete() && !self.is_damaged(&stored)?)
        };
        is_complete().or_else(|e: StoreError| match e.is_damage() {
            true => Ok(false),
            false => Err(e),
        })
    }

    /// Adds the record of a tree to what is written, unless it is there and complete. One that was
    /// dropped gets its numbers back; one that cannot be read is written anew. The caller keeps
    /// evictions out until that is done.
    pub(in crate::store) fn put_tree(
        &self,
        writes: &mut Writes,
        tree: &Tree,
        digest: ChunkDigest,
    ) -> Result<(), StoreError> {
        if !writes.trees.insert(digest) {
            return Ok(());
        }
        let there = self.read_tree(digest).ok();
        let numbers = self.numbers(tree)?;
        // A chunk whose digest record was damaged came again under another number.
        if there.is_some_and(|t| t.is_complete() && t.numbers == numbers) {
            return Ok(());
        }
        let packed = zstd::bulk::compress(tree.bytes(), LEVEL).map_err(StoreError::Compress)?;
        let record = encode(tree.bytes().len(), &numbers, &packed);
        // What cannot be read at all is taken for nothing.
        let before = self.records.get(Family::Trees, &digest.0).ok().flatten();
        writes.grown += record.len() as i64 - before.map_or(0, |b| b.len() as i64);
        let family = Family::Trees;
        writes.batch.put(family, digest.0, record);
        writes.completed.push((digest, numbers));
        Ok(())
    }

    /// A tree whose chunks are kept and which is not written yet, as a mount asks it; `None` if it is large.
    pub(in crate::store) fn arrived(&self, tree: &Tree) -> Result<Option<ServedTree>, StoreError> {
        if tree.bytes().len() >= self.large {
            return Ok(None);
        }
        let numbers = self.numbers(tree)?;
        let digest = tree.digest();
        let tree = Tree::parse(tree.bytes().to_vec());
        let tree = tree.map_err(|source| StoreError::Tree { digest, source })?;
        Ok(Some(ServedTree::Whole(Arc::new(StoredTree {
            tree,
            numbers,
            soundness: Soundness::default(),
        }))))
    }

    /// The numbers of the chunks of a tree that was just unpacked.
    fn numbers(&self, tree: &Tree) -> Result<Vec<u64>, StoreError> {
        let number = |digest: ChunkDigest| match self.locate(&digest)? {
            Some(located) => Ok(located.number),
            None => Err(StoreError::Damaged {
                what: format!("chunk {digest} was not kept"),
            }),
        };
        tree.chunks().map(|chunk| number(chunk.digest)).collect()
    }

    /// Writes trees and path infos, all or nothing, which survive what `durability` says when this
    /// returns. `what` says what was done, should it fail.
    pub(in crate::store) fn write(
        &self,
        writes: &mut Writes,
        durability: Durability,
        what: &'static str,
    ) -> Result<(), StoreError> {
        {
            let _shared = read(&self.deleting);
            let batch = std::mem::take(&mut writes.batch);
            self.records.write(batch, durability, what)?;
            self.size.grow(writes.grown);
        }
        for (digest, _) in &writes.completed {
            self.tree_cache.remove(digest);
        }
        Ok(())
    }
}
