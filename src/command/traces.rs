//! Traces: what runs touch.

use serde::{Deserialize, Serialize};

/// What to do with a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceCommand {
    /// Begin to record.
    Start {
        name: String,
        /// Have the kernel forget what it has cached, of all file systems, so that it asks.
        drop_caches: bool,
    },
    /// Keep what was recorded.
    Stop(String),
    /// Name all traces.
    List,
    /// Say which paths a trace has.
    Show(String),
    /// Forget a trace.
    Delete(String),
}

/// A trace, as [`TraceCommand::List`] reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReport {
    pub name: String,
    /// Its paths so far.
    pub paths: u64,
    /// Whether it is being recorded.
    pub recording: bool,
}
