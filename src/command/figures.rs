//! Metrics of a daemon.

use serde::{Deserialize, Serialize};

use crate::fetch::{Activity, FetcherTimes};
use crate::fuse::{RequestCounts, RequestTimes};
use crate::store::{CacheCounts, Ingested, Stored};

/// Metrics of a daemon. Fields that an older daemon does not send are zero or absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FiguresReport {
    /// Version of the daemon.
    pub version: String,
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime: f64,
    /// How often the keeper restarted the daemon; `None` without a keeper.
    pub restarts: Option<u64>,
    /// FUSE requests.
    pub requests: RequestCounts,
    /// Their durations.
    pub times: RequestTimes,
    /// Sources, and fetches on demand.
    pub activity: Activity,
    /// Results and durations of fetches on demand.
    pub fetcher: FetcherTimes,
    /// NAR bytes received from sources by finished transfers, of commands too.
    pub fetched_bytes: u64,
    /// Copy and prefetch commands in progress.
    pub commands: u64,
    /// Size of the state; `None` until it has been computed once.
    pub stored: Option<Stored>,
    /// What was ingested, and how much of it was already stored.
    pub brought: Ingested,
    /// Stored bytes above which contents are dropped.
    pub budget: Option<u64>,
    /// Paths whose contents were dropped.
    pub evicted_paths: u64,
    /// Stored bytes freed by that.
    pub evicted_bytes: u64,
    /// Chunks that were found missing or damaged, and not replaced since.
    pub damaged_chunks: u64,
    pub caches: CacheCounts,
    /// Free bytes on the file system of the state.
    pub disk_free_bytes: Option<u64>,
    pub process: ProcessFigures,
}

/// Resources used by the daemon process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessFigures {
    pub resident_bytes: Option<u64>,
    pub open_descriptors: Option<u64>,
    pub descriptor_limit: Option<u64>,
    pub threads: Option<u64>,
    /// CPU time, user and system together.
    pub cpu_seconds: f64,
}
