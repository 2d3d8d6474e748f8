//! Encoding, validation and access of trees.
//!
//! All integers are little-endian.
//!
//! ```text
//! offset  bytes
//! 0       8      "narfstre"
//! 8       4      version: 1
//! 12      4      n: number of nodes (at least 1)
//! 16      4      c: number of chunks
//! 20      4      r: number of references that occurrences may name
//! 24      4      length of the names
//! 28      4      length of the link targets (masked)
//! 32      4      length of the side list of the contents
//! 36      4      length of the side list of the link targets
//! 40      24 n   nodes, breadth-first: the children of a directory are contiguous and
//!                sorted by name; the root is node 0 and has no name
//!         36 c   chunks: length of the uncompressed chunk (4), digest (32)
//!                names, link targets, the two side lists
//! ```
//!
//! A node:
//!
//! ```text
//! 0   4   offset of its name
//! 4   1   length of its name
//! 5   1   kind: 0 directory, 1 file, 2 executable file, 3 symbolic link
//! 6   2   length of the target (links; else 0)
//! 8   8   directory: first child (4), number of children (4); file: offset of the contents in
//!         the stream; link: offset of the target
//! 16  8   directory: number of children that are directories; file: size; link: 0
//! ```
//!
//! The *stream* is the concatenation of the chunks: the small files in NAR order, then each larger
//! file. A side list has a pair of LEB128 numbers for each masked hash: the distance from the end
//! of the previous one, and the number of the reference. An empty file has offset 0.

use std::convert::Infallible;
use std::ops::Range;

use thiserror::Error;

use super::access::{emit_range, search};
use super::leb128::{read_number, write_number};
use crate::chunk::{ChunkDigest, HASH_LEN, MAXIMUM, Occurrence, unmask};

pub(super) const MAGIC: &[u8; 8] = b"narfstre";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 40;
pub(super) const NODE: usize = 24;
pub(super) const CHUNK: usize = 36;

pub(super) const DIRECTORY: u8 = 0;
pub(super) const FILE: u8 = 1;
pub(super) const EXECUTABLE: u8 = 2;
pub(super) const LINK: u8 = 3;

/// Index of a node in its tree; 0 is the root.
pub type NodeIndex = u32;

