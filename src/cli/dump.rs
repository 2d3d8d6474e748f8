//! `narfs dump`

use clap::Args;

use super::{Global, Outcome};
use crate::daemon::Command;

/// Write the NAR of a path to stdout, as `nix-store --dump` does
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A store path, or a place in one
    path: String,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        global.run(Command::Dump { path: self.path }, false)?;
        Ok(Outcome::Good)
    }
}
