//! Ordinals of paths: their part of inode numbers.
//!
//! Invariant: an ordinal means one path with one NAR for ever, whatever crashes, since somebody may
//! have a number of it: the kernel, an overlay above, a file handle. So a number is set apart on disk before
//! it is given, and a path that was removed and comes back with the same NAR has its old one again.

use super::database::{Database, META};
use super::write_batch::WriteBatch;
use super::{PathInfo, PathOrdinal, Store, StoreError};
use crate::nix::hash::NarHash;
use crate::nix::store_path::StorePathHash;

const NEXT: &[u8] = b"next-ordinal";
/// First bytes of the key that has the ordinal of a path that was removed.
const FORMER: &[u8] = b"former-ordinal-";
/// Bytes of the NAR hash in its value: enough to know the NAR again.
const NAR: usize = 16;
/// Numbers that are set apart together. A write that gives none of others need not wait for the
/// disk; a crash loses as many.
const SET_APART: u32 = 64;

/// The numbers that are given next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ordinals {
    next: u32,
    /// From here on none is set apart on disk.
    end: u32,
}

impl Ordinals {
    pub(super) fn open(database: &Database) -> Result<Self, StoreError> {
        let next = match database.get(META, NEXT)? {
            None => 1,
            Some(value) => {
                let value = value.as_ref().try_into();
                u32::from_le_bytes(value.map_err(|_| StoreError::Damaged {
                    what: "next-ordinal".into(),
                })?)
            }
        };
        Ok(Self { next, end: next })
    }

    pub(super) fn give(&mut self) -> Result<PathOrdinal, StoreError> {
        if self.next > PathOrdinal::MAX {
            return Err(StoreError::TooManyPaths(PathOrdinal::MAX));
        }
        self.next += 1;
        Ok(PathOrdinal(self.next - 1))
    }

    /// Adds to a batch that gives numbers what sets them apart. `true` if the batch must be durable
    /// before anybody sees them.
    pub(super) fn set_apart(&mut self, writes: &mut WriteBatch) -> bool {
        if self.next <= self.end {
            return false;
        }
        self.end = (self.next + SET_APART).min(PathOrdinal::MAX + 1);
        writes.put(META, NEXT, self.end.to_le_bytes());
        true
    }

    /// Gives back what was set apart and not given.
    fn close(&mut self, database: &Database) -> Result<(), StoreError> {
        if self.next == self.end {
            return Ok(());
        }
        let mut writes = WriteBatch::default();
        writes.put(META, NEXT, self.next.to_le_bytes());
        self.end = self.next;
        database.write(writes, "path numbers were given back")
    }
}

fn key(hash: StorePathHash) -> Vec<u8> {
    [FORMER, hash.as_bytes()].concat()
}

impl Store {
    /// The ordinal of a path that is new here: the one that it had before with this NAR, or another.
    pub(super) fn give_ordinal(
        &self,
        writes: &mut WriteBatch,
        ordinals: &mut Ordinals,
        (hash, nar): (StorePathHash, &NarHash),
    ) -> Result<PathOrdinal, StoreError> {
        let key = key(hash);
        let former = self.database.get(META, &key)?;
        let former = former
            .as_deref()
            .and_then(|value| value.split_first_chunk());
        let Some((ordinal, before)) = former else {
            return ordinals.give();
        };
        writes.delete(META, key);
        if *before == nar.as_bytes()[..NAR] {
            Ok(PathOrdinal(u32::from_le_bytes(*ordinal)))
        } else {
            ordinals.give()
        }
    }

    /// Keeps the ordinal of a path that is removed for its return.
    pub(super) fn keep_ordinal(&self, writes: &mut WriteBatch, info: &PathInfo) {
        let registration = &info.registration;
        let nar = &registration.nar_hash.as_bytes()[..NAR];
        let value = [&info.ordinal.0.to_le_bytes()[..], nar].concat();
        writes.put(META, key(registration.path.hash()), value);
    }

    /// Gives back the numbers that were set apart and not given.
    pub(super) fn close_ordinals(&self) {
        let closed = super::lock(&self.next_ordinal).close(&self.database);
        if let Err(e) = closed {
            tracing::warn!("path numbers are left out: {e}");
        }
    }
}
