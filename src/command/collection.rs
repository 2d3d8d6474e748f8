//! Collections, and the roots that they keep.

use serde::{Deserialize, Serialize};

/// What to collect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// Only say what would go.
    pub dry_run: bool,
    /// First delete these generations of all profiles.
    pub delete: Option<OldGenerations>,
    /// Stop when so many stored bytes are freed.
    pub max_freed: Option<u64>,
    /// Give a line for each thing that is done, while it is.
    pub lines: bool,
}

/// Which generations are old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OldGenerations {
    /// All but the current ones.
    All,
    /// Those that were not current in so many days.
    Days(u32),
}

/// A generation that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldGeneration {
    /// Its profile.
    pub profile: String,
    pub generation: u64,
}

/// What a collection removed, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Generations that were deleted first.
    pub generations: Vec<OldGeneration>,
    /// Store paths, each before those that it refers to.
    pub paths: Vec<String>,
    /// Processes that could not be looked at, by number and name: what they were seen to use last
    /// stays, and what is newer than they are.
    #[serde(default)]
    pub unseen: Vec<String>,
    /// Stored bytes that this freed.
    pub freed_bytes: u64,
    /// Bytes that the disk got back.
    pub reclaimed_bytes: u64,
    /// Bytes that are stored now.
    pub stored_bytes: u64,
}

/// What kind of root it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    /// A pin.
    Pin,
    /// A generation of a profile.
    Generation,
    /// A path that a closure view names.
    Closure,
    /// A link, or a file that is named as a path.
    Link,
    /// Something that a running program uses.
    Process,
}

/// A root, as `narfs roots` reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootReport {
    /// The store path that is kept.
    pub path: String,
    /// What kind of root it is.
    pub kind: RootKind,
    /// Where it is from: `pin`, a generation, a link, or a file in /proc.
    pub from: String,
}
