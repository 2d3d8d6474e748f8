//! What became of closure views, and what of it the kernel was not told yet.
//!
//! Invariant: what the kernel has to forget is written with the change and taken away when it was told,
//! so that a daemon that takes a mount over after a crash knows it.

use std::collections::BTreeMap;

use crate::store::error::StoreError;
use crate::store::records::{Batch, Durability, Family, Reader, Records, Writer};

/// First byte of the key of what the kernel was not told yet.
const UNTOLD: u8 = 3;

fn key(id: u32) -> Vec<u8> {
    [&[UNTOLD], &id.to_be_bytes()[..]].concat()
}

/// What the kernel may remember of a view and is no longer so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedView {
    /// Its id.
    pub id: u32,
    pub name: String,
    /// Whether it is new, or gone.
    pub came_or_went: bool,
    /// Names in its store directory that lead nowhere now, or elsewhere.
    pub entries: Vec<String>,
}

impl ChangedView {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.byte(u8::from(self.came_or_went));
        out.string(&self.name);
        out.list(&self.entries, |out, entry| out.string(entry));
        out.finish()
    }

    fn decode(key: &[u8], record: &[u8]) -> Option<Self> {
        let id = u32::from_be_bytes(key.get(1..)?.try_into().ok()?);
        let mut fields = Reader::new(record);
        Some(Self {
            id,
            came_or_went: fields.byte()? != 0,
            name: fields.string()?.to_owned(),
            entries: fields.list(|f| f.string().map(str::to_owned))?,
        })
    }
}

/// What was changed and the kernel may not know yet.
pub(super) fn untold(records: &Records) -> Result<Vec<ChangedView>, StoreError> {
    let mut untold = Vec::new();
    records.scan(Family::Views, &[UNTOLD], |key, value| {
        if key.first() != Some(&UNTOLD) {
            return Ok(false);
        }
        // Without the record only a kernel that was told before the crash would be right.
        untold.extend(ChangedView::decode(key, value));
        Ok(true)
    })?;
    Ok(untold)
}

/// Adds changes to what the kernel was not told yet.
pub(super) fn add_untold(
    records: &Records,
    changed: &[ChangedView],
    writes: &mut Batch,
) -> Result<(), StoreError> {
    let before = untold(records)?.into_iter();
    let mut untold: BTreeMap<_, _> = before.map(|changed| (changed.id, changed)).collect();
    for changed in changed {
        let all = untold.entry(changed.id).or_default();
        all.id = changed.id;
        all.name.clone_from(&changed.name);
        all.came_or_went |= changed.came_or_went;
        all.entries.extend(changed.entries.iter().cloned());
        writes.put(Family::Views, key(changed.id), all.encode());
    }
    Ok(())
}

/// Notes that the kernel knows these changes. What was changed once more meanwhile stays noted; that it
/// is told twice does no harm.
pub(in crate::store) fn set_told(records: &Records, changed: &[ChangedView]) {
    let mut batch = Batch::default();
    for changed in changed {
        let noted = records.get(Family::Views, &key(changed.id));
        if noted.is_ok_and(|n| n.is_some_and(|n| *n == *changed.encode())) {
            batch.delete(Family::Views, key(changed.id));
        }
    }
    if let Err(e) = records.write(batch, Durability::Process, "it was noted what was told") {
        tracing::warn!("{e}");
    }
}
