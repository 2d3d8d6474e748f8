//! How often complete trees name each chunk: what nothing names may be deleted.

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
    /// From `first` on.
    counts: Vec<u32>,
}

/// Chunks that may come while uses are counted: more than any disk takes in that time.
const COMING: u64 = 1 << 24;

/// Bit of a count that says that a kept tree names the chunk.
const KEPT: u32 = 1 << 31;

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
            counts: Vec::new(),
        })
    }

    /// Has no chunk judged: each counts as used and kept.
    pub(in crate::store) fn judge_none(&mut self) {
        self.end = self.first;
    }

    fn at(&self, number: u64) -> Option<usize> {
        let judged = self.first..self.end;
        let at = judged.contains(&number).then(|| number - self.first)?;
        usize::try_from(at).ok()
    }

    fn slot(&mut self, number: u64) -> Option<&mut u32> {
        let at = self.at(number)?;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts.get_mut(at)
    }

    fn get(&self, number: u64) -> Option<u32> {
        let at = self.at(number)?;
        Some(self.counts.get(at).copied().unwrap_or(0))
    }

    pub(in crate::store) fn add(&mut self, number: u64, kept: bool) {
        if let Some(count) = self.slot(number) {
            *count += 1;
            *count |= if kept { KEPT } else { 0 };
        }
    }

    pub(in crate::store) fn remove(&mut self, number: u64) {
        if let Some(count) = self.slot(number) {
            *count = (*count & KEPT) | (*count & !KEPT).saturating_sub(1);
        }
    }

    /// Whether some complete tree names the chunk.
    pub(in crate::store) fn is_used(&self, number: u64) -> bool {
        self.get(number).is_none_or(|count| count & !KEPT > 0)
    }

    /// Whether a complete tree that is kept names the chunk.
    pub(in crate::store) fn is_kept(&self, number: u64) -> bool {
        self.get(number).is_none_or(|count| count & KEPT != 0)
    }
}
