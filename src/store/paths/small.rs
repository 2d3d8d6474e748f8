//! Contents of paths that were added here, as far as they are small, such as those of user environments.
//!
//! They are kept a second time with what else no source can bring back: a profile whose environment is lost
//! leads nowhere.

use super::Paths;
use super::path_info::Registration;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::contents::StoredContents;
use crate::store::error::StoreError;
use crate::store::records::{Batch, Family, Records};
use crate::tree::Tree;

/// First bytes of the key in `meta` of the contents of a path.
const CONTENTS: &[u8] = b"contents-";
/// Largest NAR that is kept: that of a user environment with some 5,000 links.
const LARGEST: u64 = 1 << 20;
/// Level of zstd: cheap, and environments are links that repeat each other anyway.
const LEVEL: i32 = 3;

fn key(hash: StorePathHash) -> Vec<u8> {
    [CONTENTS, hash.as_bytes()].concat()
}

/// Keeps the contents of a path that is published, if they are small. What cannot be read is not kept.
pub(super) fn keep(
    records: &Records,
    contents: &StoredContents,
    batch: &mut Batch,
    (registration, tree): (&Registration, &Tree),
) -> Result<(), StoreError> {
    let key = key(registration.path.hash());
    if registration.nar_size > LARGEST || records.get(Family::Meta, &key)?.is_some() {
        return Ok(());
    }
    let references = registration.references.iter();
    let table: Vec<_> = references.map(|r| r.hash().to_ascii()).collect();
    if let Some(nar) = contents.nar(tree, &table) {
        let packed = zstd::bulk::compress(&nar, LEVEL).map_err(StoreError::Compress)?;
        batch.put(Family::Meta, key, packed);
    }
    Ok(())
}

/// Removes the contents of a path that is removed.
pub(super) fn remove(batch: &mut Batch, path: &StorePath) {
    batch.delete(Family::Meta, key(path.hash()));
}

impl Paths {
    /// The NAR of a path that was added here, from what is kept a second time; `None` if it is not kept.
    /// It is to be compared with the hash that is registered.
    ///
    /// # Errors
    /// The database failed.
    pub fn small_contents(&self, hash: StorePathHash) -> Result<Option<Vec<u8>>, StoreError> {
        let packed = self.records.get(Family::Meta, &key(hash))?;
        Ok(packed.and_then(|packed| zstd::bulk::decompress(&packed, LARGEST as usize).ok()))
    }

    /// The paths of which that is kept.
    ///
    /// # Errors
    /// The database failed.
    pub fn with_small_contents(&self) -> Result<Vec<StorePathHash>, StoreError> {
        let mut hashes = Vec::new();
        self.records.scan(Family::Meta, CONTENTS, |key, _| {
            let hash = key.strip_prefix(CONTENTS);
            let hash = hash.and_then(|hash| hash.try_into().ok());
            hashes.extend(hash.map(StorePathHash::from_bytes));
            Ok(hash.is_some())
        })?;
        Ok(hashes)
    }
}
