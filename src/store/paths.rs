//! Paths: publishing, finding, listing, reading.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::chunks::ChunkFault;
use super::database::{Database, META, ORDINALS, PATHS, TREES};
use super::{PathInfo, PathOrdinal, Registration, Store, StoreError, lock};
use crate::chunk::{ChunkDigest, HASH_LEN};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::tree::{ChunkEntry, DumpError, NodeIndex, Tree, dump_nar};

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

/// A path ready to be read.
#[derive(Debug)]
pub struct LoadedPath {
    info: PathInfo,
    table: Vec<[u8; HASH_LEN]>,
    stored: Arc<StoredTree>,
}

impl LoadedPath {
    /// What is registered.
    pub fn info(&self) -> &PathInfo {
        &self.info
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
        self.tree().target(node, &self.table)
    }

    /// Memory that is this path's own, not its (shared) tree's.
    pub(super) fn own_weight(&self) -> usize {
        let text = self.info.registration.references.len() * 64;
        self.table.len() * HASH_LEN + text + 512
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
        self.unflushed.load(Ordering::Relaxed)
    }

    /// Makes all chunks durable that were kept so far.
    ///
    /// # Errors
    /// The database failed.
    pub fn flush(&self) -> Result<(), StoreError> {
        // Under the lock a chunk is written and counted, or neither: what another ingest has found
        // in the database is counted here.
        let unflushed = {
            let _writing = lock(&self.next_chunk);
            self.unflushed.load(Ordering::Relaxed)
        };
        if unflushed > 0 {
            self.database.flush()?;
            self.unflushed.fetch_sub(unflushed, Ordering::Relaxed);
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
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let mut batch = WriteBatch::default();
        let mut ordinal = *next;
        let mut seen = std::collections::HashSet::new();
        for p in publications {
            let path = &p.registration.path;
            let there = self.database.get(PATHS, path.hash().as_bytes())?.is_some();
            if there || !seen.insert(path.hash()) {
                continue;
            }
            if ordinal > PathOrdinal::MAX {
                return Err(StoreError::TooManyPaths(PathOrdinal::MAX));
            }
            let info = PathInfo {
                registration: p.registration.clone(),
                ordinal: PathOrdinal(ordinal),
                registered: now.as_secs(),
                tree: p.tree.digest(),
            };
            self.put_tree(&mut batch, &p.tree, info.tree)?;
            let key = path.hash();
            batch.put_cf(self.database.family(PATHS), key.as_bytes(), info.encode());
            let mut named = key.as_bytes().to_vec();
            named.extend_from_slice(path.name().as_bytes());
            let ordinals = self.database.family(ORDINALS);
            batch.put_cf(ordinals, ordinal.to_be_bytes(), named);
            ordinal += 1;
        }
        if ordinal == *next {
            return Ok(());
        }
        let meta = self.database.family(META);
        batch.put_cf(meta, NEXT_ORDINAL, ordinal.to_le_bytes());
        let mut changed = now.as_secs().to_le_bytes().to_vec();
        changed.extend_from_slice(&now.subsec_nanos().to_le_bytes());
        batch.put_cf(meta, CHANGED, changed);
        self.database.write_synced(batch)?;
        *next = ordinal;
        drop(next);
        if let Some(observer) = self.observer.get() {
            observer();
        }
        Ok(())
    }

    fn put_tree(
        &self,
        batch: &mut WriteBatch,
        tree: &Tree,
        digest: ChunkDigest,
    ) -> Result<(), StoreError> {
        if self.database.get(TREES, &digest.0)?.is_some() {
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
            Some(record) => named_path(ordinal, &record).map(Some),
            None => Ok(None),
        }
    }

    /// At most `limit` paths from `ordinal` on, in the order of their ordinals.
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
            out.push((ordinal, named_path(ordinal, value)?));
            Ok(true)
        })?;
        Ok(out)
    }

    /// All paths, in the order of their ordinals.
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

    /// A path with its tree, ready to be read.
    ///
    /// # Errors
    /// The database failed, or the record or the tree is damaged.
    pub fn load(&self, ordinal: PathOrdinal) -> Result<Option<Arc<LoadedPath>>, StoreError> {
        if let Some(loaded) = self.path_cache.get(&ordinal) {
            return Ok(Some(loaded));
        }
        let Some(path) = self.path_of(ordinal)? else {
            return Ok(None);
        };
        let Some(info) = self.path_info(path.hash())? else {
            return Ok(None);
        };
        let loaded = self.load_info(info)?;
        self.path_cache.insert(ordinal, loaded.clone());
        Ok(Some(loaded))
    }

    /// The same for a path info at hand.
    ///
    /// # Errors
    /// The database failed, or the tree is damaged.
    pub fn load_info(&self, info: PathInfo) -> Result<Arc<LoadedPath>, StoreError> {
        let stored = self
            .tree_cache
            .get_or_insert_with(&info.tree, || self.read_tree(info.tree).map(Arc::new))?;
        if stored.tree.references() as usize != info.registration.references.len() {
            return Err(StoreError::Damaged {
                what: format!("the references of {}", info.registration.path),
            });
        }
        Ok(Arc::new(LoadedPath {
            table: info.table(),
            info,
            stored,
        }))
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

    /// The masked bytes of a chunk of a path.
    fn chunk_of(
        &self,
        path: &LoadedPath,
        index: usize,
        entry: &ChunkEntry,
    ) -> Result<Bytes, StoreError> {
        let number = path.numbers()[index];
        let fault = match self.chunk(number, &entry.digest) {
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
            path: path.info.registration.path.clone(),
            digest: entry.digest,
            what,
            source,
        };
        tracing::error!(path = %path.info.registration.path, chunk = %entry.digest, "{error}");
        Err(error)
    }

    /// Reads every chunk of a path, and has the next ingest replace those that cannot be read.
    /// Returns how many these are.
    pub fn find_damage(&self, path: &LoadedPath) -> usize {
        let chunks = path.tree().chunks().enumerate();
        chunks
            .filter(|(index, entry)| self.chunk_of(path, *index, entry).is_err())
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
            &path.table,
            |index, entry| self.chunk_of(path, index, entry),
            |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            },
        )
    }

    /// Writes the NAR of what lies at `node` of `path`.
    ///
    /// # Errors
    /// A chunk that cannot be read, or a writer that fails.
    pub fn dump<W: Write>(
        &self,
        path: &LoadedPath,
        node: NodeIndex,
        out: W,
    ) -> Result<(), DumpError<StoreError>> {
        dump_nar(
            path.tree(),
            node,
            &path.table,
            |index, entry| self.chunk_of(path, index, entry),
            out,
        )
    }
}

fn named_path(ordinal: PathOrdinal, record: &[u8]) -> Result<StorePath, StoreError> {
    record
        .split_first_chunk()
        .and_then(|(hash, name)| {
            let name = std::str::from_utf8(name).ok()?;
            StorePath::new(StorePathHash::from_bytes(*hash), name).ok()
        })
        .ok_or_else(|| StoreError::Damaged {
            what: format!("the record of ordinal {}", ordinal.0),
        })
}
