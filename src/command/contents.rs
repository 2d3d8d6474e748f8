//! What is brought, kept and dropped.

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::source_request::SourceRequest;

/// What to copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRequest {
    /// From where.
    pub sources: SourceRequest,
    /// Store paths or hashes.
    pub paths: Vec<String>,
    /// Whatever the sources list.
    pub all: bool,
    /// With everything that they refer to.
    pub recursive: bool,
    /// NARs unpacked at once; 0 for one a core.
    pub jobs: usize,
}

/// What to make local.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchRequest {
    /// From where.
    pub sources: SourceRequest,
    /// Store paths or hashes, in the order in which they are wanted.
    pub paths: Vec<String>,
    /// A trace whose paths are wanted too, first.
    pub trace: Option<String>,
    /// With everything that the paths refer to. The paths of a trace come alone.
    pub recursive: bool,
    /// Read all of it again afterwards, past every digest, and compare the NAR hashes.
    pub check: bool,
    /// Keep it from now on.
    pub pin: bool,
}

/// What [`Request::Copy`](super::Request::Copy) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Paths that are new.
    pub copied: u64,
    /// Paths that were there before.
    pub already: u64,
    /// NAR bytes of the new paths.
    pub nar_bytes: u64,
    /// Bytes that the sources sent for them.
    pub fetched_bytes: u64,
    /// Paths whose contents were dropped meanwhile to stay within the budget, those of this copy
    /// among them if nothing else could go.
    pub dropped: u64,
    /// Paths that could not be copied.
    pub failures: Vec<Failure>,
}

/// What [`Request::Prefetch`](super::Request::Prefetch) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchReport {
    /// Whether everything that was wanted is here.
    pub complete: bool,
    /// Paths that are here, of those that were wanted with their closures.
    pub paths: u64,
    /// Their NAR bytes.
    pub nar_bytes: u64,
    /// Of the paths, those that were not here before.
    pub fetched: u64,
    /// Bytes that the sources sent for them.
    pub fetched_bytes: u64,
    /// Paths that are not here, or that are damaged.
    pub failures: Vec<Failure>,
}

/// What [`Request::Evict`](super::Request::Evict) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictReport {
    /// Paths whose contents were dropped, the least recently used first.
    pub paths: Vec<String>,
    /// Stored bytes that this freed.
    pub freed_bytes: u64,
    /// Bytes that the disk got back; the rest of what was freed is used for what comes next.
    pub reclaimed_bytes: u64,
    /// Bytes that are stored now.
    pub stored_bytes: u64,
}

/// A pin, as [`Request::Pins`](super::Request::Pins) reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    pub path: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Paths of its closure, as far as it is known here.
    pub closure: u64,
    /// Of these, paths whose contents are not here.
    pub missing: u64,
}
