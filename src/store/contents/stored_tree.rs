//! The records of trees and of digests.
//!
//! Invariant: a tree record has the numbers of all chunks of its tree, or of none. With all of
//! them it is *complete*, and each of the chunks is there; with none its contents were dropped,
//! and everything but them can still be read. A tree without chunks is always complete.

use super::damage::Soundness;
use crate::store::records::{Reader, Writer};
use crate::tree::Tree;

/// Codec of a tree record: zstd.
const ZSTD: u8 = 1;
/// Longest encoded tree that is read: `MAX_NODES` nodes with their text.
const LIMIT: usize = 3 << 30;

/// A tree with the numbers of its chunks.
#[derive(Debug)]
pub(in crate::store) struct StoredTree {
    pub(in crate::store) tree: Tree,
    /// In the order of the stream; none if the contents were dropped.
    pub(in crate::store) numbers: Vec<u64>,
    pub(super) soundness: Soundness,
}

impl StoredTree {
    pub(in crate::store) fn weight(&self) -> usize {
        self.tree.weight() + self.numbers.len() * 8
    }

    pub(in crate::store) fn is_complete(&self) -> bool {
        self.numbers.len() == self.tree.chunks().len()
    }
}

/// A tree record taken apart, not decompressed.
pub(in crate::store) struct TreeRecord<'a> {
    /// Length of the encoded tree.
    pub(super) length: usize,
    numbers: &'a [[u8; 8]],
    pub(super) packed: &'a [u8],
}

impl<'a> TreeRecord<'a> {
    pub(in crate::store) fn parse(record: &'a [u8]) -> Option<Self> {
        let mut fields = Reader::new(record);
        let codec = fields.byte()?;
        let (length, chunks) = (fields.u32()? as usize, fields.u32()? as usize);
        if codec != ZSTD || length > LIMIT {
            return None;
        }
        Some(Self {
            length,
            numbers: fields.bytes(chunks.checked_mul(8)?)?.as_chunks().0,
            packed: fields.rest(),
        })
    }

    /// The chunk numbers, in the order of the stream.
    pub(in crate::store) fn numbers(&self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.numbers.iter().map(|n| u64::from_le_bytes(*n))
    }

    pub(in crate::store) fn number(&self, index: usize) -> Option<u64> {
        self.numbers.get(index).map(|n| u64::from_le_bytes(*n))
    }

    /// The same record without its numbers.
    pub(in crate::store) fn dropped(&self) -> Vec<u8> {
        encode(self.length, &[], self.packed)
    }
}

/// The record of a tree whose encoding has this length, and is `packed`.
pub(super) fn encode(length: usize, numbers: &[u64], packed: &[u8]) -> Vec<u8> {
    let mut record = Writer::versioned(ZSTD);
    record.u32(length as u32);
    record.u32(numbers.len() as u32);
    for number in numbers {
        record.u64(*number);
    }
    record.bytes(packed);
    record.finish()
}

/// Where a chunk is and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Located {
    pub(in crate::store) number: u64,
    pub(in crate::store) raw_length: u32,
    pub(in crate::store) stored_length: u32,
}

impl Located {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.number);
        out.u32(self.raw_length);
        out.u32(self.stored_length);
        out.finish()
    }

    pub(in crate::store) fn decode(record: &[u8]) -> Option<Self> {
        let mut fields = Reader::new(record);
        let located = Self {
            number: fields.u64()?,
            raw_length: fields.u32()?,
            stored_length: fields.u32()?,
        };
        fields.is_at_end().then_some(located)
    }
}
