//! Chunks and trees with their records, for `narfs debug`.

use super::StoredContents;
use super::chunks::ChunkFault;
use super::stored_tree::TreeRecord;
use crate::chunk::{ChunkDigest, ChunkRecord};
use crate::store::error::StoreError;
use crate::store::records::Family;
use crate::tree::Tree;

/// A tree and its record.
#[derive(Debug)]
pub struct InspectedTree {
    pub tree: Tree,
    /// The numbers of its chunks, in the order of the stream; none if the contents were dropped.
    pub numbers: Vec<u64>,
    /// Length of the record, in bytes.
    pub stored_length: u64,
}

/// A chunk and its record.
#[derive(Debug)]
pub struct InspectedChunk {
    pub number: u64,
    /// Its length, uncompressed, in bytes.
    pub length: u32,
    /// Length of the record, in bytes.
    pub stored_length: u32,
    /// How it is compressed; `None` if the record cannot be parsed.
    pub codec: Option<&'static str>,
    /// Whether the record gives the bytes that the digest names.
    pub is_intact: bool,
    /// The trees that have it.
    pub trees: Vec<ChunkDigest>,
}

impl StoredContents {
    /// A tree with its record, always read from the database.
    ///
    /// # Errors
    /// The database failed, or the record is damaged.
    pub fn inspect_tree(&self, digest: ChunkDigest) -> Result<Option<InspectedTree>, StoreError> {
        let Some(record) = self.records.get(Family::Trees, &digest.0)? else {
            return Ok(None);
        };
        let stored = self.read_tree(digest)?;
        Ok(Some(InspectedTree {
            tree: stored.tree,
            numbers: stored.numbers,
            stored_length: record.len() as u64,
        }))
    }

    /// A chunk with its record. Looks through all trees.
    ///
    /// # Errors
    /// The database failed. That the record is missing or damaged is no error.
    pub fn inspect_chunk(&self, digest: ChunkDigest) -> Result<Option<InspectedChunk>, StoreError> {
        let Some(located) = self.locate(&digest)? else {
            return Ok(None);
        };
        let is_intact = match self.read_chunk(located.number, &digest) {
            Ok(_) => true,
            Err(ChunkFault::Database(e)) => return Err(e),
            Err(ChunkFault::Missing | ChunkFault::Damaged(_)) => false,
        };
        let key = located.number.to_be_bytes();
        let record = self.records.get(Family::Chunks, &key).ok().flatten();
        let parsed = record.as_deref().map(ChunkRecord::parse);
        let mut trees = Vec::new();
        self.records.scan(Family::Trees, &[], |key, record| {
            let has_it = |record: TreeRecord<'_>| record.numbers().any(|n| n == located.number);
            if TreeRecord::parse(record).is_some_and(has_it) {
                trees.extend(key.try_into().map(ChunkDigest));
            }
            Ok(true)
        })?;
        Ok(Some(InspectedChunk {
            number: located.number,
            length: located.raw_length,
            stored_length: located.stored_length,
            codec: parsed.and_then(Result::ok).map(|record| record.codec()),
            is_intact,
            trees,
        }))
    }
}