/// Why an encoding is rejected.
#[derive(Debug, Error)]
pub enum TreeError {
    #[error("the tree has format version {0}; this version of narfs knows {VERSION}")]
    Version(u32),
    #[error("the tree is malformed: {0}")]
    Malformed(&'static str),
    /// The temporary file of a [`LargeTree`](super::LargeTree).
    #[error("its temporary file cannot be used")]
    File(#[source] std::io::Error),
    /// The same: not what was written.
    #[error("its temporary file was changed")]
    Changed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    Directory {
        first: NodeIndex,
        count: u32,
        /// Number of children that are directories.
        subdirectories: u32,
    },
    File {
        /// Whether it is executable.
        executable: bool,
        /// Offset of the contents in the stream.
        offset: u64,
        size: u64,
    },
    Link {
        /// Offset of the target among the link targets.
        offset: u64,
        length: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// Name in its directory; empty for the root.
    pub name: &'a [u8],
    pub kind: NodeKind,
}

/// A chunk in the table of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Offset in the stream.
    pub start: u64,
    /// Uncompressed length.
    pub length: u32,
    pub digest: ChunkDigest,
}

impl ChunkEntry {
    /// Where it ends in the stream.
    pub(super) fn end(&self) -> u64 {
        self.start + u64::from(self.length)
    }

    /// What of a range of the stream that begins in the chunk is in it, by offsets in the chunk.
    pub(super) fn wanted(&self, range: Range<u64>) -> Range<usize> {
        let end = range.end.min(self.end());
        (range.start - self.start) as usize..(end - self.start) as usize
    }
}

/// The metadata of a store path.
#[derive(Debug)]
pub struct Tree {
    bytes: Vec<u8>,
    nodes: usize,
    names_at: usize,
    targets_at: usize,
    references: u32,
    /// End offset of each chunk in the stream.
    ends: Vec<u64>,
    /// The directories, in node order. Their first children ascend, so that a binary search finds
    /// the parent of a node.
    directories: Vec<NodeIndex>,
    content_masks: Vec<Occurrence>,
    target_masks: Vec<Occurrence>,
}

impl Tree {
    /// Decodes a tree, in which nodes and their order are right; where their parts lie may be any place.
    pub(super) fn decode(bytes: Vec<u8>) -> Result<Self, TreeError> {
        let checked = Parser::new(&bytes)?.check()?;
        Ok(Self { bytes, ..checked })
    }

    /// The encoding; its digest identifies the tree.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Digest of the encoding.
    pub fn digest(&self) -> ChunkDigest {
        ChunkDigest::of(&self.bytes)
    }

    /// Memory used, in bytes.
    pub fn weight(&self) -> usize {
        self.bytes.len()
            + self.ends.len() * 8
            + self.directories.len() * 4
            + (self.content_masks.len() + self.target_masks.len()) * size_of::<Occurrence>()
            + size_of::<Self>()
    }

    /// Number of nodes, at least 1.
    pub fn len(&self) -> u32 {
        self.nodes as u32
    }

    /// Always false: a tree has a root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Number of references in the table of a path with this tree.
    pub fn references(&self) -> u32 {
        self.references
    }

    /// Length of the stream.
    pub fn stream_length(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The node at `index`, if it exists.
    pub fn node(&self, index: NodeIndex) -> Option<Node<'_>> {
        let index = index as usize;
        (index < self.nodes).then(|| {
            let at = HEADER + index * NODE;
            let raw = &self.bytes[at..at + NODE];
            let name = self.names_at + u32_at(raw, 0) as usize;
            Node {
                name: &self.bytes[name..name + usize::from(raw[4])],
                kind: kind_of(raw),
            }
        })
    }

    /// The child of `directory` named `name`.
    pub fn lookup(&self, directory: NodeIndex, name: &[u8]) -> Option<NodeIndex> {
        let NodeKind::Directory { first, count, .. } = self.node(directory)?.kind else {
            return None;
        };
        let name_of = |index| Ok::<_, Infallible>(self.node(index).map_or(&[][..], |n| n.name));
        let Ok(found) = search(first..first + count, name, name_of);
        found
    }

    /// The directory that contains `index`; the root contains itself.
    pub fn parent(&self, index: NodeIndex) -> NodeIndex {
        let after = self.directories.partition_point(|d| {
            matches!(self.node(*d).map(|n| n.kind), Some(NodeKind::Directory { first, .. }) if first <= index)
        });
        if index == 0 || after == 0 {
            0
        } else {
            self.directories[after - 1]
        }
    }

    /// The target of a link, with the hashes of `table` restored.
    pub fn target(&self, index: NodeIndex, table: &[[u8; HASH_LEN]]) -> Option<Vec<u8>> {
        let NodeKind::Link { offset, length } = self.node(index)?.kind else {
            return None;
        };
        let at = self.targets_at + offset as usize;
        let mut target = self.bytes[at..at + usize::from(length)].to_vec();
        unmask(&mut target, offset, &self.target_masks, |n| {
            table.get(n as usize)
        });
        Some(target)
    }

    /// Length of all link targets.
    pub(super) fn targets_length(&self) -> u64 {
        u64::from(u32_at(&self.bytes, 28))
    }

    /// The chunks, in stream order.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = ChunkEntry> + '_ {
        (0..self.ends.len()).map(|i| self.chunk(i))
    }

    /// The indexes of the chunks that have bytes of `from..to` of the stream.
    pub fn chunks_in(&self, from: u64, to: u64) -> std::ops::Range<usize> {
        let after = |n: usize| (n + 1).min(self.ends.len());
        let last = self.ends.partition_point(|e| *e < to);
        self.ends.partition_point(|e| *e <= from)..after(last)
    }

    fn chunk(&self, index: usize) -> ChunkEntry {
        let at = HEADER + self.nodes * NODE + index * CHUNK;
        let raw = &self.bytes[at..at + CHUNK];
        chunk_of(raw, self.ends[index])
    }

    /// The hashes that are masked in the stream.
    pub fn content_masks(&self) -> &[Occurrence] {
        &self.content_masks
    }

    /// The hashes that are masked in the targets of links.
    pub fn target_masks(&self) -> &[Occurrence] {
        &self.target_masks
    }

    /// Passes the bytes `offset..offset + length` of the stream to `emit`, with hashes restored.
    /// `fetch` supplies masked bytes of a chunk, by its index in [`Tree::chunks`]: with the offset of
    /// the first of them in the chunk, and from the first of the range of it that is wanted on. A range
    /// beyond the stream is cut off.
    ///
    /// # Errors
    /// Errors of `fetch` and `emit`.
    pub fn read<C: AsRef<[u8]>, E>(
        &self,
        offset: u64,
        length: u64,
        table: &[[u8; HASH_LEN]],
        mut fetch: impl FnMut(usize, &ChunkEntry, Range<usize>) -> Result<(usize, C), E>,
        emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = offset.saturating_add(length).min(self.stream_length());
        let mut index = self.ends.partition_point(|e| *e <= offset);
        let piece_at = |at| {
            if self.ends[index] <= at {
                index += 1;
            }
            let entry = self.chunk(index);
            let (begin, piece) = fetch(index, &entry, entry.wanted(at..end))?;
            Ok((entry.start + begin as u64, piece))
        };
        emit_range(offset..end, &self.content_masks, table, piece_at, emit)
    }
}

pub(super) fn kind_of(raw: &[u8]) -> NodeKind {
    let a = u64_at(raw, 8);
    match raw[5] {
        DIRECTORY => NodeKind::Directory {
            first: a as u32,
            count: (a >> 32) as u32,
            subdirectories: u64_at(raw, 16) as u32,
        },
        LINK => NodeKind::Link {
            offset: a,
            length: u16::from_le_bytes([raw[6], raw[7]]),
        },
        kind => NodeKind::File {
            executable: kind == EXECUTABLE,
            offset: a,
            size: u64_at(raw, 16),
        },
    }
}

/// The entry of a chunk that ends at `end`.
pub(super) fn chunk_of(raw: &[u8], end: u64) -> ChunkEntry {
    let length = u32_at(raw, 0);
    let mut digest = [0; 32];
    digest.copy_from_slice(&raw[4..CHUNK]);
    ChunkEntry {
        start: end - u64::from(length),
        length,
        digest: ChunkDigest(digest),
    }
}

/// Whether a node has something in a field that is 0 for its kind.
fn has_more(raw: &[u8]) -> bool {
    let (target_length, b) = (u16::from_le_bytes([raw[6], raw[7]]), u64_at(raw, 16));
    match raw[5] {
        DIRECTORY => target_length != 0 || b > u64::from(u32::MAX),
        LINK => b != 0,
        _ => target_length != 0,
    }
}

/// Where the sections of an encoding are.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) nodes: Range<usize>,
    pub(super) chunks: Range<usize>,
    pub(super) names: Range<usize>,
    pub(super) targets: Range<usize>,
    pub(super) content_list: Range<usize>,
    pub(super) target_list: Range<usize>,
    pub(super) references: u32,
}

