//! Which chunks the blob files have, and what of these is needed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use crate::store::contents::Located;
use crate::store::error::StoreError;
use crate::store::records::{BlobFile, Family, OVERHEAD, Records};

/// What is known of blob files: ranges of the numbers of the chunks in each.
pub(super) type KnownFiles = BTreeMap<u64, Vec<Range<u64>>>;

/// A blob file, and what of it is needed.
pub(super) struct Surveyed {
    pub(super) file: BlobFile,
    /// Bytes of what is needed.
    pub(super) live: u64,
    /// Numbers of chunks that are in no later file.
    pub(super) last: Vec<Range<u64>>,
}

impl Surveyed {
    /// Bytes of what is not needed.
    pub(super) fn garbage(&self) -> u64 {
        self.file.size.saturating_sub(self.live)
    }
}

/// Which file a chunk is in: for the start of each range of numbers, its end and the file.
#[derive(Default)]
struct Owners(BTreeMap<u64, (u64, usize)>);

impl Owners {
    /// Notes what is in a file, as far as no file that was noted before has it.
    fn add(&mut self, range: &Range<u64>, file: usize) {
        let mut at = range.start;
        if let Some((_, (end, _))) = self.0.range(..=at).next_back() {
            at = at.max(*end);
        }
        while at < range.end {
            let next = self.0.range(at..range.end).next();
            let next = next.map(|(start, (end, _))| (*start, *end));
            let end = next.map_or(range.end, |(start, _)| start);
            if at < end {
                self.0.insert(at, (end, file));
            }
            at = next.map_or(range.end, |(_, end)| end);
        }
    }

    fn of(&self, number: u64) -> Option<usize> {
        let (_, (end, file)) = self.0.range(..=number).next_back()?;
        (number < *end).then_some(*file)
    }
}

/// Looks into the blob files.
pub(super) fn survey(
    records: &Records,
    known: &mut KnownFiles,
) -> Result<Vec<Surveyed>, StoreError> {
    let files = records.blob_files()?;
    let there: HashSet<_> = files.iter().map(|f| f.number).collect();
    known.retain(|number, _| there.contains(number));
    let mut surveyed = Vec::new();
    let mut owners = Owners::default();
    // The latest first.
    for file in files.into_iter().rev() {
        let numbers = match known.entry(file.number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let numbers = file.chunk_numbers();
                let fail = records.directory_error("a file was read");
                let Some(numbers) = numbers.map_err(fail)? else {
                    continue;
                };
                unknown.insert(numbers)
            }
        };
        for range in numbers.iter() {
            owners.add(range, surveyed.len());
        }
        surveyed.push(Surveyed {
            file,
            live: 0,
            last: Vec::new(),
        });
    }
    let digests = Family::Digests;
    records.snapshot().scan_readable(digests, &[], |_, value| {
        if let Some(chunk) = Located::decode(value)
            && let Some(file) = owners.of(chunk.number)
            && let Some(file) = surveyed.get_mut(file)
        {
            file.live += u64::from(chunk.stored_length) + OVERHEAD;
        }
        Ok(true)
    })?;
    for (start, (end, file)) in owners.0 {
        if let Some(file) = surveyed.get_mut(file) {
            file.last.push(start..end);
        }
    }
    Ok(surveyed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_in_the_last_file_that_has_it() {
        let mut owners = Owners::default();
        // The latest first.
        for (file, range) in [
            (0, 10..12),
            (0, 20..21),
            (1, 5..11),
            (1, 12..20),
            (2, 0..30),
            (3, 10..12),
            (3, 29..31),
        ] {
            owners.add(&range, file);
        }
        let of: Vec<_> = (0..32).map(|n| owners.of(n)).collect();
        let mut expected = vec![Some(2); 30];
        expected[5..10].fill(Some(1));
        expected[10..12].fill(Some(0));
        expected[12..20].fill(Some(1));
        expected[20] = Some(0);
        expected.extend([Some(3), None]);
        assert_eq!(of, expected);
    }
}
