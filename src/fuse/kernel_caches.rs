//! What the kernel has of paths that may be removed, and has it drop what nobody uses.
//!
//! Whatever is used of a path holds the inode of the path's root: an entry holds the one above it. So
//! when the kernel has dropped all that is merely cached, a root that it still knows says that something is
//! in use, by whomever. Two uses hold no root: of a file that was come to through a closure view
//! which is gone, and of one that was opened by a file handle. Where either may be, every number of the
//! path is asked for.
//!
//! From Linux 6.18 on the kernel can be told to drop entries that nobody uses and to leave others as they
//! are. Entries that say that a name is not there stay, and hold what they are in: so what it still knows may
//! not be in use. An older kernel cannot be told so.
//!
//! Every kernel can be told to forget the name of a path, and then drops all below that nobody uses.
//! This is not for what is seen to be in use: whose working directory is the root of the path
//! would be told that it was deleted, until somebody looks the name up again, and what is mounted
//! over a part of the path would be unmounted.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::FileHandles;
use super::counters::Counters;
use super::notices::Notices;
use super::removed::Forgetter;
use crate::fs::{Appearances, Inode, Special};
use crate::store::{Cached, KernelCaches, Leaving, Store};

/// Time between two looks at whether lookups are under way.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

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
            Err(e) => return undecided(leaving, &e),
        };
        // The kernel would wait for the answers before it gives up the file, and a daemon that is killed
        // meanwhile would wait for the next one, and that for it.
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
            Err(e) if was_known => return undecided(leaving, &e),
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

    /// Waits until no lookup in a store directory is under way. The kernel's lock of such a directory is
    /// not waited for while a lookup that waits for the network has it: whoever looks there later
    /// would wait behind.
    fn is_quiet(&self, until: Instant) -> bool {
        while self.counters.store_lookups() > 0 {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        true
    }
}

fn base_names(store: &Store, paths: &[Leaving]) -> Vec<String> {
    let path = |leaving: &Leaving| store.paths().with_ordinal(leaving.ordinal).ok().flatten();
    let paths = paths.iter().filter_map(path);
    paths.map(|path| path.base_name()).collect()
}

/// What cannot be looked at is left alone.
fn undecided(leaving: Leaving, e: &crate::store::StoreError) -> Cached {
    tracing::warn!("{} counts as used: {e}", leaving.hash);
    Cached::Held
}

/// The store directory and those of closure views, each with the directory above it.
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
    fn settle(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let store = self.store.upgrade();
        store.is_some_and(|store| {
            self.is_quiet(until) && {
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

    fn forget(&self, paths: &[Leaving], patience: Duration) -> Vec<Cached> {
        let until = Instant::now() + patience;
        let all_held = || vec![Cached::Held; paths.len()];
        let Some(store) = self.store.upgrade() else {
            return all_held();
        };
        let names = base_names(&store, paths);
        if names.is_empty() || !self.is_quiet(until) {
            return all_held();
        }
        let left = until.saturating_duration_since(Instant::now());
        // What is not forgotten in time is still known.
        self.forgetter.forget(&directories(&store), &names, left);
        self.drop_all(&store, paths)
    }
}
