//! What the kernel has to forget when the state changes.
//!
//! Names, attributes, targets and listings are told to the kernel as valid for ever. Invariant:
//! when a change of the state returns, the kernel answers with nothing from before it. Who makes a
//! change calls [`Invalidation::apply`] after the change can be seen and before it goes on.
//!
//! # What is on its way
//!
//! An answer from before the change may reach the kernel's caches late, and must not stay there.
//! For profiles, whose names change their meaning, that is so by the kernel's locks:
//!
//! 1. The kernel sends LOOKUP, READDIR and READDIRPLUS with the directory's lock held shared, and
//!    lets the lock go only when it has put the answer into its caches: names with their inodes,
//!    for READDIRPLUS those of all that is listed, and the listing itself.
//! 2. `inval_entry` takes that lock exclusively, whether it knows the name or not. So it waits for
//!    every request that was sent before, whatever that has read and however late it is answered, and
//!    then takes the name away. A request that is sent after it reads what is true.
//! 3. `inval_inode` takes no such lock. It comes last in each directory, after at least one
//!    `inval_entry`, when no old answer can fill the listing any more. Of a listing that is read in
//!    several requests the kernel keeps nothing whose beginning is gone.
//! 4. Attributes of a directory come with LOOKUP and READDIRPLUS in the one above it. Where its
//!    inode is not known yet, `inval_inode` would miss them: so the lock of the one above is
//!    taken and given back before, by `inval_entry` of a name that nothing has.
//!
//! What is not under the directory's lock does no harm. A revalidation (after ESTALE) may
//! confirm an entry that has just been taken away: it is unhashed, and nobody finds it again. An
//! answer to GETATTR that was overtaken is known by the version of the attributes, which
//! `inval_inode` and every later answer raise. A walk that has an old link in its hand goes on to
//! where the link pointed, as if it had been there before the change: what an inode number points
//! to never changes. Where that has been removed since, the number is stale, and the kernel walks
//! again.
//!
//! # What waits for what
//!
//! `inval_entry` waits for requests on its directory, so it is never sent by a thread that
//! answers requests. Those requests never wait for the network, since nothing in a directory of
//! profiles is fetched. In a store directory, the store's own or that of a closure view, lookups do:
//! it is invalidated by `inval_inode` alone, but where paths were removed or are in a view no more:
//! `removed.rs` has that. Names of closure views are like names of profiles. A thread that answers requests waits
//! for nothing here.

use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Weak};

use fuser::{INodeNo, Notifier};

use super::counters::Counters;
use super::removed::Forgetter;
use crate::fs::{
    Inode, ReplacedLink, Special, StaleEntries, all_entries, replaced_links, stale_entries,
    stale_views,
};
use crate::store::{Change, ChangedView, Store};

/// The kernel never keeps an entry of this name.
pub(super) const NO_NAME: &str = ".";

/// Tells the kernel what to forget.
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

    /// What has the kernel forget names.
    pub(super) fn forgetter(&self) -> &Forgetter {
        &self.forgetter
    }

    /// Has the kernel forget what a change made untrue.
    pub(super) fn apply(&self, change: &Change<'_>) {
        match change {
            Change::Paths => {
                if let Some(store) = self.store.upgrade() {
                    self.listings(&store);
                }
            }
            // The names it has forgotten before: see `kernel_caches.rs`.
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

    /// Has whoever watches a link of a profile hear that it is gone (inotify(7)), as if another had been renamed
    /// onto it. The kernel drops the name first, as for `inval_entry`, with the same lock: so nobody
    /// finds that there is nothing of this name.
    fn replaced(&self, link: &ReplacedLink) {
        let [directory, was] = [link.directory, link.link].map(|inode| INodeNo(inode.0));
        let told = self.notifier.delete(directory, was, OsStr::new(&link.name));
        report(told, "a link");
    }

    /// A view that is gone, and what it showed; what a view shows no more.
    fn views(&self, changed: &[ChangedView]) {
        let stale = stale_views(changed);
        self.entries(stale.views.as_slice());
        self.forgetter.forget_in_views(stale.paths);
    }

    /// Has the kernel forget whatever may have changed without its being told: a daemon that was
    /// killed may have made a last change.
    pub(super) fn apply_all(&self, store: &Store) {
        self.entries(&all_entries(&store.profiles().table()));
        self.listings(store);
        match store.views().untold() {
            Ok(untold) => {
                self.views(&untold);
                store.views().told(&untold);
            }
            Err(e) => tracing::warn!("the kernel may go on to show old closure views: {e}"),
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

/// Has the kernel forget names in a directory, and its listing.
pub(super) fn forget_entries(notifier: &Notifier, stale: &StaleEntries) {
    for name in &stale.names {
        forget_entry(notifier, stale.directory, name);
    }
    forget_entry(notifier, stale.above, NO_NAME);
    forget_listing(notifier, stale.directory);
}

/// A name in a directory, when what is asked about the directory now has been answered.
fn forget_entry(notifier: &Notifier, directory: Inode, name: &str) {
    let told = notifier.inval_entry(INodeNo(directory.0), OsStr::new(name));
    report(told, "an entry");
}

/// The listing and the attributes of a directory.
pub(super) fn forget_listing(notifier: &Notifier, directory: Inode) {
    let told = notifier.inval_inode(INodeNo(directory.0), 0, 0);
    report(told, "a listing");
}

/// That the kernel does not know what it should forget is no error, and is not reported as one;
/// else the file system was unmounted.
pub(super) fn report(told: io::Result<()>, what: &str) {
    if let Err(e) = told {
        tracing::debug!("{what} was not dropped by the kernel: {e}");
    }
}
