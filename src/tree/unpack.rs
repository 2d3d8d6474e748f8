//! Unpacking a NAR into chunks and a tree.
//!
//! Memory use does not depend on the size of the NAR or its files: larger files are streamed. The
//! sections of an ELF file should be cut points, but its section table is at the end; up to
//! [`HOLD_LIMIT`] such a file is held in memory, and beyond that, or when the shared allowance is used
//! up, in an unlinked temporary file; where the disk has no room for that, it has no cut points.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::builder::{BuildError, Place, TreeBuilder};
use super::format::Tree;
use crate::chunk::{
    ChunkDigest, ChunkHash, Chunker, Masker, Occurrence, PACK_BELOW, ReferenceTable, section_cuts,
};
use crate::measure::Allowance;
use crate::nix::nar::{Event, NarError, Reader};
use crate::nix::store_path::StorePath;

/// Limit of the size of ELF files that are held in memory for cutting, in bytes.
const HOLD_LIMIT: u64 = 32 << 20;
/// Bytes of the disk that temporary files leave free: twice what a state needs to keep what arrives.
const LEAVE_FREE: u64 = 192 << 20;
/// Bytes of a temporary file after which the room on the disk is looked at again: others take of it, too.
const ROOM_STEP: u64 = 8 << 20;
/// Bytes read from the NAR at once.
const PIECE: usize = 256 << 10;

/// Receives the chunks of a path.
pub trait ChunkSink {
    type Error: std::error::Error + Send + Sync + 'static;

    /// Stores `chunk` (masked, uncompressed) under its digest, unless it is already stored.
    ///
    /// # Errors
    /// The chunk cannot be stored.
    fn put(&mut self, hash: ChunkHash, chunk: &[u8]) -> Result<(), Self::Error>;
}

#[derive(Debug, Error)]
pub enum UnpackError<E: std::error::Error + Send + Sync + 'static> {
    #[error(transparent)]
    Nar(#[from] NarError),
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The temporary file failed.
    #[error("cannot use a temporary file in {}", dir.display())]
    Spool {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A chunk cannot be stored.
    #[error(transparent)]
    Sink(E),
}

/// An unpacked NAR.
#[derive(Debug)]
pub struct Unpacked {
    pub tree: Tree,
    /// References, in the order of their numbers in the tree.
    pub references: Vec<StorePath>,
}

/// One part of the stream: its chunks, its length, and the hashes masked in it.
#[derive(Default)]
struct Part {
    chunker: Chunker,
    chunks: Vec<(u32, ChunkDigest)>,
    masks: Vec<Occurrence>,
    length: u64,
}

impl Part {
    fn emit<'a, S: ChunkSink>(
        chunks: &'a mut Vec<(u32, ChunkDigest)>,
        sink: &'a mut S,
    ) -> impl FnMut(&[u8]) -> Result<(), S::Error> + 'a {
        move |chunk| {
            let hash = ChunkHash::of(chunk);
            let digest = hash.digest;
            sink.put(hash, chunk)?;
            chunks.push((chunk.len() as u32, digest));
            Ok(())
        }
    }

    fn push<S: ChunkSink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        self.length += bytes.len() as u64;
        self.chunker
            .push(bytes, &mut Self::emit(&mut self.chunks, sink))
    }

    fn boundary<S: ChunkSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        self.chunker
            .boundary(&mut Self::emit(&mut self.chunks, sink))
    }
}

/// Unpacks one NAR into `sink`.
pub struct Unpacker<'s, S: ChunkSink> {
    sink: &'s mut S,
    spool: PathBuf,
    table: ReferenceTable,
    run: Part,
    large: Part,
    builder: TreeBuilder,
    target_masks: Vec<Occurrence>,
    piece: Vec<u8>,
    held: Option<Arc<Allowance>>,
}

impl<S: ChunkSink> std::fmt::Debug for Unpacker<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unpacker({:?})", self.builder)
    }
}

impl<'s, S: ChunkSink> Unpacker<'s, S> {
    /// An unpacker for a path with the given references (including itself, if it is among them),
    /// with temporary files in `spool`.
    pub fn new(sink: &'s mut S, references: &[StorePath], spool: &Path) -> Self {
        Self {
            sink,
            spool: spool.to_owned(),
            table: ReferenceTable::new(references),
            run: Part::default(),
            large: Part::default(),
            builder: TreeBuilder::new(),
            target_masks: Vec::new(),
            piece: vec![0; PIECE],
            held: None,
        }
    }

    /// Limits the memory held by a shared allowance.
    #[must_use]
    pub fn within(mut self, allowance: &Arc<Allowance>) -> Self {
        self.held = Some(allowance.clone());
        self
    }

