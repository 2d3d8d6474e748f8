//! The request for registrations in Nix's form, and its report.

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::source_request::SourceRequest;

/// Write what is registered, as `nix-store --load-db` reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NixDbRequest {
    /// Store paths, hashes or packages of a channel, whose closures are registered first where they are not
    /// known; empty for all that is known already.
    pub paths: Vec<String>,
    pub sources: SourceRequest,
}

/// What [`Request::NixDb`](super::Request::NixDb) reports after the registrations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NixDbReport {
    /// Registrations that were written.
    pub paths: u64,
    /// Paths that are known and left out, with the reason: Nix refuses a path of whose references one is
    /// not registered.
    pub left_out: Vec<Failure>,
}
