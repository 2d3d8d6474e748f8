//! Reports on store paths and their contents.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::fetch::Activity;
use crate::fuse::RequestCounts;
use crate::store::{PathStatistics, Statistics};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KindReport {
    Directory,
    Regular,
    /// A regular file with the executable bit.
    Executable,
    Symlink,
}

/// An entry in the report of [`Request::Ls`](super::Request::Ls).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryReport {
    /// Path relative to the requested one; empty for the requested one itself.
    pub name: String,
    pub kind: KindReport,
    /// Length of the contents or of the symlink target.
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A path in the report of [`Request::PathInfo`](super::Request::PathInfo); the fields are named as
/// in `nix path-info --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathReport {
    pub path: String,
    /// SRI hash of the NAR.
    pub nar_hash: String,
    pub nar_size: u64,
    /// NAR bytes of the closure, as far as it is known, if requested.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub closure_size: Option<u64>,
    /// Referenced paths, sorted.
    pub references: Vec<String>,
    pub deriver: Option<String>,
    pub signatures: Vec<String>,
    pub ca: Option<String>,
    /// Whether nothing but the word of a source vouches for it: no signature by a trusted key, no content
    /// address, and it was not added on this machine.
    #[serde(default)]
    pub unsigned: bool,
    /// When it was registered, in seconds since 1970.
    pub registration_time: u64,
}

/// What [`Request::Stats`](super::Request::Stats) reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateReport {
    /// Sums over the state.
    #[serde(flatten)]
    pub state: Statistics,
    /// The paths named in the request.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub each: Vec<PathStatistics>,
    /// FUSE requests, if a daemon serves the state.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fuse: Option<RequestCounts>,
    /// The counts of `fuse` by operation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub requests: Option<BTreeMap<String, u64>>,
    /// Bytes that the daemon received from sources.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fetched_bytes: Option<u64>,
    /// Fetches on demand, of a daemon with sources.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fetcher: Option<Activity>,
}

/// What [`Request::Verify`](super::Request::Verify) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Paths read in full whose digests and NAR hash are right.
    pub good: u64,
    pub nar_bytes: u64,
    /// Paths whose contents are not local because they were dropped.
    pub dropped: u64,
    /// Number of the paths that nothing but the word of a source vouches for.
    #[serde(default)]
    pub unsigned: u64,
    /// Paths that were damaged and are repaired.
    pub repaired: Vec<String>,
    pub failures: Vec<Failure>,
    /// What became of a database that could not be opened.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rebuilt: Option<RebuiltReport>,
}

/// A database that was made anew, since the one before could not be opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuiltReport {
    /// Where what was left of the one before is.
    pub moved: Option<PathBuf>,
    /// The second copy that it was made of, if that was damaged, too.
    pub damaged_copy: Option<PathBuf>,
    /// Whether contents that could be read are still there.
    pub has_contents: bool,
    /// Number of paths that were fetched again, since they are pinned or were added on this machine.
    pub fetched: u64,
    /// Paths that were added on this machine and that no source has.
    pub lost: Vec<String>,
}
