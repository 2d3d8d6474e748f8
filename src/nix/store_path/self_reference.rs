//! The hash of a NAR modulo the references to its own path.
//!
//! A path that is computed from its content cannot contain its own hash part; Nix therefore hashes the
//! content with every occurrence blanked, followed by their offsets. Nix 2.17 to 2.34 left the offsets out
//! (NixOS/nix#15931), so that two contents can share such a hash. Invariant: the result does not depend on
//! how the stream is cut into blocks.

use thiserror::Error;

use super::hash_finder::{HashFinder, HashStream};
use super::{HASH_PART_LEN, StorePathHash};
use crate::nix::hash::{Hash, HashAlgo, Hasher};

/// Most self-references that are recorded. Their offsets are kept until the end (8 bytes each), so a NAR that
/// repeats its own hash could otherwise take a quarter of its size in memory; real packages have some
/// thousands.
const MAX_SELF_REFERENCES: usize = 1 << 22;

/// The content refers to itself more often than is plausible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the content refers to its own store path more than {MAX_SELF_REFERENCES} times")]
pub struct TooManySelfReferences;

/// The two hashes of a content modulo its references to itself; without any they are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuloHashes {
    /// With the offsets of the references: no two contents share it.
    pub with_offsets: Hash,
    /// Without: contents that differ in which references are blanked already share it.
    pub without_offsets: Hash,
}

/// A running hash modulo the references to one store path.
pub struct HashModulo {
    hasher: Hasher,
    finder: HashFinder,
    stream: HashStream,
    found: Vec<u64>,
    /// Most offsets that are recorded.
    limit: usize,
    overflowed: bool,
}

impl HashModulo {
    /// Starts a hash modulo the given hash part.
    #[must_use]
    pub fn new(algo: HashAlgo, own: &StorePathHash) -> Self {
        Self::with_limit(algo, own, MAX_SELF_REFERENCES)
    }

    fn with_limit(algo: HashAlgo, own: &StorePathHash, limit: usize) -> Self {
        Self {
            hasher: Hasher::new(algo),
            finder: HashFinder::new([*own], [0; HASH_PART_LEN]),
            stream: HashStream::default(),
            found: Vec::new(),
            limit,
            overflowed: false,
        }
    }

    /// Adds the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        // Blanking needs a copy, which is at most this large.
        const PIECE: usize = 64 * 1024;
        for piece in bytes.chunks(PIECE) {
            let blanked = self.stream.push(piece, &self.finder, |offset, _| {
                self.overflowed |= self.found.len() == self.limit;
                if !self.overflowed {
                    self.found.push(offset);
                }
                true
            });
            self.hasher.update(blanked);
        }
    }

    /// The hashes of the whole stream.
    ///
    /// # Errors
    /// [`TooManySelfReferences`] if there were more than can be recorded.
    pub fn finish(mut self) -> Result<ModuloHashes, TooManySelfReferences> {
        if self.overflowed {
            return Err(TooManySelfReferences);
        }
        self.hasher.update(self.stream.rest());
        let without_offsets = self.hasher.clone().finish();
        for offset in &self.found {
            self.hasher.update(format!("|{offset}").as_bytes());
        }
        Ok(ModuloHashes {
            with_offsets: self.hasher.finish(),
            without_offsets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: &str = "gy454w1cxaq731grqwylhzf4pp9r5izh";

    fn modulo(parts: &[&[u8]]) -> Hash {
        let mut hasher = HashModulo::new(HashAlgo::Sha256, &OWN.parse().unwrap());
        for part in parts {
            hasher.update(part);
        }
        hasher.finish().unwrap().with_offsets
    }

    #[test]
    fn without_self_references_it_is_the_plain_hash() {
        assert_eq!(
            modulo(&[b"hello\n"]),
            Hash::of(HashAlgo::Sha256, b"hello\n")
        );
        assert_eq!(modulo(&[]), Hash::of(HashAlgo::Sha256, b""));
    }

    #[test]
    fn occurrences_are_blanked_and_their_offsets_appended() {
        let content = format!("ab{OWN}{OWN}-x");
        let expected = format!("ab{}-x|2|34", "\0".repeat(64));
        assert_eq!(
            modulo(&[content.as_bytes()]),
            Hash::of(HashAlgo::Sha256, expected.as_bytes())
        );
    }

    #[test]
    fn without_offsets_contents_that_are_blanked_already_share_the_hash() {
        let hashes = |content: &str| {
            let mut hasher = HashModulo::new(HashAlgo::Sha256, &OWN.parse().unwrap());
            hasher.update(content.as_bytes());
            hasher.finish().unwrap()
        };
        let blank = "\0".repeat(HASH_PART_LEN);
        let (one, other) = (
            hashes(&format!("{OWN}{blank}")),
            hashes(&format!("{blank}{OWN}")),
        );
        assert_eq!(one.without_offsets, other.without_offsets);
        assert_ne!(one.with_offsets, other.with_offsets);
        let none = hashes(&blank);
        assert_eq!(none.with_offsets, none.without_offsets);
    }

    #[test]
    fn more_self_references_than_the_limit_are_an_error() {
        let hash = |occurrences: usize| {
            let mut hasher = HashModulo::with_limit(HashAlgo::Sha256, &OWN.parse().unwrap(), 2);
            (0..occurrences).for_each(|_| hasher.update(OWN.as_bytes()));
            hasher.finish()
        };
        let expected = format!("{}|0|32", "\0".repeat(64));
        let with_offsets = hash(2).map(|hashes| hashes.with_offsets);
        assert_eq!(
            with_offsets,
            Ok(Hash::of(HashAlgo::Sha256, expected.as_bytes()))
        );
        for occurrences in [3, 4] {
            assert_eq!(hash(occurrences).map(|_| ()), Err(TooManySelfReferences));
        }
    }

    proptest! {
        #[test]
        fn the_cut_into_blocks_does_not_matter(
            pieces in proptest::collection::vec(0usize..4, 0..12),
            cut in 1usize..70,
        ) {
            let mut content = Vec::new();
            for piece in pieces {
                match piece {
                    0 => content.extend_from_slice(OWN.as_bytes()),
                    1 => content.extend_from_slice(&OWN.as_bytes()[..20]),
                    2 => content.extend_from_slice(b"/nix/store/"),
                    _ => content.push(b'g'),
                }
            }
            let blocks: Vec<&[u8]> = content.chunks(cut).collect();
            prop_assert_eq!(modulo(&blocks), modulo(&[&content]));
        }
    }
}
