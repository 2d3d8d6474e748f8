//! Has the kernel forget names in store directories: of what a closure view shows no more, and for an older
//! kernel of what may be removed.
//!
//! The kernel was told that they are valid for ever. To forget one it takes the lock of the store
//! directory (the view's, where it is in a view), which a lookup there that waits for the network shares: so a thread of its own does
//! it, and nobody waits for it without a bound, least of all who answers requests. Until it is
//! done a name may still lead to what was there. It is never something else, since inode numbers are
//! not given again. For who had it open it stays so. After it is done no answer from before can come
//! back: see `invalidation.rs`.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use fuser::Notifier;

use super::counters::Counters;
use super::invalidation::{NO_NAME, forget_entries, forget_listing};
use crate::fs::{Inode, Special, StaleEntries};
use crate::sync;

/// Time that whoever removed paths waits, so that they are usually gone from listings when a command
/// says so.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same for who changed a closure view: longer than any lookup waits for the network, so that
/// nobody sees a path in the view that is not in it when the command returns.
const PATIENCE_FOR_VIEWS: Duration = Duration::from_secs(15);

/// What is to be done, and who is told when it is.
struct Job(Box<dyn FnOnce() + Send>, mpsc::Sender<()>);

/// The thread that has the kernel forget.
#[derive(Clone)]
pub(super) struct Forgetter {
    sender: mpsc::Sender<Job>,
    notifier: Notifier,
    counters: Arc<Counters>,
}

impl Forgetter {
    pub(super) fn start(notifier: Notifier, counters: Arc<Counters>) -> Self {
        let (sender, receiver) = mpsc::channel();
        let work = move || {
            for Job(job, done) in receiver {
                job();
                // Who has stopped waiting need not know.
                let _ = done.send(());
            }
        };
        if let Err(e) = sync::spawn("narfs-forget", work) {
            tracing::warn!("no thread to have the kernel forget names: {e}");
        }
        Self {
            sender,
            notifier,
            counters,
        }
    }

    /// Has the listing of the store directory forgotten, from which paths were removed, and waits for
    /// it for a while.
    pub(super) fn forget_removed(&self) {
        let directory = Inode::special(Special::Store);
        forget_listing(&self.notifier, directory);
        // A listing that is under way is waited for, but not who waits for the network.
        if self.counters.store_lookups() == 0 {
            let above = Inode::special(Special::Root);
            self.forget(&[(directory, above)], &[], PATIENCE);
        }
    }

    /// Has names in directories forgotten, each with the directory above it, and their listings, when
    /// everything that is asked there now has been answered. Waits for it for a while; `false` if it
    /// is not done then.
    pub(super) fn forget(
        &self,
        directories: &[(Inode, Inode)],
        names: &[String],
        patience: Duration,
    ) -> bool {
        let names = match names {
            // One at least, whose turn comes when the answers have come.
            [] => vec![NO_NAME.to_owned()],
            names => names.to_vec(),
        };
        let each = directories.iter().map(|(directory, above)| StaleEntries {
            directory: *directory,
            above: *above,
            names: names.clone(),
        });
        self.wait(each.collect(), patience)
    }

    /// Has these names in closure views forgotten, and waits for it for a while.
    pub(super) fn forget_in_views(&self, stale: Vec<StaleEntries>) {
        if !stale.is_empty() {
            self.wait(stale, PATIENCE_FOR_VIEWS);
        }
    }

    fn wait(&self, stale: Vec<StaleEntries>, patience: Duration) -> bool {
        let notifier = self.notifier.clone();
        let job = move || {
            for stale in &stale {
                forget_entries(&notifier, stale);
            }
        };
        self.run(Box::new(job), patience)
    }

    /// Does something that waits for the kernel's lock of a directory, and waits for it for a while; `false`
    /// if it is not done then.
    pub(super) fn run(&self, job: Box<dyn FnOnce() + Send>, patience: Duration) -> bool {
        let (done, is_done) = mpsc::channel();
        self.sender.send(Job(job, done)).is_ok() && is_done.recv_timeout(patience).is_ok()
    }
}
