//! How often complete trees name each chunk: what nothing names may be deleted.

use std::collections::HashMap;

use super::writing::highest_named;
use crate::store::error::StoreError;
use crate::store::records::{Family, Records};

/// How often complete trees name each chunk.
pub(in crate::store) struct ChunkUses {
    /// The lowest number of a chunk that is there; what is lower is not judged.
    first: u64,
    /// What is from here on is not judged either: no such number was given, but a damaged record may have
    /// it.
    end: u64,
    /// Counts by number, in parts of equal length: numbers of chunks that are gone take no memory.
    parts: HashMap<u64, Box<[u16; PART]>>,
}

/// Chunks that may come while uses are counted: more than any disk takes in that time.
const COMING: u64 = 1 << 24;
/// Chunks in one part.
const PART: usize = 1 << 10;
/// Bit of a count that says that a kept tree names the chunk.
const KEPT: u16 = 1 << 15;
/// Count from which on uses are no longer counted: such a chunk stays.
const MANY: u16 = KEPT - 1;

impl ChunkUses {
    /// None yet, of the chunks that are there now and will be.
    pub(in crate::store) fn new(records: &Records) -> Result<Self, StoreError> {
        let number = |key: Option<Vec<u8>>| {
            let key = key.and_then(|k| Some(u64::from_be_bytes(k.as_slice().try_into().ok()?)));
            key.unwrap_or(0)
        };
        let first = match records.first_key(Family::Chunks) {
            Err(e) if e.is_damage() => 0,
            first => number(first?),
        };
        let last = match records.last_key(Family::Chunks) {
            Err(e) if e.is_damage() => highest_named(records)?,
            last => number(last?),
        };
        Ok(Self {
            first,
            end: last.saturating_add(COMING),
            parts: HashMap::new(),
        })
    }

    /// Memory used, in bytes.
    pub(in crate::store) fn weight(&self) -> usize {
        self.parts.len() * (PART * size_of::<u16>() + 32)
    }

    /// Has no chunk judged: each counts as used and kept.
    pub(in crate::store) fn judge_none(&mut self) {
        self.end = self.first;
    }

    pub(in crate::store) fn judges_none(&self) -> bool {
        self.end == self.first
    }

    /// Where the count of a chunk is; `None` if it is not judged.
    fn at(&self, number: u64) -> Option<(u64, usize)> {
        let judged = self.first..self.end;
        let at = judged.contains(&number).then(|| number - self.first)?;
        Some((at / PART as u64, (at % PART as u64) as usize))
    }

    fn slot(&mut self, number: u64) -> Option<&mut u16> {
        let (part, at) = self.at(number)?;
        let part = self
            .parts
            .entry(part)
            .or_insert_with(|| Box::new([0; PART]));
        part.get_mut(at)
    }

    fn get(&self, number: u64) -> Option<u16> {
        let (part, at) = self.at(number)?;
        Some(self.parts.get(&part).map_or(0, |part| part[at]))
    }

    pub(in crate::store) fn add(&mut self, number: u64) {
        if let Some(count) = self.slot(number) {
            let uses = (*count & MANY).saturating_add(1).min(MANY);
            *count = (*count & KEPT) | uses;
        }
    }

    /// Notes that a kept tree names the chunk.
    pub(in crate::store) fn keep(&mut self, number: u64) {
        if let Some(count) = self.slot(number) {
            *count |= KEPT;
        }
    }

    pub(in crate::store) fn remove(&mut self, number: u64) {
        if let Some(count) = self.slot(number)
            && *count & MANY != MANY
        {
            *count = (*count & KEPT) | (*count & MANY).saturating_sub(1);
        }
    }

    /// Whether some complete tree names the chunk.
    pub(in crate::store) fn is_used(&self, number: u64) -> bool {
        self.get(number).is_none_or(|count| count & MANY > 0)
    }

    /// Whether a complete tree that is kept names the chunk.
    pub(in crate::store) fn is_kept(&self, number: u64) -> bool {
        self.get(number).is_none_or(|count| count & KEPT != 0)
    }

    /// Whether chunks that come now will be judged.
    pub(in crate::store) fn judges(&self, next: u64) -> bool {
        next.saturating_add(COMING / 2) < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_used_until_it_was_removed_as_often_as_added_and_one_of_very_many_trees_stays() {
        let mut uses = ChunkUses {
            first: 5,
            end: 1 << 20,
            parts: HashMap::new(),
        };
        assert!(!uses.is_used(7) && uses.is_used(4) && uses.is_used(1 << 20));
        uses.add(7);
        uses.add(7);
        uses.keep(7);
        uses.remove(7);
        assert!(uses.is_used(7) && uses.is_kept(7));
        uses.remove(7);
        assert!(!uses.is_used(7) && uses.is_kept(7));
        for number in [5, 300_000] {
            (0..40_000).for_each(|_| uses.add(number));
            (0..40_000).for_each(|_| uses.remove(number));
            assert!(uses.is_used(number) && !uses.is_kept(number));
        }
        assert!(!uses.is_used(8) && !uses.is_used(299_999));
        assert!(uses.weight() < 10_000);
    }
}
