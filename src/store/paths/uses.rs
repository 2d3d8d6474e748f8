//! When each path was used last, which is the order of eviction.
//!
//! A use is noted at every read, so it costs one store to memory: ordinals are small and dense,
//! and index a table whose parts are made when they are first needed. Now and then what changed
//! is written to the database, so that the order survives a restart; a crash loses only what was
//! used since.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::path_info::PathOrdinal;
use crate::store::error::StoreError;
use crate::store::records::{Family, Records};

/// Ordinals in one part of the table: 128 KiB of it.
const PART: usize = 1 << 14;
const PARTS: usize = (PathOrdinal::MAX as usize + 1) / PART;
/// Set in an entry that is not in the database yet; the rest is milliseconds since 1970, shifted
/// by one.
const UNSAVED: u64 = 1;

/// The table of last uses.
pub(super) struct Uses(Box<[OnceLock<Box<[AtomicU64]>>]>);

impl Uses {
    /// No use is known.
    pub(super) fn new() -> Self {
        Self((0..PARTS).map(|_| OnceLock::new()).collect())
    }

    pub(super) fn open(records: &Records) -> Result<Self, StoreError> {
        let uses = Self::new();
        records.scan_readable(Family::Uses, &[], |key, value| {
            let ordinal = key.try_into().map(u32::from_be_bytes);
            let millis = value.try_into().map(u64::from_le_bytes);
            // Only the order depends on it: a record that makes no sense is as good as none.
            if let (Ok(ordinal), Ok(millis)) = (ordinal, millis)
                && let Some(entry) = uses.entry(PathOrdinal(ordinal))
            {
                entry.store(millis << 1, Ordering::Relaxed);
            }
            Ok(true)
        })?;
        Ok(uses)
    }

    fn entry(&self, ordinal: PathOrdinal) -> Option<&AtomicU64> {
        let at = ordinal.0 as usize;
        let part = self.0.get(at / PART)?;
        let part = part.get_or_init(|| (0..PART).map(|_| AtomicU64::new(0)).collect());
        part.get(at % PART)
    }

    pub(super) fn set(&self, ordinal: PathOrdinal, millis: u64) {
        let value = millis << 1 | UNSAVED;
        // Readers of one path would only take the cache line from each other.
        if let Some(entry) = self.entry(ordinal)
            && entry.load(Ordering::Relaxed) != value
        {
            entry.store(value, Ordering::Relaxed);
        }
    }

    /// Milliseconds since 1970; 0 if no use is known.
    pub(super) fn last(&self, ordinal: PathOrdinal) -> u64 {
        let part = self.0.get(ordinal.0 as usize / PART);
        let part = part.and_then(OnceLock::get);
        let entry = part.and_then(|p| p.get(ordinal.0 as usize % PART));
        entry.map_or(0, |e| e.load(Ordering::Relaxed) >> 1)
    }

    /// Forgets a use, if it was before a time.
    pub(super) fn clear_before(&self, ordinal: PathOrdinal, millis: u64) {
        if let Some(entry) = self.entry(ordinal) {
            let value = entry.load(Ordering::Relaxed);
            if value >> 1 < millis {
                // One that comes just now stays.
                let order = Ordering::Relaxed;
                let _ = entry.compare_exchange(value, 0, order, order);
            }
        }
    }

    /// Forgets a path that is removed.
    pub(super) fn clear(&self, ordinal: PathOrdinal) {
        if let Some(entry) = self.entry(ordinal) {
            entry.store(0, Ordering::Relaxed);
        }
    }

    /// The uses that are not in the database yet.
    pub(super) fn unsaved(&self) -> Unsaved<'_> {
        let mut unsaved = Vec::new();
        for (index, part) in self.0.iter().enumerate() {
            for (at, entry) in part.get().into_iter().flatten().enumerate() {
                let value = entry.load(Ordering::Relaxed);
                if value & UNSAVED != 0 {
                    unsaved.push(((index * PART + at) as u32, entry, value));
                }
            }
        }
        Unsaved(unsaved)
    }
}

/// Uses that are to be written: the ordinal, the entry of the table, and what it was.
pub(super) struct Unsaved<'u>(Vec<(u32, &'u AtomicU64, u64)>);

impl Unsaved<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ordinals, each with milliseconds since 1970.
    pub(super) fn records(&self) -> impl Iterator<Item = (u32, u64)> {
        self.0
            .iter()
            .map(|(ordinal, _, value)| (*ordinal, value >> 1))
    }

    /// Says that they are in the database. One that was used again meanwhile stays unsaved.
    pub(super) fn set_saved(self) {
        let order = Ordering::Relaxed;
        for (_, entry, value) in self.0 {
            let _ = entry.compare_exchange(value, value & !UNSAVED, order, order);
        }
    }
}
