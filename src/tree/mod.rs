//! Trees: the metadata of a store path as one compact, immutable value.
//!
//! Invariants: a [`Tree`] in memory has been validated, so its accessors need no checks; equal
//! trees have equal encodings, so a tree is identified by the digest of its encoding; a tree does
//! not contain hashes of paths, only indices into the path's table of references.

mod access;
mod builder;
mod canonical;
mod dump;
mod format;
mod large;
mod leb128;
mod pieces;
mod unpack;

pub use builder::{BuildError, TreeBuilder};
pub use dump::{DumpError, dump_nar, nar_size};
pub use format::{ChunkEntry, Node, NodeIndex, NodeKind, Tree, TreeError};
pub use large::LargeTree;
pub use leb128::{read_number, write_number};
pub use unpack::{ChunkSink, UnpackError, Unpacked, Unpacker};

#[cfg(test)]
mod tests;

// In the highest of the layers that the targets call.
#[cfg(test)]
#[path = "../../tests/fuzz/replay.rs"]
mod fuzz;
