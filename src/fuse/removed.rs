//! Has the kernel forget the names of paths that were collected, or that a closure view shows no more.
//!
//! The kernel was told that they are valid for ever. To forget one it takes the lock of the store
//! directory (the view's, where it is in a view), which a lookup there that waits for the network shares: so a thread of its own does
//! it, and nobody waits for it without a bound, least of all who answers requests. Until it is
//! done a name may still lead to what was there: its attributes may still be shown, what is read
//! of it comes from the kernel's caches and is what it was, or is ESTALE, after which the kernel
//! looks the name up anew. It is never something else, since inode numbers are not given again.
//! For who had it open it stays so. After it is done no answer from before can come back: see
//! `invalidation.rs`.

use std::sync::mpsc;
use std::time::Duration;

use fuser::Notifier;

use super::invalidation::forget_entries;
use crate::fs::{Inode, Special, StaleEntries};
use crate::nix::store_path::StorePath;

/// Whoever removed paths waits so long, so that they are usually gone when a command says so. A
/// name takes some microseconds where no lookup is under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same for who changed a closure view: longer than any lookup waits for the network, so that
/// nobody sees a path in the view that is not in it when the command returns.
const PATIENCE_FOR_VIEWS: Duration = Duration::from_secs(15);

/// What is to be forgotten, and who is told when it is.
struct Names(Vec<StaleEntries>, mpsc::Sender<()>);

/// The thread that has the kernel forget.
pub(super) struct Forgetter(mpsc::Sender<Names>);

impl Forgetter {
    pub(super) fn start(notifier: Notifier) -> Self {
        let (sender, receiver) = mpsc::channel();
        let work = move || {
            for Names(all, done) in receiver {
                for stale in &all {
                    forget_entries(&notifier, stale);
                }
                // Who has stopped waiting need not know.
                let _ = done.send(());
            }
        };
        let thread = std::thread::Builder::new().name("narfs-forget".into());
        if let Err(e) = thread.spawn(work) {
            tracing::warn!("no thread to have the kernel forget what is collected: {e}");
        }
        Self(sender)
    }

    /// Has these paths forgotten, and waits for it for a while.
    pub(super) fn forget(&self, paths: &[StorePath]) {
        let names = paths.iter().map(StorePath::base_name).collect();
        let stale = StaleEntries {
            directory: Inode::special(Special::Store),
            above: Inode::special(Special::Root),
            names,
        };
        self.wait(vec![stale], PATIENCE);
    }

    /// Has these names in closure views forgotten, and waits for it for a while.
    pub(super) fn forget_in_views(&self, stale: Vec<StaleEntries>) {
        if !stale.is_empty() {
            self.wait(stale, PATIENCE_FOR_VIEWS);
        }
    }

    fn wait(&self, stale: Vec<StaleEntries>, patience: Duration) {
        let (done, forgotten) = mpsc::channel();
        if self.0.send(Names(stale, done)).is_ok() {
            let _ = forgotten.recv_timeout(patience);
        }
    }
}
