//! Paths: publishing, finding, listing, reading.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::chunks::ChunkFault;
use super::database::{Database, META, ORDINALS, PATHS, TREES};
use super::path_info::{Contents, RootKind};
use super::{PathInfo, PathOrdinal, Registration, Store, StoreError, lock};
use crate::chunk::{ChunkDigest, HASH_LEN};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::tree::{ChunkEntry, DumpError, NodeIndex, NodeKind, Tree, dump_nar};

const NEXT_ORDINAL: &[u8] = b"next-ordinal";
const CHANGED: &[u8] = b"changed";
/// Codec of a tree record: zstd.
const TREE_ZSTD: u8 = 1;
const TREE_HEADER: usize = 9;
/// Trees are small and read whole: worth a higher level than chunks.
const TREE_LEVEL: i32 = 9;
/// Longest encoded tree that is read: [`crate::tree::MAX_NODES`] nodes with their text.
const TREE_LIMIT: usize = 3 << 30;

/// A path whose chunks are kept, ready to be published.
#[derive(Debug)]
pub struct Publication {
    /// What to register.
    pub registration: Registration,
    /// Its tree.
    pub tree: Tree,
}

/// A tree with the numbers of its chunks.
#[derive(Debug)]
pub(super) struct StoredTree {
    tree: Tree,
    numbers: Vec<u64>,
}

impl StoredTree {
    pub(super) fn weight(&self) -> usize {
        self.tree.weight() + self.numbers.len() * 8
    }
}

/// What is a path's own: all but its tree, which other paths may share.
#[derive(Debug)]
pub(super) struct PathRecord {
    info: PathInfo,
    tree: ChunkDigest,
    table: Vec<[u8; HASH_LEN]>,
}

impl PathRecord {
    /// Memory held, in bytes.
    pub(super) fn weight(&self) -> usize {
        let text = self.info.registration.references.len() * 64;
        self.table.len() * HASH_LEN + text + 512
    }
}

/// A path ready to be read.
#[derive(Clone, Debug)]
pub struct LoadedPath {
    record: Arc<PathRecord>,
    stored: Arc<StoredTree>,
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

    /// The numbers of the chunks, in the order of the stream.
    pub(super) fn numbers(&self) -> &[u64] {
        &self.stored.numbers
    }

    /// The target of link `node`.
    pub fn target(&self, node: NodeIndex) -> Option<Vec<u8>> {
        self.tree().target(node, &self.record.table)
    }
}

/// Paths that are about to be written together.
struct Batch {
    writes: WriteBatch,
    now: Duration,
    next: u32,
    seen: HashSet<StorePathHash>,
    changes: Vec<PathOrdinal>,
}

impl Batch {
    fn new(next: u32) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            writes: WriteBatch::default(),
            now: now.unwrap_or(Duration::ZERO),
            next,
            seen: HashSet::new(),
            changes: Vec::new(),
        }
    }

    fn number(&mut self) -> Result<PathOrdinal, StoreError> {
        if self.next > PathOrdinal::MAX {
            return Err(StoreError::TooManyPaths(PathOrdinal::MAX));
        }
        self.next += 1;
        Ok(PathOrdinal(self.next - 1))
    }

    fn finish(&mut self, store: &Store) {
        let meta = store.database.family(META);
        self.writes
            .put_cf(meta, NEXT_ORDINAL, self.next.to_le_bytes());
    }
}

pub(super) fn next_ordinal(database: &Database) -> Result<u32, StoreError> {
    let Some(value) = database.get(META, NEXT_ORDINAL)? else {
        return Ok(1);
    };
    let value: [u8; 4] = value.as_ref().try_into().map_err(|_| StoreError::Damaged {
        what: "next-ordinal".into(),
    })?;
    Ok(u32::from_le_bytes(value))
}

impl Store {
    /// Bytes of chunks that wait for the flush that a publication makes.
    pub fn unflushed(&self) -> u64 {
        lock(&self.writing).unflushed
    }

