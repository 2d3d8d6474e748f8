//! Formats of a state, and the features that a format of today lists.

use std::collections::BTreeSet;

/// Begins the first line of the format file, before the number of the format.
const MAGIC: &str = "narfs-state ";

/// Something that records have only in states that list it, so that a program that does not know it
/// refuses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Feature {
    /// Path infos that say themselves whether the path is vouched for.
    Vouched,
    /// Chunks in frames.
    Frames,
}

impl Feature {
    const ALL: [Self; 2] = [Self::Vouched, Self::Frames];

    /// As the format file names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Vouched => "vouched",
            Self::Frames => "frames",
        }
    }

    /// The feature of this name, if this version knows it.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|feature| feature.name() == name)
    }
}

/// What a reader of a state has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) format: Format,
    /// Of a state of format 4.
    pub(super) features: BTreeSet<Feature>,
}

impl From<Format> for Needs {
    fn from(format: Format) -> Self {
        let features = BTreeSet::new();
        Self { format, features }
    }
}

impl Needs {
    /// What a reader of both has to know.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self {
            format: self.format.max(other.format),
            features: &self.features | &other.features,
        }
    }
}

/// The format of a state, which says what a reader has to know. It is the oldest that has all that is in
/// the state, so that an older version can open the state until something newer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Format {
    First = 1,
    /// Origins of paths, uses, pins, traces and profiles.
    Second,
    /// Closure views.
    Third,
    /// Whatever features the file lists.
    Listed,
}

impl Format {
    /// That of a new state.
    pub(super) const NEW: Self = Self::Third;
    const ALL: [Self; 4] = [Self::First, Self::Second, Self::Third, Self::Listed];

    /// The format that a first line names, if this version knows it.
    pub(super) fn parse(line: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.line() == line)
    }

    /// Whether a first line names a format, of whatever version.
    pub(super) fn is_named(line: &str) -> bool {
        line.starts_with(MAGIC)
    }

    pub(super) fn line(self) -> String {
        format!("{MAGIC}{}", self as u8)
    }
}
