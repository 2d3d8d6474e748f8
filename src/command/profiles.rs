//! What users ask of profiles, and what is reported.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::source_request::SourceRequest;
use crate::profile::PackageChange;

/// What a user asks of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRequest {
    pub profile: String,
    /// What to do.
    pub action: ProfileAction,
    /// Where to fetch what is not here.
    pub sources: SourceRequest,
    /// Only say what would be done. What has to be known for that is fetched all the same.
    pub dry_run: bool,
}

/// What to do with a profile.
///
/// [`ProfileAction::ListAll`] is for all of them, whatever is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProfileAction {
    /// Say what is installed.
    List,
    /// Add packages.
    Install {
        /// Store paths or hashes.
        paths: Vec<String>,
        /// Their priority, if it is said; also of those that are there already.
        priority: Option<i64>,
        /// Make the closure of the profile complete first.
        prefetch: bool,
    },
    /// Take packages out: names of elements, store paths, hashes, or names of packages.
    Remove(Vec<String>),
    /// Point it at a store path.
    Set {
        /// Store path or hash.
        path: String,
        /// Make its closure complete first.
        prefetch: bool,
    },
    /// Name its generations.
    History,
    /// Switch to the generation before the current one.
    Rollback,
    /// Switch to a generation.
    Switch(u64),
    /// Delete it with all its generations.
    Delete,
    /// Name all profiles.
    ListAll,
    /// Delete generations: numbers, `old`, `+K` or `Nd`.
    DeleteGenerations(Vec<String>),
    /// Compare the closures of two generations.
    Diff {
        /// The first; by default the one before the current one.
        from: Option<u64>,
        /// The second; by default the current one.
        to: Option<u64>,
    },
}

/// Profiles as they should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// Those that are not here are left alone.
    pub profiles: Vec<DeclaredProfile>,
    /// Where to fetch what is not here.
    pub sources: SourceRequest,
    /// Make the closures complete first.
    pub prefetch: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// A profile as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredProfile {
    pub name: String,
    /// What its current generation should be.
    pub target: DeclaredTarget,
}

/// What the current generation of a profile should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeclaredTarget {
    /// The user environment of these packages.
    Packages(Vec<DeclaredPackage>),
    /// This store path.
    Path(String),
}

/// A package as it should be installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredPackage {
    /// Store path or hash.
    pub path: String,
    /// Its priority, if it is said.
    pub priority: Option<i64>,
}

/// How a profile came to its current generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileOutcome {
    /// Not at all: the current generation is the one from before.
    #[default]
    Unchanged,
    /// A generation was made.
    Created,
    /// A generation that was there is current now.
    Switched,
    /// There is no such profile any more.
    Deleted,
}

/// What became of a profile, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileChangeReport {
    pub profile: String,
    /// What happened to the current generation.
    pub outcome: ProfileOutcome,
    /// The generation that was current.
    pub from: Option<u64>,
    /// The generation that is current.
    pub to: Option<u64>,
    /// What it points to.
    pub path: Option<String>,
    /// Store paths that were installed.
    pub installed: Vec<String>,
    /// Store paths that were to be installed and were there.
    pub kept: Vec<String>,
    /// Store paths that were taken out.
    pub removed: Vec<String>,
    /// Generations that were deleted, in this order.
    pub deleted: Vec<u64>,
    /// What the user may not expect of the environment.
    pub warnings: Vec<String>,
    /// Whether all this only would be.
    pub dry_run: bool,
}

/// What is installed in a profile; with the fields of `nix profile list --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileReport {
    pub profile: String,
    /// The current generation.
    pub generation: u64,
    /// What it points to.
    pub path: String,
    /// Whether that is an environment of packages, and not any other path.
    pub environment: bool,
    /// The packages, by their names.
    pub elements: BTreeMap<String, ElementReport>,
    /// Version of the form of `elements`.
    pub version: u64,
}

/// What was installed in one go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ElementReport {
    /// Its place in the manifest.
    pub index: usize,
    /// Whether it is linked.
    pub active: bool,
    /// Its priority.
    pub priority: i64,
    /// The flake that it came from, as the user named it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub original_url: Option<String>,
    /// The same as it was locked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    /// Which attribute of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attr_path: Option<String>,
    /// Its store paths.
    pub store_paths: Vec<String>,
}

/// A profile among all profiles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileSummary {
    pub profile: String,
    /// The current generation, if there is one.
    pub generation: Option<u64>,
    /// How many generations there are.
    pub generations: u64,
    /// What the current generation points to.
    pub path: Option<String>,
}

/// A generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationReport {
    pub generation: u64,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// What it points to.
    pub path: String,
    /// Whether it is the current one.
    pub current: bool,
}

/// How the closures of two generations differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileDiffReport {
    pub profile: String,
    /// The first generation.
    pub from: u64,
    /// The second.
    pub to: u64,
    /// The packages that differ.
    pub packages: Vec<PackageChange>,
    /// NAR bytes of the first closure, as far as it is known.
    pub size_before: u64,
    /// The same of the second.
    pub size_after: u64,
    /// Paths of the closures of which nothing is known, here or by the sources: they are not in
    /// the sums, nor among the packages.
    pub unknown: Vec<String>,
}
