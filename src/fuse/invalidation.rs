//! What the kernel has to forget when the state changes.
//!
//! Names, attributes, targets and listings are told to the kernel as valid for ever. Invariant:
//! when a change of the state returns, the kernel answers with nothing from before it. Who makes a
//! change calls [`Invalidation::apply`] after the change can be seen and before it goes on.
//!
//! # What is on its way
//!
//! An answer from before the change may not have reached the kernel's caches yet when the change
//! invalidates them, and would stay for ever. For profiles, whose names change their meaning:
//!
//! 1. LOOKUP, READDIR and READDIRPLUS in a directory of profiles hold profiles as they are
//!    ([`FileSystem::hold`](crate::fs::FileSystem::hold)) from reading them until the answer has
//!    been *written* to the kernel. A change waits for all holds, and then can be seen at once. So
//!    every answer is either written before the change is seen, and so before the invalidation, or
//!    is read after it and true.
//! 2. The kernel sends each of the three with the directory's lock held shared, and lets the lock
//!    go only when it has put the answer into its caches: names with their inodes, for READDIRPLUS
//!    of all that are listed, and for READDIR and READDIRPLUS the listing itself.
//!    `inval_entry` takes that lock exclusively, whether it knows the name or not. So it comes after all
//!    answers that were written before it, and takes the name away again.
//! 3. `inval_inode` takes no such lock. It comes last in each directory, after at least one
//!    `inval_entry`, so that no old answer can fill the listing any more.
//!    Of one that is read in several requests the kernel keeps nothing if its beginning is gone.
//!
//! What is not under the directory's lock does no harm. A revalidation (after ESTALE) may
//! confirm an entry that the invalidation has just taken away: it is unhashed, and nobody finds it
//! again. An answer to GETATTR that was overtaken is known by the version of the attributes, which
//! `inval_inode` and every later answer raise. A walk that has an old link in its hand goes on to
//! where the link pointed: as if it had been there before the change. That target is one inode number's
//! for ever; where it has been removed since, the number is stale, and the kernel walks again.
//!
//! # What waits for what
//!
//! `inval_entry` waits for requests on its directory, so it is never sent by a thread that
//! answers requests, and nobody holds profiles who sends it: those requests are
//! answered meanwhile. They never wait for the network, since nothing in a directory of profiles
//! is fetched; the store directory, where lookups do, is invalidated by `inval_inode` alone, but for
//! what was collected: `removed.rs` has that.
//! A thread that answers requests waits, at most, until other answers are written and the table of profiles is
//! replaced.

use std::ffi::OsStr;
use std::io;

use fuser::{INodeNo, Notifier};

use super::removed::Forgetter;
use crate::fs::{Inode, Special, stale_entries};
use crate::store::Change;

/// Tells the kernel what to forget.
pub(super) struct Invalidation {
    notifier: Notifier,
    forgetter: Forgetter,
}

impl Invalidation {
    pub(super) fn new(notifier: Notifier) -> Self {
        let forgetter = Forgetter::start(notifier.clone());
        Self {
            notifier,
            forgetter,
        }
    }

    /// Has the kernel forget what a change made untrue.
    pub(super) fn apply(&self, change: &Change<'_>) {
        match change {
            Change::Paths => self.listing(Inode::special(Special::Store)),
            Change::Removed(paths) => {
                self.listing(Inode::special(Special::Store));
                self.forgetter.forget(paths);
            }
            Change::Profiles(changed) => {
                for stale in stale_entries(changed) {
                    for name in &stale.names {
                        let parent = INodeNo(stale.directory.0);
                        let told = self.notifier.inval_entry(parent, OsStr::new(name));
                        report(told, "an entry of a directory of profiles");
                    }
                    self.listing(stale.directory);
                }
            }
        }
    }

    /// The listing and the attributes of a directory.
    fn listing(&self, directory: Inode) {
        let told = self.notifier.inval_inode(INodeNo(directory.0), 0, 0);
        report(told, "a listing");
    }
}

/// That the kernel does not know what it should forget is no error, and is not reported as one;
/// else the file system was unmounted.
pub(super) fn report(told: io::Result<()>, what: &str) {
    if let Err(e) = told {
        tracing::debug!("{what} was not dropped by the kernel: {e}");
    }
}