impl Layout {
    /// Of an encoding of this length, which begins with `header`.
    pub(super) fn of(header: &[u8], length: usize) -> Result<Self, TreeError> {
        if header.len() < HEADER || &header[..8] != MAGIC {
            return Err(TreeError::Malformed("no header"));
        }
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err(TreeError::Version(version));
        }
        let mut end = HEADER;
        let mut take = |at: usize, unit: usize| -> Result<Range<usize>, TreeError> {
            let start = end;
            end = (u32_at(header, at) as usize)
                .checked_mul(unit)
                .and_then(|section| start.checked_add(section))
                .filter(|end| *end <= length)
                .ok_or(TreeError::Malformed("cut short"))?;
            Ok(start..end)
        };
        let layout = Self {
            nodes: take(12, NODE)?,
            chunks: take(16, CHUNK)?,
            names: take(24, 1)?,
            targets: take(28, 1)?,
            content_list: take(32, 1)?,
            target_list: take(36, 1)?,
            references: u32_at(header, 20),
        };
        if end != length {
            return Err(TreeError::Malformed("bytes after the end"));
        }
        Ok(layout)
    }
}

/// The sections of an encoding, with lengths checked and contents unchecked.
struct Parser<'a> {
    nodes: &'a [u8],
    chunks: &'a [u8],
    names: &'a [u8],
    targets: &'a [u8],
    content_list: &'a [u8],
    target_list: &'a [u8],
    references: u32,
}

