//! The hash of a NAR modulo the references to its own path.
//!
//! A path that is computed from its content cannot contain its own hash part; Nix therefore hashes
//! the content with every occurrence blanked, followed by the places where they were. Invariant:
//! the result does not depend on how the stream is cut into blocks.

use thiserror::Error;

use super::{HASH_PART_LEN, StorePathHash};
use crate::nix::hash::{Hash, HashAlgo, Hasher};
use crate::nix::nix32;

/// Most self-references that are recorded. Their places must be kept to the end (8 bytes each), so
/// a NAR that repeats its own hash could otherwise take a quarter of its size in memory; real
/// packages have some thousands.
const MAX_SELF_REFERENCES: usize = 1 << 22;

/// The content refers to itself more often than is plausible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the content refers to its own store path more than {MAX_SELF_REFERENCES} times")]
pub struct TooManySelfReferences;

/// A running hash modulo the references to one store path.
pub struct HashModulo {
    hasher: Hasher,
    needle: [u8; HASH_PART_LEN],
    /// The end of the stream so far, already blanked but not yet hashed: fewer bytes than the needle has.
    held: Vec<u8>,
    /// Offset in the stream of the first held byte.
    held_at: u64,
    found: Vec<u64>,
    overflowed: bool,
}

impl HashModulo {
    /// Starts a hash modulo the given hash part.
    #[must_use]
    pub fn new(algo: HashAlgo, own: &StorePathHash) -> Self {
        Self {
            hasher: Hasher::new(algo),
            needle: own.to_ascii(),
            held: Vec::with_capacity(2 * HASH_PART_LEN),
            held_at: 0,
            found: Vec::new(),
            overflowed: false,
        }
    }

    /// Adds the next bytes of the stream.
    pub fn update(&mut self, mut bytes: &[u8]) {
        // Blanking needs a copy, so the stream is taken in pieces, each joined to what is held of
        // the one before.
        const PIECE: usize = 64 * 1024;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(PIECE));
            bytes = rest;
            self.held.extend_from_slice(piece);
            self.blank_held();
            let done = self.held.len().saturating_sub(HASH_PART_LEN - 1);
            self.hasher.update(&self.held[..done]);
            self.held.drain(..done);
            self.held_at += done as u64;
        }
    }

    /// Blanks every occurrence in the held bytes, from left to right.
    fn blank_held(&mut self) {
        let mut from = 0;
        while let Some(at) = find(&self.held[from..], &self.needle) {
            let at = from + at;
            self.held[at..at + HASH_PART_LEN].fill(0);
            if self.found.len() < MAX_SELF_REFERENCES {
                self.found.push(self.held_at + at as u64);
            } else {
                self.overflowed = true;
            }
            from = at + HASH_PART_LEN;
        }
    }

    /// The hash of the whole stream.
    ///
    /// # Errors
    /// [`TooManySelfReferences`] if the places did not fit into the memory set aside for them.
    pub fn finish(mut self) -> Result<Hash, TooManySelfReferences> {
        if self.overflowed {
            return Err(TooManySelfReferences);
        }
        self.hasher.update(&self.held);
        for offset in &self.found {
            self.hasher.update(format!("|{offset}").as_bytes());
        }
        Ok(self.hasher.finish())
    }
}

/// First occurrence of the needle: tested from its right end, as most windows hold a byte that no
/// hash part has.
fn find(haystack: &[u8], needle: &[u8; HASH_PART_LEN]) -> Option<usize> {
    let mut start = 0;
    while let Some(window) = haystack.get(start..start + HASH_PART_LEN) {
        match window.iter().rposition(|&byte| !nix32::is_digit(byte)) {
            Some(foreign) => start += foreign + 1,
            None if window == needle => return Some(start),
            None => start += 1,
        }
    }
    None
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
        hasher.finish().unwrap()
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
