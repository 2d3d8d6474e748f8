//! Reading the contents of paths.
//!
//! A reader has the chunk numbers that its tree had when it was loaded. They may be out of
//! date: contents are dropped, and fetched again under new numbers, while a path is read. So where
//! a chunk is not there, the record of the tree is asked again. It changes in one batch with the
//! chunks, and numbers are never given twice, so it says which of three it is: the contents were
//! dropped, or the chunk has another number now, or, if nothing changed, the chunk is lost.

use std::io::Write;
use std::ops::Range;

use bytes::Bytes;

use super::StoredContents;
use super::chunks::ChunkFault;
use super::decoded::Decoded;
use super::served_tree::ServedTree;
use super::stored_tree::StoredTree;
use crate::chunk::{ChunkDigest, HASH_LEN};
use crate::nix::store_path::StorePath;
use crate::store::error::StoreError;
use crate::tree::{ChunkEntry, DumpError, NodeIndex, Tree, TreeError, dump_nar};

/// The contents of a path, for [`StoredContents::read`] and the like.
#[derive(Clone, Copy, Debug)]
pub struct PathContents<'p> {
    /// For errors.
    pub(in crate::store) path: &'p StorePath,
    pub(in crate::store) digest: ChunkDigest,
    pub(in crate::store) stored: &'p StoredTree,
    /// What stands where the bytes were masked.
    pub(in crate::store) table: &'p [[u8; HASH_LEN]],
}

impl<'p> PathContents<'p> {
    fn tree(self) -> &'p Tree {
        &self.stored.tree
    }

    fn owner(self) -> Owner<'p> {
        Owner {
            path: self.path,
            digest: self.digest,
            numbers: &self.stored.numbers,
        }
    }
}

/// The same of a path that a mount serves.
#[derive(Clone, Copy, Debug)]
pub struct ServedContents<'p> {
    pub(in crate::store) path: &'p StorePath,
    pub(in crate::store) digest: ChunkDigest,
    pub(in crate::store) tree: &'p ServedTree,
    pub(in crate::store) table: &'p [[u8; HASH_LEN]],
}

/// Whose chunks are read.
#[derive(Clone, Copy)]
struct Owner<'p> {
    path: &'p StorePath,
    digest: ChunkDigest,
    numbers: &'p [u64],
}

/// Why a large tree or one of its chunks cannot be read.
enum LargeFault {
    Tree(TreeError),
    Store(StoreError),
}

impl From<TreeError> for LargeFault {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl StoredContents {
    /// The masked bytes of a chunk of a path: from memory if they are there, or, if `fresh`, from
    /// the database in any case.
    fn chunk_of(
        &self,
        path: Owner<'_>,
        index: usize,
        entry: &ChunkEntry,
        fresh: bool,
    ) -> Result<Bytes, StoreError> {
        let read = |number| match fresh {
            true => self.read_chunk(number, &entry.digest),
            false => self.chunk(number, &entry.digest),
        };
        self.found(path, index, entry, read, Bytes::len)
    }

    /// Masked bytes of a chunk of a path for who wants those in the range only: some that have the first of
    /// it, with the offset of the first of them. `last` is what memory had of the chunk before.
    fn piece_of(
        &self,
        path: Owner<'_>,
        index: usize,
        entry: &ChunkEntry,
        wanted: &Range<usize>,
        last: &mut Option<(usize, Decoded)>,
    ) -> Result<(usize, Bytes), StoreError> {
        if wanted.len() == entry.length as usize {
            return Ok((0, self.chunk_of(path, index, entry, false)?));
        }
        let there = last
            .take()
            .filter(|(of, there)| *of == index && there.has(wanted));
        let decoded = match there {
            Some((_, decoded)) => decoded,
            None => {
                let read = |number| self.chunk_in_part(number, &entry.digest, wanted);
                self.found(path, index, entry, read, Decoded::length)?
            }
        };
        let piece = decoded.piece(wanted.start);
        *last = Some((index, decoded));
        Ok(piece)
    }

    /// What `read` gives of a chunk of a path under the number that it has now; the length of that chunk is
    /// that of the entry.
    fn found<T>(
        &self,
        path: Owner<'_>,
        index: usize,
        entry: &ChunkEntry,
        read: impl Fn(u64) -> Result<T, ChunkFault>,
        length: impl Fn(&T) -> usize,
    ) -> Result<T, StoreError> {
        let mut number = path.numbers.get(index).copied();
        let fault = loop {
            match number.map_or(Err(ChunkFault::Missing), &read) {
                // The digest fixes the length, so that a tree cannot be read beyond a chunk.
                Ok(found) if length(&found) == entry.length as usize => return Ok(found),
                Ok(_) => break ChunkFault::Damaged(None),
                Err(ChunkFault::Missing) => {}
                Err(fault) => break fault,
            }
            let now = self.current_number(path.digest, index)?;
            if now.is_none() {
                let path = path.path.clone();
                return Err(StoreError::Dropped { path });
            }
            if now == number {
                break ChunkFault::Missing;
            }
            number = now;
        };
        let (what, source) = match fault {
            ChunkFault::Database(e) => return Err(e),
            ChunkFault::Missing => ("missing", None),
            ChunkFault::Damaged(source) => ("damaged", source),
        };
        // The next ingest of it replaces the record.
        self.damaged.add(entry.digest);
        let error = StoreError::Chunk {
            path: path.path.clone(),
            digest: entry.digest,
            what,
            source,
        };
        if let Some(chunks) = self.damaged.meet(path.path.hash(), entry.digest) {
            tracing::error!(path = %path.path, chunk = %entry.digest, chunks, "{error}");
        }
        Err(error)
    }

