//! Publishing and registering paths.
//!
//! Invariant: a path is published in one batch with its tree, after the chunks that the tree
//! names are durable.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::database::{Database, META, ORDINALS, PATHS};
use super::ordinals::Ordinals;
use super::path_info::{Contents, Origin, RootKind};
use super::paths;
use super::write_batch::WriteBatch;
use super::{Change, Hold, PathInfo, PathOrdinal, Registration, Store, StoreError, enter, lock};
use crate::chunk::ChunkDigest;
use crate::nix::store_path::StorePathHash;
use crate::tree::{NodeKind, Tree};

pub(super) const CHANGED: &[u8] = b"changed";

/// A path whose chunks are kept, ready to be published.
#[derive(Debug)]
pub struct Publication {
    /// What to register.
    pub registration: Registration,
    /// Where its contents come from.
    pub origin: Origin,
    /// Its tree.
    pub tree: Tree,
    /// Keeps its chunks until it is published; from [`super::ChunkWriter::finish`].
    pub hold: Hold,
}

/// Paths that are about to be written together.
pub(super) struct Batch {
    pub(super) writes: WriteBatch,
    /// What the records of trees and path infos grow by, in bytes.
    pub(super) grown: i64,
    /// Trees that were looked at.
    pub(super) trees: HashSet<ChunkDigest>,
    /// Trees that become complete, with their chunk numbers.
    pub(super) completed: Vec<(ChunkDigest, Vec<u64>)>,
    now: Duration,
    ordinals: Ordinals,
    seen: HashSet<StorePathHash>,
    /// Paths that are new, or whose contents come.
    changes: Vec<PathOrdinal>,
    /// Paths of which more is registered, and nothing changes that the kernel sees.
    amended: Vec<PathOrdinal>,
    /// Paths that are used by being published.
    used: Vec<PathOrdinal>,
}

impl Batch {
    fn new(ordinals: Ordinals) -> Self {
        Self {
            writes: WriteBatch::default(),
            grown: 0,
            trees: HashSet::new(),
            completed: Vec::new(),
            now: since_1970(),
            ordinals,
            seen: HashSet::new(),
            changes: Vec::new(),
            amended: Vec::new(),
            used: Vec::new(),
        }
    }

    fn give_ordinal(&mut self, store: &Store, r: &Registration) -> Result<PathOrdinal, StoreError> {
        let path = (r.path.hash(), &r.nar_hash);
        store.give_ordinal(&mut self.writes, &mut self.ordinals, path)
    }

    /// Says that the set of paths changes.
    pub(super) fn set_changed(writes: &mut WriteBatch) {
        let now = since_1970();
        let mut changed = now.as_secs().to_le_bytes().to_vec();
        changed.extend_from_slice(&now.subsec_nanos().to_le_bytes());
        writes.put(META, CHANGED, changed);
    }
}

fn since_1970() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO)
}

