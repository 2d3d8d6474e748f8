//! Publishing and registering paths.
//!
//! Invariant: a path is published in one batch with its tree, after the chunks that the tree
//! names are durable.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Paths;
use super::lost::UnreadablePath;
use super::ordinals::{self, Ordinals};
use super::path_info::{Contents, Origin, PathInfo, PathOrdinal, Registration, RootKind};
use super::removal::Removal;
use super::small;
use crate::chunk::ChunkDigest;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::changes::Change;
use crate::store::clock::since_1970;
use crate::store::contents::{Hold, Writes};
use crate::store::error::StoreError;
use crate::store::records::{Batch, Durability, Family, Reader, Writer};
use crate::sync::lock;
use crate::tree::{NodeKind, Tree};

const CHANGED: &[u8] = b"changed";

/// A path whose chunks are kept, ready to be published.
#[derive(Debug)]
pub struct Publication {
    /// What to register.
    pub registration: Registration,
    /// Where its contents come from.
    pub origin: Origin,
    /// Its tree.
    pub tree: Tree,
    /// Keeps its chunks until it is published; from
    /// [`ChunkWriter::finish`](crate::store::ChunkWriter::finish).
    pub hold: Hold,
}

/// Paths that are about to be written together.
pub(super) struct Publishing {
    pub(super) writes: Writes,
    now: Duration,
    ordinals: Ordinals,
    seen: HashSet<StorePathHash>,
    /// Paths that are new, or whose contents come.
    changes: Vec<PathOrdinal>,
    /// Paths of which more is registered, and nothing changes that the kernel sees.
    pub(super) amended: Vec<PathOrdinal>,
    /// Paths that are used by being published.
    used: Vec<PathOrdinal>,
    /// Whether one of them gets other references.
    pub(super) corrects: bool,
    /// How many more paths have their trees here.
    local: i64,
}

impl Publishing {
    pub(super) fn new(ordinals: Ordinals) -> Self {
        Self {
            writes: Writes::default(),
            now: since_1970(),
            ordinals,
            seen: HashSet::new(),
            changes: Vec::new(),
            amended: Vec::new(),
            used: Vec::new(),
            corrects: false,
            local: 0,
        }
    }

    /// The ordinal of a path of which nothing is registered, or whose path info cannot be read: it stays
    /// what it was then.
    fn keep_ordinal(
        &mut self,
        paths: &Paths,
        r: &Registration,
        lost: Option<&UnreadablePath>,
    ) -> Result<PathOrdinal, StoreError> {
        if let Some(lost) = lost
            && let Some(ordinal) = lost.ordinal
        {
            self.local -= i64::from(lost.was_here);
            return Ok(ordinal);
        }
        let path = (r.path.hash(), &r.nar_hash);
        self.ordinals
            .give_to(&paths.records, &mut self.writes.batch, path)
    }
}

/// Says that the set of paths changes.
pub(super) fn set_changed(batch: &mut Batch) {
    let now = since_1970();
    let mut changed = Writer::default();
    changed.u64(now.as_secs());
    changed.u32(now.subsec_nanos());
    batch.put(Family::Meta, CHANGED, changed.finish());
}

impl Paths {
    /// When the set of paths last changed: the mtime of the store directory.
    ///
    /// # Errors
    /// The database failed.
    pub fn changed(&self) -> Result<SystemTime, StoreError> {
        let value = match self.records.get(Family::Meta, CHANGED) {
            // As if nothing had changed yet.
            Err(e) if e.is_damage() => None,
            value => value?,
        };
        let time = value.and_then(|v| {
            let mut fields = Reader::new(&v);
            let time = Duration::new(fields.u64()?, fields.u32()?);
            fields.is_at_end().then_some(time)
        });
        Ok(UNIX_EPOCH + time.unwrap_or(Duration::from_secs(1)))
    }

