//! `narfs pins` and `narfs unpin`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{print_json, println};
use crate::command::{Report, Request};

/// Show what is pinned, and whether it is completely local
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Unpin closures; this alone drops nothing
#[derive(Debug, Args)]
pub(super) struct UnpinArguments {
    /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH; or pinned packages: NAME or
    /// NAME-VERSION
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let Report::Pins(pins) = global.run(Request::Pins, false)? else {
            bail!("the daemon sent an unexpected report instead of pins");
        };
        if self.json {
            print_json(&pins)?;
            return Ok(Outcome::Good);
        }
        for pin in pins {
            let missing = match pin.missing {
                0 => "complete".to_owned(),
                n => format!("{n} not local"),
            };
            println(&format!("{}   {} paths, {missing}", pin.path, pin.closure))?;
        }
        Ok(Outcome::Good)
    }
}

impl UnpinArguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let wanted = self.paths.len();
        let command = Request::Unpin { paths: self.paths };
        let Report::Unpinned(unpinned) = global.run(command, false)? else {
            bail!("the daemon sent an unexpected report instead of pins");
        };
        for path in &unpinned {
            println(&format!("unpinned {path}"))?;
        }
        if unpinned.len() < wanted {
            bail!(
                "{} of the paths were not pinned; `narfs pins` lists those that are",
                wanted - unpinned.len()
            );
        }
        Ok(Outcome::Good)
    }
}