impl Store {
    /// Publishes paths, in one batch: first all chunks are made durable, then the trees, path
    /// infos and ordinals are written and synced. What becomes of a path that is there already
    /// is said in `said_again.rs`; where its contents were dropped, they are here again.
    /// After it returns, the paths can be seen, listings included.
    ///
    /// # Errors
    /// The database failed, or there is no number left; nothing of the batch is published then.
    pub fn publish(&self, publications: &[Publication]) -> Result<(), StoreError> {
        let mut publishing = lock(&self.publishing);
        self.flush()?;
        let mut next = lock(&self.next_ordinal);
        let mut batch = Batch::new(*next);
        let digests: Vec<_> = publications.iter().map(|p| p.tree.digest()).collect();
        for (p, digest) in publications.iter().zip(&digests) {
            if self.add_local(&mut batch, p, *digest)? {
                self.put_tree(&mut batch, &p.tree, *digest)?;
            }
        }
        // A collection learns of them before it removes one more path: it needs the lock above.
        self.note_roots(batch.seen.iter().copied());
        let is_new = !batch.changes.is_empty();
        if is_new {
            Batch::set_changed(&mut batch.writes);
            batch.ordinals.set_apart(&mut batch.writes);
        }
        if is_new || !batch.amended.is_empty() || !batch.completed.is_empty() {
            let _gate = enter(&self.gate);
            let writes = std::mem::take(&mut batch.writes);
            self.database.write_synced(writes, "a path was published")?;
            self.size.grow(batch.grown);
        }
        *next = batch.ordinals;
        drop(next);
        if let Some(removal) = publishing.as_mut() {
            removal.published(&batch.trees, &batch.completed);
        }
        drop(publishing);
        for (p, digest) in publications.iter().zip(&digests) {
            if batch.trees.contains(digest) {
                p.hold.set_published();
            }
        }
        for (digest, _) in batch.completed {
            self.tree_cache.remove(&digest);
        }
        for ordinal in batch.used {
            self.touch(ordinal);
        }
        for ordinal in batch.changes.into_iter().chain(batch.amended) {
            self.path_cache.remove(&ordinal);
        }
        if is_new {
            let views = self.view_table();
            let views: Vec<_> = views.views().map(|v| v.record.id).collect();
            self.tell(&Change::Paths { views: &views });
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
            self.add_absent(&mut batch, registration, *kind)?;
        }
        if batch.changes.is_empty() {
            return Ok(());
        }
        let is_first = batch.ordinals.set_apart(&mut batch.writes);
        let _gate = enter(&self.gate);
        // RateLimit synced: a crash of the machine loses what can be asked for again. Its numbers are
        // given to nothing else.
        let write = match is_first {
            true => Database::write_synced,
            false => Database::write,
        };
        write(&self.database, batch.writes, "a path was registered")?;
        self.size.grow(batch.grown);
        *next = batch.ordinals;
        Ok(())
    }

    fn add_absent(
        &self,
        batch: &mut Batch,
        registration: &Registration,
        root: Option<RootKind>,
    ) -> Result<(), StoreError> {
        let hash = registration.path.hash();
        if !batch.seen.insert(hash) {
            return Ok(());
        }
        let (there, now) = (self.path_info(hash)?, batch.now.as_secs());
        let info = match &there {
            None => PathInfo {
                registration: registration.clone(),
                ordinal: batch.give_ordinal(self, registration)?,
                registered: now,
                origin: Origin::Fetched,
                contents: Contents::Absent(root),
            },
            Some(there) => match there.registered_again(registration, root, now) {
                Some(info) => info,
                None => return Ok(()),
            },
        };
        self.put_info(batch, &info, root, there.as_ref());
        Ok(())
    }

    /// Adds a path whose contents are here, unless something else is there. It keeps its ordinal
    /// if it was registered, unless the kernel was told another kind of root. `true` if it has this
    /// tree then.
    fn add_local(
        &self,
        batch: &mut Batch,
        publication: &Publication,
        tree: ChunkDigest,
    ) -> Result<bool, StoreError> {
        let hash = publication.registration.path.hash();
        if !batch.seen.insert(hash) {
            return Ok(false);
        }
        let root = root_kind(&publication.tree);
        let mut info = PathInfo {
            registration: publication.registration.clone(),
            ordinal: PathOrdinal(0),
            registered: batch.now.as_secs(),
            origin: publication.origin,
            contents: Contents::Local(tree),
        };
        let Some(there) = self.path_info(hash)? else {
            info.ordinal = batch.give_ordinal(self, &info.registration)?;
            batch.used.push(info.ordinal);
            self.put_info(batch, &info, root, None);
            return Ok(true);
        };
        // What cannot be read is for `verify` to mend.
        let is_complete = self.has_contents(&there).unwrap_or(true);
        let Some(info) = there.published_again(&info, is_complete) else {
            return Ok(false);
        };
        batch.used.push(info.ordinal);
        if let Some(kept) = info.tree().filter(|_| info.contents == there.contents) {
            if info != there {
                self.put_record(batch, &info, Some(&there));
                batch.amended.push(info.ordinal);
            }
            if kept != tree {
                // As with one that is written: an eviction that runs leaves it alone.
                batch.trees.insert(kept);
            }
            return Ok(kept == tree);
        }
        self.put_contents(batch, info, root, &there)?;
        Ok(true)
    }

