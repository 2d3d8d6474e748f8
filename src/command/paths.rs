//! What is registered, listed, counted and compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::fetch::Activity;
use crate::fuse::RequestCounts;
use crate::store::{PathStatistics, Statistics};

/// What kind of file an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KindReport {
    Directory,
    Regular,
    /// A regular file with x bits.
    Executable,
    Symlink,
}

/// What [`Request::Ls`](super::Request::Ls) reports of each entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryReport {
    /// Place below the one that was asked for; empty for that itself.
    pub name: String,
    pub kind: KindReport,
    /// Bytes of contents or target.
    pub size: u64,
    /// Target of a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What [`Request::PathInfo`](super::Request::PathInfo) reports of each path; named as `nix path-info --json` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathReport {
    pub path: String,
    /// Hash of its NAR, SRI.
    pub nar_hash: String,
    /// Length of its NAR, in bytes.
    pub nar_size: u64,
    /// NAR bytes of it and all that it refers to, as far as that is here; if asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub closure_size: Option<u64>,
    /// What it refers to, sorted.
    pub references: Vec<String>,
    /// The derivation that it came from.
    pub deriver: Option<String>,
    /// Signatures.
    pub signatures: Vec<String>,
    /// Content address.
    pub ca: Option<String>,
    /// When it was registered, in seconds since 1970.
    pub registration_time: u64,
}

/// What [`Request::Stats`](super::Request::Stats) reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateReport {
    /// Sums over the state.
    #[serde(flatten)]
    pub state: Statistics,
    /// Each path that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub each: Vec<PathStatistics>,
    /// Requests of the kernel, of a running daemon.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fuse: Option<RequestCounts>,
    /// The counts of `fuse` by operation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub requests: Option<BTreeMap<String, u64>>,
    /// Bytes that this daemon fetched from sources.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fetched_bytes: Option<u64>,
    /// What is fetched on demand, of a daemon with sources.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fetcher: Option<Activity>,
}

/// What [`Request::Verify`](super::Request::Verify) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Paths that were read whole and are what they must be.
    pub good: u64,
    /// Their NAR bytes.
    pub nar_bytes: u64,
    /// Paths whose contents are not here, because they were dropped.
    pub dropped: u64,
    /// Paths that were damaged and are good again.
    pub repaired: Vec<String>,
    /// Paths that are damaged.
    pub failures: Vec<Failure>,
}
