//! How many bytes the state stores, at no cost.
//!
//! Counted once from a snapshot, and then kept up to date with what records grow by
//! (`contents/size.rs`). The snapshot is taken under the deletion lock, so that every change is
//! either in the snapshot or in what is added to it.

use super::Upkeep;
use super::lengths::Lengths;
use crate::store::contents::{Growth, Ingested};
use crate::store::error::StoreError;
use crate::sync::lock;

/// What a state stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stored {
    /// The sum of the lengths of all records of chunks, trees and path infos, in bytes.
    pub stored_bytes: u64,
    /// Lengths of the different chunks, uncompressed, in bytes.
    pub unique_bytes: u64,
    /// Chunks that are kept.
    pub chunks: u64,
}

impl Upkeep {
    /// The sum of the lengths of all records of chunks, trees and path infos in bytes, as
    /// [`crate::store::Statistics`] counts it, and as the state would be after a crash that loses
    /// nothing. Costs a scan when first asked for, and nothing after that.
    ///
    /// # Errors
    /// The database failed.
    pub fn stored_bytes(&self) -> Result<u64, StoreError> {
        let opened = self.stored_when_opened()?.all;
        Ok(sum(opened, self.contents.growth().all))
    }

    /// What is stored, at no cost; `None` before [`Upkeep::stored_bytes`] was asked for once.
    pub fn stored_so_far(&self) -> Option<Stored> {
        let (opened, growth) = (self.opened.get()?, self.contents.growth());
        Some(Stored {
            stored_bytes: sum(opened.all, growth.all),
            unique_bytes: sum(opened.unique_bytes, growth.unique_bytes),
            chunks: sum(opened.chunks, growth.chunks),
        })
    }

    /// What was ingested since the state was opened, in bytes; counted in memory.
    pub fn ingested(&self) -> Ingested {
        self.contents.ingested()
    }

    /// The sum of the lengths of all records of chunks.
    pub(in crate::store) fn chunk_bytes(&self) -> Result<u64, StoreError> {
        let opened = self.stored_when_opened()?.chunk_bytes;
        Ok(sum(opened, self.contents.growth().chunk_bytes))
    }

    /// How many chunks there are.
    pub(super) fn chunk_count(&self) -> Result<u64, StoreError> {
        let opened = self.stored_when_opened()?.chunks;
        Ok(sum(opened, self.contents.growth().chunks))
    }

    fn stored_when_opened(&self) -> Result<Growth, StoreError> {
        if let Some(opened) = self.opened.get() {
            return Ok(*opened);
        }
        let _counting = lock(&self.counting);
        if let Some(opened) = self.opened.get() {
            return Ok(*opened);
        }
        let (snapshot, growth) = self.contents.snapshot();
        let lengths = Lengths::count(&snapshot)?;
        let opened = Growth {
            all: lengths.total() as i64 - growth.all,
            chunk_bytes: lengths.chunk_bytes as i64 - growth.chunk_bytes,
            unique_bytes: lengths.unique_bytes as i64 - growth.unique_bytes,
            chunks: lengths.chunks as i64 - growth.chunks,
        };
        Ok(*self.opened.get_or_init(|| opened))
    }
}

fn sum(opened: i64, growth: i64) -> u64 {
    (opened + growth).max(0) as u64
}
