//! Requests on closure views, and what they report.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::source_request::SourceRequest;

/// What to do with closure views.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClosureRequest {
    /// Make one, or make it what it is to be.
    Define {
        name: String,
        /// Store paths or hashes, or packages of channels.
        paths: Vec<String>,
        /// Profiles that it follows.
        profiles: Vec<String>,
        /// Where to ask for what is not known.
        sources: SourceRequest,
    },
    /// Describe some.
    List {
        /// Which; empty for all.
        names: Vec<String>,
    },
    /// Remove one.
    Delete { name: String },
}

/// A path that is referred to and not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownPath {
    pub path: String,
    /// Why, as far as a source was asked.
    pub error: Option<String>,
}

/// A closure view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosureReport {
    pub name: String,
    /// The store paths that it names.
    pub roots: Vec<String>,
    /// The profiles that it follows.
    pub profiles: Vec<String>,
    /// Number of paths that it shows.
    pub paths: u64,
    /// Their NAR bytes.
    pub size: u64,
    /// Of the paths, those whose contents are not here: they are fetched when they are used.
    pub missing: u64,
    /// Whether something that is referred to is not known yet, and so not shown. There is nothing
    /// such but where a profile was switched and the sources have not told all of its closure.
    #[serde(default)]
    pub incomplete: bool,
    /// Number of these paths.
    pub unknown: u64,
    /// The first of them.
    #[serde(default)]
    pub unknown_paths: Vec<UnknownPath>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When what it shows changed last, in seconds since 1970.
    pub changed: i64,
    /// Its store directory, if it is mounted.
    pub store: Option<PathBuf>,
}
