//! Closures of paths, as far as they are registered.

use std::collections::{HashSet, VecDeque};

use super::Store;
use super::error::StoreError;
use super::path_info::PathInfo;
use super::records::{Family, Records};
use crate::nix::store_path::{StorePath, StorePathHash};

/// What closures consist of.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// All of it, what is only referred to included: the nearer, the earlier.
    pub(super) shown: Vec<StorePathHash>,
    /// What is referred to and not registered, in order.
    pub(super) unknown: Vec<StorePath>,
}

/// What is registered under a hash.
pub(super) fn path_info(
    records: &Records,
    hash: StorePathHash,
) -> Result<Option<PathInfo>, StoreError> {
    match records.get(Family::Paths, hash.as_bytes())? {
        Some(record) => PathInfo::decode(hash, &record).map(Some),
        None => Ok(None),
    }
}

/// What the closures of `roots` consist of, these included.
pub(super) fn reach(
    records: &Records,
    roots: impl IntoIterator<Item = StorePath>,
) -> Result<Reach, StoreError> {
    let mut seen = HashSet::new();
    let mut queue: VecDeque<_> = roots.into_iter().collect();
    let mut reach = Reach::default();
    while let Some(path) = queue.pop_front() {
        if !seen.insert(path.hash()) {
            continue;
        }
        reach.shown.push(path.hash());
        match path_info(records, path.hash())? {
            Some(info) => queue.extend(info.registration.references),
            None => reach.unknown.push(path),
        }
    }
    reach.unknown.sort();
    Ok(reach)
}

impl Store {
    /// What is not registered of the closures of `roots`, these included, in order.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn unknown_of(&self, roots: &[StorePath]) -> Result<Vec<StorePath>, StoreError> {
        Ok(reach(&self.records, roots.iter().cloned())?.unknown)
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
