//! Removing paths that nothing needs any more: path info, ordinal, tree and chunks.
//!
//! Invariants: a path goes before what it refers to, so that what is left is closed whenever it
//! ends; what was published since it began stays, with all that it refers to; ordinals are never
//! given again. `eviction.rs` says why no chunk goes that somebody needs.

use std::collections::{HashMap, HashSet, VecDeque};

use super::database::{ORDINALS, PATHS, Snapshot, TREES, USES};
use super::eviction::{Deletion, Removal};
use super::publish::Batch;
use super::{Change, PathOrdinal, Store, StoreError, lock, shut};
use crate::chunk::ChunkDigest;
use crate::nix::store_path::{StorePath, StorePathHash};

/// What a collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Paths that are gone, each before those that it referred to.
    pub paths: Vec<StorePath>,
    /// Bytes of stored records that this freed.
    pub bytes: u64,
}

/// A path as it was when the collection began.
struct Found {
    path: StorePath,
    ordinal: PathOrdinal,
    tree: Option<ChunkDigest>,
    references: Vec<StorePathHash>,
}

/// All paths when the collection began.
struct Graph {
    paths: HashMap<StorePathHash, Found>,
    /// For each tree, how many paths have it.
    sharing: HashMap<ChunkDigest, usize>,
}

impl Graph {
    fn read(store: &Store, snapshot: &Snapshot<'_>) -> Result<Self, StoreError> {
        let mut graph = Self {
            paths: HashMap::new(),
            sharing: HashMap::new(),
        };
        snapshot.scan(PATHS, &[], |key, record| {
            let info = store.scanned_info(key, record)?;
            let tree = info.tree();
            if let Some(tree) = tree {
                *graph.sharing.entry(tree).or_default() += 1;
            }
            let references = info.registration.references.iter();
            let found = Found {
                ordinal: info.ordinal,
                tree,
                references: references.map(StorePath::hash).collect(),
                path: info.registration.path,
            };
            graph.paths.insert(found.path.hash(), found);
            Ok(true)
        })?;
        Ok(graph)
    }

    /// Adds to `reached` what can be reached from `roots`, themselves included.
    fn reach(
        &self,
        roots: impl IntoIterator<Item = StorePathHash>,
        reached: &mut HashSet<StorePathHash>,
    ) {
        let mut open: Vec<_> = roots.into_iter().collect();
        while let Some(hash) = open.pop() {
            if reached.insert(hash)
                && let Some(found) = self.paths.get(&hash)
            {
                open.extend(&found.references);
            }
        }
    }

    /// The paths that are not in `reached`, each before those that it refers to.
    fn dead(&self, reached: &HashSet<StorePathHash>) -> Vec<StorePathHash> {
        let dead = || {
            self.paths
                .iter()
                .filter(|(hash, _)| !reached.contains(hash))
        };
        let mut referrers: HashMap<_, usize> = dead().map(|(hash, _)| (*hash, 0)).collect();
        for (hash, found) in dead() {
            for reference in found.references.iter().filter(|r| *r != hash) {
                if let Some(count) = referrers.get_mut(reference) {
                    *count += 1;
                }
            }
        }
        let mut ready: VecDeque<_> = dead()
            .map(|(hash, _)| *hash)
            .filter(|hash| referrers.get(hash) == Some(&0))
            .collect();
        let mut order = Vec::new();
        while let Some(hash) = ready.pop_front() {
            referrers.remove(&hash);
            order.push(hash);
            let references = self.paths.get(&hash).map(|f| &f.references);
            for reference in references.into_iter().flatten().filter(|r| **r != hash) {
                if let Some(count) = referrers.get_mut(reference) {
                    *count -= 1;
                    if *count == 0 {
                        ready.push_back(*reference);
                    }
                }
            }
        }
        // What refers to each other in a circle has no order.
        order.extend(referrers.into_keys());
        order
    }
}

impl Store {
    /// Removes the registered paths that are neither in `live` nor referred to from there, until
    /// `limit` bytes of stored records are freed, if there is a limit. Chunks that no path has go
    /// first.
    ///
    /// The space comes back with [`Store::reclaim`].
    ///
    /// # Errors
    /// The database failed or a record is damaged; what was removed until then is.
    pub fn collect(
        &self,
        live: &HashSet<StorePathHash>,
        limit: Option<u64>,
    ) -> Result<Collected, StoreError> {
        let _one = lock(&self.removing);
        let mut collected = Collected::default();
        let outcome = self.collect_into(&mut collected, live, limit.unwrap_or(u64::MAX));
        if !collected.paths.is_empty() {
            self.tell(&Change::Paths);
        }
        outcome.map(|()| collected)
    }

