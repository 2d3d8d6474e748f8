//! Removing paths that nothing needs any more: path info, ordinal, tree and chunks.
//!
//! Invariants: a path goes before what it refers to, so that what is left is closed whenever it ends;
//! what was published since it began, pinned, or is a [temporary root](crate::store::TemporaryRoots)
//! stays, with all that it refers to; ordinals are never given again. `eviction.rs` says why no chunk
//! goes that is needed.
//!
//! What a path needs whose path info cannot be read is not known. One that nothing reaches goes as any other,
//! before all that it may refer to; as long as one is reached, nothing is removed, and it is named.
//!
//! As in Nix, the derivation of a live path is live too, where it is there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::MutexGuard;

use super::Upkeep;
use super::unreferenced::KnownTrees;
use crate::chunk::ChunkDigest;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::changes::Change;
use crate::store::contents::{ChunkUses, Located, TreeRecord};
use crate::store::error::StoreError;
use crate::store::paths::{
    InUse, Leaving, Listed, Origin, PathInfo, PathOrdinal, Paths, Removal, RunningRemoval,
    UnreadablePath, Watch,
};
use crate::store::records::{Family, Snapshot};
use crate::store::temporary_roots::Listening;
use crate::sync::lock;

/// What a collection removed, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Paths that are gone, each before those that it referred to.
    pub paths: Vec<StorePath>,
    /// What is gone and was registered only: its contents never were here.
    pub registered: Vec<StorePath>,
    /// Bytes of stored records that this freed.
    pub bytes: u64,
    /// Paths that are kept, or may be, whose path infos cannot be read; by their hashes where they have no
    /// names. What they refer to is not known, so that nothing else was removed.
    pub unreadable: Vec<String>,
}

/// A path as it was when the collection began.
struct Found {
    path: StorePath,
    /// Not known of some paths that cannot be read; nor does the kernel find anything of these.
    ordinal: Option<PathOrdinal>,
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
#[derive(Default)]
struct Graph {
    paths: HashMap<StorePathHash, Found>,
    /// For each tree, how many paths have it.
    sharing: HashMap<ChunkDigest, usize>,
    /// Trees of paths that were added here.
    added: HashSet<ChunkDigest>,
    /// Paths that cannot be read: what they need is not known.
    unreadable: HashMap<StorePathHash, UnreadablePath>,
    /// Ordinals of such paths of which not even the names are known.
    unnamed: Vec<PathOrdinal>,
}

impl Graph {
    fn read(
        paths: &Paths,
        snapshot: &Snapshot<'_>,
        live: &HashSet<StorePathHash>,
    ) -> Result<Self, StoreError> {
        let mut graph = Self::default();
        let (listed, roots) = (Listed::Then(snapshot), &mut live.iter().copied());
        let unreadable = paths.scan_infos(&listed, roots, &mut |info, length| {
            let tree = info.tree();
            if let Some(tree) = tree {
                *graph.sharing.entry(tree).or_default() += 1;
            }
            if info.origin == Origin::Added {
                graph.added.extend(tree);
            }
            let found = Found {
                ordinal: Some(info.ordinal),
                tree,
                needs: needs(&info),
                references: info.registration.references.len(),
                length,
                path: info.registration.path,
            };
            graph.paths.insert(found.path.hash(), found);
            Ok(())
        })?;
        for lost in unreadable.paths {
            // Only a root has no name.
            if let Some(path) = lost.path.clone() {
                let found = Found {
                    path,
                    ordinal: lost.ordinal,
                    tree: None,
                    needs: Vec::new(),
                    references: 0,
                    length: 0,
                };
                graph.paths.insert(lost.hash, found);
            }
            graph.unreadable.insert(lost.hash, lost);
        }
        graph.unnamed = unreadable.unnamed;
        Ok(graph)
    }

    /// Paths that cannot be read and are reached, or may be: what they need may be anything.
    fn unknown(&self, reached: &HashSet<StorePathHash>) -> Vec<String> {
        let lost = self.unreadable.values();
        let lost = lost.filter(|lost| reached.contains(&lost.hash));
        let named = lost.map(|lost| match &lost.path {
            Some(path) => path.to_string(),
            None => lost.hash.to_string(),
        });
        let unnamed = self.unnamed.iter();
        let unnamed = unnamed.map(|ordinal| format!("path number {}", ordinal.0));
        let mut all: Vec<_> = named.chain(unnamed).collect();
        all.sort();
        all
    }

    /// Whether everything may be needed, since it is not known what a path needs that is reached.
    fn is_unknown(&self, reached: &HashSet<StorePathHash>) -> bool {
        let mut lost = self.unreadable.keys();
        !self.unnamed.is_empty() || lost.any(|hash| reached.contains(hash))
    }

