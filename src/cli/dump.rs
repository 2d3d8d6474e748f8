//! `narfs dump`

use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use crate::command::Request;

/// Write the NAR of a path to stdout, as `nix-store --dump` does
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A store path, or a file or directory within one
    path: String,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        global.run(Request::Dump { path: self.path }, false)?;
        Ok(Outcome::Good)
    }
}
