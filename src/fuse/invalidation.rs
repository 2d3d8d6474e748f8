//! Invalidation of the kernel's caches when the state changes.
//!
//! The kernel gets names, attributes, targets and listings with unlimited validity. Invariant: when
//! a change of the state returns, the kernel answers with nothing older than the change. The thread
//! that makes a change calls [`Invalidation::apply`] after the change is visible and before it
//! returns.
//!
//! # Replies in flight
//!
//! A reply from before the change may reach the kernel's caches late, and must not stay there. For
//! profiles, whose names change their targets, the kernel's locks ensure this:
//!
//! 1. The kernel sends LOOKUP, READDIR and READDIRPLUS with the directory's lock held shared, and
//!    releases it only after the reply is in its caches: names with their inodes, for READDIRPLUS
//!    those of the whole listing, and the listing itself.
//! 2. `inval_entry` takes that lock exclusively, whether the name is cached or not. It thus
//!    waits for every earlier request, whatever that has read and however late it is answered, and
//!    then drops the name. A later request reads the new state.
//! 3. `inval_inode` takes no such lock. It comes last for each directory, after at least one
//!    `inval_entry`, when no old reply can fill the listing any more. The kernel discards a listing
//!    that is read by several requests if its beginning was dropped.
//! 4. Attributes of a directory come with LOOKUP and READDIRPLUS in its parent. `inval_inode`
//!    has no effect on them if the inode is not known yet; so the lock of the parent is taken and
//!    released before, by `inval_entry` of a name that does not exist.
//!
//! Operations without the directory's lock are harmless. A revalidation (after ESTALE) may confirm
//! an entry that has just been dropped: it is unhashed, so that no lookup finds it. An outdated
//! reply to GETATTR is recognized by the attribute version, which `inval_inode` and every later
//! reply increment. A path walk that has read an old link continues to its old target, as if it had
//! been there before the change: the target of an inode number never changes. If that target has
//! been removed, its number is stale, and the kernel repeats the walk.
//!
//! # Blocking
//!
//! `inval_entry` waits for requests on its directory, so a thread that answers requests never sends
//! it. Those requests never wait for the network, since nothing in a directory of profiles is
//! fetched. Lookups in a store directory, that of the store or of a closure view, do wait: it is
//! invalidated by `inval_inode` alone, except when paths were removed from it, see `removed.rs`.
//! Names of closure views are treated like names of profiles. A thread that answers requests never
//! waits for an invalidation.

use std::ffi::OsStr;
use std::sync::{Arc, Weak};

use fuser::{INodeNo, Notifier};

use super::counters::Counters;
use super::removed::{Forgetter, forget_entries, forget_listing, report};
use crate::fs::{
    Inode, ReplacedLink, Special, StaleEntries, all_entries, replaced_links, stale_entries,
    stale_views,
};
use crate::store::{Change, ChangedView, Store};

/// Sends invalidations to the kernel.
pub(super) struct Invalidation {
    /// The state that is shown, which holds this as its observer.
    store: Weak<Store>,
    notifier: Notifier,
    forgetter: Forgetter,
}

impl Invalidation {
    pub(super) fn new(store: &Arc<Store>, notifier: Notifier, counters: Arc<Counters>) -> Self {
        let forgetter = Forgetter::start(notifier.clone(), counters);
        Self {
            store: Arc::downgrade(store),
            notifier,
            forgetter,
        }
    }

    /// The thread that drops names.
    pub(super) fn forgetter(&self) -> &Forgetter {
        &self.forgetter
    }

    /// Invalidates what a change made stale.
    pub(super) fn apply(&self, change: &Change<'_>) {
        match change {
            Change::Paths => {
                if let Some(store) = self.store.upgrade() {
                    self.listings(&store);
                }
            }
            // The names were dropped before: see `kernel_caches.rs`.
            Change::Removed(_) => self.forgetter.forget_removed(),
            Change::Profiles(changed) => {
                for link in replaced_links(changed) {
                    self.replaced(&link);
                }
                self.entries(&stale_entries(changed));
            }
            Change::Views(changed) => self.views(changed),
        }
    }

    /// Notifies watchers of a link of a profile of its deletion (inotify(7)), as if another link
    /// had been renamed to its name. The kernel drops the name before, with the same lock as for
    /// `inval_entry`, so that no lookup finds the name missing.
    fn replaced(&self, link: &ReplacedLink) {
        let [directory, was] = [link.directory, link.link].map(|inode| INodeNo(inode.0));
        let result = self.notifier.delete(directory, was, OsStr::new(&link.name));
        report(result, "a link");
    }

    /// Invalidates deleted views, and names that are no longer in a view.
    fn views(&self, changed: &[ChangedView]) {
        let stale = stale_views(changed);
        self.entries(stale.views.as_slice());
        self.forgetter.forget_in_views(stale.paths);
    }

    /// Invalidates everything that may have changed without an invalidation: the previous daemon
    /// may have been killed after a last change.
    pub(super) fn apply_all(&self, store: &Store) {
        self.entries(&all_entries(&store.profiles().table()));
        self.listings(store);
        match store.views().untold() {
            Ok(untold) => {
                self.views(&untold);
                store.views().told(&untold);
            }
            Err(e) => tracing::warn!("the kernel may continue to show old closure views: {e}"),
        }
    }

    fn entries(&self, all: &[StaleEntries]) {
        for stale in all {
            forget_entries(&self.notifier, stale);
        }
    }

    /// The store directory and those of closure views.
    fn listings(&self, store: &Store) {
        self.listing(Inode::special(Special::Store));
        for view in store.views().table().views() {
            self.listing(Inode::view_store(view.record.id));
        }
    }

    fn listing(&self, directory: Inode) {
        forget_listing(&self.notifier, directory);
    }
}
