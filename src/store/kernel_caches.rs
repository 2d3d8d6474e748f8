//! What the kernel has of paths that a removal may take.
//!
//! Invariant: no removal takes a path, or its contents, from whoever has come to it by its name. A
//! user is either known to the kernel (an open file, a mapping, a directory that is worked in, a
//! mount of a part of it, an overlay above it, a watch), or has yet to look the name up:
//!
//! 1. The removal begins: from this moment on it knows of every [lookup](Store::look_up).
//! 2. It waits until the kernel has taken in all answers from before ([`KernelCaches::settle`]). Where
//!    that takes too long, a path that was looked up a moment ago and that the kernel does not know
//!    yet counts as used: the answer may be on its way.
//! 3. The kernel drops what it has cached of the paths and nobody uses, as far as that disturbs nobody
//!    ([`KernelCaches::drop_cached`]). What it still knows then may be in use.
//! 4. What can be seen of running programs tells which paths are in use: this finds also who knows a
//!    path by its name only, as an interpreter knows the script that it runs.
//! 5. Of the rest the kernel forgets the names, and what it still knows then
//!    ([`KernelCaches::forget`]) is in use by somebody who cannot be seen. If it knew anything, step 4 comes
//!    once more: somebody may have let a file go meanwhile, to come back by the name.
//! 6. A path is removed, under the lock that lookups share, unless it was looked up since step 1:
//!    whoever begins with it after step 3 or 5 has to.
//!
//! Where a fetch waits for the removal, which then takes contents only, there is no more than step 4: the
//! kernel keeps what it has cached, and contents of which it has no more are fetched once more by whoever
//! begins with them meanwhile, or has them open where nobody can see it, as in a socket.

use std::collections::HashSet;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::records::Family;
use super::uses::{Uses, now};
use super::{PathInfo, PathOrdinal, Store, StoreError, enter, shut};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::sync;

/// Time in which the kernel takes in an answer to a lookup, many times over.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// Time that somebody who has just let a file go gets to come back to its path by its name: the
/// kernel lets a script go before the interpreter of it looks for it.
const GRACE: Duration = Duration::from_millis(100);
/// Longest time that a removal waits for the kernel.
const PATIENCE: Duration = Duration::from_secs(2);

/// A path that may be removed, or whose contents may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    pub hash: StorePathHash,
    /// Its part of inode numbers.
    pub ordinal: PathOrdinal,
}

/// What the kernel had of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// Nothing.
    Nothing,
    /// Something that nobody used; it is dropped.
    Dropped,
    /// Something that is in use.
    Held,
}

/// The kernel's caches of a mounted state.
pub trait KernelCaches: Send + Sync {
    /// Waits until the kernel has taken in every answer to a lookup of a store path that was given
    /// before; `false` if it has not in this time.
    fn settle(&self, patience: Duration) -> bool;

    /// Has the kernel drop what it has cached of each path and nobody uses. What is [`Cached::Held`] may
    /// still be cached only.
    fn drop_cached(&self, paths: &[Leaving]) -> Vec<Cached>;

    /// Has the kernel forget the names of paths, and all below that nobody uses. What is
    /// [`Cached::Held`] is in use, or could not be forgotten in this time.
    fn forget(&self, paths: &[Leaving], patience: Duration) -> Vec<Cached>;
}

/// Says which paths are in use by what can be seen of running programs.
pub type InUse<'u> = &'u dyn Fn() -> Result<HashSet<StorePathHash>, StoreError>;

/// When each path was looked up last, and the kernel that looks.
pub(super) struct Lookups {
    /// By its name or number, in milliseconds since `began`.
    last: Uses,
    began: Instant,
    /// Shared by lookups, and held alone while a path is removed.
    gate: RwLock<()>,
    kernel: RwLock<Option<Arc<dyn KernelCaches>>>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self {
            last: Uses::new(),
            began: Instant::now(),
            gate: RwLock::default(),
            kernel: RwLock::default(),
        }
    }
}

impl Lookups {
    /// From 1 on: 0 is never.
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64 + 1
    }

    fn kernel(&self) -> Option<Arc<dyn KernelCaches>> {
        sync::read(&self.kernel).clone()
    }
}

/// A removal that knows of lookups. No fetch may wait for it: the kernel may wait for a lookup, and that for
/// the fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    since: u64,
    /// Whether answers to lookups from before may still be on their way.
    unsettled: bool,
}

impl Watch {
    /// Begins, when the kernel has taken in what was answered before.
    pub(super) fn begin(store: &Store) -> Self {
        let since = store.lookups.now();
        let settled = match store.lookups.kernel() {
            None => true,
            Some(kernel) => kernel.settle(PATIENCE),
        };
        Self {
            since,
            unsettled: !settled,
        }
    }

