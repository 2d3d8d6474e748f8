//! Restoring what a database has lost from the second copy.
//!
//! Invariants: what is restored is what the copy has, so nothing is trusted that was not; a path whose
//! tree is lost is registered as before, and its contents are yet to come.

use std::collections::BTreeSet;

use super::error::StoreError;
use super::paths::{settled, skip_ordinals};
use super::records::{Family, Missing, Records, Restoring};
use crate::nix::store_path::StorePath;

/// What was restored.
pub(super) struct Restored {
    /// Paths that were added on this machine and whose contents are lost.
    pub(super) lost: Vec<StorePath>,
    /// Whether all of the copy could be read.
    pub(super) is_whole: bool,
}

/// Has the database of an open state have what the second copy has.
pub(super) fn restore(records: &Records) -> Result<(), StoreError> {
    if records.missing().is_none() {
        return Ok(());
    }
    let restored = restored(records)?;
    tracing::warn!(
        "the database had lost what was written last; it is restored from the second copy"
    );
    for path in restored.lost {
        tracing::warn!("the contents of {path}, which was added here, are lost");
    }
    records.set_restored();
    Ok(())
}

/// Restores what is lost, and says whether all can be read that an opening reads.
pub(super) fn is_readable(records: &Records) -> bool {
    let read = |family| records.scan(family, &[], |_, _| Ok(true)).is_ok();
    let families = [Family::Meta, Family::Roots, Family::Profiles, Family::Views];
    restore(records).is_ok() && families.into_iter().all(read)
}

/// Has the paths of a database that was made of the files of another one be what they are there, where there
/// is no whole second copy.
pub(super) fn resettled(records: &Records) -> Result<Restored, StoreError> {
    let mut lost = Vec::new();
    settle_all(records, &mut lost)?;
    let is_whole = false;
    Ok(Restored { lost, is_whole })
}

/// Has path infos say what is here, which some of them may have said wrongly.
fn settle_all(records: &Records, lost: &mut Vec<StorePath>) -> Result<(), StoreError> {
    let mut parts = Restoring::new(records);
    records.scan(Family::Paths, &[], |key, record| {
        let Some(settled) = settled(records, key, record)? else {
            return Ok(true);
        };
        lost.extend(settled.lost);
        parts.add(settled.writes).map(|()| true)
    })?;
    // Some may have been given that are not known.
    parts.add(skip_ordinals(records)?)?;
    parts.end()
}

/// The same as [`restore`], without noting it.
pub(super) fn restored(records: &Records) -> Result<Restored, StoreError> {
    let is_all = records.missing() == Some(Missing::All);
    if is_all {
        records.delete_kept()?;
    }
    let (mut parts, mut changed) = (Restoring::new(records), BTreeSet::new());
    let is_whole = records.visit_missing(|batch| {
        if !is_all {
            changed.extend(batch.keys_put(Family::Paths).map(<[u8]>::to_vec));
        }
        parts.add(batch)
    })?;
    parts.end()?;
    let mut lost = Vec::new();
    if is_all {
        settle_all(records, &mut lost)?;
        return Ok(Restored { lost, is_whole });
    }
    let mut parts = Restoring::new(records);
    for key in changed {
        if let Some(record) = records.get(Family::Paths, &key)?
            && let Some(settled) = settled(records, &key, &record)?
        {
            lost.extend(settled.lost);
            parts.add(settled.writes)?;
        }
    }
    parts.end()?;
    Ok(Restored { lost, is_whole })
}
