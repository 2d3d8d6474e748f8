//! Lengths of the records of a state, added up.

use crate::store::contents::Located;
use crate::store::error::StoreError;
use crate::store::records::{Family, Snapshot};

/// Lengths of all records that a listing can read.
pub(in crate::store) struct Lengths {
    pub(in crate::store) chunks: u64,
    pub(in crate::store) unique_bytes: u64,
    pub(in crate::store) chunk_bytes: u64,
    pub(in crate::store) trees: u64,
    pub(in crate::store) tree_bytes: u64,
    pub(in crate::store) path_info_bytes: u64,
}

impl Lengths {
    pub(in crate::store) fn count(snapshot: &Snapshot<'_>) -> Result<Self, StoreError> {
        let mut l = Self {
            chunks: 0,
            unique_bytes: 0,
            chunk_bytes: 0,
            trees: 0,
            tree_bytes: 0,
            path_info_bytes: 0,
        };
        snapshot.scan_readable(Family::Digests, &[], |_, value| {
            if let Some(located) = Located::decode(value) {
                l.chunks += 1;
                l.unique_bytes += u64::from(located.raw_length);
                l.chunk_bytes += u64::from(located.stored_length);
            }
            Ok(true)
        })?;
        snapshot.scan_readable(Family::Trees, &[], |_, value| {
            l.trees += 1;
            l.tree_bytes += value.len() as u64;
            Ok(true)
        })?;
        snapshot.scan_readable(Family::Paths, &[], |_, value| {
            l.path_info_bytes += value.len() as u64;
            Ok(true)
        })?;
        Ok(l)
    }

    pub(in crate::store) fn total(&self) -> u64 {
        self.chunk_bytes + self.tree_bytes + self.path_info_bytes
    }
}
