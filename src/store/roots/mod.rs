//! Roots that are neither generations nor closure views: pins, links outside of the state, and temporary
//! roots.
//!
//! Pins and links are records. Pins are in the family of all roots, where the first byte of a key says
//! of what kind a root is.

mod linked;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

pub use linked::{LinkedRoot, LinkedRoots};

use super::clock;
use super::error::StoreError;
use super::records::{Batch, Durability, Family, Reader, Records, Writer};
use super::temporary_roots::{AllTemporaryRoots, TemporaryRoots};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::sync::lock;

/// First byte of the key of a pin.
const PIN: u8 = 1;

/// A path that the user wants to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The path; it need not be registered.
    pub path: StorePath,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

fn key(path: &StorePath) -> [u8; 21] {
    let mut key = [PIN; 21];
    key[1..].copy_from_slice(path.hash().as_bytes());
    key
}

impl Pin {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.since);
        out.bytes(self.path.name().as_bytes());
        out.finish()
    }

    fn decode(key: &[u8], record: &[u8]) -> Result<Self, StoreError> {
        let what = || "the record of a pin".into();
        Reader::whole(record, what, |fields| {
            let hash = StorePathHash::from_bytes(key.get(1..)?.try_into().ok()?);
            let since = fields.u64()?;
            let name = std::str::from_utf8(fields.rest()).ok()?;
            let path = StorePath::new(hash, name).ok()?;
            Some(Self { path, since })
        })
    }
}

/// The roots of a state that are neither generations nor closure views.
pub struct Roots {
    records: Arc<Records>,
    temporary: AllTemporaryRoots,
    /// Held while pins change.
    changing: Mutex<()>,
}

impl Roots {
    pub(super) fn new(records: Arc<Records>, temporary: AllTemporaryRoots) -> Self {
        Self {
            records,
            temporary,
            changing: Mutex::default(),
        }
    }

    /// Temporary roots for one more command; none yet. They do not outlive the process.
    pub fn temporary(&self) -> TemporaryRoots {
        self.temporary.begin()
    }

    /// How many paths have temporary roots.
    #[cfg(test)]
    pub(crate) fn temporary_count(&self) -> usize {
        self.temporary.lock().count()
    }

    /// Pins paths, all together, which need not be known yet. A path that is pinned already stays pinned
    /// since when it was. Survives a power loss when it returns.
    ///
    /// # Errors
    /// The database failed; nothing has changed then.
    pub fn pin(&self, paths: &[StorePath]) -> Result<(), StoreError> {
        let _changing = lock(&self.changing);
        self.temporary.note(paths.iter().map(StorePath::hash));
        let mut batch = Batch::default();
        let since = clock::seconds();
        for path in paths {
            if self.records.get(Family::Roots, &key(path))?.is_none() {
                let path = path.clone();
                let pin = Pin { path, since };
                batch.put(Family::Roots, key(&pin.path), pin.encode());
            }
        }
        // A write would be synced.
        if batch.is_empty() {
            return Ok(());
        }
        self.records
            .write(batch, Durability::Power, "a pin was written")
    }

    /// Takes pins away, all together. Returns those of `paths` that were pinned. Survives a power loss
    /// when it returns.
    ///
    /// # Errors
    /// The database failed; nothing has changed then.
    pub fn unpin(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, StoreError> {
        let _changing = lock(&self.changing);
        let mut batch = Batch::default();
        let mut seen = HashSet::new();
        let mut pinned = Vec::new();
        for path in paths {
            if seen.insert(path.hash()) && self.records.get(Family::Roots, &key(path))?.is_some() {
                batch.delete(Family::Roots, key(path));
                pinned.push(path.clone());
            }
        }
        if batch.is_empty() {
            return Ok(pinned);
        }
        self.records
            .write(batch, Durability::Power, "a pin was taken away")?;
        Ok(pinned)
    }

    /// All pins, in the order of their hashes.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let mut pins = Vec::new();
        self.records.scan(Family::Roots, &[PIN], |key, value| {
            if key.first() != Some(&PIN) {
                return Ok(false);
            }
            pins.push(Pin::decode(key, value)?);
            Ok(true)
        })?;
        Ok(pins)
    }

    /// What links outside of the state pointed to when they could be looked at last.
    ///
    /// # Errors
    /// The database failed, or the record is damaged.
    pub fn linked(&self) -> Result<LinkedRoots, StoreError> {
        linked::read(&self.records)
    }

    /// Keeps what such links point to now. Survives a power loss when it returns.
    ///
    /// # Errors
    /// The database failed; nothing has changed then.
    pub fn set_linked(&self, all: &LinkedRoots) -> Result<(), StoreError> {
        if self.linked().is_ok_and(|before| before == *all) {
            return Ok(());
        }
        linked::write(&self.records, all)
    }
}
