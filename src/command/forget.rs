//! The request to forget paths, and its report.

use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// Forget what is registered of paths, and their contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetRequest {
    /// Store paths or hashes.
    pub paths: Vec<String>,
    /// Report what would be forgotten, and change nothing.
    pub dry_run: bool,
    /// Also what other paths reference, and what was added on this machine.
    pub force: bool,
}

/// What [`Request::Forget`](super::Request::Forget) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetReport {
    pub dry_run: bool,
    /// Paths that are forgotten, or would be.
    pub paths: Vec<String>,
    /// Stored bytes freed.
    pub freed_bytes: u64,
    /// Paths that stay, with the reason.
    pub failures: Vec<Failure>,
}
