//! Trees that are too large for memory.
//!
//! Such a tree is unpacked into a temporary file when it is loaded, and read from there in pieces, so
//! that each question costs what it costs of a small tree, and memory for a few pieces. Its encoding is
//! checked against its digest as it is unpacked; that the digest names a valid tree was checked when it
//! was made.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::access::{emit_range, search};
use super::format::{
    CHUNK, ChunkEntry, HEADER, Layout, NODE, NodeIndex, NodeKind, TreeError, chunk_of, kind_of,
    u32_at, u64_at,
};
use super::leb128::read_number;
use super::pieces::{PIECE, Pieces};
use crate::chunk::{ChunkDigest, HASH_LEN, Occurrence, unmask};

/// Length of two LEB128 numbers at most.
const TWO_NUMBERS: usize = 20;

/// Entries of equal length, somewhere in the pieces.
#[derive(Debug)]
struct Section {
    at: usize,
    /// Length of an entry.
    unit: usize,
    count: usize,
}

impl Section {
    fn new(bytes: &Range<usize>, unit: usize) -> Self {
        let (at, count) = (bytes.start, bytes.len() / unit);
        Self { at, unit, count }
    }
}

/// The metadata of a store path, in a temporary file.
#[derive(Debug)]
pub struct LargeTree {
    pieces: Pieces,
    layout: Layout,
    nodes: Section,
    chunks: Section,
    /// End offset of each chunk in the stream (8).
    ends: Section,
    /// The directories, in node order: index (4), first child (4).
    directories: Section,
    /// Hashes that are masked in the stream: offset (8), reference (4).
    content_masks: Section,
    target_masks: Section,
}

