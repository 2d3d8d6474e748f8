//! Requests on garbage collection and roots, and their reports.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// Report what would be removed, and remove nothing.
    pub dry_run: bool,
    /// Delete these generations of all profiles first.
    pub delete: Option<OldGenerations>,
    /// Stop after freeing this many stored bytes.
    pub max_freed: Option<u64>,
    /// Print a line for each deleted generation and path as it happens.
    pub lines: bool,
}

/// Which generations to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OldGenerations {
    /// All but the current ones.
    All,
    /// Those that have not been current for this many days.
    Days(u32),
}

/// A generation deleted by a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldGeneration {
    pub profile: String,
    pub generation: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcReport {
    /// Whether this was a dry run.
    pub dry_run: bool,
    /// Generations deleted before the collection.
    pub generations: Vec<OldGeneration>,
    /// Removed store paths, each before the paths that it references.
    pub paths: Vec<String>,
    /// Processes that could not be inspected, by pid and name. What they were last seen to use is
    /// kept, and so is whatever is newer than they are.
    #[serde(default)]
    pub unseen: Vec<String>,
    /// Number of the paths that stay which nothing but the word of a source vouches for: what they refer
    /// to without saying so is not kept.
    #[serde(default)]
    pub unsigned: u64,
    /// Paths that are kept, or may be, and whose path infos cannot be read: what they reference is not known,
    /// so that nothing else is removed.
    #[serde(default)]
    pub unreadable: Vec<String>,
    /// Stored bytes freed.
    pub freed_bytes: u64,
    /// Bytes returned to the file system.
    pub reclaimed_bytes: u64,
    /// Stored bytes that remain.
    pub stored_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    Pin,
    Generation,
    /// A path named in the definition of a closure view.
    Closure,
    /// A symlink, or a file whose name is a store path.
    Link,
    /// A path used by a running process.
    Process,
}

/// A root, as reported by `narfs roots`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootReport {
    /// The store path that the root keeps.
    pub path: String,
    pub kind: RootKind,
    /// Origin of the root: `pin`, a generation, a symlink, or a file in /proc.
    pub from: String,
}
