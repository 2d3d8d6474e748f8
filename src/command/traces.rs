//! Requests on traces, and their reports. A trace records the paths that a run accesses.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceCommand {
    /// Start recording.
    Start {
        name: String,
        /// Drop the caches of the kernel, for all file systems, so that it sends its requests
        /// again.
        drop_caches: bool,
    },
    /// Stop recording, and keep the trace.
    Stop(String),
    List,
    /// List the paths of a trace.
    Show(String),
    /// Delete a trace.
    Delete(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReport {
    pub name: String,
    /// Number of paths so far.
    pub paths: u64,
    pub recording: bool,
}
