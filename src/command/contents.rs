//! Requests that fetch, keep or drop contents, and their reports.

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::source_request::SourceRequest;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRequest {
    pub sources: SourceRequest,
    /// Store paths or hashes.
    pub paths: Vec<String>,
    /// All paths that the sources list.
    pub all: bool,
    /// Copy the closures, not only the paths themselves.
    pub recursive: bool,
    /// NARs unpacked in parallel; 0 for one per core.
    pub jobs: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchRequest {
    pub sources: SourceRequest,
    /// Store paths or hashes, by descending priority.
    pub paths: Vec<String>,
    /// A trace whose paths are fetched first.
    pub trace: Option<String>,
    /// Include the closures of `paths`. The paths of a trace are fetched without their closures.
    pub recursive: bool,
    /// Afterwards read everything again, check every digest, and compare the NAR hashes.
    pub check: bool,
    /// Pin the paths.
    pub pin: bool,
}

/// What [`Request::Copy`](super::Request::Copy) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Paths that were copied.
    pub copied: u64,
    /// Paths that were already present.
    pub already: u64,
    /// NAR bytes of the copied paths.
    pub nar_bytes: u64,
    /// Bytes received from the sources for them.
    pub fetched_bytes: u64,
    /// Paths whose contents were dropped during the copy to stay within the budget; these include
    /// paths of this copy if nothing else could be dropped.
    pub dropped: u64,
    /// Paths that could not be copied.
    pub failures: Vec<Failure>,
}

/// What [`Request::Prefetch`](super::Request::Prefetch) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchReport {
    /// Whether all requested paths are local.
    pub complete: bool,
    /// Paths that are local, of the requested closures.
    pub paths: u64,
    /// Their NAR bytes.
    pub nar_bytes: u64,
    /// Of these paths, the ones fetched by this request.
    pub fetched: u64,
    /// Bytes received from the sources for them.
    pub fetched_bytes: u64,
    /// Number of the requested paths, closures included, that nothing but the word of a source vouches
    /// for: whether these are the whole closures rests on it.
    #[serde(default)]
    pub unsigned: u64,
    /// Paths that are missing or damaged.
    pub failures: Vec<Failure>,
}

/// What [`Request::Evict`](super::Request::Evict) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictReport {
    /// Paths whose contents were dropped, least recently used first.
    pub paths: Vec<String>,
    /// Stored bytes freed.
    pub freed_bytes: u64,
    /// Bytes returned to the file system; the rest of the freed space is reused for later writes.
    pub reclaimed_bytes: u64,
    /// Stored bytes that remain.
    pub stored_bytes: u64,
}

/// A pin, as [`Request::Pins`](super::Request::Pins) reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    pub path: String,
    /// When it was pinned, in seconds since 1970.
    pub since: u64,
    /// Number of paths in its closure, as far as the closure is known.
    pub closure: u64,
    /// Number of these paths whose contents are not local.
    pub missing: u64,
}
