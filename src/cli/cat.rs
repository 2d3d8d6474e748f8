//! `narfs cat`

use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use crate::command::Request;

/// Print a file in a store path, without a mount; links are followed
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The file: /nix/store/HASH-NAME/share/x
    path: String,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        global.run(Request::Cat { path: self.path }, false)?;
        Ok(Outcome::Good)
    }
}
