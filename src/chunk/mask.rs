//! The reference mask: store-path hashes in contents, replaced by a placeholder.
//!
//! After a rebuild nothing but embedded hashes differs between two files. With every hash that
//! the path may reference replaced by [`PLACEHOLDER`], and the offset and the number of the
//! reference noted aside, both files are the same bytes, and so the same chunks.
//!
//! Invariant: `unmask(mask(bytes)) == bytes`, whatever the bytes hold. The mask is an encoding:
//! a placeholder in the input is not noted, so it stays as it is.

use crate::nix::store_path::{HASH_PART_LEN, HashFinder, HashStream, StorePath};

/// Length of a store-path hash as text, in bytes.
pub const HASH_LEN: usize = HASH_PART_LEN;

/// Placeholder of a hash. `e` is not a digit of nix32, so this is not a hash itself.
pub(super) const PLACEHOLDER: [u8; HASH_LEN] = [b'e'; HASH_LEN];

/// Most hashes that are masked in one path, so that a hostile NAR cannot fill the memory with
/// them. Real paths have some hundreds; further hashes stay as they are.
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
    finder: HashFinder,
    /// For each reference, how many others were found before it; `u64::MAX` if it was not found.
    first_seen: Vec<u64>,
    seen: u64,
    /// Most hashes that are masked.
    limit: usize,
}

impl ReferenceTable {
    /// The table of `references` (the path itself among them, if it refers to itself).
    pub fn new(references: &[StorePath]) -> Self {
        Self::with_limit(references, MAX_OCCURRENCES)
    }

    fn with_limit(references: &[StorePath], limit: usize) -> Self {
        let mut paths = references.to_vec();
        paths.sort_by(|a, b| a.name().cmp(b.name()).then_with(|| a.cmp(b)));
        paths.dedup();
        let hashes = paths.iter().map(StorePath::hash);
        Self {
            finder: HashFinder::new(hashes, PLACEHOLDER),
            first_seen: vec![u64::MAX; paths.len()],
            seen: 0,
            paths,
            limit,
        }
    }

    /// The finder of the references, and a function that adds what it finds to `found`.
    fn noting<'t>(
        &'t mut self,
        found: &'t mut Vec<Occurrence>,
    ) -> (&'t HashFinder, impl FnMut(u64, u32) -> bool + 't) {
        let note = |offset, reference| {
            if found.len() == self.limit {
                return false;
            }
            let first = &mut self.first_seen[reference as usize];
            if *first == u64::MAX {
                *first = self.seen;
                self.seen += 1;
            }
            found.push(Occurrence { offset, reference });
            true
        };
        (&self.finder, note)
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

/// Masks one file that arrives in pieces.
#[derive(Debug, Default)]
pub struct Masker(HashStream);

impl Masker {
    /// A masker at the start of a file whose masked bytes begin at `offset` of their stream.
    pub fn new(offset: u64) -> Self {
        Self(HashStream::new(offset))
    }

    /// Takes the next bytes of the file, adds its hashes to `found`, and returns the masked bytes that are
    /// complete.
    pub fn push<'b>(
        &'b mut self,
        bytes: &'b [u8],
        table: &mut ReferenceTable,
        found: &mut Vec<Occurrence>,
    ) -> &'b [u8] {
        if table.paths.is_empty() {
            return bytes;
        }
        let (finder, note) = table.noting(found);
        self.0.push(bytes, finder, note)
    }

    /// The masked bytes that are left at the end of the file.
    pub fn rest(&self) -> &[u8] {
        self.0.rest()
    }

    /// Masks the whole of `bytes`, which begin at `offset` of their stream.
    pub fn whole(
        bytes: &mut [u8],
        offset: u64,
        table: &mut ReferenceTable,
        found: &mut Vec<Occurrence>,
    ) {
        if table.paths.is_empty() {
            return;
        }
        let (finder, mut note) = table.noting(found);
        finder.hide(bytes, |at, number| note(offset + at as u64, number));
    }
}

/// Puts the hashes back into `bytes`, which are the masked bytes from `offset` of the stream on.
///
/// `occurrences` is the whole side list, sorted by offset; `hash_of` gives the text for a
/// reference number (`None` is skipped; the tree's validation excludes it).
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
        // The hash may extend beyond either edge of the window.
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
        let mut m = Masker::new(0);
        for p in data.chunks(piece.max(1)) {
            out.extend_from_slice(m.push(p, t, &mut found));
        }
        out.extend_from_slice(m.rest());
        (out, found)
    }

    fn hashes(t: &ReferenceTable) -> Vec<[u8; HASH_LEN]> {
        t.paths.iter().map(|p| p.hash().to_ascii()).collect()
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
                let p = t.paths.iter().find(|p| p.name() == n).unwrap();
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
    fn hashes_beyond_the_limit_stay_as_they_are() {
        let mut t = ReferenceTable::with_limit(&[path(7, "a")], 3);
        let hash = path(7, "a").hash().to_string();
        for (hashes, masked_hashes) in [(3, 3), (4, 3), (9, 3)] {
            let data = format!("x{hash}").repeat(hashes).into_bytes();
            let mut expected = data.clone();
            let placeholder = [b"x".as_slice(), &PLACEHOLDER].concat();
            expected[..masked_hashes * 33].copy_from_slice(&placeholder.repeat(masked_hashes));
            for piece in [1, 50, 1000] {
                let (masked, found) = mask(&data, piece, &mut t);
                assert_eq!((&masked, found.len()), (&expected, masked_hashes));
                assert_eq!(restore(masked, &found, &t), data);
            }
            let (mut masked, mut found) = (data.clone(), Vec::new());
            Masker::whole(&mut masked, 0, &mut t, &mut found);
            assert_eq!((&masked, found.len()), (&expected, masked_hashes));
        }
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