    fn collect_into(
        &self,
        collected: &mut Collected,
        live: &HashSet<StorePathHash>,
        limit: u64,
    ) -> Result<(), StoreError> {
        let running = self.begin_removal()?;
        let mut graph = Graph::read(self, &running.snapshot)?;
        let all_read = self.count_uses(&running.snapshot, |_| false)?;
        collected.bytes += self.remove_litter(all_read)?;
        let mut reached = HashSet::new();
        graph.reach(live.iter().copied(), &mut reached);
        for hash in graph.dead(&reached) {
            if collected.bytes >= limit {
                return Ok(());
            }
            let mut publishing = lock(&self.publishing);
            let Some(removal) = publishing.as_mut() else {
                return Ok(());
            };
            for published in std::mem::take(&mut removal.paths) {
                let info = self.path_info(published)?;
                let references = info.into_iter().flat_map(|i| i.registration.references);
                let references: Vec<_> = references.map(|r| r.hash()).collect();
                graph.reach(references, &mut reached);
                reached.insert(published);
            }
            if reached.contains(&hash) {
                continue;
            }
            if let Some(freed) = self.remove_path(removal, &mut graph, hash)? {
                collected.bytes += freed;
                let path = graph.paths.get(&hash).map(|f| f.path.clone());
                collected.paths.extend(path);
            }
        }
        collected.bytes += self.remove_orphans(&running.snapshot, &graph)?;
        Ok(())
    }

    /// Removes a path, and its tree if no other path has it. `None` if it is another one now.
    fn remove_path(
        &self,
        removal: &mut Removal,
        graph: &mut Graph,
        hash: StorePathHash,
    ) -> Result<Option<u64>, StoreError> {
        let Some(found) = graph.paths.get(&hash) else {
            return Ok(None);
        };
        let next = lock(&self.next_ordinal);
        let there = self.path_info(hash)?;
        let Some(info) = there.filter(|i| i.ordinal == found.ordinal && i.tree() == found.tree)
        else {
            return Ok(None);
        };
        let mut deletion = Deletion::default();
        let record = self.database.get(PATHS, hash.as_bytes())?;
        deletion.freed += record.map_or(0, |r| r.len() as u64);
        let key = info.ordinal.0.to_be_bytes();
        let family = |name| self.database.family(name);
        deletion.writes.delete_cf(family(PATHS), hash.as_bytes());
        deletion.writes.delete_cf(family(ORDINALS), key);
        deletion.writes.delete_cf(family(USES), key);
        Batch::set_changed(&mut deletion.writes, self);
        let _shut = shut(&self.gate);
        if let Some(tree) = found.tree {
            let sharing = graph.sharing.entry(tree).or_default();
            *sharing = sharing.saturating_sub(1);
            if *sharing == 0 {
                self.remove_tree(&mut deletion, removal, tree)?;
            }
        }
        let freed = self.delete(deletion)?;
        drop(next);
        self.path_cache.remove(&info.ordinal);
        self.uses.clear(info.ordinal);
        if let Some(tree) = found.tree {
            self.tree_cache.remove(&tree);
        }
        Ok(Some(freed))
    }

    /// Adds a tree to a deletion, with the chunks that nobody else needs, unless it was published
    /// since. The gate is shut.
    fn remove_tree(
        &self,
        deletion: &mut Deletion,
        removal: &mut Removal,
        digest: ChunkDigest,
    ) -> Result<(), StoreError> {
        if removal.trees.contains(&digest) {
            return Ok(());
        }
        match self.read_tree(digest) {
            Ok(stored) => {
                for number in &stored.numbers {
                    removal.uses.remove(*number);
                }
                self.delete_chunks(deletion, &removal.uses, &stored)?;
            }
            Err(e) => {
                tracing::warn!("its chunks are looked for later: {e}");
                self.held.note_litter();
            }
        }
        let record = self.database.get(TREES, &digest.0)?;
        deletion.freed += record.map_or(0, |r| r.len() as u64);
        let trees = self.database.family(TREES);
        deletion.writes.delete_cf(trees, digest.0);
        Ok(())
    }

    /// Removes the trees that no path had when the collection began.
    fn remove_orphans(&self, snapshot: &Snapshot<'_>, graph: &Graph) -> Result<u64, StoreError> {
        let mut orphans = Vec::new();
        snapshot.scan(TREES, &[], |key, _| {
            let tree = key.try_into().map(ChunkDigest).ok();
            orphans.extend(tree.filter(|t| !graph.sharing.contains_key(t)));
            Ok(true)
        })?;
        let mut freed = 0;
        for tree in orphans {
            let mut publishing = lock(&self.publishing);
            if let Some(removal) = publishing.as_mut() {
                let _shut = shut(&self.gate);
                let mut deletion = Deletion::default();
                self.remove_tree(&mut deletion, removal, tree)?;
                freed += self.delete(deletion)?;
                self.tree_cache.remove(&tree);
            }
        }
        Ok(freed)
    }
}
