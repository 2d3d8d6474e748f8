//! What the kernel has of paths that a removal may take.
//!
//! Invariant: no removal takes a path, or its contents, from a user that has come to it by its name. A
//! user is either known to the kernel (an open file, a mapping, a directory that is worked in, a
//! mount of a part of it, an overlay above it, a watch), or has yet to look the name up:
//!
//! 1. The removal begins: from this moment on it knows of every [lookup](super::Paths::look_up).
//! 2. It waits until the kernel has taken in all answers from before ([`KernelCaches::settle`]). Where
//!    that takes too long, a path that was looked up a moment ago and that the kernel does not know
//!    yet counts as used: the answer may be on its way.
//! 3. The kernel drops what it has cached of the paths and is not in use, as far as that disturbs no
//!    user ([`KernelCaches::drop_cached`]). What it still knows then may be in use.
//! 4. What can be seen of running programs tells which paths are in use: this also finds users that know
//!    a path by its name only, as an interpreter knows the script that it runs.
//! 5. Of the rest the kernel forgets the names, and what it still knows then ([`KernelCaches::forget`])
//!    is in use by a program that cannot be seen. If it knew anything, step 4 comes once more: a program
//!    may have let a file go meanwhile, to come back by the name.
//! 6. A path is removed, under the lock that lookups share, unless it was looked up since step 1:
//!    a user that begins with it after step 3 or 5 has to look it up.
//!
//! Where a fetch waits for the removal, which then takes contents only, there is no more than step 4:
//! the kernel keeps what it has cached, and contents of which it has no more are fetched once more for a
//! user that begins with them meanwhile, or has them open where that cannot be seen, as in a socket.

use std::collections::HashSet;
use std::sync::{Arc, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use super::path_info::PathOrdinal;
use super::uses::Uses;
use crate::nix::store_path::StorePathHash;
use crate::store::error::StoreError;
use crate::sync;

/// Time in which the kernel takes in an answer to a lookup, many times over.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// Time that a program that has just let a file go gets to come back to its path by its name: the
/// kernel lets a script go before the interpreter of it looks for it.
const GRACE: Duration = Duration::from_millis(100);
/// Time that a removal waits for the kernel at most.
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
    /// Something that was not in use; it is dropped.
    Dropped,
    /// Something that is in use.
    Held,
}

/// The kernel's caches of a mounted state.
pub trait KernelCaches: Send + Sync {
    /// Waits until the kernel has taken in every answer to a lookup of a store path that was given
    /// before; `false` if it has not in this time.
    fn settle(&self, patience: Duration) -> bool;

    /// Has the kernel drop what it has cached of each path and is not in use. What is [`Cached::Held`]
    /// may still be cached only.
    fn drop_cached(&self, paths: &[Leaving]) -> Vec<Cached>;

    /// Has the kernel forget the names of paths, and all below that is not in use. What is
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
    removing: RwLock<()>,
    kernel: RwLock<Option<Arc<dyn KernelCaches>>>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self {
            last: Uses::new(),
            began: Instant::now(),
            removing: RwLock::default(),
            kernel: RwLock::default(),
        }
    }
}

impl Lookups {
    /// From 1 on: 0 is never.
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64 + 1
    }

    pub(super) fn set_kernel(&self, kernel: Arc<dyn KernelCaches>) {
        *sync::write(&self.kernel) = Some(kernel);
    }

    /// Begins to look something up.
    pub(super) fn begin(&self) -> Lookup<'_> {
        Lookup {
            lookups: self,
            _shared: sync::read(&self.removing),
        }
    }

    /// Whether a path was looked up in the last `age` milliseconds.
    pub(super) fn is_newer(&self, ordinal: PathOrdinal, age: u64) -> bool {
        self.last.last(ordinal) > self.now().saturating_sub(age)
    }

    fn kernel(&self) -> Option<Arc<dyn KernelCaches>> {
        sync::read(&self.kernel).clone()
    }
}

/// A lookup. No path is removed meanwhile.
pub(super) struct Lookup<'l> {
    lookups: &'l Lookups,
    _shared: RwLockReadGuard<'l, ()>,
}

impl Lookup<'_> {
    /// Notes a path that was found: the kernel knows it after the answer.
    pub(super) fn found(&self, ordinal: PathOrdinal) {
        self.lookups.last.set(ordinal, self.lookups.now());
    }
}

/// A removal that knows of lookups. No fetch may wait for it: the kernel may wait for a lookup, and that
/// for the fetch.
#[derive(Clone, Copy)]
pub(in crate::store) struct Watch<'l> {
    lookups: &'l Lookups,
    since: u64,
    /// Whether answers to lookups from before may still be on their way.
    unsettled: bool,
}

impl<'l> Watch<'l> {
    /// Begins, when the kernel has taken in what was answered before.
    pub(super) fn begin(lookups: &'l Lookups) -> Self {
        let since = lookups.now();
        let settled = match lookups.kernel() {
            None => true,
            Some(kernel) => kernel.settle(PATIENCE),
        };
        Self {
            lookups,
            since,
            unsettled: !settled,
        }
    }

    /// Those of some paths that are in use: steps 3 to 5.
    pub(in crate::store) fn used(
        &self,
        paths: &[Leaving],
        in_use: InUse<'_>,
    ) -> Result<HashSet<StorePathHash>, StoreError> {
        let Some(kernel) = self.lookups.kernel() else {
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
                Cached::Nothing if self.unsettled && self.is_on_its_way(*path) => {
                    used.insert(path.hash);
                }
                Cached::Nothing => {}
                // The answer had come.
                Cached::Dropped => {
                    let looks = &self.lookups.last;
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

    fn is_on_its_way(&self, path: Leaving) -> bool {
        let last = self.lookups.last.last(path.ordinal);
        last > 0 && last + ON_ITS_WAY.as_millis() as u64 >= self.since
    }

    /// Does something with a path that is not looked up meanwhile; `None` if it was looked up since this
    /// began.
    pub(in crate::store) fn unless_looked_up<T>(
        &self,
        mut ordinals: impl Iterator<Item = PathOrdinal>,
        work: impl FnOnce() -> T,
    ) -> Option<T> {
        let _alone = sync::write(&self.lookups.removing);
        let looked_up = |ordinal| self.lookups.last.last(ordinal) >= self.since;
        (!ordinals.any(looked_up)).then(work)
    }
}

fn users(in_use: InUse<'_>) -> Result<HashSet<StorePathHash>, StoreError> {
    std::thread::sleep(GRACE);
    in_use()
}
