//! What a daemon says of itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::traces::TraceReport;
use crate::fetch::{Activity, Snapshot};
use crate::http::Address;

/// What [`Request::Status`](super::Request::Status) reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the serving program.
    pub version: String,
    /// The serving process.
    pub pid: u32,
    /// The state directory.
    pub state: PathBuf,
    /// Where it is mounted, in the daemon's mount namespace.
    pub mountpoints: Vec<PathBuf>,
    /// The first of these.
    pub mountpoint: Option<PathBuf>,
    /// Who starts it again if it ends: `keeper` or `service manager`.
    pub supervisor: Option<String>,
    /// Where programs may change profiles.
    pub writable_profiles: Vec<PathBuf>,
    /// Where it serves HTTP.
    #[serde(default)]
    pub listen: Option<Address>,
    /// The socket at which container engines ask for volumes.
    #[serde(default)]
    pub volume_plugin: Option<PathBuf>,
    /// Why the configuration is not what is served: it was wrong when it was read again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub configuration: Option<String>,
    /// Seconds since it started.
    pub uptime: u64,
    /// Registered paths.
    pub paths: u64,
    /// Bytes that are stored.
    pub stored_bytes: u64,
    /// Bytes above which contents are dropped.
    pub budget: Option<u64>,
    /// Paths whose contents this daemon has dropped.
    pub evicted: u64,
    /// What is fetched on demand; empty without sources.
    #[serde(flatten)]
    pub activity: Activity,
    /// Copies and prefetches that run now.
    pub commands: Vec<Snapshot>,
    /// Traces that are being recorded.
    pub traces: Vec<TraceReport>,
}
