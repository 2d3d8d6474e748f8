//! A path that is ready to be read.

use std::ops::Range;
use std::sync::Arc;

use super::path_info::PathInfo;
use crate::chunk::{ChunkDigest, HASH_LEN};
use crate::store::contents::{PathContents, ServedContents, ServedTree, StoredTree};
use crate::store::error::StoreError;
use crate::tree::{NodeIndex, NodeKind, Tree};

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

    /// An error if the tree is for another number of references.
    pub(super) fn check(&self, references: u32) -> Result<(), StoreError> {
        match references as usize == self.table.len() {
            true => Ok(()),
            false => Err(StoreError::Damaged {
                what: format!("the references of {}", self.info.registration.path),
            }),
        }
    }

    /// The error of a tree that cannot be read, with the path that suffers.
    pub(super) fn named(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Damaged { what } => StoreError::Damaged {
                what: format!("{what}, that of {}", self.info.registration.path),
            },
            error if error.is_damage() => StoreError::PathTree {
                path: self.info.registration.path.clone(),
                source: Box::new(error),
            },
            other => other,
        }
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

/// A path as a mount asks it: each question costs as much of a large path as of a small one. An error says
/// that a temporary file could not be read.
#[derive(Clone, Debug)]
pub struct ServedPath {
    pub(super) record: Arc<PathRecord>,
    pub(super) tree: ServedTree,
}

impl ServedPath {
    /// What is registered.
    pub fn info(&self) -> &PathInfo {
        &self.record.info
    }

    /// Number of nodes, at least 1.
    pub fn node_count(&self) -> u32 {
        self.tree.node_count()
    }

    /// What a node is, if it exists.
    ///
    /// # Errors
    /// See [`ServedPath`].
    pub fn kind(&self, node: NodeIndex) -> Result<Option<NodeKind>, StoreError> {
        self.tree.kind(node)
    }

    /// The name of a node; empty for the root.
    ///
    /// # Errors
    /// See [`ServedPath`].
    pub fn name(&self, node: NodeIndex) -> Result<Vec<u8>, StoreError> {
        self.tree.name(node)
    }

    /// The child of a directory that has a name.
    ///
    /// # Errors
    /// See [`ServedPath`].
    pub fn lookup(
        &self,
        directory: NodeIndex,
        name: &[u8],
    ) -> Result<Option<NodeIndex>, StoreError> {
        self.tree.lookup(directory, name)
    }

    /// The directory that contains a node; the root contains itself.
    ///
    /// # Errors
    /// See [`ServedPath`].
    pub fn parent(&self, node: NodeIndex) -> Result<NodeIndex, StoreError> {
        self.tree.parent(node)
    }

    /// The target of a link.
    ///
    /// # Errors
    /// See [`ServedPath`].
    pub fn target(&self, node: NodeIndex) -> Result<Option<Vec<u8>>, StoreError> {
        self.tree.target(node, &self.record.table)
    }

    /// The indexes of the chunks that have bytes of `from..to` of the stream.
    ///
    /// # Errors
    /// See [`ServedPath`].
    pub fn chunks_in(&self, from: u64, to: u64) -> Result<Range<usize>, StoreError> {
        self.tree.chunks_in(from, to)
    }

    /// What [`StoredContents`](crate::store::StoredContents) reads.
    pub fn contents(&self) -> ServedContents<'_> {
        ServedContents {
            path: &self.record.info.registration.path,
            digest: self.record.tree,
            tree: &self.tree,
            table: &self.record.table,
        }
    }
}