    /// A path that was registered, or whose contents were dropped, has a tree now.
    fn put_contents(
        &self,
        batch: &mut Batch,
        mut info: PathInfo,
        root: Option<RootKind>,
        there: &PathInfo,
    ) -> Result<(), StoreError> {
        if let Contents::Absent(told) = there.contents
            && told.is_some()
            && told != root
        {
            // Who asks for the old number learns that it is stale, and looks again.
            let stale = there.ordinal.0.to_be_bytes();
            batch.writes.delete(ORDINALS, stale);
            batch.used.retain(|used| *used != info.ordinal);
            info.ordinal = batch.ordinals.give()?;
            batch.used.push(info.ordinal);
        }
        self.put_info(batch, &info, root, Some(there));
        Ok(())
    }

    /// `root` is what the root of the path is, as far as it is known; `there` what was there.
    fn put_info(
        &self,
        batch: &mut Batch,
        info: &PathInfo,
        root: Option<RootKind>,
        there: Option<&PathInfo>,
    ) {
        self.put_record(batch, info, there);
        let hash = info.registration.path.hash();
        let mut named = vec![match (info.tree(), root) {
            (None, _) => paths::NOT_HERE,
            (Some(_), Some(RootKind::Directory)) => paths::DIRECTORY_HERE,
            (Some(_), _) => paths::HERE,
        }];
        named.extend_from_slice(hash.as_bytes());
        named.extend_from_slice(info.registration.path.name().as_bytes());
        let key = info.ordinal.0.to_be_bytes();
        batch.writes.put(ORDINALS, key, named);
        batch.changes.push(info.ordinal);
    }

    fn put_record(&self, batch: &mut Batch, info: &PathInfo, there: Option<&PathInfo>) {
        let hash = info.registration.path.hash();
        let record = info.encode();
        // Of a record of an older version the length is asked for, not told from the fields.
        let before = there.and_then(|_| self.database.get(PATHS, hash.as_bytes()).ok().flatten());
        batch.grown += record.len() as i64 - before.map_or(0, |b| b.len() as i64);
        batch.writes.put(PATHS, hash.as_bytes(), record);
    }

    /// Writes the record of `tree` again, if it cannot be read or its contents were dropped; its
    /// chunks are kept and held.
    ///
    /// # Errors
    /// The database failed.
    pub fn restore_tree(&self, tree: &Tree) -> Result<(), StoreError> {
        let mut publishing = lock(&self.publishing);
        self.flush()?;
        let mut batch = Batch::new(*lock(&self.next_ordinal));
        self.put_tree(&mut batch, tree, tree.digest())?;
        if batch.completed.is_empty() {
            return Ok(());
        }
        {
            let _gate = enter(&self.gate);
            let writes = std::mem::take(&mut batch.writes);
            self.database.write_synced(writes, "a tree was restored")?;
            self.size.grow(batch.grown);
        }
        if let Some(removal) = publishing.as_mut() {
            removal.published(&batch.trees, &batch.completed);
        }
        drop(publishing);
        self.tree_cache.remove(&tree.digest());
        Ok(())
    }
}

fn root_kind(tree: &Tree) -> Option<RootKind> {
    Some(match tree.node(0)?.kind {
        NodeKind::Directory { .. } => RootKind::Directory,
        NodeKind::File { .. } => RootKind::File,
        NodeKind::Link { .. } => RootKind::Link,
    })
}
