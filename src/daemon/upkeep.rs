//! Periodic work of a daemon.

use std::sync::Arc;
use std::time::Duration;

use super::ending::{EXIT_RESTART, leave};
use super::memory::{self, Bound};
use super::process::Daemon;
use crate::command::chain;
use crate::fetch::{Activity, Fetcher};
use crate::fs::FileSystem;
use crate::supervision::Supervisor;
use crate::sync::every;

/// Shows fetches in progress.
pub type Show = Box<dyn FnMut(&Activity) + Send>;

/// Interval at which fetches are shown.
const SHOW_INTERVAL: Duration = Duration::from_millis(250);

/// Interval at which access times are saved, so that a crash does not lose the order of eviction.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Interval of the budget check, besides checks while data arrive: what arrived together, was in
/// use or was pinned may be evictable later.
const BUDGET_INTERVAL: Duration = Duration::from_secs(5);

/// Interval of the check whether the state is better opened anew.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Starts the periodic work: saving access times, keeping the budget, keeping the memory within
/// `memory` bytes, restarting for the sake of the database, showing fetches, and notifying the watchdog
/// of a service manager.
pub(super) fn begin(daemon: &Arc<Daemon>, memory: usize, show: Option<(Fetcher, Show)>) {
    let store = daemon.store();
    let saved = store.clone();
    every(SAVE_INTERVAL, "narfs-uses", move || {
        if let Err(e) = saved.paths().save_uses() {
            tracing::warn!("cannot save access times: {e}");
        }
    });
    let budget = daemon.engine.budget.clone();
    if budget.budget().is_some() {
        every(BUDGET_INTERVAL, "narfs-budget", move || budget.settle());
    }
    if let Some((fetcher, mut show)) = show {
        every(SHOW_INTERVAL, "narfs-show", move || {
            show(&fetcher.activity())
        });
    }
    let (kept, mut bound) = (store.clone(), Bound::new(memory as u64));
    every(memory::CHECK_INTERVAL, "narfs-memory", move || {
        bound.keep(&kept);
    });
    if daemon.supervisor.restarts() {
        let daemon = daemon.clone();
        every(CHECK_INTERVAL, "narfs-disk", move || {
            restart_for_database(&daemon)
        });
    }
    let fs = FileSystem::new(store.clone(), None, Arc::default());
    notify_watchdog(fs, daemon.supervisor.clone());
}

/// Hands over to a new daemon if the state is better opened anew: after a disk error, usually a full disk,
/// RocksDB refuses all writes until then; and what is damaged is taken out then, for which no command has to
/// be interrupted.
fn restart_for_database(daemon: &Daemon) {
    let store = daemon.store();
    let why = match (store.is_to_be_reopened(), store.has_new_damage()) {
        (true, _) => "the database refuses writes after a disk error",
        (_, true) if daemon.engine.running_commands() == 0 => "the database is damaged",
        _ => return,
    };
    tracing::error!("{why}; handing over to the next daemon");
    leave(store, EXIT_RESTART);
}

/// Notifies the watchdog of a service manager, if it has one (sd_watchdog_enabled(3)), as long as
/// the file system layer answers. It does not go through the mount: a process that waits for its
/// own mount cannot be killed.
fn notify_watchdog(fs: FileSystem, supervisor: Arc<Supervisor>) {
    let within = std::env::var("WATCHDOG_USEC").ok();
    let Some(within) = within.and_then(|t| t.parse::<u64>().ok()) else {
        return;
    };
    every(
        Duration::from_micros(within / 3),
        "narfs-watchdog",
        move || match fs.answers() {
            Ok(()) => supervisor.alive(),
            Err(e) => tracing::error!("the health check failed: {}", chain(&e)),
        },
    );
}
