//! The end of a daemon: told to, unmounted, or left to the next one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::process::Daemon;
use crate::command::chain;
use crate::fuse;
use crate::store::Store;
use crate::supervision::EndSignals;
use crate::supervision::kept::{CONTROL, HTTP, LOCK, REQUEST};
use crate::sync;

/// Exit status of a daemon whose mount waits for the next one (EX_TEMPFAIL): not a failure, and no
/// end.
pub(super) const AGAIN: i32 = 75;

/// Time that programs get to let go of what was just unmounted.
const GRACE: Duration = Duration::from_secs(2);

impl Daemon {
    /// Ends the process so that another daemon goes on, which reads the configuration again.
    pub(super) fn leave_to_next(&self) -> ! {
        self.reread_next_time();
        leave(self.store(), AGAIN);
    }

    /// Says that no daemon goes on.
    pub(super) fn is_last(&self) {
        for name in [LOCK, CONTROL, HTTP, REQUEST] {
            self.supervisor.forget(name);
        }
        self.end_plugin();
    }
}

/// SIGTERM and SIGINT end the daemon. Where it is left to another one, the mount stays; else it is
/// unmounted, so that the session ends in good order, and who still uses it gets a moment, and
/// then errors.
///
/// # Errors
/// There is no thread to wait on.
pub(super) fn end_when_told(daemon: &Arc<Daemon>) -> io::Result<()> {
    let daemon = daemon.clone();
    let mut signals = EndSignals::hear()?;
    let wait = move || {
        signals.wait();
        let (supervisor, serving) = (&daemon.supervisor, &daemon.engine.serving);
        supervisor.stopping();
        if supervisor.leaves_mounts() && serving.is_mounted() {
            tracing::info!("told to end; the mount waits for the next daemon");
            // Who asks gets an answer, if not the wanted one.
            supervisor.forget(CONTROL);
            supervisor.forget(HTTP);
            daemon.leave_to_next();
        }
        tracing::info!("told to end; unmounting");
        for name in [LOCK, CONTROL, HTTP, REQUEST] {
            supervisor.forget(name);
        }
        let mountpoints = serving.mountpoints().unwrap_or_default();
        let mut last = mountpoints.is_empty();
        for at in mountpoints.iter().rev() {
            if let Err(e) = fuse::unmount(at, false).or_else(|_| fuse::unmount(at, true)) {
                tracing::error!("{}", chain(&e));
                last = true;
            }
        }
        if !last {
            // Users that hold it must not hold us.
            std::thread::sleep(GRACE);
        }
        daemon.end_plugin();
        leave(daemon.store(), 0);
    };
    sync::spawn("narfs-signals", wait).map(drop)
}

/// Ends the process at once: what waits for an answer gets it from the next daemon, if there is
/// one. Whatever was published is durable. Nothing is torn down under threads that still run.
pub(super) fn leave(store: &Store, status: i32) -> ! {
    if let Err(e) = store.paths().save_uses() {
        tracing::warn!("it was not kept when what was used: {e}");
    }
    // SAFETY: it does not return, and runs nothing of ours.
    unsafe { libc::_exit(status) }
}
