//! `narfs path-info`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{print_json, println, warn_unsigned_paths};
use crate::command::{Report, Request};

/// Show path infos, as `nix path-info` does
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Include the closures, as far as they are known, even if not fetched yet
    #[arg(long)]
    closure: bool,
    /// Print NarSize and the size of the closure, in bytes, beside each path
    #[arg(long)]
    size: bool,
    /// Print everything, as JSON
    #[arg(long)]
    json: bool,
    /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH [default: all]
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let command = Request::PathInfo {
            paths: self.paths,
            closure: self.closure,
            sizes: self.size || self.json,
        };
        let Report::Paths(paths) = global.run(command, false)? else {
            bail!("the daemon sent an unexpected report instead of path infos");
        };
        if self.json {
            print_json(&paths)?;
            return Ok(Outcome::Good);
        }
        let unsigned = paths.iter().filter(|p| p.unsigned).count() as u64;
        for p in paths {
            if let Some(closure_size) = p.closure_size {
                println(&format!(
                    "{}\t{:>12}\t{:>12}",
                    p.path, p.nar_size, closure_size
                ))?;
            } else {
                println(&p.path)?;
            }
        }
        warn_unsigned_paths(unsigned, "of these paths");
        Ok(Outcome::Good)
    }
}
