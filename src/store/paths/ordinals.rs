//! Ordinals of paths: their part of inode numbers.
//!
//! Invariant: an ordinal means one path with one NAR for ever, whatever crashes, since its numbers may
//! be known elsewhere: to the kernel, in an overlay above, in a file handle. So a number is set apart on
//! disk before it is given, and a path that was removed and comes back with the same NAR has its old one
//! again.

use super::path_info::{PathInfo, PathOrdinal};
use crate::nix::hash::NarHash;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::error::StoreError;
use crate::store::records::{Batch, Durability, Family, Reader, Records, Writer};

const NEXT: &[u8] = b"next-ordinal";
/// First bytes of the key that has the ordinal of a path that was removed.
const FORMER: &[u8] = b"former-ordinal-";
/// Bytes of the NAR hash in its value: enough to know the NAR again.
const NAR: usize = 16;
/// Numbers that are set apart together. A write that gives none of others need not wait for the
/// disk; a crash loses as many.
const SET_APART: u32 = 64;

/// Numbers that are passed over where it cannot be read which was the last one, or the records of those
/// given last may be lost: more than are looked up before a system writes them to the disk by itself.
const MARGIN: u32 = 1 << 16;

/// The numbers that are given next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ordinals {
    next: u32,
    /// From here on none is set apart on disk.
    end: u32,
}

/// Leaves out the numbers that may have been given before what says so was lost.
pub(in crate::store) fn skip(records: &Records) -> Result<Batch, StoreError> {
    let next = noted_end(records)?
        .saturating_add(MARGIN)
        .min(PathOrdinal::MAX + 1);
    let mut writes = Batch::default();
    writes.put(Family::Meta, NEXT, next.to_le_bytes());
    Ok(writes)
}

impl Ordinals {
    pub(super) fn open(records: &Records) -> Result<Self, StoreError> {
        let next = match noted_end(records) {
            Err(e) if e.is_damage() => {
                tracing::error!("which path number is next cannot be read: {e}");
                highest_named(records)?.saturating_add(MARGIN)
            }
            noted => noted?,
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
    pub(super) fn set_apart(&mut self, writes: &mut Batch) -> bool {
        if self.next <= self.end {
            return false;
        }
        self.end = (self.next + SET_APART).min(PathOrdinal::MAX + 1);
        writes.put(Family::Meta, NEXT, self.end.to_le_bytes());
        true
    }

    /// Gives back what was set apart and not given; it survives a kill.
    pub(super) fn close(&mut self, records: &Records) -> Result<(), StoreError> {
        if self.next == self.end {
            return Ok(());
        }
        let mut writes = Batch::default();
        writes.put(Family::Meta, NEXT, self.next.to_le_bytes());
        self.end = self.next;
        records.write(writes, Durability::Process, "path numbers were given back")
    }

    /// The ordinal of a path that is new here: the one that it had before with this NAR, or another.
    pub(super) fn give_to(
        &mut self,
        records: &Records,
        writes: &mut Batch,
        (hash, nar): (StorePathHash, &NarHash),
    ) -> Result<PathOrdinal, StoreError> {
        let key = key(hash);
        let former = match records.get(Family::Meta, &key) {
            // It gets a new one.
            Err(e) if e.is_damage() => None,
            former => former?,
        };
        let mut former = former.as_deref().map(Reader::new);
        let Some((former, before)) = former.as_mut().and_then(|f| Some((f.u32()?, f.rest())))
        else {
            return self.give();
        };
        writes.delete(Family::Meta, key);
        if *before == nar.as_bytes()[..NAR] {
            Ok(PathOrdinal(former))
        } else {
            self.give()
        }
    }
}

/// The end of the numbers that are set apart.
fn noted_end(records: &Records) -> Result<u32, StoreError> {
    match records.get(Family::Meta, NEXT)? {
        None => Ok(1),
        Some(record) => Reader::whole(&record, || "next-ordinal".into(), Reader::u32),
    }
}

/// A number that is above all ordinals.
pub(super) fn end(records: &Records) -> Result<u32, StoreError> {
    match noted_end(records) {
        Err(e) if e.is_damage() => Ok(highest_named(records)?.saturating_add(1)),
        noted => noted,
    }
}

/// The highest ordinal in the records that can be read.
fn highest_named(records: &Records) -> Result<u32, StoreError> {
    let mut highest = 0;
    let mut note = |ordinal: u32| highest = ordinal.max(highest);
    records.scan_readable(Family::Ordinals, &[], |key, _| {
        note(of_key(key)?.0);
        Ok(true)
    })?;
    records.scan_readable(Family::Paths, &[], |key, record| {
        note(PathInfo::scanned(key, record)?.ordinal.0);
        Ok(true)
    })?;
    records.scan_readable(Family::Meta, FORMER, |key, record| {
        let is_former = key.starts_with(FORMER);
        if is_former {
            note(Reader::new(record).u32().unwrap_or(0));
        }
        Ok(is_former)
    })?;
    Ok(highest)
}

/// The ordinal of a key.
pub(super) fn of_key(key: &[u8]) -> Result<PathOrdinal, StoreError> {
    let ordinal = key.try_into().map(u32::from_be_bytes);
    ordinal.map(PathOrdinal).map_err(|_| StoreError::Damaged {
        what: "the key of an ordinal".into(),
    })
}

fn key(hash: StorePathHash) -> Vec<u8> {
    [FORMER, hash.as_bytes()].concat()
}

/// Keeps the ordinal of a path that is removed for its return.
pub(super) fn keep(writes: &mut Batch, info: &PathInfo) {
    let registration = &info.registration;
    let mut record = Writer::default();
    record.u32(info.ordinal.0);
    record.bytes(&registration.nar_hash.as_bytes()[..NAR]);
    let meta = Family::Meta;
    writes.put(meta, key(registration.path.hash()), record.finish());
}

/// State of an ordinal: the tree of its path is not here.
pub(super) const NOT_HERE: u8 = 0;
/// The tree is here, and says what the root is.
pub(super) const HERE: u8 = 1;
/// The tree is here, and its root is a directory.
pub(super) const DIRECTORY_HERE: u8 = 2;

/// The record of an ordinal: what is here of its path, and the name.
pub(super) fn name_path(state: u8, path: &StorePath) -> Vec<u8> {
    let mut record = Writer::default();
    record.byte(state);
    record.bytes(path.hash().as_bytes());
    record.bytes(path.name().as_bytes());
    record.finish()
}

/// What is here of the path with an ordinal, and its name.
pub(super) fn named_path(
    ordinal: PathOrdinal,
    record: &[u8],
) -> Result<(u8, StorePath), StoreError> {
    let what = || format!("the record of ordinal {}", ordinal.0);
    Reader::whole(record, what, |fields| {
        let (state, hash) = (fields.byte()?, fields.hash()?);
        let name = std::str::from_utf8(fields.rest()).ok()?;
        Some((state, StorePath::new(hash, name).ok()?))
    })
}