    /// Makes all chunks durable that were kept so far.
    ///
    /// # Errors
    /// The database failed.
    pub fn flush(&self) -> Result<(), StoreError> {
        let _flushing = lock(&self.flushing);
        // Whatever is counted is written: both happen under the lock. What is written while the
        // flush runs stays counted.
        let unflushed = self.unflushed();
        if unflushed > 0 {
            self.database.flush()?;
            lock(&self.writing).unflushed -= unflushed;
        }
        Ok(())
    }

    /// Publishes paths, in one batch: first all chunks are made durable, then the trees, path
    /// infos and ordinals are written and synced. A path that is there already is left as it is.
    /// After it returns, the paths can be seen, listings included.
    ///
    /// # Errors
    /// The database failed, or there is no number left; nothing of the batch is published then.
    pub fn publish(&self, publications: &[Publication]) -> Result<(), StoreError> {
        let mut next = lock(&self.next_ordinal);
        self.flush()?;
        let mut batch = Batch::new(*next);
        for p in publications {
            let digest = p.tree.digest();
            let root = root_kind(&p.tree);
            let contents = Contents::Local(digest);
            if self.add(&mut batch, &p.registration, contents, root)? {
                self.put_tree(&mut batch.writes, &p.tree, digest)?;
            }
        }
        if batch.changes.is_empty() {
            return Ok(());
        }
        let mut changed = batch.now.as_secs().to_le_bytes().to_vec();
        changed.extend_from_slice(&batch.now.subsec_nanos().to_le_bytes());
        let meta = self.database.family(META);
        batch.writes.put_cf(meta, CHANGED, changed);
        batch.finish(self);
        self.database.write_synced(batch.writes)?;
        *next = batch.next;
        drop(next);
        for ordinal in batch.changes {
            self.path_cache.remove(&ordinal);
        }
        if let Some(observer) = self.observer.get() {
            observer();
        }
        Ok(())
    }

    /// Registers paths whose contents are not here: what their narinfo says, and the kind of
    /// their roots as far as it is known. What is known already is left as it is.
    ///
    /// # Errors
    /// The database failed, or there is no number left.
    pub fn register(
        &self,
        registrations: &[(Registration, Option<RootKind>)],
    ) -> Result<(), StoreError> {
        let mut next = lock(&self.next_ordinal);
        let mut batch = Batch::new(*next);
        for (registration, kind) in registrations {
            self.add(&mut batch, registration, Contents::Absent(*kind), *kind)?;
        }
        if batch.changes.is_empty() {
            return Ok(());
        }
        batch.finish(self);
        // Not synced: a crash of the machine loses what can be asked for again, and the kernel
        // that knows the ordinals with it.
        self.database.write(batch.writes)?;
        *next = batch.next;
        Ok(())
    }

    /// Adds a path to a batch, unless what is there says as much; then `false`. A path whose
    /// contents arrive keeps its ordinal, unless the kernel was told another kind of root.
    fn add(
        &self,
        batch: &mut Batch,
        registration: &Registration,
        contents: Contents,
        root: Option<RootKind>,
    ) -> Result<bool, StoreError> {
        let hash = registration.path.hash();
        if !batch.seen.insert(hash) {
            return Ok(false);
        }
        let there = self.path_info(hash)?;
        let kept = match (&there, contents) {
            (Some(there), Contents::Local(_)) if there.tree().is_none() => {
                let told = there.contents == Contents::Absent(root)
                    || there.contents == Contents::Absent(None);
                if !told {
                    // Who asks for the old number learns that it is stale, and looks again.
                    let ordinals = self.database.family(ORDINALS);
                    batch
                        .writes
                        .delete_cf(ordinals, there.ordinal.0.to_be_bytes());
                }
                told.then_some(there.ordinal)
            }
            (Some(there), Contents::Absent(Some(_)))
                if there.contents == Contents::Absent(None) =>
            {
                Some(there.ordinal)
            }
            (Some(_), _) => return Ok(false),
            (None, _) => None,
        };
        let ordinal = match kept {
            Some(ordinal) => ordinal,
            None => batch.number()?,
        };
        let info = PathInfo {
            registration: registration.clone(),
            ordinal,
            registered: batch.now.as_secs(),
            contents,
        };
        let paths = self.database.family(PATHS);
        batch.writes.put_cf(paths, hash.as_bytes(), info.encode());
        let local = info.tree().is_some();
        let mut named = vec![u8::from(local)];
        named.extend_from_slice(hash.as_bytes());
        named.extend_from_slice(registration.path.name().as_bytes());
        let ordinals = self.database.family(ORDINALS);
        batch
            .writes
            .put_cf(ordinals, ordinal.0.to_be_bytes(), named);
        batch.changes.push(ordinal);
        Ok(true)
    }

