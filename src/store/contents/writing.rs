//! What writers of chunks share.

use crate::store::error::StoreError;
use crate::store::records::{Family, Records};

/// The number after the last chunk that ever was, as far as chunks were deleted.
pub(super) const NEXT_CHUNK: &[u8] = b"next-chunk";

/// What writers of chunks share.
#[derive(Debug)]
pub(super) struct Writing {
    /// The number that the next new chunk gets: none is given twice, even where the last ones were
    /// deleted.
    pub(super) next_chunk: u64,
    /// Bytes of chunks that a crash would lose.
    pub(super) unflushed: u64,
}

impl Writing {
    pub(super) fn open(records: &Records) -> Result<Self, StoreError> {
        let last = records.last_key(Family::Chunks)?;
        let last = last.and_then(|k| Some(u64::from_be_bytes(k.as_slice().try_into().ok()?)));
        let noted = records.get(Family::Meta, NEXT_CHUNK)?;
        let noted = noted.and_then(|v| Some(u64::from_le_bytes(v.as_ref().try_into().ok()?)));
        Ok(Self {
            next_chunk: last.map_or(0, |n| n + 1).max(noted.unwrap_or(0)),
            unflushed: 0,
        })
    }
}
