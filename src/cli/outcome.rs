//! How a command ends.

/// Exit status for a command line that cannot be understood; clap's too.
pub(super) const USAGE: u8 = 2;

/// How a command ends when nothing broke.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Good,
    /// Some of it failed; said already.
    Failed,
}

/// A command line that clap accepts and that makes no sense all the same.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(String);

impl Usage {
    /// An error that it is.
    pub(super) fn error(text: String) -> anyhow::Error {
        Self(text).into()
    }
}
