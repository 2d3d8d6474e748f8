//! What a daemon does now and then.

use std::sync::Arc;
use std::time::Duration;

use super::ending::{AGAIN, leave};
use super::memory::{self, Bound};
use super::process::Daemon;
use crate::command::chain;
use crate::fetch::{Activity, Fetcher};
use crate::fs::FileSystem;
use crate::store::Store;
use crate::supervision::Supervisor;
use crate::sync::every;

/// Shows what is being fetched.
pub type Show = Box<dyn FnMut(&Activity) + Send>;

/// How often that is shown.
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// How often it is kept when what was used, so that a crash does not lose the order.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// How often it is looked whether the state is above its budget, besides while something arrives:
/// what arrived together, was in use or was pinned may be dropped later.
const SETTLE_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked whether the database has given up writing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Starts what is done now and then: keeping what was used and the budget, keeping the memory within
/// `memory` bytes, having another daemon go on where the database does not, showing what is fetched, and
/// telling a service manager that all is well.
pub(super) fn begin(daemon: &Arc<Daemon>, memory: usize, show: Option<(Fetcher, Show)>) {
    let store = daemon.store();
    let saved = store.clone();
    every(SAVE_EVERY, "narfs-uses", move || {
        if let Err(e) = saved.paths().save_uses() {
            tracing::warn!("it was not kept when what was used: {e}");
        }
    });
    let budget = daemon.engine.budget.clone();
    if budget.budget().is_some() {
        every(SETTLE_EVERY, "narfs-budget", move || budget.settle());
    }
    if let Some((fetcher, mut show)) = show {
        every(SHOW_EVERY, "narfs-show", move || show(&fetcher.activity()));
    }
    let (kept, mut bound) = (store.clone(), Bound::new(memory as u64));
    every(memory::LOOK_EVERY, "narfs-memory", move || {
        bound.keep(&kept);
    });
    if daemon.supervisor.restarts() {
        let store = store.clone();
        every(LOOK_EVERY, "narfs-disk", move || go_on_after_errors(&store));
    }
    let fs = FileSystem::new(store.clone(), None, Arc::default());
    watch_over_itself(fs, daemon.supervisor.clone());
}

/// Has another daemon go on where the database writes no more, and could again: after an error of
/// the disk, mostly a full one, RocksDB refuses all writes until it is opened anew.
fn go_on_after_errors(store: &Store) {
    if store.has_given_up_writing() && store.has_room() {
        tracing::error!(
            "the database has stopped to write after an error of the disk; another daemon goes on"
        );
        leave(store, AGAIN);
    }
}

/// Tells a service manager that wants to hear it (sd_watchdog_enabled(3)) that the daemon is well:
/// that it can say what it would show. It does not ask by the mount: a process that waits for
/// itself cannot be killed.
fn watch_over_itself(fs: FileSystem, supervisor: Arc<Supervisor>) {
    let within = std::env::var("WATCHDOG_USEC").ok();
    let Some(within) = within.and_then(|t| t.parse::<u64>().ok()) else {
        return;
    };
    every(
        Duration::from_micros(within / 3),
        "narfs-watchdog",
        move || match fs.answers() {
            Ok(()) => supervisor.well(),
            Err(e) => tracing::error!("the daemon is not well: {}", chain(&e)),
        },
    );
}
