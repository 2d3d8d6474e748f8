//! `narfs cat`

use clap::Args;

use super::{Global, Outcome};
use crate::daemon::Command;

/// Print a file of a path, without a mount; links are followed
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The file: /nix/store/HASH-NAME/share/x
    path: String,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        global.run(Command::Cat { path: self.path }, false)?;
        Ok(Outcome::Good)
    }
}
