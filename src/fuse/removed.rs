//! Drops names in store directories from the kernel's caches: names that are no longer in a closure
//! view, and for older kernels those of paths that may be removed.
//!
//! The kernel has cached these names with unlimited validity. To drop one it takes the lock of the
//! store directory (that of the view, if it is in a view), which a lookup that waits for the
//! network holds shared. A separate thread therefore does this, and waits for it are bounded;
//! threads that answer requests never wait for it. Until it is done, a name may still refer to the
//! old inode, but never to another one, since inode numbers are not reused. Processes that have it
//! open keep it. Afterwards no earlier reply can restore it: see `invalidation.rs`.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use super::counters::Counters;
use crate::fs::{Inode, Special, StaleEntries};
use crate::sync;

/// Timeout for a removal of paths: usually they are gone from listings when the command returns.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Timeout for a change of closure views: longer than any lookup waits for the network, so that a
/// path that was removed from the view is no longer visible when the command returns.
const VIEW_TIMEOUT: Duration = Duration::from_secs(15);

/// A name that the kernel never caches.
pub(super) const NO_NAME: &str = ".";

/// The work, and the channel that reports its completion.
struct Job(Box<dyn FnOnce() + Send>, mpsc::Sender<()>);

/// The thread that drops names.
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
                // The receiver may have timed out.
                let _ = done.send(());
            }
        };
        if let Err(e) = sync::spawn("narfs-forget", work) {
            tracing::warn!(
                "cannot start the thread that drops names from the kernel's caches: {e}"
            );
        }
        Self {
            sender,
            notifier,
            counters,
        }
    }

    /// Drops the listing of the store directory after paths were removed, with a timeout.
    pub(super) fn forget_removed(&self) {
        let directory = Inode::special(Special::Store);
        forget_listing(&self.notifier, directory);
        // This waits for a listing in flight, but must not wait for a lookup that waits for the
        // network.
        if self.counters.store_lookups() == 0 {
            let above = Inode::special(Special::Root);
            self.forget(&[(directory, above)], &[], TIMEOUT);
        }
    }

    /// Drops names in directories, each with its parent, and their listings, after requests in
    /// flight there have been answered. `false` if this is not done within the timeout.
    pub(super) fn forget(
        &self,
        directories: &[(Inode, Inode)],
        names: &[String],
        timeout: Duration,
    ) -> bool {
        let names = match names {
            // At least one, so that requests in flight are waited for.
            [] => vec![NO_NAME.to_owned()],
            names => names.to_vec(),
        };
        let each = directories.iter().map(|(directory, above)| StaleEntries {
            directory: *directory,
            above: *above,
            names: names.clone(),
        });
        self.wait(each.collect(), timeout)
    }

    /// Drops these names in closure views, with a timeout.
    pub(super) fn forget_in_views(&self, stale: Vec<StaleEntries>) {
        if !stale.is_empty() {
            self.wait(stale, VIEW_TIMEOUT);
        }
    }

    fn wait(&self, stale: Vec<StaleEntries>, timeout: Duration) -> bool {
        let notifier = self.notifier.clone();
        let job = move || {
            for stale in &stale {
                forget_entries(&notifier, stale);
            }
        };
        self.run(Box::new(job), timeout)
    }

    /// Runs a job that needs the kernel's lock of a directory; `false` if it is not done within the
    /// timeout.
    pub(super) fn run(&self, job: Box<dyn FnOnce() + Send>, timeout: Duration) -> bool {
        let (done, is_done) = mpsc::channel();
        self.sender.send(Job(job, done)).is_ok() && is_done.recv_timeout(timeout).is_ok()
    }
}

/// Drops names in a directory, and its listing.
pub(super) fn forget_entries(notifier: &Notifier, stale: &StaleEntries) {
    for name in &stale.names {
        forget_entry(notifier, stale.directory, name);
    }
    forget_entry(notifier, stale.above, NO_NAME);
    forget_listing(notifier, stale.directory);
}

/// Drops a name in a directory, after requests in flight on the directory have been answered.
fn forget_entry(notifier: &Notifier, directory: Inode, name: &str) {
    let result = notifier.inval_entry(INodeNo(directory.0), OsStr::new(name));
    report(result, "an entry");
}

/// Drops the listing and the attributes of a directory.
pub(super) fn forget_listing(notifier: &Notifier, directory: Inode) {
    let result = notifier.inval_inode(INodeNo(directory.0), 0, 0);
    report(result, "a listing");
}

/// Logs a failed invalidation. It is no failure that the kernel has not cached what it should drop;
/// otherwise the file system was unmounted.
pub(super) fn report(result: io::Result<()>, what: &str) {
    if let Err(e) = result {
        tracing::debug!("the kernel did not drop {what}: {e}");
    }
}