    /// Those of some paths that are in use: steps 3 to 5.
    pub(super) fn used(
        &self,
        store: &Store,
        paths: &[Leaving],
        in_use: InUse<'_>,
    ) -> Result<HashSet<StorePathHash>, StoreError> {
        let Some(kernel) = store.lookups.kernel() else {
            return Ok(HashSet::new());
        };
        let cached = kernel.drop_cached(paths);
        let mut used = HashSet::new();
        if cached.iter().any(|c| *c != Cached::Nothing) {
            used.extend(users(in_use)?);
        }
        let mut held = Vec::new();
        for (path, cached) in paths.iter().zip(cached) {
            match cached {
                Cached::Nothing if self.unsettled && self.is_on_its_way(store, *path) => {
                    used.insert(path.hash);
                }
                Cached::Nothing => {}
                // The answer had come.
                Cached::Dropped => {
                    let looks = &store.lookups.last;
                    looks.clear_before(path.ordinal, self.since);
                }
                Cached::Held if used.contains(&path.hash) => {}
                Cached::Held => held.push(*path),
            }
        }
        if held.is_empty() {
            return Ok(used);
        }
        let cached = kernel.forget(&held, PATIENCE);
        if cached.iter().any(|c| *c != Cached::Held) {
            used.extend(users(in_use)?);
        }
        let held = held.iter().zip(cached).filter(|(_, c)| *c == Cached::Held);
        used.extend(held.map(|(path, _)| path.hash));
        Ok(used)
    }

    fn is_on_its_way(&self, store: &Store, path: Leaving) -> bool {
        let last = store.lookups.last.last(path.ordinal);
        last > 0 && last + ON_ITS_WAY.as_millis() as u64 >= self.since
    }

    /// Does something with a path that nobody looks up meanwhile, unless somebody has since this
    /// began; `None` then.
    pub(super) fn unless_looked_up<T>(
        &self,
        store: &Store,
        mut ordinals: impl Iterator<Item = PathOrdinal>,
        work: impl FnOnce() -> T,
    ) -> Option<T> {
        let _alone = shut(&store.lookups.gate);
        let looked_up = |ordinal| store.lookups.last.last(ordinal) >= self.since;
        (!ordinals.any(looked_up)).then(work)
    }
}

fn users(in_use: InUse<'_>) -> Result<HashSet<StorePathHash>, StoreError> {
    std::thread::sleep(GRACE);
    in_use()
}

impl Store {
    /// Has removals ask `kernel` what is in use. There is one; a second takes its place.
    pub fn set_kernel_caches(&self, kernel: Arc<dyn KernelCaches>) {
        *sync::write(&self.lookups.kernel) = Some(kernel);
    }

    /// What is registered under a hash, for an answer after which the kernel knows the path: a
    /// removal that is under way leaves it alone.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn look_up(&self, hash: StorePathHash) -> Result<Option<PathInfo>, StoreError> {
        let _shared = enter(&self.lookups.gate);
        let info = self.path_info(hash)?;
        if let Some(info) = &info {
            self.lookups.last.set(info.ordinal, self.lookups.now());
        }
        Ok(info)
    }

    /// Paths that were registered, looked up or read at this time or later, in seconds since 1970.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn newer_than(&self, since: u64) -> Result<HashSet<StorePathHash>, StoreError> {
        let age = now().saturating_sub(since * 1000);
        let looked_up = self.lookups.now().saturating_sub(age);
        let mut newer = HashSet::new();
        self.records.scan(Family::Paths, &[], |key, record| {
            let info = self.scanned_info(key, record)?;
            if info.registered >= since
                || self.uses.last(info.ordinal) >= since * 1000
                || self.lookups.last.last(info.ordinal) > looked_up
            {
                newer.insert(info.registration.path.hash());
            }
            Ok(true)
        })?;
        Ok(newer)
    }

    /// The path with an ordinal, for an answer after which the kernel knows it.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn look_up_number(&self, ordinal: PathOrdinal) -> Result<Option<StorePath>, StoreError> {
        let _shared = enter(&self.lookups.gate);
        let path = self.path_of(ordinal)?;
        if path.is_some() {
            self.lookups.last.set(ordinal, self.lookups.now());
        }
        Ok(path)
    }

    /// As [`Store::list`], for an answer after which the kernel knows the paths.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn look_up_from(
        &self,
        ordinal: PathOrdinal,
        limit: usize,
    ) -> Result<Vec<(PathOrdinal, StorePath, bool)>, StoreError> {
        let _shared = enter(&self.lookups.gate);
        let found = self.list(ordinal, limit)?;
        let now = self.lookups.now();
        for (ordinal, _, _) in &found {
            self.lookups.last.set(*ordinal, now);
        }
        Ok(found)
    }
}
