//! Chunks: how the bytes of a store path are cut, named, masked and compressed.
//!
//! Invariant: a chunk's name is the BLAKE3 digest of its *masked, uncompressed* bytes. Nothing
//! in this layer knows which path a chunk belongs to, and how a chunk is stored (codec, level,
//! a later delta) never changes its name.

mod chunker;
mod digest;
mod elf;
mod error;
mod frames;
mod mask;
mod record;
#[cfg(test)]
mod tests;

pub use chunker::{AVERAGE, Chunker, MAXIMUM, PACK_BELOW};
pub use digest::{ChunkDigest, ChunkHash};
pub use elf::section_cuts;
pub use error::RecordError;
pub use mask::{HASH_LEN, Masker, Occurrence, ReferenceTable, unmask};
pub use record::{ChunkRecord, Encoder};