impl LargeTree {
    /// Unpacks the tree `digest`, whose encoding has this length, into a temporary file in `dir`.
    ///
    /// # Errors
    /// The encoding cannot be read or is another one, or the file cannot be written.
    pub fn unpack(
        mut encoding: impl Read,
        length: usize,
        digest: &ChunkDigest,
        dir: &Path,
    ) -> Result<Self, TreeError> {
        let mut pieces = Pieces::new(dir).map_err(TreeError::File)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; PIECE];
        loop {
            let read = encoding.read(&mut buffer);
            let read = read.map_err(|_| TreeError::Malformed("not decompressed"))?;
            if read == 0 {
                break;
            }
            if pieces.end() + read > length {
                return Err(TreeError::Malformed("bytes after the end"));
            }
            hasher.update(&buffer[..read]);
            pieces.push(&buffer[..read]).map_err(TreeError::File)?;
        }
        if pieces.end() != length || ChunkDigest(*hasher.finalize().as_bytes()) != *digest {
            return Err(TreeError::Malformed("not what its digest says"));
        }
        pieces.seal().map_err(TreeError::File)?;
        let layout = Layout::of(&pieces.read(0, HEADER.min(length))?, length)?;
        let nodes = Section::new(&layout.nodes, NODE);
        let chunks = Section::new(&layout.chunks, CHUNK);
        let ends = ends(&mut pieces, &chunks)?;
        let directories = directories(&mut pieces, &nodes)?;
        let content_masks = masks(&mut pieces, &layout.content_list)?;
        let target_masks = masks(&mut pieces, &layout.target_list)?;
        pieces.seal().map_err(TreeError::File)?;
        Ok(Self {
            pieces,
            layout,
            nodes,
            chunks,
            ends,
            directories,
            content_masks,
            target_masks,
        })
    }

    /// Memory used at most, in bytes.
    pub fn weight(&self) -> usize {
        self.pieces.weight() + size_of::<Self>()
    }

    /// Number of references in the table of a path with this tree.
    pub fn references(&self) -> u32 {
        self.layout.references
    }

    /// Number of nodes, at least 1.
    pub fn node_count(&self) -> u32 {
        self.nodes.count as u32
    }

    /// Number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.chunks.count
    }

    fn entry(&self, section: &Section, index: usize) -> Result<Option<Vec<u8>>, TreeError> {
        if index >= section.count {
            return Ok(None);
        }
        let at = section.at + index * section.unit;
        self.pieces.read(at, section.unit).map(Some)
    }

    /// Index of the first entry of a section for which `is_before` does not hold.
    fn partition_point(
        &self,
        section: &Section,
        is_before: impl Fn(&[u8]) -> bool,
    ) -> Result<usize, TreeError> {
        let (mut low, mut high) = (0, section.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(section, middle)? {
                Some(entry) if is_before(&entry) => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// A part of the names or of the link targets.
    fn text(&self, text: &Range<usize>, at: u64, length: usize) -> Result<Vec<u8>, TreeError> {
        let start = usize::try_from(at)
            .ok()
            .and_then(|at| text.start.checked_add(at));
        let start = start.filter(|start| start.saturating_add(length) <= text.end);
        let start = start.ok_or(TreeError::Malformed("text beyond the end"))?;
        self.pieces.read(start, length)
    }

    /// What the node at `index` is, if it exists.
    ///
    /// # Errors
    /// The temporary file cannot be read, or was changed.
    pub fn kind(&self, index: NodeIndex) -> Result<Option<NodeKind>, TreeError> {
        let raw = self.entry(&self.nodes, index as usize)?;
        Ok(raw.map(|raw| kind_of(&raw)))
    }

    /// The name of the node at `index`; empty for the root.
    ///
    /// # Errors
    /// As [`LargeTree::kind`].
    pub fn name(&self, index: NodeIndex) -> Result<Vec<u8>, TreeError> {
        match self.entry(&self.nodes, index as usize)? {
            Some(raw) => {
                let (at, length) = (u64::from(u32_at(&raw, 0)), usize::from(raw[4]));
                self.text(&self.layout.names, at, length)
            }
            None => Ok(Vec::new()),
        }
    }

    /// The child of `directory` named `name`.
    ///
    /// # Errors
    /// As [`LargeTree::kind`].
    pub fn lookup(
        &self,
        directory: NodeIndex,
        name: &[u8],
    ) -> Result<Option<NodeIndex>, TreeError> {
        match self.kind(directory)? {
            Some(NodeKind::Directory { first, count, .. }) => {
                let children = first..first.saturating_add(count);
                search(children, name, |index| self.name(index))
            }
            _ => Ok(None),
        }
    }

    /// The directory that contains `index`; the root contains itself.
    ///
    /// # Errors
    /// As [`LargeTree::kind`].
    pub fn parent(&self, index: NodeIndex) -> Result<NodeIndex, TreeError> {
        let begins_before = |entry: &[u8]| u32_at(entry, 4) <= index;
        let after = self.partition_point(&self.directories, begins_before)?;
        match after.checked_sub(1).filter(|_| index > 0) {
            Some(at) => {
                let entry = self.entry(&self.directories, at)?;
                Ok(entry.map_or(0, |entry| u32_at(&entry, 0)))
            }
            None => Ok(0),
        }
    }

    /// The target of a link, with the hashes of `table` restored.
    ///
    /// # Errors
    /// As [`LargeTree::kind`].
    pub fn target(
        &self,
        index: NodeIndex,
        table: &[[u8; HASH_LEN]],
    ) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(NodeKind::Link { offset, length }) = self.kind(index)? else {
            return Ok(None);
        };
        let mut target = self.text(&self.layout.targets, offset, length.into())?;
        let masks = self.masks(
            &self.target_masks,
            offset..offset.saturating_add(length.into()),
        )?;
        unmask(&mut target, offset, &masks, |n| table.get(n as usize));
        Ok(Some(target))
    }

    /// The masked hashes that lie in a range, at least in part.
    fn masks(&self, all: &Section, range: Range<u64>) -> Result<Vec<Occurrence>, TreeError> {
        let is_before = |entry: &[u8]| u64_at(entry, 0) + HASH_LEN as u64 <= range.start;
        let mut at = self.partition_point(all, is_before)?;
        let mut masks = Vec::new();
        while let Some(entry) = self.entry(all, at)? {
            let (offset, reference) = (u64_at(&entry, 0), u32_at(&entry, 8));
            if offset >= range.end {
                break;
            }
            masks.push(Occurrence { offset, reference });
            at += 1;
        }
        Ok(masks)
    }

    /// A chunk, if it exists.
    ///
    /// # Errors
    /// As [`LargeTree::kind`].
    pub fn chunk(&self, index: usize) -> Result<Option<ChunkEntry>, TreeError> {
        let raw = self.entry(&self.chunks, index)?;
        let end = self.entry(&self.ends, index)?;
        Ok(raw
            .zip(end)
            .map(|(raw, end)| chunk_of(&raw, u64_at(&end, 0))))
    }

    /// The indexes of the chunks that have bytes of `from..to` of the stream.
    ///
    /// # Errors
    /// As [`LargeTree::kind`].
    pub fn chunks_in(&self, from: u64, to: u64) -> Result<Range<usize>, TreeError> {
        let first = self.partition_point(&self.ends, |entry| u64_at(entry, 0) <= from)?;
        let last = self.partition_point(&self.ends, |entry| u64_at(entry, 0) < to)?;
        Ok(first..(last + 1).min(self.ends.count))
    }

    /// As [`Tree::read`](super::Tree::read).
    ///
    /// # Errors
    /// As [`LargeTree::kind`], and errors of `fetch` and `emit`.
    pub fn read<C: AsRef<[u8]>, E: From<TreeError>>(
        &self,
        offset: u64,
        length: u64,
        table: &[[u8; HASH_LEN]],
        mut fetch: impl FnMut(usize, &ChunkEntry, Range<usize>) -> Result<(usize, C), E>,
        emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let last = self.ends.count.checked_sub(1);
        let last = last.map(|last| self.entry(&self.ends, last)).transpose()?;
        let stream = last.flatten().map_or(0, |end| u64_at(&end, 0));
        let end = offset.saturating_add(length).min(stream);
        let ends_before = |entry: &[u8]| u64_at(entry, 0) <= offset;
        let mut index = self.partition_point(&self.ends, ends_before)?;
        let masks = self.masks(&self.content_masks, offset..end)?;
        let mut entry = None;
        let piece_at = |at| {
            // A chunk may come in several pieces.
            let entry = match entry.filter(|entry: &ChunkEntry| at < entry.end()) {
                Some(entry) => entry,
                None => {
                    index += usize::from(entry.is_some());
                    let next = self
                        .chunk(index)?
                        .ok_or(TreeError::Malformed("cut short"))?;
                    *entry.insert(next)
                }
            };
            let (begin, piece) = fetch(index, &entry, entry.wanted(at..end))?;
            Ok((entry.start + begin as u64, piece))
        };
        emit_range(offset..end, &masks, table, piece_at, emit)
    }

    /// How many pieces were read from the temporary file.
    #[cfg(test)]
    pub(crate) fn reads(&self) -> u64 {
        self.pieces.reads()
    }

    /// Changes the temporary file, as a disk may that fails.
    #[cfg(test)]
    pub(crate) fn damage(&self) {
        self.pieces.damage();
    }
}

/// Visits the entries of a section, in order.
fn each(
    pieces: &mut Pieces,
    section: &Section,
    mut visit: impl FnMut(&mut Pieces, usize, &[u8]) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    let at_once = PIECE / section.unit;
    for first in (0..section.count).step_by(at_once) {
        let count = at_once.min(section.count - first);
        let entries = pieces.read(section.at + first * section.unit, count * section.unit)?;
        for (n, entry) in entries.chunks_exact(section.unit).enumerate() {
            visit(pieces, first + n, entry)?;
        }
    }
    Ok(())
}

/// Adds an entry of these numbers, of which the second has four bytes.
fn push(pieces: &mut Pieces, first: &[u8], second: u32) -> Result<(), TreeError> {
    let pushed = pieces.push(first);
    let pushed = pushed.and_then(|()| pieces.push(&second.to_le_bytes()));
    pushed.map_err(TreeError::File)
}

/// Adds the end offset of each chunk.
fn ends(pieces: &mut Pieces, chunks: &Section) -> Result<Section, TreeError> {
    let at = pieces.end();
    let mut end = 0u64;
    each(pieces, chunks, |pieces, _, entry| {
        end += u64::from(u32_at(entry, 0));
        pieces.push(&end.to_le_bytes()).map_err(TreeError::File)
    })?;
    Ok(Section::new(&(at..pieces.end()), 8))
}

/// Adds the directories, each with its first child.
fn directories(pieces: &mut Pieces, nodes: &Section) -> Result<Section, TreeError> {
    let at = pieces.end();
    each(pieces, nodes, |pieces, index, raw| match kind_of(raw) {
        NodeKind::Directory { first, .. } => {
            push(pieces, &(index as NodeIndex).to_le_bytes(), first)
        }
        _ => Ok(()),
    })?;
    Ok(Section::new(&(at..pieces.end()), 8))
}

/// Adds the masked hashes that a side list names.
fn masks(pieces: &mut Pieces, list: &Range<usize>) -> Result<Section, TreeError> {
    let at = pieces.end();
    let malformed = || TreeError::Malformed("side list");
    let (mut from, mut end) = (list.start, 0u64);
    while from < list.end {
        let part = pieces.read(from, PIECE.min(list.end - from))?;
        let is_last = from + part.len() == list.end;
        let mut rest = part.as_slice();
        while rest.len() >= TWO_NUMBERS || (is_last && !rest.is_empty()) {
            let gap = read_number(&mut rest).ok_or_else(malformed)?;
            let reference = read_number(&mut rest).ok_or_else(malformed)?;
            let offset = end.checked_add(gap).ok_or_else(malformed)?;
            end = offset.saturating_add(HASH_LEN as u64);
            push(pieces, &offset.to_le_bytes(), reference as u32)?;
        }
        from += part.len() - rest.len();
    }
    Ok(Section::new(&(at..pieces.end()), 12))
}
