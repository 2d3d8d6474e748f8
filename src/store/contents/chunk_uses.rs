//! How often complete trees name each chunk: what nothing names may be deleted.

use crate::store::error::StoreError;
use crate::store::records::{Family, Records};

/// How often complete trees name each chunk.
pub(in crate::store) struct ChunkUses {
    /// The lowest number of a chunk that is there; what is lower is not judged.
    first: u64,
    /// From `first` on.
    counts: Vec<u32>,
}

/// Bit of a count that says that a kept tree names the chunk.
const KEPT: u32 = 1 << 31;

impl ChunkUses {
    /// None yet, of the chunks that are there now and will be.
    pub(in crate::store) fn new(records: &Records) -> Result<Self, StoreError> {
        let first = records.first_key(Family::Chunks)?;
        let first = first.and_then(|k| Some(u64::from_be_bytes(k.as_slice().try_into().ok()?)));
        Ok(Self {
            first: first.unwrap_or(0),
            counts: Vec::new(),
        })
    }

    fn slot(&mut self, number: u64) -> Option<&mut u32> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts.get_mut(at)
    }

    fn get(&self, number: u64) -> Option<u32> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
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
