//! Exit status of a command.

/// Exit status for an invalid command line, as in clap.
pub(super) const USAGE: u8 = 2;
/// Exit status of a daemon whose mount point is occupied, so that no later try can succeed:
/// `RestartPreventExitStatus=` of narfs.service. As EX_CONFIG of sysexits.h.
pub(super) const OCCUPIED: u8 = 78;

/// Result of a command that ran.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Good,
    /// Part of it failed, and the errors were shown.
    Failed,
}

/// A command line that clap accepts but that is not valid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(String);

impl Usage {
    pub(super) fn error(text: String) -> anyhow::Error {
        Self(text).into()
    }
}
