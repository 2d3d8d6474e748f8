//! What a daemon has done and is doing, as numbers, for whoever watches it.
//!
//! Invariant: to be watched costs next to nothing. No number needs a scan of the state, or a system
//! call on the daemon's own mount.

mod exposition;

use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::keeper::STARTS;
use crate::fetch::{Activity, FetcherTimes};
use crate::fuse::{RequestCounts, RequestTimes};
use crate::store::{Brought, CacheCounts, Stored};

/// What a daemon counts. What it does not know, because it is an older version, is zero or absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FiguresReport {
    /// Version of the serving program.
    pub version: String,
    /// The serving process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: f64,
    /// How often a keeper has started a daemon again; `None` where no keeper does.
    pub restarts: Option<u64>,
    /// Requests of the kernel.
    pub requests: RequestCounts,
    /// How long these took.
    pub times: RequestTimes,
    /// Sources, and what is fetched on demand.
    pub activity: Activity,
    /// How fetches on demand ended, and how long they took.
    pub fetcher: FetcherTimes,
    /// Bytes that sources sent for NARs, for commands too, as far as the transfers have ended.
    pub fetched_bytes: u64,
    /// Copies and prefetches that run.
    pub commands: u64,
    /// What the state stores; `None` until that has been counted once.
    pub stored: Option<Stored>,
    /// What was added, and what of it was here already.
    pub brought: Brought,
    /// Bytes above which contents are dropped.
    pub budget: Option<u64>,
    /// Paths whose contents were dropped.
    pub evicted_paths: u64,
    /// Stored bytes that this freed.
    pub evicted_bytes: u64,
    /// The caches in memory.
    pub caches: CacheCounts,
    /// Bytes that are free on the state's disk.
    pub disk_free_bytes: Option<u64>,
    /// The process itself.
    pub process: ProcessFigures,
}

/// What a process takes of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessFigures {
    /// Bytes of memory that it has.
    pub resident_bytes: Option<u64>,
    /// Open descriptors.
    pub open_descriptors: Option<u64>,
    /// How many it may have open.
    pub descriptor_limit: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Processor time, of user and system together.
    pub cpu_seconds: f64,
}

impl ProcessFigures {
    fn of_this() -> Self {
        use rustix::process::{Resource, getrlimit};
        // In pages: size, resident, …; proc_pid_statm(5).
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: Option<u64> = statm.split(' ').nth(1).and_then(|n| n.parse().ok());
        let entries = |dir| Some(std::fs::read_dir(dir).ok()?.count() as u64);
        Self {
            resident_bytes: pages.map(|n| n * rustix::param::page_size() as u64),
            // The descriptor of the listing itself is one of them.
            open_descriptors: entries("/proc/self/fd").map(|n| n.saturating_sub(1)),
            descriptor_limit: getrlimit(Resource::Nofile).current,
            threads: entries("/proc/self/task"),
            cpu_seconds: cpu_seconds(),
        }
    }
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl Engine {
    /// The figures now.
    pub(super) fn figures(&self) -> FiguresReport {
        let counters = self.counters();
        let fetcher = self.fetcher.get();
        let free = rustix::fs::statvfs(self.store.dir());
        FiguresReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.uptime().as_secs_f64(),
            restarts: self.restarts(),
            requests: counters.as_ref().map(|c| c.snapshot()).unwrap_or_default(),
            times: counters.as_ref().map(|c| c.times()).unwrap_or_default(),
            activity: fetcher.map(|f| f.activity()).unwrap_or_default(),
            fetcher: fetcher.map(|f| f.times()).unwrap_or_default(),
            fetched_bytes: self.fetched_bytes(),
            commands: self.running_commands(),
            stored: self.stored(),
            brought: self.store.brought(),
            budget: self.room.budget(),
            evicted_paths: self.room.evicted(),
            evicted_bytes: self.room.evicted_bytes(),
            caches: self.store.cache_counts(),
            disk_free_bytes: free.ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize)),
            process: ProcessFigures::of_this(),
        }
    }

    fn restarts(&self) -> Option<u64> {
        let supervisor = self.supervisor.get().filter(|s| s.is_keeper());
        supervisor?;
        let starts: u64 = std::env::var(STARTS).ok()?.parse().ok()?;
        Some(starts.saturating_sub(1))
    }

    /// What is stored. It is counted by a thread of its own when first asked for, and whoever asks
    /// does not wait.
    fn stored(&self) -> Option<Stored> {
        static COUNTING: AtomicBool = AtomicBool::new(false);
        let stored = self.store.stored_so_far();
        if stored.is_none() && !COUNTING.swap(true, Ordering::SeqCst) {
            let store = self.store.clone();
            let count = move || {
                if let Err(e) = store.stored_bytes() {
                    tracing::warn!("it was not counted what the state stores: {e}");
                    COUNTING.store(false, Ordering::SeqCst);
                }
            };
            let thread = std::thread::Builder::new().name("narfs-count".into());
            if thread.spawn(count).is_err() {
                COUNTING.store(false, Ordering::SeqCst);
            }
        }
        stored
    }
}
