//! Closures of paths, as far as they are registered.

use std::collections::{HashSet, VecDeque};

use super::Paths;
use super::path_info::PathInfo;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::error::StoreError;

/// What closures consist of.
#[derive(Debug, Default)]
pub(in crate::store) struct Reach {
    /// All of it, what is only referred to included: the nearer, the earlier.
    pub(in crate::store) all: Vec<StorePathHash>,
    /// What is referred to and not registered, or cannot be read, in order.
    pub(in crate::store) unknown: Vec<StorePath>,
}

impl Paths {
    /// The registered paths among `roots`, and what they refer to, as far as that is registered:
    /// the nearer, the earlier, each once.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn closure(
        &self,
        roots: impl IntoIterator<Item = StorePathHash>,
    ) -> Result<Vec<PathInfo>, StoreError> {
        self.closure_of(roots, |hash| self.info(hash))
    }

    /// The same without what cannot be read, and what is needed by that alone.
    ///
    /// # Errors
    /// The database failed.
    pub fn readable_closure(
        &self,
        roots: impl IntoIterator<Item = StorePathHash>,
    ) -> Result<Vec<PathInfo>, StoreError> {
        self.closure_of(roots, |hash| self.readable_info(hash))
    }

    fn closure_of(
        &self,
        roots: impl IntoIterator<Item = StorePathHash>,
        read: impl Fn(StorePathHash) -> Result<Option<PathInfo>, StoreError>,
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
            let Some(info) = read(hash)? else {
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

    /// What is not registered of the closures of `roots`, these included, or cannot be read, in order.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn unknown_of(&self, roots: &[StorePath]) -> Result<Vec<StorePath>, StoreError> {
        Ok(self.reach(roots.iter().cloned())?.unknown)
    }

    /// What the closures of `roots` consist of, these included.
    pub(in crate::store) fn reach(
        &self,
        roots: impl IntoIterator<Item = StorePath>,
    ) -> Result<Reach, StoreError> {
        let mut seen = HashSet::new();
        let mut queue: VecDeque<_> = roots.into_iter().collect();
        let mut reach = Reach::default();
        while let Some(path) = queue.pop_front() {
            if !seen.insert(path.hash()) {
                continue;
            }
            reach.all.push(path.hash());
            match self.readable_info(path.hash())? {
                Some(info) => queue.extend(info.registration.references),
                None => reach.unknown.push(path),
            }
        }
        reach.unknown.sort();
        Ok(reach)
    }
}
