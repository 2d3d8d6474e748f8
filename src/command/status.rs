//! Status of a daemon.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::traces::TraceReport;
use crate::fetch::{Activity, Snapshot};
use crate::http::Address;

/// What [`Request::Status`](super::Request::Status) reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the daemon.
    pub version: String,
    pub pid: u32,
    /// The state directory.
    pub state: PathBuf,
    /// Mount points, in the daemon's mount namespace.
    pub mountpoints: Vec<PathBuf>,
    /// The first of `mountpoints`.
    pub mountpoint: Option<PathBuf>,
    /// What restarts the daemon: `keeper` or `service manager`.
    pub supervisor: Option<String>,
    /// Mount points of writable profiles.
    pub writable_profiles: Vec<PathBuf>,
    /// Address of the HTTP server.
    #[serde(default)]
    pub listen: Option<Address>,
    /// Socket of the volume plugin for container engines.
    #[serde(default)]
    pub volume_plugin: Option<PathBuf>,
    /// Socket of the worker for Nix.
    #[serde(default)]
    pub nix_socket: Option<PathBuf>,
    /// Error of the last reload of the configuration; the daemon still runs with the previous one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub configuration: Option<String>,
    /// Seconds since the daemon started.
    pub uptime: u64,
    /// Registered paths.
    pub paths: u64,
    pub stored_bytes: u64,
    /// Chunks that are known to be damaged, and are not replaced yet.
    #[serde(default)]
    pub damaged_chunks: u64,
    /// Paths whose path infos this daemon could not read, and that are not registered anew yet.
    #[serde(default)]
    pub unreadable_paths: u64,
    /// Stored bytes above which contents are dropped.
    pub budget: Option<u64>,
    /// Paths whose contents this daemon has dropped.
    pub evicted: u64,
    /// Fetches on demand; empty without sources.
    #[serde(flatten)]
    pub activity: Activity,
    /// Copy and prefetch commands in progress.
    pub commands: Vec<Snapshot>,
    /// Traces being recorded.
    pub traces: Vec<TraceReport>,
}
