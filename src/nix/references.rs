//! The scan for store path hashes in a stream.
//!
//! A reference exists where the 32 characters of a hash part occur, with or without a store
//! directory or name around them. Invariant: what is found does not depend on how the stream is cut
//! into blocks.

use std::collections::{BTreeSet, HashMap};

use crate::nix::nix32;
use crate::nix::store_path::{HASH_PART_LEN, StorePathHash};

/// Bits of the prefix filter's index: the first three characters of a hash part.
const PREFIX_BITS: usize = 15;

/// Looks for a set of hash parts in a stream.
pub struct Scanner {
    candidates: HashMap<[u8; HASH_PART_LEN], StorePathHash>,
    /// Which first three characters occur among the candidates. In text made of the alphabet (hex
    /// dumps, base-64) nearly every position is a possible beginning, and this spares a hash table
    /// lookup at each.
    prefixes: Box<[bool]>,
    found: BTreeSet<StorePathHash>,
    /// The end of the stream so far: fewer bytes than a hash part has.
    tail: Vec<u8>,
    /// Bytes of the stream so far.
    position: u64,
}

impl Scanner {
    /// Prepares to look for these hash parts.
    #[must_use]
    pub fn new(candidates: impl IntoIterator<Item = StorePathHash>) -> Self {
        let candidates: HashMap<_, _> = candidates
            .into_iter()
            .map(|hash| (hash.to_ascii(), hash))
            .collect();
        let mut prefixes = vec![false; 1 << PREFIX_BITS].into_boxed_slice();
        for text in candidates.keys() {
            prefixes[prefix(text)] = true;
        }
        Self {
            candidates,
            prefixes,
            found: BTreeSet::new(),
            tail: Vec::with_capacity(2 * HASH_PART_LEN),
            position: 0,
        }
    }

    /// Looks through the next bytes of the stream, and calls `each` with every occurrence and its
    /// offset in the stream, in ascending order. An occurrence is told by the call that brings its
    /// last byte.
    pub fn feed_each(&mut self, block: &[u8], mut each: impl FnMut(u64, &StorePathHash)) {
        const OVERLAP: usize = HASH_PART_LEN - 1;
        // First the windows that begin in the tail, then those that lie in the block; the tail is
        // short, so only as much of the block is joined to it as its windows reach.
        let mut joined = std::mem::take(&mut self.tail);
        let tail_length = joined.len();
        let tail_start = self.position - tail_length as u64;
        joined.extend_from_slice(&block[..block.len().min(OVERLAP)]);
        self.scan(&joined, tail_length, tail_start, &mut each);
        self.scan(block, block.len(), self.position, &mut each);
        self.position += block.len() as u64;
        if block.len() >= OVERLAP {
            joined.clear();
            joined.extend_from_slice(&block[block.len() - OVERLAP..]);
        } else {
            joined.drain(..joined.len().saturating_sub(OVERLAP));
        }
        self.tail = joined;
    }

    /// The candidates found so far, in order.
    #[must_use]
    pub const fn found(&self) -> &BTreeSet<StorePathHash> {
        &self.found
    }

    /// Looks at the windows of `bytes` that begin before `limit`.
    fn scan(
        &mut self,
        bytes: &[u8],
        limit: usize,
        base: u64,
        each: &mut impl FnMut(u64, &StorePathHash),
    ) {
        let mut start = 0;
        // All bytes in `start..known` are digits.
        let mut known = 0;
        while start < limit {
            let end = start + HASH_PART_LEN;
            let Some(window) = bytes.get(start..end) else {
                return;
            };
            let unknown = known.max(start) - start;
            let foreign = window[unknown..]
                .iter()
                .rposition(|&byte| !nix32::is_digit(byte));
            if let Some(at) = foreign {
                // No window that reaches over this byte can match. What follows it in this window
                // is known to be digits.
                start += unknown + at + 1;
                known = end;
                continue;
            }
            known = end;
            if self.prefixes[prefix(window)]
                && let Some(hash) = self.candidates.get(window)
            {
                self.found.insert(*hash);
                each(base + start as u64, hash);
            }
            start += 1;
        }
    }
}

/// Index in the prefix filter.
fn prefix(text: &[u8]) -> usize {
    let digits = text.iter().take(3);
    digits.fold(0, |index, &byte| {
        index << 5 | usize::from(nix32::digit_value(byte).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "gy454w1cxaq731grqwylhzf4pp9r5izh";
    const B: &str = "i9pmrzmpshapij2kin22pff6fc2adavx";

    fn scan(blocks: &[&[u8]]) -> (Vec<(u64, String)>, Vec<String>) {
        let hash = |text: &str| text.parse::<StorePathHash>().unwrap();
        let mut scanner = Scanner::new([hash(A), hash(B)]);
        let mut places = Vec::new();
        for block in blocks {
            scanner.feed_each(block, |offset, hash| {
                places.push((offset, hash.to_string()))
            });
        }
        let found = scanner.found().iter().map(ToString::to_string).collect();
        (places, found)
    }

    #[test]
    fn a_bare_hash_part_is_a_reference() {
        let text = format!("/nix/store/{A}-x 0123{B}");
        let (places, found) = scan(&[text.as_bytes()]);
        assert_eq!(places, [(11, A.into()), (50, B.into())]);
        assert_eq!(found, [A, B]);
    }

    #[test]
    fn split_other_and_upper_case_hashes_are_none() {
        let text = format!("{} {}", &A[..31], A.to_uppercase());
        assert_eq!(scan(&[text.as_bytes()]).0, []);
        assert_eq!(
            scan(&[&A.as_bytes()[..16], b"/", &A.as_bytes()[16..]]).0,
            []
        );
        assert_eq!(scan(&[b"nj4j70xcnmcdh9y4yfs0ddw3hhli4880"]).0, []);
        assert_eq!(scan(&[]).0, []);
    }

    #[test]
    fn every_cut_of_a_hash_is_healed() {
        let text = format!("0{A}0{B}");
        for cut in 0..text.len() {
            let (left, right) = text.as_bytes().split_at(cut);
            assert_eq!(
                scan(&[left, right]).0,
                [(1, A.into()), (34, B.into())],
                "{cut}"
            );
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(scan(&bytes).1, [A, B]);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_naive_search(
            pieces in proptest::collection::vec(0usize..6, 0..20),
            cut in 1usize..80,
        ) {
            let mut text = String::new();
            for piece in pieces {
                text.push_str([A, B, &A[..17], &B[5..], "0", "/"][piece]);
            }
            let mut naive: Vec<(u64, String)> = Vec::new();
            for needle in [A, B] {
                for at in 0..text.len() {
                    if text[at..].starts_with(needle) {
                        naive.push((at as u64, needle.into()));
                    }
                }
            }
            naive.sort();
            let blocks: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
            prop_assert_eq!(scan(&blocks).0, naive);
        }
    }
}
