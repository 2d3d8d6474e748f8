//! `narfs add`

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::println;
use crate::command::{Report, Request};

/// Add a local file or directory as a content-addressed path
///
/// Prints the store path, the same as that of `nix-store --add`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name of the store path [default: the last component of PATH]
    #[arg(long)]
    name: Option<String>,
    /// File or directory to add
    path: PathBuf,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let command = Request::Add {
            from: std::path::absolute(self.path)?,
            name: self.name,
        };
        let Report::Added(path) = global.run(command, true)? else {
            bail!("the daemon sent an unexpected report instead of an addition");
        };
        println(&path)?;
        Ok(Outcome::Good)
    }
}
