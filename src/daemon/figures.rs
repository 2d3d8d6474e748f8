//! Metrics of a daemon.
//!
//! Invariant: collecting them is cheap. No metric needs a scan of the state, or a system call on
//! the daemon's own mount.

use std::sync::atomic::{AtomicBool, Ordering};

use super::process::Daemon;
use crate::command::{FiguresReport, ProcessFigures};
use crate::store::Stored;
use crate::supervision::STARTS;
use crate::sync;

fn of_this_process() -> ProcessFigures {
    use rustix::process::{Resource, getrlimit};
    // In pages: size, resident, …; proc_pid_statm(5).
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|n| n.parse().ok());
    let entries = |dir| Some(std::fs::read_dir(dir).ok()?.count() as u64);
    ProcessFigures {
        resident_bytes: pages.map(|n| n * rustix::param::page_size() as u64),
        // The descriptor of the directory listing itself is not counted.
        open_descriptors: entries("/proc/self/fd").map(|n| n.saturating_sub(1)),
        descriptor_limit: getrlimit(Resource::Nofile).current,
        threads: entries("/proc/self/task"),
        cpu_seconds: cpu_seconds(),
    }
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl Daemon {
    /// The current metrics.
    pub(super) fn figures(&self) -> FiguresReport {
        let engine = &self.engine;
        let store = self.store();
        let counters = engine.serving.counters();
        let fetcher = engine.fetcher();
        let free = rustix::fs::statvfs(store.dir());
        FiguresReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs_f64(),
            restarts: self.restarts(),
            requests: counters.as_ref().map(|c| c.snapshot()).unwrap_or_default(),
            times: counters.as_ref().map(|c| c.times()).unwrap_or_default(),
            activity: fetcher.map(|f| f.activity()).unwrap_or_default(),
            fetcher: fetcher.map(|f| f.times()).unwrap_or_default(),
            fetched_bytes: engine.fetched_bytes(),
            commands: engine.running_commands(),
            stored: self.stored(),
            brought: store.upkeep().ingested(),
            budget: engine.budget.budget(),
            evicted_paths: engine.budget.evicted(),
            evicted_bytes: engine.budget.evicted_bytes(),
            damaged_chunks: store.contents().damaged_chunks(),
            caches: store.contents().cache_counts(),
            disk_free_bytes: free.ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize)),
            process: of_this_process(),
        }
    }

    fn restarts(&self) -> Option<u64> {
        if !self.supervisor.is_keeper() {
            return None;
        }
        let starts: u64 = std::env::var(STARTS).ok()?.parse().ok()?;
        Some(starts.saturating_sub(1))
    }

    /// The size of the state. The first call starts a thread that computes it; no call waits.
    fn stored(&self) -> Option<Stored> {
        static COUNTING: AtomicBool = AtomicBool::new(false);
        let store = self.store();
        let stored = store.upkeep().stored_so_far();
        if stored.is_none() && !COUNTING.swap(true, Ordering::SeqCst) {
            let store = store.clone();
            let count = move || {
                if let Err(e) = store.upkeep().stored_bytes() {
                    tracing::warn!("cannot compute the size of the state: {e}");
                    COUNTING.store(false, Ordering::SeqCst);
                }
            };
            if sync::spawn("narfs-count", count).is_err() {
                COUNTING.store(false, Ordering::SeqCst);
            }
        }
        stored
    }
}
