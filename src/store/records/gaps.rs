//! Listings that go on behind what cannot be read.
//!
//! The iterator of RocksDB ends at the first block that it cannot read, whatever comes after it. Where the
//! next readable key is, it does not say: that is found by seeks, each of which reads one block, twice as
//! far ahead each time, and then by halves. What lies between two such blocks may be passed over with them:
//! a gap says what was not read, not that nothing of it can be.

use super::backend::{BackendError, View};
use super::family::Family;
use crate::store::error::{StoreError, failed};

/// Bytes of a key with which places are told apart: more than hashes need.
const PLACE: usize = 16;

/// Keys of a family that a listing could not read.
#[derive(Debug)]
pub(in crate::store) struct Gap {
    pub(super) from: Vec<u8>,
    /// The first that is not among them; `None` if there is no more.
    pub(super) to: Option<Vec<u8>>,
}

impl Gap {
    pub(in crate::store) fn contains(&self, key: &[u8]) -> bool {
        *key >= *self.from && self.to.as_deref().is_none_or(|to| key < to)
    }

    /// About the first and the last of its keys, where keys are numbers.
    pub(in crate::store) fn numbers(&self) -> (u32, u32) {
        let number = |key: &[u8]| {
            let mut bytes = [0; 4];
            let length = key.len().min(4);
            bytes[..length].copy_from_slice(&key[..length]);
            u32::from_be_bytes(bytes)
        };
        let last = self.to.as_deref().map_or(u32::MAX, number);
        (number(&self.from), last)
    }

    /// One key whose record cannot be understood.
    fn of(key: &[u8]) -> Self {
        Self {
            from: key.to_vec(),
            to: Some(behind(key)),
        }
    }
}

/// The first key behind another one.
fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Visits records as [`super::scan`] does, and goes on behind those that cannot be read, or are damaged in
/// the eyes of `visit`. Returns what was passed over.
pub(super) fn scan<V: View + ?Sized>(
    view: &V,
    family: Family,
    from: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
) -> Result<Vec<Gap>, StoreError> {
    let lost = view.lost(family).into_iter();
    let lost = lost.filter(|lost| *lost.last >= *from).map(|lost| Gap {
        from: lost.first,
        to: Some(behind(&lost.last)),
    });
    let mut gaps: Vec<_> = lost.collect();
    let mut from = from.to_vec();
    loop {
        let mut last: Option<Vec<u8>> = None;
        let mut outcome = Ok(());
        let scanned = view.scan(family, &from, &mut |key, record| {
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
            visit(key, record).unwrap_or_else(|e| {
                if e.is_damage() {
                    gaps.push(Gap::of(key));
                    return true;
                }
                outcome = Err(e);
                false
            })
        });
        outcome?;
        match scanned {
            Ok(()) => return Ok(gaps),
            Err(e) if !e.is_corruption() => return Err(failed("records were listed")(e)),
            Err(e) => tracing::debug!(family = family.name(), "not all can be listed: {e}"),
        }
        let begin = last.map_or(from, |last| behind(&last));
        let next = readable_after(view, family, &begin).map_err(failed("records were listed"))?;
        gaps.push(Gap {
            from: begin,
            to: next.clone(),
        });
        match next {
            Some(next) => from = next,
            None => return Ok(gaps),
        }
    }
}

/// A key behind `key` from which on a listing can go on; `None` if there is none.
fn readable_after<V: View + ?Sized>(
    view: &V,
    family: Family,
    key: &[u8],
) -> Result<Option<Vec<u8>>, BackendError> {
    let can_go_on = |place: u128| match view.scan(family, &place.to_be_bytes(), &mut |_, _| false) {
        Ok(()) => Ok(true),
        Err(e) if e.is_corruption() => Ok(false),
        Err(e) => Err(e),
    };
    let mut bytes = [0; PLACE];
    let length = key.len().min(PLACE);
    bytes[..length].copy_from_slice(&key[..length]);
    let begin = u128::from_be_bytes(bytes);
    let (mut bad, mut step) = (begin, 1);
    let mut good = loop {
        let place = begin.saturating_add(step);
        // Always further, also where a disk fails only now and then.
        if place > bad && can_go_on(place)? {
            break place;
        }
        if place == u128::MAX {
            return Ok(None);
        }
        bad = place;
        step = step.saturating_mul(2);
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        match can_go_on(middle)? {
            true => good = middle,
            false => bad = middle,
        }
    }
    Ok(Some(good.to_be_bytes().to_vec()))
}
