//! What is known of path infos and ordinals that cannot be read.

use std::collections::{HashMap, HashSet};

use super::path_info::PathOrdinal;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::error::StoreError;
use crate::store::records::{Family, Gap, Records, Snapshot};

/// A path whose path info cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadablePath {
    pub hash: StorePathHash,
    /// As the record of its ordinal, or what refers to it, names it.
    pub path: Option<StorePath>,
    pub ordinal: Option<PathOrdinal>,
    /// Whether its tree was here.
    pub was_here: bool,
}

impl UnreadablePath {
    pub(super) fn new(hash: StorePathHash, path: Option<StorePath>) -> Self {
        Self {
            hash,
            path,
            ordinal: None,
            was_here: false,
        }
    }
}

/// What of the path infos cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// Paths that are known.
    pub paths: Vec<UnreadablePath>,
    /// Ordinals of which nothing else is known.
    pub unnamed: Vec<PathOrdinal>,
}

impl Unreadable {
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.unnamed.is_empty()
    }
}

/// What cannot be read, as far as this process knows it.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) paths: HashMap<StorePathHash, UnreadablePath>,
    /// Ordinals whose records cannot be written anew.
    pub(super) ordinals: HashSet<PathOrdinal>,
}

/// The records that are listed: as they are now, or as they were then.
pub(in crate::store) enum Listed<'l> {
    Now(&'l Records),
    Then(&'l Snapshot<'l>),
}

impl Listed<'_> {
    pub(super) fn scan(
        &self,
        family: Family,
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<Vec<Gap>, StoreError> {
        match self {
            Self::Now(records) => records.scan_readable(family, &[], visit),
            Self::Then(snapshot) => snapshot.scan_readable(family, &[], visit),
        }
    }
}

impl Known {
    pub(super) fn note(&mut self, lost: UnreadablePath) {
        let path = lost.path.as_ref().map(ToString::to_string);
        let path = path.unwrap_or_else(|| lost.hash.to_string());
        if self.paths.insert(lost.hash, lost).is_none() {
            tracing::error!(
                path,
                "its path info cannot be read; it is asked for again where a source has it"
            );
        }
    }

    /// Notes that a path info was written or removed.
    pub(super) fn forget(&mut self, hash: StorePathHash) {
        self.paths.remove(&hash);
    }
}
