//! The reference mask: store-path hashes in contents, replaced by a placeholder.
//!
//! After a rebuild nothing but embedded hashes differs between two files. With every hash that
//! the path may reference replaced by [`PLACEHOLDER`], and the place and the number of the
//! reference noted aside, both files are the same bytes, and so the same chunks.
//!
//! Invariant: `unmask(mask(bytes)) == bytes`, whatever the bytes hold. The mask is an encoding:
//! a placeholder that stands in the input is not noted, so it stays as it is.

use std::collections::HashMap;

use crate::nix::store_path::StorePath;

/// Length of a store-path hash as text, in bytes.
pub const HASH_LEN: usize = 32;

/// What stands for a hash. `e` is not a digit of nix32, so it is no hash itself.
pub(super) const PLACEHOLDER: [u8; HASH_LEN] = [b'e'; HASH_LEN];

/// Most hashes that are masked in one path, so that a hostile NAR cannot fill the memory with
/// them. Real paths have some hundreds; what comes after simply stays as it is.
const MAX_OCCURRENCES: usize = 1 << 22;

/// One masked hash: where it stood and which reference it named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occurrence {
    /// Offset of the first byte of the hash, in the masked stream.
    pub offset: u64,
    /// Number of the reference (see [`ReferenceTable`]).
    pub reference: u32,
}

/// The references of a path, numbered by their names, with their hashes as text.
///
/// Numbers follow names because hashes change with a rebuild and names do not; that makes the
/// side list, and with it the tree, the same value before and after. References of equal name
/// take their numbers from the order in which they first occur (see [`Self::settle`]).
#[derive(Clone, Debug)]
pub struct ReferenceTable {
    paths: Vec<StorePath>,
    number_of: HashMap<[u8; HASH_LEN], u32>,
    first_seen: Vec<u64>,
    seen: u64,
}

impl ReferenceTable {
    /// The table of `references` (the path itself among them, if it refers to itself).
    pub fn new(references: &[StorePath]) -> Self {
        let mut paths = references.to_vec();
        paths.sort_by(|a, b| a.name().cmp(b.name()).then_with(|| a.cmp(b)));
        paths.dedup();
        let hashes = paths.iter().map(|p| p.hash().to_ascii());
        let number_of = hashes.zip(0u32..).collect();
        let first_seen = vec![u64::MAX; paths.len()];
        Self {
            paths,
            number_of,
            first_seen,
            seen: 0,
        }
    }

    /// The references in the order of their numbers.
    pub fn paths(&self) -> &[StorePath] {
        &self.paths
    }

    /// The number of the reference whose hash is `window`, noted as seen.
    fn find(&mut self, window: &[u8; HASH_LEN]) -> Option<u32> {
        let number = *self.number_of.get(window)?;
        let first = &mut self.first_seen[number as usize];
        if *first == u64::MAX {
            *first = self.seen;
            self.seen += 1;
        }
        Some(number)
    }

    /// Ends the numbering: the final order of the references, and for each number given out so
    /// far its final one.
    pub fn settle(&self) -> (Vec<StorePath>, Vec<u32>) {
        let mut order: Vec<u32> = (0..self.paths.len() as u32).collect();
        order.sort_by_key(|n| {
            let p = &self.paths[*n as usize];
            (p.name(), self.first_seen[*n as usize], *n)
        });
        let mut renumber = vec![0; order.len()];
        for (new, old) in (0u32..).zip(&order) {
            renumber[*old as usize] = new;
        }
        let paths = order
            .iter()
            .map(|n| self.paths[*n as usize].clone())
            .collect();
        (paths, renumber)
    }
}

/// Whether a byte is a digit of nix32.
const DIGIT: [bool; 256] = {
    let mut table = [false; 256];
    let digits = b"0123456789abcdfghijklmnpqrsvwxyz";
    let mut i = 0;
    while i < digits.len() {
        table[digits[i] as usize] = true;
        i += 1;
    }
    table
};

/// Masks one file that arrives in pieces.
///
/// A hash may lie across two pieces, so the last 31 bytes of each are held back until the next.
#[derive(Debug, Default)]
pub struct Masker {
    held: Vec<u8>,
    offset: u64,
}

impl Masker {
    /// A masker at the start of a file whose masked bytes begin at `offset` of their stream.
    pub fn new(offset: u64) -> Self {
        Self {
            held: Vec::new(),
            offset,
        }
    }

