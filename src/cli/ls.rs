//! `narfs ls`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{print_json, println};
use crate::command::{EntryReport, KindReport, Report, Request};

/// List a file or directory in a store path, without a mount
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Show modes, sizes and link targets
    #[arg(short = 'l', long)]
    long: bool,
    /// Include everything below directories
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// A store path, or a file or directory within one: /nix/store/HASH-NAME/bin
    path: String,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let command = Request::Ls {
            path: self.path.clone(),
            recursive: self.recursive,
        };
        let Report::Entries(entries) = global.run(command, false)? else {
            bail!("the daemon sent an unexpected report instead of a listing");
        };
        if self.json {
            print_json(&entries)?;
            return Ok(Outcome::Good);
        }
        for e in &entries {
            println(&self.line(e))?;
        }
        Ok(Outcome::Good)
    }

    fn line(&self, e: &EntryReport) -> String {
        // A file is shown under the name given on the command line.
        let name = if e.name.is_empty() {
            &self.path
        } else {
            &e.name
        };
        if !self.long {
            return name.clone();
        }
        let mode = match e.kind {
            KindReport::Directory => "dr-xr-xr-x",
            KindReport::Regular => "-r--r--r--",
            KindReport::Executable => "-r-xr-xr-x",
            KindReport::Symlink => "lrwxrwxrwx",
        };
        match &e.target {
            Some(target) => format!("{mode} {:>12} {name} -> {target}", e.size),
            None => format!("{mode} {:>12} {name}", e.size),
        }
    }
}
