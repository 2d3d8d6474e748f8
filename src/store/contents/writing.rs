//! What writers of chunks share.

use super::stored_tree::{Located, TreeRecord};
use crate::store::error::StoreError;
use crate::store::records::{Family, Records};

/// The number after the last chunk that ever was, as far as chunks were deleted.
pub(super) const NEXT_CHUNK: &[u8] = b"next-chunk";
/// Numbers that are passed over where it cannot be read which was the last one.
const MARGIN: u64 = 1 << 20;

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
        let last = match records.last_key(Family::Chunks) {
            Ok(last) => last.and_then(|k| Some(u64::from_be_bytes(k.as_slice().try_into().ok()?))),
            Err(e) if e.is_damage() => {
                tracing::error!("chunks of the state are damaged: {e}");
                Some(highest_named(records)? + MARGIN)
            }
            Err(e) => return Err(e),
        };
        let noted = match records.get(Family::Meta, NEXT_CHUNK) {
            Err(e) if e.is_damage() => {
                tracing::error!("which chunk number is next cannot be read: {e}");
                let last = last.unwrap_or(0).max(highest_named(records)?) + MARGIN;
                return Ok(Self {
                    next_chunk: last,
                    unflushed: 0,
                });
            }
            noted => noted?,
        };
        let noted = noted.and_then(|v| Some(u64::from_le_bytes(v.as_ref().try_into().ok()?)));
        Ok(Self {
            next_chunk: last.map_or(0, |n| n + 1).max(noted.unwrap_or(0)),
            unflushed: 0,
        })
    }
}

/// The highest chunk number in the records that can be read and name one.
pub(super) fn highest_named(records: &Records) -> Result<u64, StoreError> {
    let mut highest = 0;
    records.scan_readable(Family::Digests, &[], |_, record| {
        highest = highest.max(Located::decode(record).map_or(0, |l| l.number));
        Ok(true)
    })?;
    records.scan_readable(Family::Trees, &[], |_, record| {
        let numbers = TreeRecord::parse(record).map(|r| r.numbers().max());
        highest = highest.max(numbers.flatten().unwrap_or(0));
        Ok(true)
    })?;
    Ok(highest)
}
