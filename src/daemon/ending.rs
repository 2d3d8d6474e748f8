//! The end of a daemon: by a signal, after an unmount, or for a successor.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::process::Daemon;
use crate::command::chain;
use crate::fuse;
use crate::store::Store;
use crate::supervision::TerminationSignals;
use crate::supervision::kept::{CONTROL, HTTP, LOCK, REQUEST};
use crate::sync;

/// Exit status of a daemon whose mount waits for the next one (EX_TEMPFAIL): neither a failure nor
/// the end of the mount.
pub(super) const EXIT_RESTART: i32 = 75;

/// Longest wait for paths that programs read already to be published: a disk that takes longer is in trouble.
pub(super) const PUBLICATION: Duration = Duration::from_secs(10);
/// Time for programs to close what was just unmounted.
const GRACE: Duration = Duration::from_secs(2);

impl Daemon {
    /// Exits so that a successor takes over and reads the configuration again.
    pub(super) fn hand_over_to_next(&self) -> ! {
        self.reread_config_next();
        leave(self.store(), EXIT_RESTART);
    }

    /// Tells the supervisor that there will be no successor.
    pub(super) fn release_kept(&self) {
        for name in [LOCK, CONTROL, HTTP, REQUEST] {
            self.supervisor.forget(name);
        }
        self.end_sockets();
    }
}

/// Makes SIGTERM and SIGINT end the daemon. If a supervisor starts a successor, the mount stays;
/// otherwise it is unmounted, so that the session ends in good order: programs that still use it
/// get a grace period, and then errors.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn end_on_signal(daemon: &Arc<Daemon>) -> io::Result<()> {
    let daemon = daemon.clone();
    let mut signals = TerminationSignals::install()?;
    let wait = move || {
        signals.wait();
        let (supervisor, serving) = (&daemon.supervisor, &daemon.engine.serving);
        supervisor.stopping();
        if supervisor.leaves_mounts() && serving.is_mounted() {
            tracing::info!("received a signal to end; the mount waits for the next daemon");
            // Clients then get an error at once rather than waiting for a successor.
            supervisor.forget(CONTROL);
            supervisor.forget(HTTP);
            daemon.hand_over_to_next();
        }
        tracing::info!("received a signal to end; unmounting");
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
            // Programs that keep the mount busy must not block the exit.
            std::thread::sleep(GRACE);
        }
        daemon.end_sockets();
        leave(daemon.store(), 0);
    };
    sync::spawn("narfs-signals", wait).map(drop)
}

/// Has the next daemon find what programs have read, and when.
pub(super) fn settle(store: &Store) {
    store.paths().await_shown(PUBLICATION);
    if let Err(e) = store.paths().save_uses() {
        tracing::warn!("cannot save access times: {e}");
    }
}

/// Exits at once, without running destructors under running threads. Requests in flight are
/// answered by the next daemon, if there is one. Whatever was published is durable.
pub(super) fn leave(store: &Store, status: i32) -> ! {
    settle(store);
    // SAFETY: `_exit` does not return and runs no code of this process.
    unsafe { libc::_exit(status) }
}
