//! `narfs roots` and `narfs add-root`

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{print_json, println};
use crate::command::{Report, Request};

/// Show what `narfs gc` keeps: each root and its origin
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Create a link to a store path that keeps it until the link is removed
///
/// Like `nix-store --add-root --indirect`: LINK points to the path, and a link in the directory
/// gcroots/auto of the state points to LINK. An existing link into the store is replaced.
#[derive(Debug, Args)]
pub(super) struct AddArguments {
    /// Path of the link
    #[arg(value_name = "LINK")]
    link: PathBuf,
    /// A store path: /nix/store/HASH-NAME, HASH-NAME or HASH
    #[arg(value_name = "PATH")]
    path: String,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let Report::Roots(roots) = global.run(Request::Roots, false)? else {
            bail!("the daemon sent an unexpected report instead of roots");
        };
        if self.json {
            print_json(&roots)?;
            return Ok(Outcome::Good);
        }
        for root in roots {
            println(&format!("{} -> {}", root.from, root.path))?;
        }
        Ok(Outcome::Good)
    }
}

impl AddArguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let command = Request::AddRoot {
            link: std::path::absolute(&self.link)?,
            path: self.path,
        };
        let Report::Added(path) = global.run(command, false)? else {
            bail!("the daemon sent an unexpected report instead of roots");
        };
        println(&format!("{} -> {path}", self.link.display()))?;
        Ok(Outcome::Good)
    }
}
