//! The request to forget a key, and its report.

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::source_request::SourceRequest;

/// Take back what a key alone has vouched for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetKeyRequest {
    /// Its name, for all keys of that name, or the whole public key.
    pub key: String,
    /// Report what would be taken back, and change nothing.
    pub dry_run: bool,
    /// Sources that are asked whether somebody else vouches for these paths, and other trusted keys.
    pub sources: SourceRequest,
}

/// What [`Request::ForgetKey`](super::Request::ForgetKey) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetKeyReport {
    pub dry_run: bool,
    /// Number of paths that the key has signed. Its signatures are removed from all of them.
    pub signed: u64,
    /// Of these, the ones that another trusted key or a content address vouches for, or that were added on
    /// this machine.
    pub kept: u64,
    /// Paths that nothing but the key vouched for.
    pub lost: Vec<String>,
    /// Of these, the ones that a source has vouched for by now, with the same contents.
    pub vouched_again: Vec<String>,
    /// The others, with the reason.
    pub unvouched: Vec<Failure>,
    /// Whether the key is still among the trusted keys of the daemon or the configuration, so that what it
    /// signs is believed again.
    pub still_trusted: bool,
}
