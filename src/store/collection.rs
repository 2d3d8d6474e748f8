//! Removing paths that nothing needs any more: path info, ordinal, tree and chunks.
//!
//! Invariants: a path goes before what it refers to, so that what is left is closed whenever it
//! ends; what was published since it began, pinned, or is a [temporary root](super::TemporaryRoots)
//! stays, with all that it refers to; ordinals are never given again. `eviction.rs` says why no
//! chunk goes that somebody needs.
//!
//! As in Nix, the derivation of a live path is live too, where it is there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::MutexGuard;

use super::chunks::Located;
use super::database::{DIGESTS, ORDINALS, PATHS, Snapshot, TREES, USES};
use super::eviction::{ChunkUses, Deletion, Removal, Running};
use super::kernel_caches::{InUse, Leaving, Watch};
use super::publish::Batch;
use super::temporary_roots::Listening;
use super::trees::TreeRecord;
use super::{Change, PathInfo, PathOrdinal, Store, StoreError, lock, shut};
use crate::chunk::ChunkDigest;
use crate::nix::store_path::{StorePath, StorePathHash};

/// What a collection removed, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Paths that are gone, each before those that it referred to.
    pub paths: Vec<StorePath>,
    /// What is gone and was registered only: its contents never were here.
    pub registered: Vec<StorePath>,
    /// Bytes of stored records that this freed.
    pub bytes: u64,
}

/// A path as it was when the collection began.
struct Found {
    path: StorePath,
    ordinal: PathOrdinal,
    tree: Option<ChunkDigest>,
    /// What is live with it: its references, and its derivation.
    needs: Vec<StorePathHash>,
    /// Of these, the references.
    references: usize,
    /// Bytes of its record.
    length: u64,
}

impl Found {
    fn references(&self) -> &[StorePathHash] {
        &self.needs[..self.references]
    }
}

/// What is live if a path is: its references, and after them its derivation.
fn needs(info: &PathInfo) -> Vec<StorePathHash> {
    let r = &info.registration;
    let deriver = r.deriver.iter().filter(|d| d.is_derivation());
    let needs = r.references.iter().chain(deriver);
    needs.map(StorePath::hash).collect()
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
            let found = Found {
                ordinal: info.ordinal,
                tree,
                needs: needs(&info),
                references: info.registration.references.len(),
                length: record.len() as u64,
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
                open.extend(&found.needs);
            }
        }
    }

    fn leaving(&self, hashes: &[StorePathHash]) -> Vec<Leaving> {
        let found = hashes.iter().filter_map(|hash| {
            let ordinal = self.paths.get(hash)?.ordinal;
            Some(Leaving {
                hash: *hash,
                ordinal,
            })
        });
        found.collect()
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
            for reference in found.references().iter().filter(|r| *r != hash) {
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
            let references = self.paths.get(&hash).map(Found::references);
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

impl Collected {
    fn add(&mut self, found: &Found) {
        let list = match found.tree {
            Some(_) => &mut self.paths,
            None => &mut self.registered,
        };
        list.push(found.path.clone());
    }
}

/// A collection that has begun. What is published, pinned or becomes a generation from now on it
/// leaves alone; so roots are looked for after it has begun.
pub struct Collection<'s> {
    store: &'s Store,
    _listening: Listening,
    _one: MutexGuard<'s, ()>,
}

impl std::fmt::Debug for Collection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collection({:?})", self.store)
    }
}

impl Collection<'_> {
    /// Removes the registered paths that are neither in `live` nor needed by what is, until
    /// `limit` bytes of stored records are freed, if there is a limit. Chunks that no path has go
    /// first. What is in use (`kernel_caches.rs`; `in_use` is asked where the kernel had something) stays,
    /// with all that it needs. Each path that was here is told to `removed` when it is gone, which must
    /// not wait, and says whether to go on.
    ///
    /// The space comes back with [`Store::reclaim_after_collection`].
    ///
    /// # Errors
    /// The database failed or a record is damaged; what was removed until then is.
    pub fn remove(
        self,
        live: &HashSet<StorePathHash>,
        limit: Option<u64>,
        in_use: InUse<'_>,
        removed: &mut dyn FnMut(&StorePath) -> bool,
    ) -> Result<Collected, StoreError> {
        let store = self.store;
        let mut removing = Removing {
            live,
            limit: limit.unwrap_or(u64::MAX),
            in_use,
            removed,
            // Before the lock: fetches wait for that, and lookups for fetches.
            watch: Watch::begin(store),
            collected: Collected::default(),
        };
        let outcome = {
            let _removing = lock(&store.removing);
            let running = store.begin_removal()?;
            removing.run(store, &running)
        };
        let collected = removing.collected;
        // Who is told may wait for somebody who waits for a removal.
        drop(self);
        let gone = [&*collected.paths, &*collected.registered].concat();
        if !gone.is_empty() {
            store.tell(&Change::Removed(&gone));
        }
        outcome.map(|()| collected)
    }
}

