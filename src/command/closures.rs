//! Requests on closure views, and their reports.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::source_request::SourceRequest;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClosureRequest {
    /// Create a view, or replace its definition.
    Define {
        name: String,
        /// Store paths or hashes, or packages of channels.
        paths: Vec<String>,
        /// Profiles that the view follows.
        profiles: Vec<String>,
        /// Sources for paths that are not registered.
        sources: SourceRequest,
    },
    List {
        /// Views to list; empty for all.
        names: Vec<String>,
    },
    Delete {
        name: String,
    },
}

/// A referenced path whose path info is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownPath {
    pub path: String,
    /// Why the sources could not supply it, if one was queried.
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosureReport {
    pub name: String,
    /// Store paths named in its definition.
    pub roots: Vec<String>,
    /// Profiles that it follows.
    pub profiles: Vec<String>,
    /// Number of store paths in the view.
    pub paths: u64,
    /// Sum of their NAR sizes, in bytes.
    pub size: u64,
    /// Number of these paths whose contents are not local; they are fetched on access.
    pub missing: u64,
    /// Number of these paths that nothing but the word of a source vouches for: whether they refer to
    /// nothing else rests on it.
    #[serde(default)]
    pub unsigned: u64,
    /// Whether some referenced paths are not known and therefore not in the view. Happens only
    /// after a profile switch, while the sources have not yet supplied the path infos of the new
    /// closure.
    #[serde(default)]
    pub incomplete: bool,
    /// Number of unknown paths.
    pub unknown: u64,
    /// The first few unknown paths.
    #[serde(default)]
    pub unknown_paths: Vec<UnknownPath>,
    /// When the view was created, in seconds since 1970.
    pub created: i64,
    /// When its set of paths last changed, in seconds since 1970.
    pub changed: i64,
    /// Its store directory below a mount point, if the state is mounted.
    pub store: Option<PathBuf>,
}
