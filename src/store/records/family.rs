//! The families of records.

use crate::store::format::Format;

/// A family of records: keys are unique in it, and in the order of their bytes. `docs/format.md` says
/// what is in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum Family {
    Chunks,
    Digests,
    Trees,
    Paths,
    Ordinals,
    Meta,
    Uses,
    Roots,
    Traces,
    /// Empty since format 3; earlier versions kept here what they thought to have moved.
    Reclaimed,
    Profiles,
    Views,
}

impl Family {
    /// All families.
    pub(in crate::store) const ALL: [Self; 12] = [
        Self::Chunks,
        Self::Digests,
        Self::Trees,
        Self::Paths,
        Self::Ordinals,
        Self::Meta,
        Self::Uses,
        Self::Roots,
        Self::Traces,
        Self::Reclaimed,
        Self::Profiles,
        Self::Views,
    ];

    /// The name in the database.
    pub(in crate::store) fn name(self) -> &'static str {
        match self {
            Self::Chunks => "chunks",
            Self::Digests => "digests",
            Self::Trees => "trees",
            Self::Paths => "paths",
            Self::Ordinals => "ordinals",
            Self::Meta => "meta",
            Self::Uses => "uses",
            Self::Roots => "roots",
            Self::Traces => "traces",
            Self::Reclaimed => "reclaimed",
            Self::Profiles => "profiles",
            Self::Views => "views",
        }
    }

    /// The format that it came with.
    pub(super) fn since(self) -> Format {
        match self {
            Self::Chunks
            | Self::Digests
            | Self::Trees
            | Self::Paths
            | Self::Ordinals
            | Self::Meta => Format::First,
            Self::Uses | Self::Roots | Self::Traces | Self::Reclaimed | Self::Profiles => {
                Format::Second
            }
            Self::Views => Format::Third,
        }
    }
}