/// What a removal of paths has been asked for, and has done.
struct Removing<'r> {
    live: &'r HashSet<StorePathHash>,
    limit: u64,
    in_use: InUse<'r>,
    removed: &'r mut dyn FnMut(&StorePath) -> bool,
    watch: Watch,
    collected: Collected,
}

impl Removing<'_> {
    fn run(&mut self, store: &Store, running: &Running<'_>) -> Result<(), StoreError> {
        let snapshot = &running.snapshot;
        let mut graph = Graph::read(store, snapshot)?;
        let all_read = store.count_uses(snapshot, |_| false)?;
        self.collected.bytes += store.remove_litter(all_read)?;
        let mut reached = HashSet::new();
        graph.reach(self.live.iter().copied(), &mut reached);
        let dead = graph.dead(&reached);
        let used = self.watch.used(store, &graph.leaving(&dead), self.in_use)?;
        graph.reach(used, &mut reached);
        for hash in dead {
            if self.collected.bytes >= self.limit {
                return Ok(());
            }
            let mut publishing = lock(&store.publishing);
            let Some(removal) = publishing.as_mut() else {
                return Ok(());
            };
            // Held until the path is gone, so that who looks for it later does not find it.
            let mut relied = lock(&store.relied);
            for root in relied.take_news() {
                // One that came since is not in the graph.
                if let Some(info) = store.path_info(root)? {
                    graph.reach(needs(&info), &mut reached);
                }
                graph.reach([root], &mut reached);
            }
            if reached.contains(&hash) {
                continue;
            }
            let ordinal = graph.paths.get(&hash).map(|found| found.ordinal);
            let remove = || store.remove_path(removal, &mut graph, hash);
            let Some(freed) = self
                .watch
                .unless_looked_up(store, ordinal.into_iter(), remove)
            else {
                graph.reach([hash], &mut reached);
                continue;
            };
            drop((relied, publishing));
            if let (Some(freed), Some(found)) = (freed?, graph.paths.get(&hash)) {
                self.collected.bytes += freed;
                self.collected.add(found);
                if found.tree.is_some() && !(self.removed)(&found.path) {
                    return Ok(());
                }
            }
        }
        self.collected.bytes += store.remove_orphans(snapshot, &graph)?;
        Ok(())
    }
}

impl Store {
    /// Begins a collection; waits for one that runs.
    pub fn begin_collection(&self) -> Collection<'_> {
        let one = lock(&self.collecting);
        Collection {
            store: self,
            _listening: self.listen_for_roots(),
            _one: one,
        }
    }

    /// What a collection would remove now, if nothing but `live` and what that needs is live.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn collectable(&self, live: &HashSet<StorePathHash>) -> Result<Collected, StoreError> {
        let snapshot = self.database.snapshot();
        let graph = Graph::read(self, &snapshot)?;
        let mut reached = HashSet::new();
        graph.reach(live.iter().copied(), &mut reached);
        let mut collected = Collected::default();
        for hash in graph.dead(&reached) {
            if let Some(found) = graph.paths.get(&hash) {
                collected.bytes += found.length;
                collected.add(found);
            }
        }
        let left = graph.paths.iter().filter(|(h, _)| reached.contains(*h));
        let left: HashSet<_> = left.filter_map(|(_, found)| found.tree).collect();
        let mut uses = ChunkUses::new(&self.database)?;
        snapshot.scan(TREES, &[], |key, record| {
            let tree = key.try_into().map(ChunkDigest);
            if tree.is_ok_and(|t| !left.contains(&t)) {
                collected.bytes += record.len() as u64;
            } else if let Some(record) = TreeRecord::parse(record) {
                record.numbers().for_each(|n| uses.add(n, false));
            }
            Ok(true)
        })?;
        snapshot.scan(DIGESTS, &[], |_, value| {
            let chunk = Located::decode(value);
            let gone = |c: &Located| !uses.is_used(c.number) && !self.held.contains(c.number);
            let freed = chunk.filter(gone).map_or(0, |c| c.stored_length);
            collected.bytes += u64::from(freed);
            Ok(true)
        })?;
        Ok(collected)
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
        deletion.writes.delete(PATHS, hash.as_bytes());
        deletion.writes.delete(ORDINALS, key);
        deletion.writes.delete(USES, key);
        self.keep_ordinal(&mut deletion.writes, &info);
        Batch::set_changed(&mut deletion.writes);
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
        deletion.writes.delete(TREES, digest.0);
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