    /// Publishes paths, in one batch: first their chunks are made durable, or are written to the log that
    /// the batch syncs, then the trees, path infos and ordinals are written. What becomes of a path that is
    /// there already is said in `merge.rs`; where its contents were dropped, they are here again.
    /// When it returns, all of it survives a power loss, and the paths can be seen, listings included. A
    /// crash before leaves each path as it was.
    ///
    /// # Errors
    /// The database failed, the disk is full, or there is no number left; nothing is published then.
    pub fn publish(&self, publications: &[Publication]) -> Result<(), StoreError> {
        let mut publishing = lock(&self.publishing);
        // A collection learns of them before it removes one more path: it needs the lock above.
        let hashes = publications.iter().map(|p| p.registration.path.hash());
        self.temporary_roots.note(hashes);
        let held = publications.iter().flat_map(|p| p.hold.numbers());
        let held: Vec<_> = held.copied().collect();
        self.contents.secure(held.iter().copied())?;
        let mut next = lock(&self.next_ordinal);
        let mut batch = Publishing::new(*next);
        let digests: Vec<_> = publications.iter().map(|p| p.tree.digest()).collect();
        for (p, digest) in publications.iter().zip(&digests) {
            if self.add_local(&mut batch, p, *digest)? {
                self.contents
                    .put_tree(&mut batch.writes, &p.tree, *digest)?;
                if p.origin == Origin::Added {
                    let said = (&p.registration, &p.tree);
                    small::keep(&self.records, &self.contents, &mut batch.writes.batch, said)?;
                }
            }
        }
        let is_new = !batch.changes.is_empty();
        if is_new {
            set_changed(&mut batch.writes.batch);
            batch.ordinals.set_apart(&mut batch.writes.batch);
        }
        if publications.iter().any(|p| p.origin == Origin::Added) {
            batch.writes.batch.set_irreplaceable();
        }
        // After damage a chunk may have come again under a number that is held by another.
        let named = batch.writes.completed.iter();
        let named = named.flat_map(|(_, numbers)| numbers.iter().copied());
        self.contents.secure(named)?;
        if is_new || !batch.amended.is_empty() || !batch.writes.completed.is_empty() {
            let durability = Durability::Power;
            self.contents
                .write(&mut batch.writes, durability, "a path was published")?;
        } else if !held.is_empty() {
            // Chunks that were damaged may have been replaced.
            self.contents.sync()?;
        }
        *next = batch.ordinals;
        self.local.grow(batch.local);
        drop(next);
        self.corrected.fetch_or(batch.corrects, Ordering::SeqCst);
        Removal::tell(&mut publishing, &batch.writes);
        drop(publishing);
        for (p, digest) in publications.iter().zip(&digests) {
            if batch.writes.trees.contains(digest) {
                p.hold.set_published();
            }
        }
        for ordinal in batch.used {
            self.touch(ordinal);
        }
        for ordinal in batch.changes.into_iter().chain(batch.amended) {
            self.cache.remove(&ordinal);
        }
        if is_new {
            self.observers.tell(&Change::Paths);
        }
        Ok(())
    }

    /// Registers what narinfos say of paths, and the kind of their roots as far as it is known. What is
    /// known already is left as it is, but for what `merge.rs` says of references that are vouched for
    /// now. When it returns, it survives a kill; a power loss may take it, and its numbers are given to
    /// nothing else then.
    ///
    /// # Errors
    /// The database failed, the disk is full, or there is no number left; nothing is registered then.
    pub fn register(
        &self,
        registrations: &[(Registration, Option<RootKind>)],
    ) -> Result<(), StoreError> {
        let mut next = lock(&self.next_ordinal);
        let mut batch = Publishing::new(*next);
        for (registration, kind) in registrations {
            self.add_absent(&mut batch, registration, *kind)?;
        }
        if batch.changes.is_empty() && batch.amended.is_empty() {
            return Ok(());
        }
        // A power loss takes only what can be looked up again. Its numbers are given to nothing else.
        let durability = match batch.ordinals.set_apart(&mut batch.writes.batch) {
            true => Durability::Power,
            false => Durability::Process,
        };
        self.contents
            .write(&mut batch.writes, durability, "a path was registered")?;
        *next = batch.ordinals;
        self.local.grow(batch.local);
        drop(next);
        self.corrected.fetch_or(batch.corrects, Ordering::SeqCst);
        for ordinal in batch.amended {
            self.cache.remove(&ordinal);
        }
        Ok(())
    }

    /// What is registered under a hash. What cannot be read is taken from memory, if it is there.
    fn there(
        &self,
        hash: StorePathHash,
    ) -> Result<(Option<PathInfo>, Option<UnreadablePath>), StoreError> {
        match self.read_info(hash) {
            Ok(found) => Ok((found.map(|(info, _)| info), None)),
            Err(e) if e.is_damage() => {
                let lost = self.unreadable_path(hash)?;
                Ok((self.remembered(&lost), Some(lost)))
            }
            Err(e) => Err(e),
        }
    }

    fn add_absent(
        &self,
        batch: &mut Publishing,
        registration: &Registration,
        root: Option<RootKind>,
    ) -> Result<(), StoreError> {
        let hash = registration.path.hash();
        if !batch.seen.insert(hash) {
            return Ok(());
        }
        let ((there, lost), now) = (self.there(hash)?, batch.now.as_secs());
        batch.corrects |= lost.is_some();
        let info = match &there {
            None => PathInfo {
                registration: registration.clone(),
                ordinal: batch.keep_ordinal(self, registration, lost.as_ref())?,
                registered: now,
                origin: Origin::Fetched,
                contents: Contents::Absent(root),
            },
            Some(there) => match there.registered_again(registration, root, now) {
                Some(info) => info,
                None if lost.is_some() => there.clone(),
                None => return Ok(()),
            },
        };
        if info.tree().is_some() {
            self.put_record(batch, &info, there.as_ref());
            batch.amended.push(info.ordinal);
            return Ok(());
        }
        self.put_info(batch, &info, root, there.as_ref());
        Ok(())
    }

