//! `narfs ls`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{print_json, println};
use crate::command::{EntryReport, KindReport, Report, Request};

/// List what is in a path, without a mount
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Modes, sizes and link targets too
    #[arg(short = 'l', long)]
    long: bool,
    /// With everything below directories
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// A store path, or a place in one: /nix/store/HASH-NAME/bin
    path: String,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let command = Request::Ls {
            path: self.path.clone(),
            recursive: self.recursive,
        };
        let Report::Entries(entries) = global.run(command, false)? else {
            bail!("the daemon gave another report than a listing");
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
        // What is no directory is named as it was asked for.
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