    /// Reads the NAR, and checks that nothing follows it.
    ///
    /// # Errors
    /// See [`UnpackError`]. Chunks stored so far remain in the sink.
    pub fn unpack<R: Read>(mut self, nar: R) -> Result<Unpacked, UnpackError<S::Error>> {
        let mut nar = Reader::new(nar);
        while let Some(event) = nar.next()? {
            match event {
                Event::Directory => self.builder.directory()?,
                Event::DirectoryEnd => self.builder.end_directory()?,
                Event::Entry { name } => self.builder.entry(&name)?,
                Event::Symlink { mut target } => {
                    let at = self.builder.targets_length();
                    Masker::whole(&mut target, at, &mut self.table, &mut self.target_masks);
                    self.builder.link(&target)?;
                }
                Event::Regular {
                    executable, size, ..
                } => self.file(executable, size, &mut nar)?,
            }
        }
        nar.expect_end()?;
        self.finish()
    }

    fn file<R: Read>(
        &mut self,
        executable: bool,
        size: u64,
        nar: &mut Reader<R>,
    ) -> Result<(), UnpackError<S::Error>> {
        if size < PACK_BELOW {
            let place = Place::Run(self.run.length);
            self.builder.file(executable, size, place)?;
            let mut bytes = read_all(nar, size)?;
            let run = &mut self.run;
            Masker::whole(&mut bytes, run.length, &mut self.table, &mut run.masks);
            return run.push(&bytes, self.sink).map_err(UnpackError::Sink);
        }
        let place = Place::Large(self.large.length);
        self.builder.file(executable, size, place)?;
        let mut head = [0; 4];
        let mut have = 0;
        while have < head.len() {
            have += nar.read_contents(&mut head[have..])?;
        }
        if head != *b"\x7fELF" {
            self.stream(&head, None, nar)?;
            return self.end_of_large();
        }
        let held = self.held.as_ref().map(|held| held.take(size));
        if size <= HOLD_LIMIT && held.as_ref().is_none_or(Option::is_some) {
            let mut bytes = head.to_vec();
            bytes.append(&mut read_all(nar, size - 4)?);
            let cuts = section_cuts(size, |at, out| {
                let at = usize::try_from(at).ok()?;
                out.copy_from_slice(bytes.get(at..at.checked_add(out.len())?)?);
                Some(())
            });
            self.held(bytes, &cuts)?;
        } else {
            self.spooled(&head, size, nar)?;
        }
        self.end_of_large()
    }

    fn end_of_large(&mut self) -> Result<(), UnpackError<S::Error>> {
        self.large.boundary(self.sink).map_err(UnpackError::Sink)
    }

    /// A larger file without cut points; its beginning may be in a temporary file.
    fn stream<R: Read>(
        &mut self,
        head: &[u8],
        spooled: Option<File>,
        nar: &mut Reader<R>,
    ) -> Result<(), UnpackError<S::Error>> {
        let mut masker = Masker::new(self.large.length);
        self.mask(&mut masker, head)?;
        let mut piece = std::mem::take(&mut self.piece);
        if let Some(mut file) = spooled {
            loop {
                let n = file.read(&mut piece).map_err(|e| self.spool_failed(e))?;
                if n == 0 {
                    break;
                }
                self.mask(&mut masker, &piece[..n])?;
            }
        }
        loop {
            let n = nar.read_contents(&mut piece)?;
            if n == 0 {
                break;
            }
            self.mask(&mut masker, &piece[..n])?;
        }
        self.piece = piece;
        let rest = self.large.push(masker.rest(), self.sink);
        rest.map_err(UnpackError::Sink)
    }

    /// A program too large to hold in memory, through a temporary file as long as there is room for it.
    fn spooled<R: Read>(
        &mut self,
        head: &[u8],
        size: u64,
        nar: &mut Reader<R>,
    ) -> Result<(), UnpackError<S::Error>> {
        if !self.has_room(size)? {
            return self.stream(head, None, nar);
        }
        let file = tempfile::tempfile_in(&self.spool);
        let mut file = file.map_err(|e| self.spool_failed(e))?;
        file.write_all(head).map_err(|e| self.spool_failed(e))?;
        let mut length = head.len() as u64;
        loop {
            let n = nar.read_contents(&mut self.piece)?;
            if n == 0 {
                break;
            }
            let written = file.write_all(&self.piece[..n]);
            written.map_err(|e| self.spool_failed(e))?;
            let before = length;
            length += n as u64;
            if length / ROOM_STEP != before / ROOM_STEP && !self.has_room(0)? {
                let rewound = file.seek(SeekFrom::Start(0));
                rewound.map_err(|e| self.spool_failed(e))?;
                return self.stream(&[], Some(file), nar);
            }
        }
        let cuts = section_cuts(size, |at, out| file.read_exact_at(out, at).ok());
        let rewound = file.seek(SeekFrom::Start(0));
        rewound.map_err(|e| self.spool_failed(e))?;
        self.cut(&mut file, &cuts)
    }

