//! Trees as a mount asks them: in memory whole, or in a temporary file where that would be too much.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::damage::Soundness;
use super::stored_tree::StoredTree;
use crate::chunk::{ChunkDigest, HASH_LEN};
use crate::store::error::StoreError;
use crate::tree::{ChunkEntry, LargeTree, NodeIndex, NodeKind, TreeError};

/// A tree with the numbers of its chunks.
#[derive(Clone, Debug)]
pub(in crate::store) enum ServedTree {
    Whole(Arc<StoredTree>),
    Large(Arc<StoredLargeTree>),
}

/// A tree in a temporary file, with the numbers of its chunks.
#[derive(Debug)]
pub(in crate::store) struct StoredLargeTree {
    pub(super) digest: ChunkDigest,
    pub(super) tree: LargeTree,
    /// In the order of the stream; none if the contents were dropped.
    pub(super) numbers: Vec<u64>,
    /// Whether its file could not be read, so that it has to be unpacked again.
    failed: AtomicBool,
    soundness: Soundness,
}

impl StoredLargeTree {
    pub(super) fn new(digest: ChunkDigest, tree: LargeTree, numbers: Vec<u64>) -> Self {
        Self {
            digest,
            tree,
            numbers,
            failed: AtomicBool::new(false),
            soundness: Soundness::default(),
        }
    }

    /// Notes that the file failed.
    pub(super) fn failure(&self, source: TreeError) -> StoreError {
        self.failed.store(true, Ordering::Relaxed);
        let digest = self.digest;
        let error = StoreError::TemporaryTree { digest, source };
        tracing::error!(tree = %digest, "{error}");
        error
    }

    /// What came of a question.
    fn answer<T>(&self, answer: Result<T, TreeError>) -> Result<T, StoreError> {
        answer.map_err(|source| self.failure(source))
    }
}

impl ServedTree {
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Whole(stored) => stored.weight(),
            Self::Large(stored) => stored.tree.weight() + stored.numbers.len() * 8,
        }
    }

    pub(super) fn soundness(&self) -> &Soundness {
        match self {
            Self::Whole(stored) => &stored.soundness,
            Self::Large(stored) => &stored.soundness,
        }
    }

    /// Whether it has to be loaded again.
    pub(super) fn has_failed(&self) -> bool {
        match self {
            Self::Whole(_) => false,
            Self::Large(stored) => stored.failed.load(Ordering::Relaxed),
        }
    }

    /// Numbers of the chunks, in the order of the stream; none if the contents were dropped.
    pub(super) fn numbers(&self) -> &[u64] {
        match self {
            Self::Whole(stored) => &stored.numbers,
            Self::Large(stored) => &stored.numbers,
        }
    }

    pub(in crate::store) fn is_complete(&self) -> bool {
        match self {
            Self::Whole(stored) => stored.is_complete(),
            Self::Large(stored) => stored.numbers.len() == stored.tree.chunk_count(),
        }
    }

    /// Number of references in the table of a path with this tree.
    pub(in crate::store) fn references(&self) -> u32 {
        match self {
            Self::Whole(stored) => stored.tree.references(),
            Self::Large(stored) => stored.tree.references(),
        }
    }

    pub(in crate::store) fn node_count(&self) -> u32 {
        match self {
            Self::Whole(stored) => stored.tree.len(),
            Self::Large(stored) => stored.tree.node_count(),
        }
    }

    pub(in crate::store) fn kind(&self, index: NodeIndex) -> Result<Option<NodeKind>, StoreError> {
        match self {
            Self::Whole(stored) => Ok(stored.tree.node(index).map(|node| node.kind)),
            Self::Large(stored) => stored.answer(stored.tree.kind(index)),
        }
    }

    pub(in crate::store) fn name(&self, index: NodeIndex) -> Result<Vec<u8>, StoreError> {
        match self {
            Self::Whole(stored) => {
                let node = stored.tree.node(index);
                Ok(node.map_or(Vec::new(), |node| node.name.to_vec()))
            }
            Self::Large(stored) => stored.answer(stored.tree.name(index)),
        }
    }

    pub(in crate::store) fn lookup(
        &self,
        directory: NodeIndex,
        name: &[u8],
    ) -> Result<Option<NodeIndex>, StoreError> {
        match self {
            Self::Whole(stored) => Ok(stored.tree.lookup(directory, name)),
            Self::Large(stored) => stored.answer(stored.tree.lookup(directory, name)),
        }
    }

    pub(in crate::store) fn parent(&self, index: NodeIndex) -> Result<NodeIndex, StoreError> {
        match self {
            Self::Whole(stored) => Ok(stored.tree.parent(index)),
            Self::Large(stored) => stored.answer(stored.tree.parent(index)),
        }
    }

    pub(in crate::store) fn target(
        &self,
        index: NodeIndex,
        table: &[[u8; HASH_LEN]],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Whole(stored) => Ok(stored.tree.target(index, table)),
            Self::Large(stored) => stored.answer(stored.tree.target(index, table)),
        }
    }

    /// A chunk, if it exists.
    pub(super) fn chunk(&self, index: usize) -> Result<Option<ChunkEntry>, StoreError> {
        match self {
            Self::Whole(stored) => Ok(stored.tree.chunks().nth(index)),
            Self::Large(stored) => stored.answer(stored.tree.chunk(index)),
        }
    }

    /// The indexes of the chunks that have bytes of `from..to` of the stream.
    pub(in crate::store) fn chunks_in(
        &self,
        from: u64,
        to: u64,
    ) -> Result<Range<usize>, StoreError> {
        match self {
            Self::Whole(stored) => Ok(stored.tree.chunks_in(from, to)),
            Self::Large(stored) => stored.answer(stored.tree.chunks_in(from, to)),
        }
    }

    /// Whether something is true of the digest of a chunk.
    pub(super) fn any_chunk(
        &self,
        is_true: impl Fn(&ChunkDigest) -> bool,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Whole(stored) => Ok(stored.tree.chunks().any(|c| is_true(&c.digest))),
            Self::Large(stored) => {
                for index in 0..stored.tree.chunk_count() {
                    let chunk = stored.answer(stored.tree.chunk(index))?;
                    if chunk.is_some_and(|c| is_true(&c.digest)) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}
