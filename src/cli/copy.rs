//! `narfs copy`

use anyhow::bail;
use clap::Args;

use super::config::{COPYING, FETCHING, Flags};
use super::global::Global;
use super::log;
use super::outcome::Outcome;
use super::output::show_failures;
use super::output::{bytes, print_json, println};
use crate::command::{CopyReport, CopyRequest, Report, Request};

/// Fetch closures into the state, verified
///
/// A path is accepted if it is signed by a trusted key (that of cache.nixos.org, or another one
/// given), or if it is content-addressed and its contents match the address. Its NAR is compared
/// with NarHash and NarSize before it becomes visible. A path that fails does not stop the others.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    flags: Flags<{ FETCHING | COPYING }>,
    /// Everything that the sources list (file:// only)
    #[arg(long, conflicts_with = "paths", required_unless_present = "paths")]
    all: bool,
    /// Only the given paths, without their references
    #[arg(long)]
    no_recursive: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH; or packages of a channel: NAME or
    /// NAME-VERSION
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let command = Request::Copy(CopyRequest {
            sources: self.flags.request(global)?,
            paths: self.paths,
            all: self.all,
            recursive: !self.no_recursive,
            jobs: global.decided.with(&self.flags.choices)?.jobs.value,
        });
        let Report::Copy(report) = global.run(command, true)? else {
            bail!("the daemon sent an unexpected report instead of a copy");
        };
        if self.json {
            print_json(&report)?;
        } else {
            println(&summary(&report))?;
        }
        if report.dropped > 0 {
            log::warn(&format!(
                "contents of {} paths were dropped meanwhile to stay within the \
                 budget; they are fetched again when something reads them. Mount with a larger one \
                 (-o budget=SIZE), or pin what should stay",
                report.dropped
            ));
        }
        Ok(show_failures(&report.failures))
    }
}

fn summary(r: &CopyReport) -> String {
    format!(
        "{} paths copied ({} of NARs, {} fetched), {} were there, {} failed",
        r.copied,
        bytes(r.nar_bytes),
        bytes(r.fetched_bytes),
        r.already,
        r.failures.len()
    )
}
