//! What a state holds and what dedup and compression gave.

use std::collections::{HashMap, HashSet};

use super::Upkeep;
use super::lengths::Lengths;
use crate::chunk::ChunkDigest;
use crate::store::error::StoreError;
use crate::store::paths::{LoadedPath, PathOrdinal};
use crate::tree::NodeKind;

/// Sums over a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Statistics {
    /// Registered paths whose trees are here.
    pub paths: u64,
    /// Of these, the ones whose contents were dropped.
    #[serde(default)]
    pub dropped_paths: u64,
    /// Different trees.
    pub trees: u64,
    /// Paths whose path infos or trees cannot be read, which are not counted.
    #[serde(default)]
    pub unreadable_paths: u64,
    /// Regular files of all paths.
    pub files: u64,
    /// Directories of all paths.
    pub directories: u64,
    /// Symbolic links of all paths.
    pub links: u64,
    /// Chunks that are kept.
    pub chunks: u64,
    /// Lengths of all NARs together, in bytes.
    pub nar_bytes: u64,
    /// Lengths of the different chunks, uncompressed, in bytes.
    pub unique_bytes: u64,
    /// Lengths of all records of chunks, in bytes.
    pub chunk_bytes: u64,
    /// Lengths of all records of trees, in bytes.
    pub tree_bytes: u64,
    /// Lengths of all records of path infos, in bytes.
    pub path_info_bytes: u64,
    /// The last three together: what the state stores, whatever the database has flushed or
    /// compacted.
    pub stored_bytes: u64,
}

/// Sums over a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PathStatistics {
    pub path: String,
    /// Length of its NAR, in bytes.
    pub nar_bytes: u64,
    /// Different chunks of it that are here.
    pub chunks: u64,
    /// Their lengths, uncompressed, in bytes.
    pub unique_bytes: u64,
    /// Their lengths as stored, in bytes.
    pub stored_bytes: u64,
    /// Of these, the length of chunks that no other tree uses, in bytes.
    pub own_bytes: u64,
    /// How many registered paths have the very same tree.
    pub sharing_tree: u64,
}

impl Upkeep {
    /// Counts the whole state. Reads every tree once.
    ///
    /// # Errors
    /// The database failed.
    pub fn statistics(&self) -> Result<Statistics, StoreError> {
        let lengths = Lengths::count(&self.records.snapshot())?;
        let mut s = Statistics {
            trees: lengths.trees,
            chunks: lengths.chunks,
            unique_bytes: lengths.unique_bytes,
            chunk_bytes: lengths.chunk_bytes,
            tree_bytes: lengths.tree_bytes,
            path_info_bytes: lengths.path_info_bytes,
            stored_bytes: lengths.total(),
            ..Statistics::default()
        };
        for (ordinal, ..) in self.paths.list(PathOrdinal(0), usize::MAX)? {
            let path = match self.paths.load(ordinal) {
                Ok(Some(path)) => path,
                Ok(None) => continue,
                Err(e) if e.is_damage() => {
                    s.unreadable_paths += 1;
                    continue;
                }
                Err(e) => return Err(e),
            };
            s.paths += 1;
            s.dropped_paths += u64::from(!path.is_complete());
            s.nar_bytes += path.info().registration.nar_size;
            for index in 0..path.tree().len() {
                match path.tree().node(index).map(|n| n.kind) {
                    Some(NodeKind::Directory { .. }) => s.directories += 1,
                    Some(NodeKind::File { .. }) => s.files += 1,
                    Some(NodeKind::Link { .. }) => s.links += 1,
                    None => {}
                }
            }
        }
        Ok(s)
    }

    /// Counts each of `paths`. Reads every tree of the state once.
    ///
    /// # Errors
    /// The database failed.
    pub fn path_statistics(&self, paths: &[LoadedPath]) -> Result<Vec<PathStatistics>, StoreError> {
        // For each chunk the tree that uses it, or `None` for several.
        let mut user: HashMap<u64, Option<ChunkDigest>> = HashMap::new();
        let mut sharing: HashMap<_, u64> = HashMap::new();
        for (ordinal, ..) in self.paths.list(PathOrdinal(0), usize::MAX)? {
            let path = match self.paths.load(ordinal) {
                Err(e) if e.is_damage() => continue,
                path => path?,
            };
            let Some(path) = path else {
                continue;
            };
            let tree = path.tree_digest();
            *sharing.entry(tree).or_default() += 1;
            for number in path.numbers() {
                user.entry(*number)
                    .and_modify(|u| *u = u.filter(|u| *u == tree))
                    .or_insert(Some(tree));
            }
        }
        let mut out = Vec::new();
        for path in paths {
            let mut seen = HashSet::new();
            let mut s = PathStatistics {
                path: path.info().registration.path.to_full(&self.store_dir),
                nar_bytes: path.info().registration.nar_size,
                sharing_tree: sharing.get(&path.tree_digest()).copied().unwrap_or(0),
                ..PathStatistics::default()
            };
            for (entry, number) in path.tree().chunks().zip(path.numbers()) {
                if !seen.insert(*number) {
                    continue;
                }
                let stored = self
                    .contents
                    .locate(&entry.digest)?
                    .map_or(0, |l| u64::from(l.stored_length));
                s.chunks += 1;
                s.unique_bytes += u64::from(entry.length);
                s.stored_bytes += stored;
                if user.get(number).is_some_and(Option::is_some) {
                    s.own_bytes += stored;
                }
            }
            out.push(s);
        }
        Ok(out)
    }
}
