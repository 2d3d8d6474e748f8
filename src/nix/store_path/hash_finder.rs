//! The search for the hash parts of store paths in bytes.
//!
//! A reference exists where the 32 characters of a hash part occur, with or without a store directory or a
//! name around them. What is found is overwritten with a placeholder, since all callers hide it. Invariant:
//! what is found in a stream does not depend on how the stream is cut into pieces.

use std::collections::HashMap;

use super::{HASH_PART_LEN, StorePathHash};
use crate::nix::nix32;

/// Number of values of two digits.
const BEGINNINGS: usize = 1 << 10;

/// A set of hash parts to look for, and what is written over them.
#[derive(Clone, Debug)]
pub struct HashFinder {
    numbers: HashMap<[u8; HASH_PART_LEN], u32>,
    /// Whether a hash part begins with these two digits. In text made of digits (hexadecimal digests,
    /// base-64) nearly every position could be the beginning of a hash part, and this saves a lookup in the
    /// map at most of them.
    beginnings: Box<[bool]>,
    placeholder: [u8; HASH_PART_LEN],
}

impl HashFinder {
    /// Looks for `hashes`, whose numbers are their places in this order. The placeholder must not hold digits
    /// of nix32.
    pub fn new(
        hashes: impl IntoIterator<Item = StorePathHash>,
        placeholder: [u8; HASH_PART_LEN],
    ) -> Self {
        let texts = hashes.into_iter().map(|hash| hash.to_ascii());
        let numbers: HashMap<_, _> = texts.zip(0..).collect();
        let mut beginnings = vec![false; BEGINNINGS].into_boxed_slice();
        for text in numbers.keys() {
            beginnings[beginning(text)] = true;
        }
        Self {
            numbers,
            beginnings,
            placeholder,
        }
    }

    /// Calls `is_hidden` with the offset and the number of each hash part in `bytes`, from left to right, and
    /// overwrites it with the placeholder if the answer is yes. The next search begins behind what was
    /// overwritten.
    pub fn hide(&self, bytes: &mut [u8], mut is_hidden: impl FnMut(usize, u32) -> bool) {
        let mut start = 0;
        // Number of bytes at the left end of the window that are known to be digits.
        let mut known = 0;
        while let Some(window) = bytes.get_mut(start..start + HASH_PART_LEN) {
            // From the right end: a hash part cannot contain a byte that is not a digit, so the search goes
            // on behind it.
            let foreign = window[known..].iter().rposition(|&b| !nix32::is_digit(b));
            if let Some(at) = foreign {
                let passed = known + at + 1;
                start += passed;
                known = HASH_PART_LEN - passed;
                continue;
            }
            match self.number(window) {
                Some(number) if is_hidden(start, number) => {
                    window.copy_from_slice(&self.placeholder);
                    start += HASH_PART_LEN;
                    known = 0;
                }
                _ => {
                    start += 1;
                    known = HASH_PART_LEN - 1;
                }
            }
        }
    }

    fn number(&self, window: &[u8]) -> Option<u32> {
        let may_be = self.beginnings[beginning(window)];
        may_be.then(|| self.numbers.get(window).copied()).flatten()
    }
}

/// The first two digits as an index.
fn beginning(digits: &[u8]) -> usize {
    let [first, second] =
        [digits[0], digits[1]].map(|digit| nix32::digit_value(digit).unwrap_or(0));
    usize::from(first) << 5 | usize::from(second)
}

/// A stream in which hash parts are hidden.
///
/// A hash part may span two pieces, so the last 31 bytes of each piece are held back until the next.
#[derive(Debug, Default)]
pub struct HashStream {
    held: Vec<u8>,
    /// Number of held bytes that the last call returned.
    given: usize,
    /// The offset of the first held byte.
    offset: u64,
}

impl HashStream {
    /// A stream whose first byte has this offset.
    #[must_use]
    pub fn new(offset: u64) -> Self {
        Self {
            offset,
            ..Self::default()
        }
    }

    /// Takes the next bytes of the stream, hides hash parts as [`HashFinder::hide`] does, and returns the
    /// bytes that are complete.
    pub fn push(
        &mut self,
        bytes: &[u8],
        finder: &HashFinder,
        mut is_hidden: impl FnMut(u64, u32) -> bool,
    ) -> &[u8] {
        self.held.drain(..self.given);
        self.offset += self.given as u64;
        self.held.extend_from_slice(bytes);
        let offset = self.offset;
        finder.hide(&mut self.held, |at, number| {
            is_hidden(offset + at as u64, number)
        });
        self.given = self.held.len().saturating_sub(HASH_PART_LEN - 1);
        &self.held[..self.given]
    }

    /// What is held back at the end of the stream.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.held[self.given..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "gy454w1cxaq731grqwylhzf4pp9r5izh";
    const B: &str = "i9pmrzmpshapij2kin22pff6fc2adavx";

    /// The hash parts that are found in a stream, each with its offset; that they and nothing else are hidden
    /// is checked.
    fn scan(blocks: &[&[u8]]) -> Vec<(u64, String)> {
        let finder = HashFinder::new([A, B].map(|text| text.parse().unwrap()), [b'!'; 32]);
        let mut stream = HashStream::new(0);
        let (mut found, mut hidden) = (Vec::new(), Vec::new());
        for block in blocks {
            hidden.extend_from_slice(stream.push(block, &finder, |offset, number| {
                found.push((offset, [A, B][number as usize].to_owned()));
                true
            }));
        }
        hidden.extend_from_slice(stream.rest());
        let mut expected = blocks.concat();
        for (offset, _) in &found {
            expected[*offset as usize..][..HASH_PART_LEN].fill(b'!');
        }
        assert_eq!(hidden, expected);
        found
    }

    #[test]
    fn a_bare_hash_part_is_a_reference() {
        let text = format!("/nix/store/{A}-x 0123{B}");
        let found = scan(&[text.as_bytes()]);
        assert_eq!(found, [(11, A.into()), (50, B.into())]);
    }

    #[test]
    fn split_other_and_upper_case_hashes_are_none() {
        let text = format!("{} {}", &A[..31], A.to_uppercase());
        assert_eq!(scan(&[text.as_bytes()]), []);
        assert_eq!(scan(&[&A.as_bytes()[..16], b"/", &A.as_bytes()[16..]]), []);
        assert_eq!(scan(&[b"nj4j70xcnmcdh9y4yfs0ddw3hhli4880"]), []);
        assert_eq!(scan(&[]), []);
    }

    #[test]
    fn every_cut_of_a_hash_is_healed() {
        let text = format!("0{A}0{B}");
        for cut in 0..text.len() {
            let (left, right) = text.as_bytes().split_at(cut);
            assert_eq!(
                scan(&[left, right]),
                [(1, A.into()), (34, B.into())],
                "{cut}"
            );
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(scan(&bytes), [(1, A.into()), (34, B.into())]);
    }

    #[test]
    fn what_is_not_to_be_hidden_stays() {
        let finder = HashFinder::new([A.parse().unwrap()], [b'!'; 32]);
        let mut text = format!("{A}{A}").into_bytes();
        finder.hide(&mut text, |offset, _| offset > 0);
        assert_eq!(text, format!("{A}{}", "!".repeat(32)).as_bytes());
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
            prop_assert_eq!(scan(&blocks), naive);
        }
    }
}
