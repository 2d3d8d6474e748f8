//! What a daemon counts.

use serde::{Deserialize, Serialize};

use crate::fetch::{Activity, FetcherTimes};
use crate::fuse::{RequestCounts, RequestTimes};
use crate::store::{CacheCounts, Ingested, Stored};

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
    pub brought: Ingested,
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
