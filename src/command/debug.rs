//! Records of a state, decoded.

use serde::{Deserialize, Serialize};

use super::paths::{KindReport, PathReport};

/// Which record to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DebugRequest {
    /// That of a tree: its digest, or a store path or hash of a path that has it.
    Tree(String),
    /// That of a chunk, by its digest.
    Chunk(String),
    /// That of a store path or hash.
    Path(String),
}

/// A record, as [`Request::Debug`](super::Request::Debug) reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DebugReport {
    Tree(TreeReport),
    Chunk(ChunkReport),
    Path(Box<PathRecordReport>),
}

/// A tree, masked as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeReport {
    pub digest: String,
    /// Length of its encoding, in bytes.
    pub length: u64,
    /// Length of its record, in bytes.
    pub stored_length: u64,
    /// Length of its stream, in bytes.
    pub stream_length: u64,
    /// Whether its chunks are here.
    pub complete: bool,
    /// How many references a path with this tree has.
    pub references: u32,
    pub nodes: Vec<NodeReport>,
    pub chunks: Vec<ChunkEntryReport>,
    /// Hashes that are masked in the stream.
    pub masks: Vec<MaskReport>,
    /// Hashes that are masked in the targets of links.
    pub target_masks: Vec<MaskReport>,
}

/// A node of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its path below the root; empty for the root.
    pub name: String,
    pub kind: KindReport,
    /// Bytes of contents or target, or number of children.
    pub size: u64,
    /// Where its contents begin in the stream, its target in the targets, or its children in the nodes.
    pub offset: u64,
    /// Target of a link, masked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
}

/// A chunk of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkEntryReport {
    pub digest: String,
    /// Its number; `None` if the contents were dropped.
    pub number: Option<u64>,
    /// Where it begins in the stream.
    pub offset: u64,
    /// Its length, uncompressed, in bytes.
    pub length: u32,
}

/// A hash that is masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskReport {
    /// Where it begins.
    pub offset: u64,
    /// The number of the reference whose hash it is.
    pub reference: u32,
}

/// A chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkReport {
    pub digest: String,
    pub number: u64,
    /// Its length, uncompressed, in bytes.
    pub length: u32,
    /// Length of its record, in bytes.
    pub stored_length: u32,
    /// `raw` or `zstd`; `None` if the record is missing or damaged.
    pub codec: Option<String>,
    /// Whether the record gives the bytes that the digest names.
    pub intact: bool,
    /// Digests of the trees that have it.
    pub trees: Vec<String>,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRecordReport {
    #[serde(flatten)]
    pub info: PathReport,
    /// Its part of inode numbers.
    pub ordinal: u32,
    /// `added` or `fetched`.
    pub origin: String,
    /// The digest of its tree, if that is here.
    pub tree: Option<String>,
    /// What its root is said to be, if its tree is not here.
    pub root: Option<KindReport>,
    /// Whether its contents are here.
    pub complete: bool,
    /// When it was used last, in milliseconds since 1970; `None` if not since it was registered.
    pub used: Option<u64>,
    /// Its references in the order of their numbers.
    pub table: Vec<ReferenceReport>,
}

/// A reference of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceReport {
    pub path: String,
    /// How often its hash is masked in the contents.
    pub masks: u64,
    /// How often its hash is masked in the targets of links.
    pub target_masks: u64,
}
