//! Determines which paths the kernel still uses, and makes it drop the rest before a removal.
//!
//! Whatever uses a path holds the inode of the path's root, since each entry holds its parent.
//! After the kernel has dropped everything that is merely cached, a root that it still knows is
//! therefore in use by some process. Two uses hold no root: of a file that was reached through a
//! closure view that is gone, and of a file opened by handle. If either is possible, every inode
//! number of the path is checked.
//!
//! Since Linux 6.18 the kernel can be asked to drop only unused entries. Negative entries stay, and
//! hold their parents, so a path that the kernel still knows may be unused. An older kernel does
//! not support this.
//!
//! Every kernel can be told to drop the name of a path, and then drops everything unused below it.
//! This is not done for paths that are known to be in use: a process whose working directory is the
//! root of the path would see it as deleted until the next lookup, and mounts within the path would
//! be unmounted.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::file_handles::FileHandles;
use super::notices::Notices;
use super::removed::Forgetter;
use crate::fs::{Appearances, Inode, Special};
use crate::store::{Cached, KernelCaches, Leaving, Store};

/// Interval of the check whether lookups are in flight.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

pub(super) struct ConnectionCaches {
    /// The state that is shown, which asks this.
    store: Weak<Store>,
    notices: Notices,
    counters: Arc<Counters>,
    forgetter: Forgetter,
    handles: FileHandles,
}

impl ConnectionCaches {
    pub(super) fn new(
        store: &Arc<Store>,
        device: OwnedFd,
        counters: Arc<Counters>,
        forgetter: Forgetter,
        handles: FileHandles,
    ) -> Self {
        Self {
            store: Arc::downgrade(store),
            notices: Notices::new(device),
            counters,
            forgetter,
            handles,
        }
    }

    fn drop_one(&self, store: &Store, leaving: Leaving, thorough: bool) -> Cached {
        let appearances = match Appearances::of(store, leaving) {
            Ok(appearances) => appearances,
            Err(e) => return assume_used(leaving, &e),
        };
        // The kernel would wait for the replies before it drops the file. If the daemon were killed
        // then, it would wait for its successor, and the successor for it.
        if self
            .counters
            .is_read(Inode::node(leaving.ordinal, 0).path_number())
        {
            return Cached::Held;
        }
        let is_known = || appearances.roots().any(|root| self.notices.is_known(root));
        let was_known = is_known();
        if !was_known && !thorough {
            return Cached::Nothing;
        }
        let all = match appearances.all(store) {
            Ok(all) => all,
            Err(e) if was_known => return assume_used(leaving, &e),
            // Nothing of it was ever shown.
            Err(_) => return Cached::Nothing,
        };
        if self.notices.can_prune() {
            self.notices.prune(&all);
        }
        let is_held = match thorough {
            true => all.iter().any(|inode| self.notices.is_known(*inode)),
            false => is_known(),
        };
        match (is_held, was_known) {
            (true, _) => Cached::Held,
            (false, true) => Cached::Dropped,
            (false, false) => Cached::Nothing,
        }
    }

    fn drop_all(&self, store: &Store, paths: &[Leaving]) -> Vec<Cached> {
        let by_handle = self.handles == FileHandles::Given;
        let thorough = by_handle || store.views().table().has_given_numbers();
        let each = paths.iter().map(|l| self.drop_one(store, *l, thorough));
        each.collect()
    }

    /// Waits until no lookup in a store directory is in flight. The kernel's lock of such a
    /// directory is not requested while a lookup that waits for the network holds it: later lookups
    /// would queue behind the request.
    fn wait_for_lookups(&self, until: Instant) -> bool {
        while self.counters.store_lookups() > 0 {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        true
    }
}

fn base_names(store: &Store, paths: &[Leaving]) -> Vec<String> {
    let path = |leaving: &Leaving| store.paths().with_ordinal(leaving.ordinal).ok().flatten();
    let paths = paths.iter().filter_map(path);
    paths.map(|path| path.base_name()).collect()
}

/// A path that cannot be checked counts as used.
fn assume_used(leaving: Leaving, e: &crate::store::StoreError) -> Cached {
    tracing::warn!(
        "cannot check whether {} is used; it is kept: {e}",
        leaving.hash
    );
    Cached::Held
}

/// The store directory and those of closure views, each with its parent.
fn directories(store: &Store) -> Vec<(Inode, Inode)> {
    let own = (
        Inode::special(Special::Store),
        Inode::special(Special::Root),
    );
    let table = store.views().table();
    let views = table.views().map(|view| {
        let id = view.record.id;
        (Inode::view_store(id), Inode::view(id))
    });
    std::iter::once(own).chain(views).collect()
}

impl KernelCaches for ConnectionCaches {
    fn settle(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let store = self.store.upgrade();
        store.is_some_and(|store| {
            self.wait_for_lookups(until) && {
                let left = until.saturating_duration_since(Instant::now());
                self.forgetter.forget(&directories(&store), &[], left)
            }
        })
    }

    fn drop_cached(&self, paths: &[Leaving]) -> Vec<Cached> {
        match self.store.upgrade() {
            Some(store) => self.drop_all(&store, paths),
            None => vec![Cached::Held; paths.len()],
        }
    }

    fn forget(&self, paths: &[Leaving], timeout: Duration) -> Vec<Cached> {
        let until = Instant::now() + timeout;
        let all_held = || vec![Cached::Held; paths.len()];
        let Some(store) = self.store.upgrade() else {
            return all_held();
        };
        let names = base_names(&store, paths);
        if names.is_empty() || !self.wait_for_lookups(until) {
            return all_held();
        }
        let left = until.saturating_duration_since(Instant::now());
        // What is not dropped in time counts as known.
        self.forgetter.forget(&directories(&store), &names, left);
        self.drop_all(&store, paths)
    }
}
