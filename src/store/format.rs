//! Formats of a state.

/// Begins the first line of the format file, before the number of the format.
const MAGIC: &str = "narfs-state ";

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