    /// Adds a path whose contents are here, unless something else is there. It keeps its ordinal
    /// if it was registered, unless the kernel was told another kind of root. `true` if it has this
    /// tree then.
    fn add_local(
        &self,
        batch: &mut Publishing,
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
        let (there, lost) = self.there(hash)?;
        batch.corrects |= lost.is_some();
        let Some(there) = there else {
            info.ordinal = batch.keep_ordinal(self, &info.registration, lost.as_ref())?;
            batch.used.push(info.ordinal);
            self.put_info(batch, &info, root, None);
            return Ok(true);
        };
        // What cannot be read is for `verify` to mend.
        let is_complete = self.has_contents(&there).unwrap_or(true);
        let Some(info) = there.published_again(&info, is_complete) else {
            if lost.is_some() {
                self.put_record(batch, &there, None);
            }
            return Ok(false);
        };
        batch.used.push(info.ordinal);
        if let Some(kept) = info.tree().filter(|_| info.contents == there.contents) {
            if info != there || lost.is_some() {
                self.put_record(batch, &info, Some(&there));
                batch.amended.push(info.ordinal);
            }
            if kept != tree {
                // As with one that is written: an eviction that runs leaves it alone.
                batch.writes.trees.insert(kept);
            }
            return Ok(kept == tree);
        }
        self.put_contents(batch, info, root, &there)?;
        Ok(true)
    }

    /// A path that was registered, or whose contents were dropped, has a tree now.
    fn put_contents(
        &self,
        batch: &mut Publishing,
        mut info: PathInfo,
        root: Option<RootKind>,
        there: &PathInfo,
    ) -> Result<(), StoreError> {
        if let Contents::Absent(told) = there.contents
            && told.is_some()
            && told != root
        {
            // The kernel learns that the old number is stale, and looks again.
            let ordinals = Family::Ordinals;
            let stale = there.ordinal.0.to_be_bytes();
            batch.writes.batch.delete(ordinals, stale);
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
        batch: &mut Publishing,
        info: &PathInfo,
        root: Option<RootKind>,
        there: Option<&PathInfo>,
    ) {
        self.put_record(batch, info, there);
        let was_local = there.is_some_and(|there| there.tree().is_some());
        batch.local += i64::from(info.tree().is_some()) - i64::from(was_local);
        let state = match (info.tree(), root) {
            (None, _) => ordinals::NOT_HERE,
            (Some(_), Some(RootKind::Directory)) => ordinals::DIRECTORY_HERE,
            (Some(_), _) => ordinals::HERE,
        };
        let named = ordinals::name_path(state, &info.registration.path);
        let key = info.ordinal.0.to_be_bytes();
        batch.writes.batch.put(Family::Ordinals, key, named);
        batch.changes.push(info.ordinal);
    }

    pub(super) fn put_record(
        &self,
        batch: &mut Publishing,
        info: &PathInfo,
        there: Option<&PathInfo>,
    ) {
        let hash = info.registration.path.hash();
        lock(&self.unreadable).forget(hash);
        let record = info.encode();
        // Of a record of an older version the length is asked for, not told from the fields.
        let before = there.and_then(|_| {
            self.records
                .get(Family::Paths, hash.as_bytes())
                .ok()
                .flatten()
        });
        let references = |info: &PathInfo| -> BTreeSet<_> {
            let each = info.registration.references.iter();
            each.map(StorePath::hash).collect()
        };
        batch.corrects |= there.is_some_and(|there| references(there) != references(info));
        if let Some(feature) = info.needed_feature() {
            batch.writes.batch.need(feature);
        }
        batch.writes.grown += record.len() as i64 - before.map_or(0, |b| b.len() as i64);
        let paths = Family::Paths;
        batch.writes.batch.put(paths, hash.as_bytes(), record);
    }

    /// Writes the record of `tree` again, if it cannot be read or its contents were dropped; its
    /// chunks are kept and held. When it returns, it survives a power loss.
    ///
    /// # Errors
    /// The database failed or the disk is full; nothing has changed then.
    pub fn restore_tree(&self, tree: &Tree) -> Result<(), StoreError> {
        let mut publishing = lock(&self.publishing);
        self.contents.flush()?;
        let mut writes = Writes::default();
        self.contents.put_tree(&mut writes, tree, tree.digest())?;
        if writes.completed.is_empty() {
            return Ok(());
        }
        let durability = Durability::Power;
        self.contents
            .write(&mut writes, durability, "a tree was restored")?;
        Removal::tell(&mut publishing, &writes);
        Ok(())
    }
}

pub(super) fn root_kind(tree: &Tree) -> Option<RootKind> {
    Some(match tree.node(0)?.kind {
        NodeKind::Directory { .. } => RootKind::Directory,
        NodeKind::File { .. } => RootKind::File,
        NodeKind::Link { .. } => RootKind::Link,
    })
}
