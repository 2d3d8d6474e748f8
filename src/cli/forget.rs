//! `narfs forget`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{bytes, print_json, println, show_failures};
use crate::command::{ForgetReport, ForgetRequest, Report, Request};

/// Forget what is registered of paths, and their contents
///
/// For paths that no source vouches for any more, and for those whose path info is damaged and in no source.
/// The next lookup of such a path asks the sources as if it had never been here: it has what they say then,
/// or is absent. Paths that refer to it stay as they are. Refused of what is in use, and of what a pin, a
/// generation, a closure view or a root link names; without --force also of what another path refers to, and
/// of what was added on this machine.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Change nothing; print what would be forgotten
    #[arg(long)]
    dry_run: bool,
    /// Also forget paths that others refer to, and paths that were added here and that no source may have
    #[arg(long)]
    force: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let request = ForgetRequest {
            paths: self.paths,
            dry_run: self.dry_run,
            force: self.force,
        };
        let Report::Forgot(report) = global.run(Request::Forget(request), false)? else {
            bail!("the daemon sent an unexpected report instead of one on forgotten paths");
        };
        match self.json {
            true => print_json(&report)?,
            false => show(&report)?,
        }
        Ok(show_failures(&report.failures))
    }
}

fn show(r: &ForgetReport) -> anyhow::Result<()> {
    for path in &r.paths {
        match r.dry_run {
            true => println(&format!("would forget {path}"))?,
            false => println(&format!("forgot {path}"))?,
        }
    }
    let n = r.paths.len();
    println(&match r.dry_run {
        true => format!("{n} paths would be forgotten: the next lookup of each asks the sources"),
        false => format!("{n} paths forgotten, {} freed", bytes(r.freed_bytes)),
    })
}
