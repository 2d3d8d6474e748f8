//! Deleting chunks, trees and what goes with them.
//!
//! Invariant: a tree changes in one batch with the chunks that go with it, under the
//! deletion lock.

use std::collections::HashSet;
use std::sync::RwLockWriteGuard;

use super::StoredContents;
use super::chunk_uses::ChunkUses;
use super::stored_tree::{StoredTree, TreeRecord};
use super::writing::NEXT_CHUNK;
use crate::chunk::ChunkDigest;
use crate::store::error::StoreError;
use crate::store::records::{Batch, Durability, Family};
use crate::sync::{lock, write};

/// A deletion in the making. Until it is committed or dropped, it holds the deletion lock alone: no
/// chunk is found or written meanwhile.
pub(in crate::store) struct Deletion<'c> {
    contents: &'c StoredContents,
    writes: Batch,
    /// Bytes of records of trees and path infos that it frees.
    freed: u64,
    /// Bytes of records of chunks that it frees.
    freed_chunks: u64,
    /// How many chunks these are, and how long uncompressed.
    freed_unique: (u64, u64),
    /// Trees whose records it changes.
    trees: Vec<ChunkDigest>,
    durability: Durability,
    _alone: RwLockWriteGuard<'c, ()>,
}

impl StoredContents {
    /// Begins a deletion of nothing.
    pub(in crate::store) fn begin_deletion(&self) -> Deletion<'_> {
        Deletion {
            contents: self,
            writes: Batch::default(),
            freed: 0,
            freed_chunks: 0,
            freed_unique: (0, 0),
            trees: Vec::new(),
            durability: Durability::Process,
            _alone: write(&self.deleting),
        }
    }
}

impl Deletion<'_> {
    /// Other writes of the same batch.
    pub(in crate::store) fn writes(&mut self) -> &mut Batch {
        &mut self.writes
    }

    /// Has the deletion survive a power loss.
    pub(in crate::store) fn set_durable(&mut self) {
        self.durability = Durability::Power;
    }

    /// Deletes a record of a path info or a tree, whose bytes count as freed if it can be read.
    pub(in crate::store) fn record(
        &mut self,
        family: Family,
        key: &[u8],
    ) -> Result<(), StoreError> {
        let record = match self.contents.records.get(family, key) {
            Err(e) if e.is_damage() => None,
            record => record?,
        };
        self.freed += record.map_or(0, |r| r.len() as u64);
        self.writes.delete(family, key);
        Ok(())
    }

    /// Deletes a chunk, unless a complete tree names it or an ingest holds it.
    pub(in crate::store) fn chunk(
        &mut self,
        uses: &ChunkUses,
        digest: &ChunkDigest,
        number: u64,
    ) -> Result<(), StoreError> {
        if uses.is_used(number) || self.contents.held.contains(number) {
            return Ok(());
        }
        self.writes.delete(Family::Chunks, number.to_be_bytes());
        // After damage the digest may name a chunk that was written anew.
        let located = self.contents.locate(digest)?;
        if located.is_none_or(|l| l.number == number) {
            self.writes.delete(Family::Digests, digest.0);
        }
        if let Some(located) = located.filter(|l| l.number == number) {
            self.freed_chunks += u64::from(located.stored_length);
            self.freed_unique.0 += 1;
            self.freed_unique.1 += u64::from(located.raw_length);
        }
        Ok(())
    }

    /// Deletes the chunks of a tree that nothing else needs.
    fn chunks(&mut self, uses: &mut ChunkUses, stored: &StoredTree) -> Result<(), StoreError> {
        for number in &stored.numbers {
            uses.remove(*number);
        }
        let mut seen = HashSet::new();
        for (entry, number) in stored.tree.chunks().zip(&stored.numbers) {
            if seen.insert(*number) {
                self.chunk(uses, &entry.digest, *number)?;
            }
        }
        Ok(())
    }

    /// Drops the contents of a tree: deletes the chunks that nothing else needs, and has the tree say
    /// so.
    pub(in crate::store) fn contents(
        &mut self,
        uses: &mut ChunkUses,
        digest: ChunkDigest,
        stored: &StoredTree,
    ) -> Result<(), StoreError> {
        self.chunks(uses, stored)?;
        self.trees.push(digest);
        let record = self.contents.records.get(Family::Trees, &digest.0)?;
        if let Some(record) = record
            && let Some(parsed) = TreeRecord::parse(&record)
        {
            let dropped = parsed.dropped();
            self.freed += (record.len() - dropped.len()) as u64;
            self.writes.put(Family::Trees, digest.0, dropped);
        }
        Ok(())
    }

    /// Deletes a tree, with the chunks that nothing else needs.
    pub(in crate::store) fn tree(
        &mut self,
        uses: &mut ChunkUses,
        digest: ChunkDigest,
    ) -> Result<(), StoreError> {
        match self.contents.read_tree(digest) {
            Ok(stored) => self.chunks(uses, &stored)?,
            Err(e) => {
                tracing::warn!("its chunks are looked for later: {e}");
                self.contents.held.note_unreferenced();
            }
        }
        self.trees.push(digest);
        self.record(Family::Trees, &digest.0)
    }

    /// Writes the deletion, all of it or nothing. It survives this process, but, unless it is durable, not a
    /// power loss, after which all may be there again. Returns the bytes of stored records that this freed.
    pub(in crate::store) fn commit(mut self) -> Result<u64, StoreError> {
        let contents = self.contents;
        let next = lock(&contents.writing).next_chunk.to_le_bytes();
        self.writes.put(Family::Meta, NEXT_CHUNK, next);
        let (writes, durability) = (self.writes, self.durability);
        contents
            .records
            .write(writes, durability, "contents were dropped")?;
        let size = &contents.size;
        size.grow(-(self.freed as i64));
        size.grow_chunks(-(self.freed_chunks as i64));
        let (chunks, bytes) = self.freed_unique;
        size.grow_unique(-(chunks as i64), -(bytes as i64));
        for tree in &self.trees {
            contents.tree_cache.remove(tree);
        }
        Ok(self.freed + self.freed_chunks)
    }
}
