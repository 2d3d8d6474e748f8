//! The name of a chunk, and of a tree: BLAKE3, 32 bytes.
//!
//! BLAKE3 is a tree itself: a *chaining value* stands for a part of the bytes, and the chaining values of
//! all parts merge to the digest. So a [part](PART) of a chunk can be checked alone by its chaining value,
//! and the chaining values by the digest: they need no trust of their own.

use std::fmt;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// Length of the parts of a chunk in bytes; the last one may be shorter. It has to be a power of two from
/// 1024 on, so that each part is a subtree of the tree of BLAKE3. Records say nothing of it: another length
/// is another codec.
pub(super) const PART: usize = 64 << 10;

/// What stands for a part in the tree of BLAKE3.
pub(super) type ChainingValue = [u8; 32];

/// BLAKE3 digest of the masked, uncompressed bytes of a chunk (or of an encoded tree).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkDigest(pub [u8; 32]);

impl ChunkDigest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of bytes whose parts, two or more, have these chaining values.
    pub(super) fn of_parts(values: &[ChainingValue]) -> Self {
        let mut values = values.to_vec();
        while let [_, _, _, ..] = values[..] {
            // Neighbours are merged; a last one without a neighbour waits for the next round.
            let merge = |pair: &[ChainingValue]| match pair {
                [left, right] => merge_subtrees_non_root(left, right, Mode::Hash),
                alone => alone[0],
            };
            values = values.chunks(2).map(merge).collect();
        }
        Self(match &values[..] {
            [left, right] => *merge_subtrees_root(left, right, Mode::Hash).as_bytes(),
            // One part is all: its chaining value is not its digest.
            _ => [0; 32],
        })
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes());
        bytes.ok()?.try_into().map(Self).ok()
    }
}

impl fmt::Display for ChunkDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ChunkDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkDigest({self})")
    }
}

/// The chaining value of the part of this number.
pub(super) fn chaining_value(number: usize, part: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset((number * PART) as u64);
    hasher.update(part).finalize_non_root()
}

/// The digest of a chunk with the chaining values of its parts, all of one pass over its bytes.
#[derive(Clone, Debug)]
pub struct ChunkHash {
    pub digest: ChunkDigest,
    /// None, if the chunk is no longer than a part.
    pub(super) values: Vec<ChainingValue>,
}

impl ChunkHash {
    pub fn of(chunk: &[u8]) -> Self {
        if chunk.len() <= PART {
            return Self {
                digest: ChunkDigest::of(chunk),
                values: Vec::new(),
            };
        }
        let parts = chunk.chunks(PART).enumerate();
        let values: Vec<_> = parts.map(|(n, part)| chaining_value(n, part)).collect();
        Self {
            digest: ChunkDigest::of_parts(&values),
            values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::MAXIMUM;

    #[test]
    fn the_digest_of_parts_is_that_of_their_bytes_whatever_the_length() {
        let mut bytes = vec![0; MAXIMUM];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let borders = (0..=MAXIMUM / PART).map(|n| n * PART);
        let lengths =
            borders.flat_map(|at| [-1025, -1024, -1, 0, 1, 1024, 1025].map(|by| at as i64 + by));
        for length in lengths.filter_map(|length| usize::try_from(length).ok()) {
            let Some(chunk) = bytes.get(..length) else {
                continue;
            };
            let hash = ChunkHash::of(chunk);
            assert_eq!(hash.digest, ChunkDigest::of(chunk), "{length}");
            let parts = if length > PART {
                length.div_ceil(PART)
            } else {
                0
            };
            assert_eq!(hash.values.len(), parts, "{length}");
        }
    }
}