    /// Whether a temporary file may grow by so many bytes.
    fn has_room(&self, bytes: u64) -> Result<bool, UnpackError<S::Error>> {
        let disk = rustix::fs::statvfs(&self.spool).map_err(|e| self.spool_failed(e.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(free >= bytes.saturating_add(LEAVE_FREE))
    }

    fn spool_failed(&self, source: io::Error) -> UnpackError<S::Error> {
        let dir = self.spool.clone();
        UnpackError::Spool { dir, source }
    }

    /// A program in memory, cut at `cuts`.
    fn held(&mut self, mut bytes: Vec<u8>, cuts: &[u64]) -> Result<(), UnpackError<S::Error>> {
        let large = &mut self.large;
        Masker::whole(&mut bytes, large.length, &mut self.table, &mut large.masks);
        let mut at = 0;
        for cut in cuts.iter().map(|c| *c as usize).chain([bytes.len()]) {
            large
                .push(&bytes[at..cut], self.sink)
                .map_err(UnpackError::Sink)?;
            large.boundary(self.sink).map_err(UnpackError::Sink)?;
            at = cut;
        }
        Ok(())
    }

    /// A program in a file, cut at `cuts`.
    fn cut(&mut self, from: &mut File, cuts: &[u64]) -> Result<(), UnpackError<S::Error>> {
        let start = self.large.length;
        let mut masker = Masker::new(start);
        let mut masked = Vec::new();
        let mut piece = std::mem::take(&mut self.piece);
        let mut cuts = cuts.iter().map(|c| start + c).peekable();
        let mut done = false;
        while !done {
            let n = from.read(&mut piece).map_err(|e| self.spool_failed(e))?;
            done = n == 0;
            masked.extend_from_slice(masker.push(
                &piece[..n],
                &mut self.table,
                &mut self.large.masks,
            ));
            if done {
                masked.extend_from_slice(masker.rest());
            }
            let mut rest = masked.as_slice();
            while let Some(cut) = cuts.next_if(|c| *c <= self.large.length + rest.len() as u64) {
                let (before, after) = rest.split_at((cut - self.large.length) as usize);
                self.large
                    .push(before, self.sink)
                    .map_err(UnpackError::Sink)?;
                self.large.boundary(self.sink).map_err(UnpackError::Sink)?;
                rest = after;
            }
            self.large
                .push(rest, self.sink)
                .map_err(UnpackError::Sink)?;
            masked.clear();
        }
        self.piece = piece;
        Ok(())
    }

    fn mask(&mut self, masker: &mut Masker, bytes: &[u8]) -> Result<(), UnpackError<S::Error>> {
        let masked = masker.push(bytes, &mut self.table, &mut self.large.masks);
        self.large
            .push(masked, self.sink)
            .map_err(UnpackError::Sink)
    }

    fn finish(mut self) -> Result<Unpacked, UnpackError<S::Error>> {
        self.run.boundary(self.sink).map_err(UnpackError::Sink)?;
        let (references, renumber) = self.table.settle();
        let mut masks = self.run.masks;
        masks.extend(self.large.masks.iter().map(|o| Occurrence {
            offset: o.offset + self.run.length,
            ..*o
        }));
        for o in masks.iter_mut().chain(&mut self.target_masks) {
            o.reference = renumber[o.reference as usize];
        }
        let mut chunks = self.run.chunks;
        chunks.append(&mut self.large.chunks);
        let tree = self.builder.finish(
            &chunks,
            self.run.length,
            references.len() as u32,
            &masks,
            &self.target_masks,
        )?;
        Ok(Unpacked { tree, references })
    }
}

/// Reads the remaining `size` bytes of a file. Memory is not allocated before the bytes arrive.
fn read_all<R: Read>(nar: &mut Reader<R>, size: u64) -> Result<Vec<u8>, NarError> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        let from = bytes.len();
        bytes.resize((size as usize).min(from + PIECE), 0);
        let mut at = from;
        while at < bytes.len() {
            at += nar.read_contents(&mut bytes[at..])?;
        }
    }
    Ok(bytes)
}
