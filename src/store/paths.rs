//! Paths: finding and listing them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::publish::CHANGED;
use super::records::{Family, Reader};
use super::trees::StoredTree;
use super::{PathInfo, PathOrdinal, Store, StoreError};
use crate::chunk::{ChunkDigest, HASH_LEN};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::tree::{NodeIndex, Tree};

/// State of an ordinal: the tree of its path is not here.
pub(super) const NOT_HERE: u8 = 0;
/// The tree is here, and says what the root is.
pub(super) const HERE: u8 = 1;
/// The tree is here, and its root is a directory.
pub(super) const DIRECTORY_HERE: u8 = 2;

/// What is a path's own: all but its tree, which other paths may share.
#[derive(Debug)]
pub(super) struct PathRecord {
    pub(super) info: PathInfo,
    pub(super) tree: ChunkDigest,
    pub(super) table: Vec<[u8; HASH_LEN]>,
}

impl PathRecord {
    /// `None` if the path's contents were never here.
    fn new(info: PathInfo) -> Option<Arc<Self>> {
        let tree = info.tree()?;
        let table = info.table();
        Some(Arc::new(Self { info, tree, table }))
    }

    /// Memory held, in bytes.
    pub(super) fn weight(&self) -> usize {
        let text = self.info.registration.references.len() * 64;
        self.table.len() * HASH_LEN + text + 512
    }
}

/// A path ready to be read.
#[derive(Clone, Debug)]
pub struct LoadedPath {
    pub(super) record: Arc<PathRecord>,
    pub(super) stored: Arc<StoredTree>,
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

    /// Whether its chunks were here when it was loaded; if not, it can be looked at, but not read.
    pub fn is_complete(&self) -> bool {
        self.stored.is_complete()
    }

    /// The numbers of the chunks, in the order of the stream; none if they were dropped.
    pub(super) fn numbers(&self) -> &[u64] {
        &self.stored.numbers
    }

    /// The target of link `node`.
    pub fn target(&self, node: NodeIndex) -> Option<Vec<u8>> {
        self.tree().target(node, &self.record.table)
    }
}

impl Store {
    /// What is registered under a hash.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn path_info(&self, hash: StorePathHash) -> Result<Option<PathInfo>, StoreError> {
        match self.records.get(Family::Paths, hash.as_bytes())? {
            Some(record) => PathInfo::decode(hash, &record).map(Some),
            None => Ok(None),
        }
    }

    /// The path with an ordinal.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn path_of(&self, ordinal: PathOrdinal) -> Result<Option<StorePath>, StoreError> {
        match self
            .records
            .get(Family::Ordinals, &ordinal.0.to_be_bytes())?
        {
            Some(record) => named_path(ordinal, &record).map(|(_, path)| Some(path)),
            None => Ok(None),
        }
    }

    /// At most `limit` paths whose trees are here, from `ordinal` on, in the order of their
    /// ordinals; with `true` where it is noted that the root is a directory, else its tree says what
    /// it is.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn list(
        &self,
        ordinal: PathOrdinal,
        limit: usize,
    ) -> Result<Vec<(PathOrdinal, StorePath, bool)>, StoreError> {
        let mut out = Vec::new();
        let from = ordinal.0.to_be_bytes();
        self.records.scan(Family::Ordinals, &from, |key, value| {
            if out.len() == limit {
                return Ok(false);
            }
            let ordinal = key.try_into().map(u32::from_be_bytes);
            let ordinal = PathOrdinal(ordinal.map_err(|_| StoreError::Damaged {
                what: "the key of an ordinal".into(),
            })?);
            let (state, path) = named_path(ordinal, value)?;
            if state != NOT_HERE {
                out.push((ordinal, path, state == DIRECTORY_HERE));
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
        Ok(listed.into_iter().map(|(_, path, _)| path).collect())
    }

    /// How many paths there are whose trees are here.
    ///
    /// # Errors
    /// The database failed.
    pub fn count_paths(&self) -> Result<u64, StoreError> {
        let mut count = 0;
        self.records.scan(Family::Ordinals, &[], |_, value| {
            count += u64::from(value.first().is_some_and(|state| *state != NOT_HERE));
            Ok(true)
        })?;
        Ok(count)
    }

    /// When the set of paths last changed: the mtime of the store directory.
    ///
    /// # Errors
    /// The database failed.
    pub fn changed(&self) -> Result<SystemTime, StoreError> {
        let value = self.records.get(Family::Meta, CHANGED)?;
        let time = value.and_then(|v| {
            let mut fields = Reader::new(&v);
            let time = Duration::new(fields.u64()?, fields.u32()?);
            fields.is_at_end().then_some(time)
        });
        Ok(UNIX_EPOCH + time.unwrap_or(Duration::from_secs(1)))
    }

    /// A path with its tree, ready to be read; `None` if there is no such path or its contents
    /// are not here.
    ///
    /// # Errors
    /// The database failed, or the record or the tree is damaged.
    pub fn load(&self, ordinal: PathOrdinal) -> Result<Option<LoadedPath>, StoreError> {
        // As with trees: what is written while it is read here takes its place in the cache away.
        let record = self.path_cache.get_or_insert_with(&ordinal, || {
            let record = self.read_path(ordinal).transpose();
            record.unwrap_or(Err(None))
        });
        match record {
            Ok(record) => self.with_tree(record).map(Some),
            Err(None) => Ok(None),
            Err(Some(e)) => Err(e),
        }
    }

    fn read_path(
        &self,
        ordinal: PathOrdinal,
    ) -> Result<Option<Arc<PathRecord>>, Option<StoreError>> {
        let Some(path) = self.path_of(ordinal)? else {
            return Ok(None);
        };
        let info = self.path_info(path.hash())?;
        Ok(info.and_then(PathRecord::new))
    }

    /// The same for a path info at hand.
    ///
    /// # Errors
    /// The database failed, or the tree is damaged.
    pub fn load_info(&self, info: PathInfo) -> Result<Option<LoadedPath>, StoreError> {
        let record = PathRecord::new(info);
        record.map(|record| self.with_tree(record)).transpose()
    }
}

/// What is here of the path with an ordinal, and its name.
fn named_path(ordinal: PathOrdinal, record: &[u8]) -> Result<(u8, StorePath), StoreError> {
    let what = || format!("the record of ordinal {}", ordinal.0);
    Reader::whole(record, what, |fields| {
        let (state, hash) = (fields.byte()?, fields.hash()?);
        let name = std::str::from_utf8(fields.rest()).ok()?;
        Some((state, StorePath::new(hash, name).ok()?))
    })
}
