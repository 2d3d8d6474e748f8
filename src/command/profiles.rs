//! Requests on profiles, and their reports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::source_request::SourceRequest;
use crate::profile::PackageChange;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRequest {
    pub profile: String,
    pub action: ProfileAction,
    /// Sources for paths that are not local.
    pub sources: SourceRequest,
    /// Report what would be done. Path infos needed for that are fetched nevertheless.
    pub dry_run: bool,
}

/// What to do with a profile. [`ProfileAction::ListAll`] ignores the profile of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProfileAction {
    /// List the installed packages.
    List,
    Install {
        /// Store paths or hashes.
        paths: Vec<String>,
        /// Priority to set, also on packages that are already installed.
        priority: Option<i64>,
        /// Fetch the closure of the profile completely before switching.
        prefetch: bool,
    },
    /// Remove packages: names of elements, store paths, hashes, or package names.
    Remove(Vec<String>),
    /// Set the profile to a store path.
    Set {
        /// Store path or hash.
        path: String,
        /// Fetch its closure completely before switching.
        prefetch: bool,
    },
    /// List the generations.
    History,
    /// Switch to the generation before the current one.
    Rollback,
    Switch(u64),
    /// Delete the profile with all its generations.
    Delete,
    ListAll,
    /// Delete generations: numbers, `old`, `+K` or `Nd`.
    DeleteGenerations(Vec<String>),
    /// Compare the closures of two generations.
    Diff {
        /// Defaults to the generation before the current one.
        from: Option<u64>,
        /// Defaults to the current generation.
        to: Option<u64>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// Profiles that are not listed are left unchanged.
    pub profiles: Vec<DeclaredProfile>,
    /// Sources for paths that are not local.
    pub sources: SourceRequest,
    /// Fetch the closures completely before switching.
    pub prefetch: bool,
    /// Report what would be done.
    pub dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredProfile {
    pub name: String,
    pub target: DeclaredTarget,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeclaredTarget {
    /// The user environment of these packages.
    Packages(Vec<DeclaredPackage>),
    /// This store path.
    Path(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredPackage {
    /// Store path or hash.
    pub path: String,
    pub priority: Option<i64>,
}

/// How a change affected the current generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileOutcome {
    /// The current generation is the same as before.
    #[default]
    Unchanged,
    /// A new generation was created.
    Created,
    /// An existing generation became current.
    Switched,
    /// The profile was deleted.
    Deleted,
}

/// A change of a profile, made or in a dry run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileChangeReport {
    pub profile: String,
    pub outcome: ProfileOutcome,
    /// The current generation before the change.
    pub from: Option<u64>,
    /// The current generation after it.
    pub to: Option<u64>,
    /// Target of the current generation.
    pub path: Option<String>,
    /// Installed store paths.
    pub installed: Vec<String>,
    /// Store paths that were requested and already installed.
    pub kept: Vec<String>,
    /// Removed store paths.
    pub removed: Vec<String>,
    /// Deleted generations, in order of deletion.
    pub deleted: Vec<u64>,
    /// Properties of the environment that may surprise the user.
    pub warnings: Vec<String>,
    /// Whether this was a dry run.
    pub dry_run: bool,
}

/// The packages of a profile, with the fields of `nix profile list --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileReport {
    pub profile: String,
    /// The current generation.
    pub generation: u64,
    /// Its target.
    pub path: String,
    /// Whether the target is a user environment.
    pub environment: bool,
    /// The elements, by name.
    pub elements: BTreeMap<String, ElementReport>,
    /// Version of the layout of `elements`.
    pub version: u64,
}

/// Packages that were installed together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ElementReport {
    /// Index in the manifest.
    pub index: usize,
    /// Whether its files are linked into the environment.
    pub active: bool,
    pub priority: i64,
    /// The flake that it came from, as the user wrote it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub original_url: Option<String>,
    /// The locked flake reference.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    /// Attribute of the flake.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attr_path: Option<String>,
    pub store_paths: Vec<String>,
}

/// A profile in the list of all profiles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileSummary {
    pub profile: String,
    /// The current generation, if any.
    pub generation: Option<u64>,
    /// Number of generations.
    pub generations: u64,
    /// Target of the current generation.
    pub path: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationReport {
    pub generation: u64,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    pub path: String,
    pub current: bool,
}

/// The difference between the closures of two generations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileDiffReport {
    pub profile: String,
    pub from: u64,
    pub to: u64,
    /// The packages that differ.
    pub packages: Vec<PackageChange>,
    /// NAR bytes of the first closure, as far as it is known.
    pub size_before: u64,
    /// NAR bytes of the second closure, as far as it is known.
    pub size_after: u64,
    /// Paths in the closures whose path info is known neither locally nor by the sources. They are
    /// not in the sums, nor in `packages`.
    pub unknown: Vec<String>,
}