impl<'a> Parser<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, TreeError> {
        let layout = Layout::of(bytes, bytes.len())?;
        Ok(Self {
            nodes: &bytes[layout.nodes],
            chunks: &bytes[layout.chunks],
            names: &bytes[layout.names],
            targets: &bytes[layout.targets],
            content_list: &bytes[layout.content_list],
            target_list: &bytes[layout.target_list],
            references: layout.references,
        })
    }

    /// Validates everything, and returns the tree without its bytes.
    fn check(&self) -> Result<Tree, TreeError> {
        let mut end = 0u64;
        let mut ends = Vec::with_capacity(self.chunks.len() / CHUNK);
        for c in self.chunks.chunks_exact(CHUNK) {
            let length = u32_at(c, 0);
            if length == 0 || length as usize > MAXIMUM {
                return Err(TreeError::Malformed("length of a chunk"));
            }
            end += u64::from(length);
            ends.push(end);
        }
        let directories = self.check_nodes(end)?;
        let content_masks = side_list(self.content_list, end, self.references)?;
        let target_masks = side_list(self.target_list, self.targets.len() as u64, self.references)?;
        let nodes = self.nodes.len() / NODE;
        let names_at = HEADER + self.nodes.len() + self.chunks.len();
        Ok(Tree {
            nodes,
            names_at,
            targets_at: names_at + self.names.len(),
            references: self.references,
            bytes: Vec::new(),
            ends,
            directories,
            content_masks,
            target_masks,
        })
    }

    /// Checks every node, and that the children of all directories, in order, are all nodes except
    /// the root, each once.
    fn check_nodes(&self, stream: u64) -> Result<Vec<NodeIndex>, TreeError> {
        let malformed = |what| Err(TreeError::Malformed(what));
        let count = (self.nodes.len() / NODE) as u64;
        let mut directories = Vec::new();
        let (mut next, mut names) = (1u64, 0u64);
        for (index, raw) in (0u32..).zip(self.nodes.chunks_exact(NODE)) {
            if raw[5] > LINK {
                return malformed("kind of a node");
            }
            let name = self.name(raw)?;
            if (index == 0) != name.is_empty() || !legal_name(name) {
                return malformed("name of a node");
            }
            if u64::from(u32_at(raw, 0)) != names {
                return malformed("order of the names");
            }
            names += name.len() as u64;
            if has_more(raw) {
                return malformed("a field that its kind of node does not have");
            }
            match kind_of(raw) {
                NodeKind::Directory {
                    first,
                    count: children,
                    subdirectories,
                } => {
                    if u64::from(first) != next || u64::from(index) >= next {
                        return malformed("order of the nodes");
                    }
                    next += u64::from(children);
                    if next > count {
                        return malformed("children beyond the end");
                    }
                    self.check_children(first, children, subdirectories)?;
                    directories.push(index);
                }
                NodeKind::File { offset, size, .. } => {
                    if offset.checked_add(size).is_none_or(|end| end > stream) {
                        return malformed("contents beyond the stream");
                    }
                }
                NodeKind::Link { offset, length } => {
                    let end = offset.saturating_add(u64::from(length));
                    if length == 0 || end > self.targets.len() as u64 {
                        return malformed("target of a link");
                    }
                }
            }
        }
        if count == 0 || next != count {
            return malformed("nodes without a directory");
        }
        if names != self.names.len() as u64 {
            return malformed("names that no node has");
        }
        Ok(directories)
    }

    fn check_children(&self, first: u32, count: u32, subdirs: u32) -> Result<(), TreeError> {
        let from = first as usize * NODE;
        let children = &self.nodes[from..from + count as usize * NODE];
        let mut before: Option<&[u8]> = None;
        let mut found = 0;
        for raw in children.chunks_exact(NODE) {
            let name = self.name(raw)?;
            if before.is_some_and(|b| b >= name) {
                return Err(TreeError::Malformed("order of the names"));
            }
            before = Some(name);
            found += u32::from(raw[5] == DIRECTORY);
        }
        if found == subdirs {
            Ok(())
        } else {
            Err(TreeError::Malformed("number of subdirectories"))
        }
    }

    fn name(&self, raw: &[u8]) -> Result<&'a [u8], TreeError> {
        let at = u32_at(raw, 0) as usize;
        self.names
            .get(at..at.saturating_add(usize::from(raw[4])))
            .ok_or(TreeError::Malformed("name beyond the names"))
    }
}

/// Whether a name is allowed in a tree; the empty name is that of the root.
pub(super) fn legal_name(name: &[u8]) -> bool {
    name != b"." && name != b".." && !name.iter().any(|b| *b == b'/' || *b == 0)
}

pub(super) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

pub(super) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

/// Encodes a side list; `occurrences` are sorted and do not overlap.
pub(super) fn write_side_list(occurrences: &[Occurrence]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut end = 0;
    for o in occurrences {
        write_number(&mut out, o.offset - end);
        write_number(&mut out, u64::from(o.reference));
        end = o.offset + HASH_LEN as u64;
    }
    out
}

fn side_list(mut list: &[u8], stream: u64, references: u32) -> Result<Vec<Occurrence>, TreeError> {
    let mut out = Vec::new();
    let mut end = 0u64;
    while !list.is_empty() {
        let gap = read_number(&mut list).ok_or(TreeError::Malformed("side list"))?;
        let reference = read_number(&mut list).ok_or(TreeError::Malformed("side list"))?;
        let offset = end
            .checked_add(gap)
            .ok_or(TreeError::Malformed("side list"))?;
        end = offset.saturating_add(HASH_LEN as u64);
        if end > stream || reference >= u64::from(references) {
            return Err(TreeError::Malformed("side list"));
        }
        out.push(Occurrence {
            offset,
            reference: reference as u32,
        });
    }
    Ok(out)
}