    /// Has the chunk at `index` of a path in memory, if it can be read; a reader will hear if it cannot.
    pub fn load_ahead(&self, path: ServedContents<'_>, index: usize) {
        let number = path.tree.numbers().get(index);
        if let (Some(number), Ok(Some(entry))) = (number, path.tree.chunk(index)) {
            let _ = self.chunk(*number, &entry.digest);
        }
    }

    /// Whether a chunk of a tree was found missing or damaged, and has not come again.
    pub(in crate::store) fn is_damaged(&self, tree: &ServedTree) -> Result<bool, StoreError> {
        let any = |is_damaged: &dyn Fn(&ChunkDigest) -> bool| tree.any_chunk(is_damaged);
        self.damaged.is_among(tree.soundness(), any)
    }

    /// Reads every chunk of a path, and has the next ingest in this process replace those that cannot be
    /// read. Returns how many these are. What was dropped is not damaged.
    pub fn find_damage(&self, path: PathContents<'_>) -> usize {
        let is_damaged = |(index, entry): &(usize, ChunkEntry)| {
            let read = self.chunk_of(path.owner(), *index, entry, true);
            read.is_err_and(|e| !matches!(e, StoreError::Dropped { .. }))
        };
        path.tree().chunks().enumerate().filter(is_damaged).count()
    }

    /// Appends the bytes `offset..offset + length` of the stream of `path` to `out`, from memory where
    /// its chunks are there. Every byte was checked against its digest.
    ///
    /// # Errors
    /// A chunk is missing or damaged, or the contents were dropped; `out` is of no use then.
    pub fn read(
        &self,
        path: PathContents<'_>,
        offset: u64,
        length: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        path.tree().read(
            offset,
            length,
            path.table,
            |index, entry, _| Ok((0, self.chunk_of(path.owner(), index, entry, false)?)),
            |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            },
        )
    }

    /// As [`StoredContents::read`], for a mount. Unless the reader `reads_on`, no more of a chunk is decoded
    /// than it takes.
    ///
    /// # Errors
    /// As there, or the temporary file of the tree cannot be read.
    pub fn serve(
        &self,
        path: ServedContents<'_>,
        (offset, length): (u64, u64),
        reads_on: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let owner = Owner {
            path: path.path,
            digest: path.digest,
            numbers: path.tree.numbers(),
        };
        let mut last = None;
        let mut fetch = |index: usize, entry: &ChunkEntry, wanted: Range<usize>| match reads_on {
            true => Ok((0, self.chunk_of(owner, index, entry, false)?)),
            false => self.piece_of(owner, index, entry, &wanted, &mut last),
        };
        let mut emit = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        let table = path.table;
        let large = match path.tree {
            ServedTree::Whole(stored) => {
                return stored.tree.read(offset, length, table, fetch, emit);
            }
            ServedTree::Large(large) => large,
        };
        let fetch = |index: usize, entry: &ChunkEntry, wanted: Range<usize>| {
            fetch(index, entry, wanted).map_err(LargeFault::Store)
        };
        let emit = |bytes: &[u8]| emit(bytes).map_err(LargeFault::Store);
        let read = large.tree.read(offset, length, table, fetch, emit);
        read.map_err(|fault| match fault {
            LargeFault::Tree(source) => large.failure(source),
            LargeFault::Store(error) => error,
        })
    }

    /// The NAR of a tree whose chunks are here, with this table; `None` if one cannot be read.
    pub(in crate::store) fn nar(&self, tree: &Tree, table: &[[u8; HASH_LEN]]) -> Option<Vec<u8>> {
        let fetch = |_, entry: &ChunkEntry| {
            let located = self.locate(&entry.digest).ok().flatten();
            let read = located.map(|at| self.chunk(at.number, &entry.digest));
            read.and_then(Result::ok).ok_or(std::fmt::Error)
        };
        let mut nar = Vec::new();
        let dumped = dump_nar(tree, 0, table, fetch, &mut nar);
        dumped.ok().map(|()| nar)
    }

    /// Writes the NAR of what lies at `node` of `path` to `out`. Reads from disk even what is in memory,
    /// so that what is stored is verified, and what a mount reads stays in memory.
    ///
    /// # Errors
    /// A chunk that cannot be read, or a writer that fails.
    pub fn dump<W: Write>(
        &self,
        path: PathContents<'_>,
        node: NodeIndex,
        out: W,
    ) -> Result<(), DumpError<StoreError>> {
        // Small files that follow each other lie in the same chunk.
        let mut last: Option<(usize, Bytes)> = None;
        let fetch = |index: usize, entry: &ChunkEntry| {
            if let Some((_, bytes)) = last.as_ref().filter(|(at, _)| *at == index) {
                return Ok(bytes.clone());
            }
            let bytes = self.chunk_of(path.owner(), index, entry, true)?;
            last = Some((index, bytes.clone()));
            Ok(bytes)
        };
        dump_nar(path.tree(), node, path.table, fetch, out)
    }

    /// Changes the temporary file of a tree, as a disk may that fails.
    #[cfg(test)]
    pub(in crate::store) fn damage_large(&self, path: ServedContents<'_>) {
        match path.tree {
            ServedTree::Large(stored) => stored.tree.damage(),
            ServedTree::Whole(_) => unreachable!("it is small"),
        }
    }
}