    fn put_tree(
        &self,
        batch: &mut WriteBatch,
        tree: &Tree,
        digest: ChunkDigest,
    ) -> Result<(), StoreError> {
        // A record that is there but cannot be read is written anew.
        if self.read_tree(digest).is_ok() {
            return Ok(());
        }
        let chunks = tree.chunks();
        let mut record = vec![TREE_ZSTD];
        record.extend_from_slice(&(tree.bytes().len() as u32).to_le_bytes());
        record.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
        for chunk in chunks {
            let located = self
                .locate(&chunk.digest)?
                .ok_or_else(|| StoreError::Damaged {
                    what: format!("chunk {} was not kept", chunk.digest),
                })?;
            record.extend_from_slice(&located.number.to_le_bytes());
        }
        let packed =
            zstd::bulk::compress(tree.bytes(), TREE_LEVEL).map_err(StoreError::Compress)?;
        record.extend_from_slice(&packed);
        batch.put_cf(self.database.family(TREES), digest.0, record);
        Ok(())
    }

    /// What is registered under a hash.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn path_info(&self, hash: StorePathHash) -> Result<Option<PathInfo>, StoreError> {
        match self.database.get(PATHS, hash.as_bytes())? {
            Some(record) => PathInfo::decode(hash, &record).map(Some),
            None => Ok(None),
        }
    }

    /// The path with an ordinal.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn path_of(&self, ordinal: PathOrdinal) -> Result<Option<StorePath>, StoreError> {
        match self.database.get(ORDINALS, &ordinal.0.to_be_bytes())? {
            Some(record) => named_path(ordinal, &record).map(|(_, path)| Some(path)),
            None => Ok(None),
        }
    }

    /// At most `limit` paths whose contents are here, from `ordinal` on, in the order of their
    /// ordinals.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn list(
        &self,
        ordinal: PathOrdinal,
        limit: usize,
    ) -> Result<Vec<(PathOrdinal, StorePath)>, StoreError> {
        let mut out = Vec::new();
        let from = ordinal.0.to_be_bytes();
        self.database.scan(ORDINALS, &from, |key, value| {
            if out.len() == limit {
                return Ok(false);
            }
            let ordinal = key.try_into().map(u32::from_be_bytes);
            let ordinal = PathOrdinal(ordinal.map_err(|_| StoreError::Damaged {
                what: "the key of an ordinal".into(),
            })?);
            let (local, path) = named_path(ordinal, value)?;
            if local {
                out.push((ordinal, path));
            }
            Ok(true)
        })?;
        Ok(out)
    }

    /// All paths whose contents are here, in the order of their ordinals.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn all_paths(&self) -> Result<Vec<StorePath>, StoreError> {
        let listed = self.list(PathOrdinal(0), usize::MAX)?;
        Ok(listed.into_iter().map(|(_, path)| path).collect())
    }

    /// When the set of paths last changed: the mtime of the store directory.
    ///
    /// # Errors
    /// The database failed.
    pub fn changed(&self) -> Result<SystemTime, StoreError> {
        let value = self.database.get(META, CHANGED)?;
        let time = value.and_then(|v| {
            let (seconds, rest) = v.split_first_chunk()?;
            let nanos = u32::from_le_bytes(rest.try_into().ok()?);
            Some(Duration::new(u64::from_le_bytes(*seconds), nanos))
        });
        Ok(UNIX_EPOCH + time.unwrap_or(Duration::from_secs(1)))
    }

    /// A path with its tree, ready to be read; `None` if there is no such path or its contents
    /// are not here.
    ///
    /// # Errors
    /// The database failed, or the record or the tree is damaged.
    pub fn load(&self, ordinal: PathOrdinal) -> Result<Option<LoadedPath>, StoreError> {
        if let Some(record) = self.path_cache.get(&ordinal) {
            return self.with_tree(record).map(Some);
        }
        let Some(path) = self.path_of(ordinal)? else {
            return Ok(None);
        };
        let Some(info) = self.path_info(path.hash())? else {
            return Ok(None);
        };
        let loaded = self.load_info(info)?;
        if let Some(loaded) = &loaded {
            self.path_cache.insert(ordinal, loaded.record.clone());
        }
        Ok(loaded)
    }

    /// The same for a path info at hand.
    ///
    /// # Errors
    /// The database failed, or the tree is damaged.
    pub fn load_info(&self, info: PathInfo) -> Result<Option<LoadedPath>, StoreError> {
        let Some(tree) = info.tree() else {
            return Ok(None);
        };
        let table = info.table();
        let record = PathRecord { info, tree, table };
        self.with_tree(Arc::new(record)).map(Some)
    }

    fn with_tree(&self, record: Arc<PathRecord>) -> Result<LoadedPath, StoreError> {
        let stored = self
            .tree_cache
            .get_or_insert_with(&record.tree, || self.read_tree(record.tree).map(Arc::new))?;
        if stored.tree.references() as usize != record.table.len() {
            return Err(StoreError::Damaged {
                what: format!("the references of {}", record.info.registration.path),
            });
        }
        Ok(LoadedPath { record, stored })
    }

    fn read_tree(&self, digest: ChunkDigest) -> Result<StoredTree, StoreError> {
        let damaged = || StoreError::Damaged {
            what: format!("the record of tree {digest}"),
        };
        let record = self.database.get(TREES, &digest.0)?.ok_or_else(damaged)?;
        let (header, rest) = record
            .split_first_chunk::<TREE_HEADER>()
            .ok_or_else(damaged)?;
        let [codec, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let chunks = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
        if codec != TREE_ZSTD || length > TREE_LIMIT {
            return Err(damaged());
        }
        let (numbers, packed) = rest.split_at_checked(chunks * 8).ok_or_else(damaged)?;
        let bytes = zstd::bulk::decompress(packed, length).map_err(|_| damaged())?;
        if ChunkDigest::of(&bytes) != digest {
            return Err(damaged());
        }
        let tree = Tree::parse(bytes).map_err(|source| StoreError::Tree { digest, source })?;
        if tree.chunks().len() != chunks {
            return Err(damaged());
        }
        let numbers = numbers.as_chunks().0.iter().map(|n| u64::from_le_bytes(*n));
        Ok(StoredTree {
            numbers: numbers.collect(),
            tree,
        })
    }

    /// The masked bytes of a chunk of a path: from memory if they are there, or, if `fresh`, from
    /// the database in any case.
    fn chunk_of(
        &self,
        path: &LoadedPath,
        index: usize,
        entry: &ChunkEntry,
        fresh: bool,
    ) -> Result<Bytes, StoreError> {
        let number = path.numbers()[index];
        let read = if fresh {
            self.read_chunk(number, &entry.digest)
        } else {
            self.chunk(number, &entry.digest)
        };
        let fault = match read {
            // The digest fixes the length, so that a tree cannot be read beyond a chunk.
            Ok(bytes) if bytes.len() == entry.length as usize => return Ok(bytes),
            Ok(_) => ChunkFault::Damaged(None),
            Err(fault) => fault,
        };
        let (what, source) = match fault {
            ChunkFault::Database(e) => return Err(e),
            ChunkFault::Missing => ("missing", None),
            ChunkFault::Damaged(source) => ("damaged", source),
        };
        self.mark_damaged(entry.digest);
        let error = StoreError::Chunk {
            path: path.record.info.registration.path.clone(),
            digest: entry.digest,
            what,
            source,
        };
        tracing::error!(path = %path.record.info.registration.path, chunk = %entry.digest, "{error}");
        Err(error)
    }

    /// Reads every chunk of a path, and has the next ingest replace those that cannot be read.
    /// Returns how many these are.
    pub fn find_damage(&self, path: &LoadedPath) -> usize {
        let chunks = path.tree().chunks().enumerate();
        chunks
            .filter(|(index, entry)| self.chunk_of(path, *index, entry, true).is_err())
            .count()
    }

    /// Appends the bytes `offset..offset + length` of the stream of `path` to `out`.
    ///
    /// # Errors
    /// A chunk is missing or damaged; `out` is of no use then.
    pub fn read_stream(
        &self,
        path: &LoadedPath,
        offset: u64,
        length: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        path.tree().read(
            offset,
            length,
            &path.record.table,
            |index, entry| self.chunk_of(path, index, entry, false),
            |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            },
        )
    }

    /// Writes the NAR of what lies at `node` of `path`. Reads from disk whatever is in memory, so
    /// that it verifies what is stored, and does not push out what a mount reads.
    ///
    /// # Errors
    /// A chunk that cannot be read, or a writer that fails.
    pub fn dump<W: Write>(
        &self,
        path: &LoadedPath,
        node: NodeIndex,
        out: W,
    ) -> Result<(), DumpError<StoreError>> {
        // Small files that follow each other lie in the same chunk.
        let mut last: Option<(usize, Bytes)> = None;
        let fetch = |index: usize, entry: &ChunkEntry| {
            if let Some((_, bytes)) = last.as_ref().filter(|(at, _)| *at == index) {
                return Ok(bytes.clone());
            }
            let bytes = self.chunk_of(path, index, entry, true)?;
            last = Some((index, bytes.clone()));
            Ok(bytes)
        };
        dump_nar(path.tree(), node, &path.record.table, fetch, out)
    }

    /// Writes the record of `tree` again, if it cannot be read; its chunks are kept.
    ///
    /// # Errors
    /// The database failed.
    pub fn restore_tree(&self, tree: &Tree) -> Result<(), StoreError> {
        let _publishing = lock(&self.next_ordinal);
        self.flush()?;
        let mut batch = WriteBatch::default();
        self.put_tree(&mut batch, tree, tree.digest())?;
        self.database.write_synced(batch)
    }
}

fn root_kind(tree: &Tree) -> Option<RootKind> {
    Some(match tree.node(0)?.kind {
        NodeKind::Directory { .. } => RootKind::Directory,
        NodeKind::File { .. } => RootKind::File,
        NodeKind::Link { .. } => RootKind::Link,
    })
}

/// Whether the contents of the path with an ordinal are here, and its name.
fn named_path(ordinal: PathOrdinal, record: &[u8]) -> Result<(bool, StorePath), StoreError> {
    let parse = || {
        let (local, named) = record.split_first()?;
        let (hash, name) = named.split_first_chunk()?;
        let name = std::str::from_utf8(name).ok()?;
        let path = StorePath::new(StorePathHash::from_bytes(*hash), name).ok()?;
        Some((*local != 0, path))
    };
    parse().ok_or_else(|| StoreError::Damaged {
        what: format!("the record of ordinal {}", ordinal.0),
    })
}