    /// Takes `bytes`; hands masked bytes to `emit` and notes hashes in `found`.
    ///
    /// # Errors
    /// Those of `emit`.
    pub fn push<E>(
        &mut self,
        bytes: &[u8],
        table: &mut ReferenceTable,
        found: &mut Vec<Occurrence>,
        emit: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if table.paths.is_empty() {
            self.offset += bytes.len() as u64;
            return emit(bytes);
        }
        self.held.extend_from_slice(bytes);
        let done = mask_in_place(&mut self.held, self.offset, table, found);
        let keep_from = done.max(self.held.len().saturating_sub(HASH_LEN - 1));
        emit(&self.held[..keep_from])?;
        self.offset += keep_from as u64;
        self.held.drain(..keep_from);
        Ok(())
    }

    /// Ends the file: hands out what was held back.
    ///
    /// # Errors
    /// Those of `emit`.
    pub fn finish<E>(self, emit: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.held.is_empty() {
            return Ok(());
        }
        emit(&self.held)
    }

    /// Masks the whole of `bytes`, which begin at `offset` of their stream.
    pub fn whole(
        bytes: &mut [u8],
        offset: u64,
        table: &mut ReferenceTable,
        found: &mut Vec<Occurrence>,
    ) {
        if !table.paths.is_empty() {
            mask_in_place(bytes, offset, table, found);
        }
    }
}

/// Masks `bytes` and returns the end of the last hash found (0 if none).
fn mask_in_place(
    bytes: &mut [u8],
    offset: u64,
    table: &mut ReferenceTable,
    found: &mut Vec<Occurrence>,
) -> usize {
    let mut at = 0;
    let mut done = 0;
    // `valid` bytes from `at` on are known to be digits.
    let mut valid = 0;
    while at + HASH_LEN <= bytes.len() && found.len() < MAX_OCCURRENCES {
        let window = &bytes[at..at + HASH_LEN];
        // From the right: the first byte that is no digit lets us skip past it.
        if let Some(bad) = window[valid..].iter().rposition(|b| !DIGIT[*b as usize]) {
            at += valid + bad + 1;
            valid = HASH_LEN - 1 - (valid + bad);
            continue;
        }
        let mut text = [0; HASH_LEN];
        text.copy_from_slice(window);
        if let Some(reference) = table.find(&text) {
            bytes[at..at + HASH_LEN].copy_from_slice(&PLACEHOLDER);
            found.push(Occurrence {
                offset: offset + at as u64,
                reference,
            });
            at += HASH_LEN;
            done = at;
            valid = 0;
        } else {
            at += 1;
            valid = HASH_LEN - 1;
        }
    }
    done
}