    fn known_trees(&self) -> KnownTrees {
        let trees = self.sharing.keys();
        let trees = trees.map(|tree| (*tree, self.added.contains(tree)));
        KnownTrees {
            trees: trees.collect(),
            and_others: !self.unreadable.is_empty() || !self.unnamed.is_empty(),
        }
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
            let ordinal = self.paths.get(hash)?.ordinal?;
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
        if !self.unreadable.is_empty() {
            // These may refer to anything that does not refer to them.
            let mut first: HashSet<_> = self.unreadable.keys().copied().collect();
            for hash in order.iter().rev() {
                let found = self.paths.get(hash);
                let mut references = found.into_iter().flat_map(Found::references);
                if references.any(|r| first.contains(r)) {
                    first.insert(*hash);
                }
            }
            order.sort_by_key(|hash| !first.contains(hash));
        }
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
    upkeep: &'s Upkeep,
    _listening: Listening,
    _one: MutexGuard<'s, ()>,
}

impl std::fmt::Debug for Collection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collection({:?})", self.upkeep)
    }
}

impl Collection<'_> {
    /// Removes the registered paths that are neither in `live` nor needed by what is, until `limit`
    /// bytes of stored records are freed, if there is a limit. Chunks that no path has go first. What is
    /// in use (`paths/kernel_caches.rs`; `in_use` is asked where the kernel had something) stays, with
    /// all that it needs. Each path that was here is told to `removed` when it is gone, which must not
    /// wait, and says whether to go on.
    ///
    /// Each path goes whole or not at all. What is gone stays so after a kill; a power loss may bring
    /// paths back, whole, with all that they refer to. The space comes back with
    /// [`Upkeep::reclaim_after_collection`].
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
        let upkeep = self.upkeep;
        self.run(Removing {
            live,
            only: None,
            limit: limit.unwrap_or(u64::MAX),
            in_use,
            removed,
            // Before the lock: fetches wait for that, and lookups for fetches.
            watch: upkeep.paths.watch(),
            collected: Collected::default(),
        })
    }

    /// Removes these paths, with their contents, whatever refers to them; but for what is in use, or was
    /// published or became a root since it began. What is gone stays so after a power loss.
    ///
    /// # Errors
    /// The database failed; what was removed until then is.
    pub fn forget(
        self,
        paths: &[StorePathHash],
        in_use: InUse<'_>,
    ) -> Result<Collected, StoreError> {
        let upkeep = self.upkeep;
        self.run(Removing {
            live: &HashSet::new(),
            only: Some(paths),
            limit: u64::MAX,
            in_use,
            removed: &mut |_| true,
            watch: upkeep.paths.watch(),
            collected: Collected::default(),
        })
    }

    fn run(self, mut removing: Removing<'_>) -> Result<Collected, StoreError> {
        let upkeep = self.upkeep;
        let _room = upkeep.records.give_back();
        let outcome = {
            let mut candidates = lock(&upkeep.removing);
            *candidates = None;
            let running = upkeep.paths.begin_removal()?;
            removing.run(upkeep, &running)
        };
        let collected = removing.collected;
        // The observer may wait for a thread that waits for a removal.
        drop(self);
        let gone = [&*collected.paths, &*collected.registered].concat();
        if !gone.is_empty() {
            upkeep.observers.tell(&Change::Removed(&gone));
        }
        outcome.map(|()| collected)
    }
}

/// What a removal of paths has been asked for, and has done.
struct Removing<'r> {
    live: &'r HashSet<StorePathHash>,
    /// All that is to be removed, whatever refers to it; else what is not live.
    only: Option<&'r [StorePathHash]>,
    limit: u64,
    in_use: InUse<'r>,
    removed: &'r mut dyn FnMut(&StorePath) -> bool,
    watch: Watch<'r>,
    collected: Collected,
}

impl Removing<'_> {
    fn run(&mut self, upkeep: &Upkeep, running: &RunningRemoval<'_>) -> Result<(), StoreError> {
        let snapshot = &running.snapshot;
        let mut graph = Graph::read(&upkeep.paths, snapshot, self.live)?;
        let known = || Ok(graph.known_trees());
        let all_read = upkeep.count_uses(running, known, |_, _| {})?;
        let mut reached = HashSet::new();
        let dead = match self.only {
            Some(only) => {
                reached.extend(graph.paths.keys().filter(|hash| !only.contains(hash)));
                only.to_vec()
            }
            None => {
                self.collected.bytes += upkeep.remove_unreferenced(running, all_read)?;
                graph.reach(self.live.iter().copied(), &mut reached);
                graph.dead(&reached)
            }
        };
        let used = self.watch.used(&graph.leaving(&dead), self.in_use)?;
        graph.reach(used, &mut reached);
        self.remove(upkeep, running, (&mut graph, &mut reached), dead)?;
        // A tree that no path has may be that of one that cannot be read.
        if self.only.is_none() && graph.unreadable.is_empty() && graph.unnamed.is_empty() {
            self.collected.bytes += upkeep.remove_orphans(running, &graph)?;
        }
        Ok(())
    }

    /// Removes what is dead in this order.
    fn remove(
        &mut self,
        upkeep: &Upkeep,
        running: &RunningRemoval<'_>,
        (graph, reached): (&mut Graph, &mut HashSet<StorePathHash>),
        dead: Vec<StorePathHash>,
    ) -> Result<(), StoreError> {
        for hash in dead {
            if self.collected.bytes >= self.limit {
                return Ok(());
            }
            let mut publishing = running.lock();
            let Some(removal) = publishing.as_mut() else {
                return Ok(());
            };
            // Held until the path is gone, so that a command that looks for it later does not find it.
            let mut temporary = upkeep.temporary_roots.lock();
            for root in temporary.take_news() {
                // One that came since is not in the graph.
                if let Some(info) = upkeep.paths.readable_info(root)? {
                    graph.reach(needs(&info), reached);
                }
                graph.reach([root], reached);
            }
            if self.only.is_none() && graph.is_unknown(reached) {
                break;
            }
            if reached.contains(&hash) {
                continue;
            }
            let ordinal = graph.paths.get(&hash).and_then(|found| found.ordinal);
            let durable = self.only.is_some();
            let remove = || upkeep.remove_path(removal, graph, hash, durable);
            let Some(freed) = self.watch.unless_looked_up(ordinal.into_iter(), remove) else {
                graph.reach([hash], reached);
                continue;
            };
            drop((temporary, publishing));
            if let (Some(freed), Some(found)) = (freed?, graph.paths.get(&hash)) {
                graph.unreadable.remove(&hash);
                self.collected.bytes += freed;
                self.collected.add(found);
                if found.tree.is_some() && !(self.removed)(&found.path) {
                    return Ok(());
                }
            }
        }
        self.collected.unreadable = graph.unknown(reached);
        Ok(())
    }
}

