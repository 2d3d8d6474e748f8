//! Pins: paths that the user wants to keep, whatever else is dropped or collected.
//!
//! They lie in the column family of all roots; the first byte of a key says of what kind a root
//! is.

use std::collections::{HashSet, VecDeque};

use super::database::ROOTS;
use super::write_batch::WriteBatch;
use super::{PathInfo, Store, StoreError, lock, uses};
use crate::nix::store_path::{StorePath, StorePathHash};

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
        let mut out = self.since.to_le_bytes().to_vec();
        out.extend_from_slice(self.path.name().as_bytes());
        out
    }

    fn decode(key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let parse = || {
            let hash = StorePathHash::from_bytes(key.get(1..)?.try_into().ok()?);
            let (since, name) = value.split_first_chunk()?;
            let path = StorePath::new(hash, std::str::from_utf8(name).ok()?).ok()?;
            let since = u64::from_le_bytes(*since);
            Some(Self { path, since })
        };
        parse().ok_or_else(|| StoreError::Damaged {
            what: "the record of a pin".into(),
        })
    }
}

impl Store {
    /// Pins paths, which need not be known yet. A path that is pinned already stays pinned since
    /// when it was. Durable when it returns.
    ///
    /// # Errors
    /// The database failed.
    pub fn pin(&self, paths: &[StorePath]) -> Result<(), StoreError> {
        let _changing = lock(&self.changing_roots);
        self.note_roots(paths.iter().map(StorePath::hash));
        let mut batch = WriteBatch::default();
        let since = uses::now() / 1000;
        for path in paths {
            if self.database.get(ROOTS, &key(path))?.is_none() {
                let path = path.clone();
                let pin = Pin { path, since };
                batch.put(ROOTS, key(&pin.path), pin.encode());
            }
        }
        self.database.write_synced(batch, "a pin was written")
    }

    /// Takes pins away. Returns those of `paths` that were pinned.
    ///
    /// # Errors
    /// The database failed.
    pub fn unpin(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, StoreError> {
        let _changing = lock(&self.changing_roots);
        let mut batch = WriteBatch::default();
        let mut seen = HashSet::new();
        let mut pinned = Vec::new();
        for path in paths {
            if seen.insert(path.hash()) && self.database.get(ROOTS, &key(path))?.is_some() {
                batch.delete(ROOTS, key(path));
                pinned.push(path.clone());
            }
        }
        self.database.write_synced(batch, "a pin was taken away")?;
        Ok(pinned)
    }

    /// All pins, in the order of their hashes.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let mut pins = Vec::new();
        self.database.scan(ROOTS, &[PIN], |key, value| {
            if key.first() != Some(&PIN) {
                return Ok(false);
            }
            pins.push(Pin::decode(key, value)?);
            Ok(true)
        })?;
        Ok(pins)
    }

    /// The registered paths among `roots`, and what they refer to, as far as that is registered:
    /// the nearer, the earlier, each once.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn closure(
        &self,
        roots: impl IntoIterator<Item = StorePathHash>,
    ) -> Result<Vec<PathInfo>, StoreError> {
        let mut seen = HashSet::new();
        let mut queue = VecDeque::new();
        for root in roots {
            if seen.insert(root) {
                queue.push_back(root);
            }
        }
        let mut closure = Vec::new();
        while let Some(hash) = queue.pop_front() {
            let Some(info) = self.path_info(hash)? else {
                continue;
            };
            for reference in info.sorted_references() {
                if seen.insert(reference.hash()) {
                    queue.push_back(reference.hash());
                }
            }
            closure.push(info);
        }
        Ok(closure)
    }
}