/// Puts the hashes back into `bytes`, which are the masked bytes from `offset` of the stream on.
///
/// `occurrences` is the whole side list, sorted by offset; `hash_of` gives the text for a
/// reference number (`None` is passed over; the tree's validation excludes it).
pub fn unmask<'a>(
    bytes: &mut [u8],
    offset: u64,
    occurrences: &[Occurrence],
    hash_of: impl Fn(u32) -> Option<&'a [u8; HASH_LEN]>,
) {
    let end = offset + bytes.len() as u64;
    let from = occurrences.partition_point(|o| o.offset + HASH_LEN as u64 <= offset);
    for o in &occurrences[from..] {
        if o.offset >= end {
            break;
        }
        let Some(hash) = hash_of(o.reference) else {
            continue;
        };
        // The hash may lie across either edge of the window.
        let skip = offset.saturating_sub(o.offset) as usize;
        let at = (o.offset + skip as u64 - offset) as usize;
        let n = (HASH_LEN - skip).min(bytes.len() - at);
        bytes[at..at + n].copy_from_slice(&hash[skip..skip + n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::store_path::StorePathHash;
    use proptest::prelude::*;

    fn path(seed: u8, name: &str) -> StorePath {
        StorePath::new(StorePathHash::from_bytes([seed; 20]), name).unwrap()
    }

    fn mask(data: &[u8], piece: usize, t: &mut ReferenceTable) -> (Vec<u8>, Vec<Occurrence>) {
        let (mut out, mut found) = (Vec::new(), Vec::new());
        let mut emit = |b: &[u8]| -> Result<(), ()> {
            out.extend_from_slice(b);
            Ok(())
        };
        let mut m = Masker::new(0);
        for p in data.chunks(piece.max(1)) {
            m.push(p, t, &mut found, &mut emit).unwrap();
        }
        m.finish(&mut emit).unwrap();
        (out, found)
    }

    fn hashes(t: &ReferenceTable) -> Vec<[u8; HASH_LEN]> {
        t.paths().iter().map(|p| p.hash().to_ascii()).collect()
    }

    fn restore(mut masked: Vec<u8>, found: &[Occurrence], t: &ReferenceTable) -> Vec<u8> {
        let hashes = hashes(t);
        unmask(&mut masked, 0, found, |n| hashes.get(n as usize));
        masked
    }

    #[test]
    fn a_rebuild_gives_the_same_masked_bytes_and_side_list() {
        let text = |t: &ReferenceTable, names: [&str; 3]| {
            let mut s = String::from("x");
            for n in names {
                let p = t.paths().iter().find(|p| p.name() == n).unwrap();
                s += &format!("/nix/store/{}-{}/bin\0", p.hash(), p.name());
            }
            s.into_bytes()
        };
        let mut old = ReferenceTable::new(&[path(1, "glibc"), path(2, "bash"), path(3, "own")]);
        let mut new = ReferenceTable::new(&[path(9, "glibc"), path(5, "bash"), path(4, "own")]);
        let names = ["own", "glibc", "bash"];
        let (a, b) = (text(&old, names), text(&new, names));
        assert_ne!(a, b);
        let (ma, fa) = mask(&a, 17, &mut old);
        let (mb, fb) = mask(&b, 1 << 20, &mut new);
        assert_eq!((&ma, &fa), (&mb, &fb));
        assert_eq!(fa.len(), 3);
        assert_eq!(restore(ma, &fa, &old), a);
        assert_eq!(restore(mb, &fb, &new), b);
    }

    #[test]
    fn equal_names_are_numbered_by_first_occurrence() {
        let run = |x: u8, y: u8| {
            let (first, second) = (path(x, "lib"), path(y, "lib"));
            let mut t = ReferenceTable::new(&[first.clone(), second.clone()]);
            let text = format!("{} {}", first.hash(), second.hash());
            let (_, found) = mask(text.as_bytes(), 8, &mut t);
            let (order, renumber) = t.settle();
            assert_eq!(order, [first, second]);
            found
                .iter()
                .map(|o| renumber[o.reference as usize])
                .collect::<Vec<_>>()
        };
        assert_eq!(run(1, 2), run(2, 1));
    }

    #[test]
    fn windows_across_an_occurrence_are_restored() {
        let mut t = ReferenceTable::new(&[path(7, "a")]);
        let text = format!("abc{}def", path(7, "a").hash()).into_bytes();
        let (masked, found) = mask(&text, 5, &mut t);
        let hashes = hashes(&t);
        for from in 0..text.len() {
            for to in from..=text.len() {
                let mut part = masked[from..to].to_vec();
                unmask(&mut part, from as u64, &found, |n| hashes.get(n as usize));
                assert_eq!(part, text[from..to]);
            }
        }
    }

    proptest! {
        #[test]
        fn masking_is_an_encoding(
            parts in prop::collection::vec(0usize..6, 0..40),
            noise in prop::collection::vec(any::<u8>(), 0..50),
            piece in 1usize..90,
        ) {
            let mut t = ReferenceTable::new(&[path(1, "a"), path(2, "b")]);
            let mut data = Vec::new();
            for p in parts {
                match p {
                    0 => data.extend_from_slice(path(1, "a").hash().to_string().as_bytes()),
                    1 => data.extend_from_slice(path(2, "b").hash().to_string().as_bytes()),
                    2 => data.extend_from_slice(&PLACEHOLDER),
                    3 => data.extend_from_slice(&noise),
                    4 => data.extend_from_slice(b"0123abcd"),
                    _ => data.extend_from_slice(&path(1, "a").hash().to_string().as_bytes()[..20]),
                }
            }
            let (masked, found) = mask(&data, piece, &mut t);
            let mut at_once = data.clone();
            let mut found_at_once = Vec::new();
            Masker::whole(&mut at_once, 0, &mut t, &mut found_at_once);
            prop_assert_eq!((&masked, &found), (&at_once, &found_at_once));
            prop_assert_eq!(restore(masked, &found, &t), data);
        }
    }
}
