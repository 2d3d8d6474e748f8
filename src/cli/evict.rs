//! `narfs evict`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::log;
use super::outcome::Outcome;
use super::output::{bytes, print_json, println};
use super::size::Size;
use crate::command::{EvictReport, Report, Request};

/// Drop contents that can be fetched again, least recently used path first
///
/// Names, sizes and links stay, so `ls` keeps working; contents are fetched again when something
/// reads them. Pinned paths, generations of profiles with their closures, paths in use by running
/// programs, and paths added with `narfs add` are kept. Accesses that the kernel answers from its
/// caches do not count as uses.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Size that may remain in the state: 500M, 20G, or a number of bytes; 0 drops whatever can be dropped
    #[arg(long, value_name = "SIZE")]
    to: Size,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let Size(to) = self.to;
        let Report::Evict(report) = global.run(Request::Evict { to }, false)? else {
            bail!("the daemon sent an unexpected report instead of an eviction");
        };
        if self.json {
            print_json(&report)?;
        } else {
            println(&summary(&report))?;
        }
        if to > 0 && report.stored_bytes > to {
            log::error(&format!(
                "{} are stored, more than {}: the rest is pinned, in use, metadata, or was \
                 added here",
                bytes(report.stored_bytes),
                bytes(to)
            ));
            return Ok(Outcome::Failed);
        }
        Ok(Outcome::Good)
    }
}

fn summary(r: &EvictReport) -> String {
    format!(
        "contents of {} paths dropped, {} freed, {} stored",
        r.paths.len(),
        bytes(r.freed_bytes),
        bytes(r.stored_bytes)
    )
}
