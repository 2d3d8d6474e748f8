//! Has the kernel forget the names of paths that were collected.
//!
//! The kernel was told that they are valid for ever. To forget one it takes the lock of the store
//! directory, which a lookup there that waits for the network shares: so a thread of its own does
//! it, and nobody waits for it without a bound, least of all who answers requests. Until it is
//! done a name may still lead to what was there: its attributes may still be shown, what is read
//! of it comes from the kernel's caches and is what it was, or is ESTALE, after which the kernel
//! looks the name up anew. It is never something else, since inode numbers are not given again.
//! For who had it open it stays so. After it is done no answer from before can come back: see
//! `invalidation.rs`.

use std::ffi::OsString;
use std::sync::mpsc;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use super::invalidation::report;
use crate::fs::{Inode, Special};
use crate::nix::store_path::StorePath;

/// Whoever removed paths waits so long, so that they are usually gone when a command says so. A
/// name takes some microseconds where no lookup is under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// Names that are to be forgotten, and who is told when they are.
struct Names(Vec<OsString>, mpsc::Sender<()>);

/// The thread that has the kernel forget.
pub(super) struct Forgetter(mpsc::Sender<Names>);

impl Forgetter {
    pub(super) fn start(notifier: Notifier) -> Self {
        let (sender, receiver) = mpsc::channel();
        let work = move || {
            for Names(names, done) in receiver {
                let store = INodeNo(Inode::special(Special::Store).0);
                for name in names {
                    report(notifier.inval_entry(store, &name), "a collected path");
                }
                report(notifier.inval_inode(store, 0, 0), "a listing");
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
        let names = paths.iter().map(|p| p.base_name().into()).collect();
        let (done, forgotten) = mpsc::channel();
        if self.0.send(Names(names, done)).is_ok() {
            let _ = forgotten.recv_timeout(PATIENCE);
        }
    }
}