impl Upkeep {
    /// Begins a collection; waits for one that runs.
    pub fn begin_collection(&self) -> Collection<'_> {
        let one = lock(&self.collecting);
        Collection {
            upkeep: self,
            _listening: self.temporary_roots.listen(),
            _one: one,
        }
    }

    /// What a collection would remove now, if nothing but `live` and what that needs is live: paths, and
    /// bytes of stored records.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn collectable(&self, live: &HashSet<StorePathHash>) -> Result<Collected, StoreError> {
        let snapshot = self.records.snapshot();
        let graph = Graph::read(&self.paths, &snapshot, live)?;
        let mut reached = HashSet::new();
        graph.reach(live.iter().copied(), &mut reached);
        let mut collected = Collected {
            unreadable: graph.unknown(&reached),
            ..Collected::default()
        };
        if !collected.unreadable.is_empty() {
            return Ok(collected);
        }
        for hash in graph.dead(&reached) {
            if let Some(found) = graph.paths.get(&hash) {
                collected.bytes += found.length;
                collected.add(found);
            }
        }
        let left = graph.paths.iter().filter(|(h, _)| reached.contains(*h));
        let left: HashSet<_> = left.filter_map(|(_, found)| found.tree).collect();
        let mut uses = ChunkUses::new(&self.records)?;
        snapshot.scan_readable(Family::Trees, &[], |key, record| {
            let tree = key.try_into().map(ChunkDigest);
            if tree.is_ok_and(|t| !left.contains(&t)) {
                collected.bytes += record.len() as u64;
            } else if let Some(record) = TreeRecord::parse(record) {
                record.numbers().for_each(|n| uses.add(n));
            }
            Ok(true)
        })?;
        snapshot.scan_readable(Family::Digests, &[], |_, value| {
            let chunk = Located::decode(value);
            let gone =
                |c: &Located| !uses.is_used(c.number) && !self.contents.held().contains(c.number);
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
        durable: bool,
    ) -> Result<Option<u64>, StoreError> {
        let Some(found) = graph.paths.get(&hash) else {
            return Ok(None);
        };
        let sharing = &mut graph.sharing;
        // Another one that cannot be read may have the tree as well; a collection removes both.
        let mut lost = graph.unreadable.keys();
        let may_share = lost.any(|other| *other != hash) || !graph.unnamed.is_empty();
        let path = (hash, found.ordinal, found.tree);
        self.paths.remove(path, |deletion| {
            if durable {
                deletion.set_durable();
            }
            let Some(tree) = found.tree else {
                return Ok(());
            };
            let sharing = sharing.entry(tree).or_default();
            *sharing = sharing.saturating_sub(1);
            match *sharing == 0 && !may_share && !removal.trees.contains(&tree) {
                true => deletion.tree(&mut removal.uses, tree),
                // Another path has it, or it was published since.
                false => Ok(()),
            }
        })
    }

    /// Removes the trees that no path had when the collection began.
    fn remove_orphans(
        &self,
        running: &RunningRemoval<'_>,
        graph: &Graph,
    ) -> Result<u64, StoreError> {
        let mut orphans = Vec::new();
        let trees = Family::Trees;
        running.snapshot.scan_readable(trees, &[], |key, _| {
            let tree = key.try_into().map(ChunkDigest).ok();
            orphans.extend(tree.filter(|t| !graph.sharing.contains_key(t)));
            Ok(true)
        })?;
        let mut freed = 0;
        for tree in orphans {
            if let Some(removal) = running.lock().as_mut()
                && !removal.trees.contains(&tree)
            {
                let mut deletion = self.contents.begin_deletion();
                deletion.tree(&mut removal.uses, tree)?;
                freed += deletion.commit()?;
            }
        }
        Ok(freed)
    }
}
