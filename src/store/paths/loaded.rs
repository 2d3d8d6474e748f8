//! A path that is ready to be read.

use std::sync::Arc;

use super::path_info::PathInfo;
use crate::chunk::{ChunkDigest, HASH_LEN};
use crate::store::contents::{PathContents, StoredTree};
use crate::tree::{NodeIndex, Tree};

/// What is a path's own: all but its tree, which other paths may share.
#[derive(Debug)]
pub(super) struct PathRecord {
    pub(super) info: PathInfo,
    pub(super) tree: ChunkDigest,
    pub(super) table: Vec<[u8; HASH_LEN]>,
}

impl PathRecord {
    /// `None` if the path's contents were never here.
    pub(super) fn new(info: PathInfo) -> Option<Arc<Self>> {
        let tree = info.tree()?;
        let table = info.table();
        Some(Arc::new(Self { info, tree, table }))
    }

    /// Memory held, in bytes.
    pub(super) fn weight(&self) -> usize {
        let text = self.info.registration.references.len() * 64;
        self.table.len() * HASH_LEN + text + 512
    }
}

/// A path ready to be read.
#[derive(Clone, Debug)]
pub struct LoadedPath {
    pub(super) record: Arc<PathRecord>,
    pub(super) stored: Arc<StoredTree>,
}

impl LoadedPath {
    /// What is registered.
    pub fn info(&self) -> &PathInfo {
        &self.record.info
    }

    /// The name of its tree.
    pub fn tree_digest(&self) -> ChunkDigest {
        self.record.tree
    }

    /// The metadata.
    pub fn tree(&self) -> &Tree {
        &self.stored.tree
    }

    /// Whether its chunks were here when it was loaded; if not, it can be looked at, but not read.
    pub fn is_complete(&self) -> bool {
        self.stored.is_complete()
    }

    /// What [`StoredContents`](crate::store::StoredContents) reads.
    pub fn contents(&self) -> PathContents<'_> {
        PathContents {
            path: &self.record.info.registration.path,
            digest: self.record.tree,
            stored: &self.stored,
            table: &self.record.table,
        }
    }

    /// The numbers of the chunks, in the order of the stream; none if they were dropped.
    pub(in crate::store) fn numbers(&self) -> &[u64] {
        &self.stored.numbers
    }

    /// The target of link `node`.
    pub fn target(&self, node: NodeIndex) -> Option<Vec<u8>> {
        self.tree().target(node, &self.record.table)
    }
}
