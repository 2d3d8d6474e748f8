//! `narfs prefetch` and `narfs pin`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::{Outcome, Usage};
use super::output::{bytes, print_json, println, show_failures};
use super::sources::Sources;
use crate::command::{PrefetchReport, PrefetchRequest, Report, Request};

/// Make closures wholly local, so that nothing of them has to be fetched any more
///
/// The sources are those of the daemon that serves the state, unless others are named. Every path
/// is verified as it arrives; what programs wait for meanwhile goes first.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    what: What,
    /// The paths of a trace, in the order in which they were touched, without their closures
    #[arg(long, value_name = "NAME")]
    trace: Option<String>,
}

/// Keep closures: fetch what is missing of them, and never drop it
///
/// As `narfs prefetch`; and what was pinned is not dropped, whatever the budget is, until it is
/// unpinned.
#[derive(Debug, Args)]
pub(super) struct PinArguments {
    #[command(flatten)]
    what: What,
}

/// Closures and where they come from.
#[derive(Debug, Args)]
struct What {
    #[command(flatten)]
    sources: Sources,
    /// Only the paths that are named, without what they refer to
    #[arg(long)]
    no_recursive: bool,
    /// Read all of it from the disk again afterwards and compare the NAR hashes
    #[arg(long)]
    check: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH; or packages of a channel: NAME or
    /// NAME-VERSION; `-` reads them from stdin, one a line
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        self.what.run(global, self.trace, false)
    }
}

impl PinArguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        self.what.run(global, None, true)
    }
}

impl What {
    fn run(self, global: &Global, trace: Option<String>, pin: bool) -> anyhow::Result<Outcome> {
        let paths = paths(self.paths)?;
        if paths.is_empty() && trace.is_none() {
            let what = if pin { "" } else { ", or a trace with --trace" };
            return Err(Usage::error(format!("name store paths{what}")));
        }
        let command = Request::Prefetch(PrefetchRequest {
            sources: self.sources.request(global),
            paths,
            trace,
            recursive: !self.no_recursive,
            check: self.check,
            pin,
        });
        let Report::Prefetch(report) = global.run(command, true)? else {
            bail!("the daemon gave another report than that of a prefetch");
        };
        if self.json {
            print_json(&report)?;
        } else {
            println(&summary(&report))?;
        }
        Ok(show_failures(&report.failures))
    }
}

/// Paths as they were named, or as stdin names them.
pub(super) fn paths(named: Vec<String>) -> anyhow::Result<Vec<String>> {
    if named.as_slice() != ["-"] {
        return Ok(named);
    }
    let lines = std::io::stdin().lines().collect::<Result<Vec<_>, _>>()?;
    let lines = lines.iter().map(|l| l.trim().to_owned());
    Ok(lines.filter(|l| !l.is_empty()).collect())
}

fn summary(r: &PrefetchReport) -> String {
    let size = bytes(r.nar_bytes);
    let fetched = format!("{} fetched now, {}", r.fetched, bytes(r.fetched_bytes));
    if r.complete {
        format!("complete: {} paths, {size}, verified ({fetched})", r.paths)
    } else {
        let failed = r.failures.len();
        format!(
            "incomplete: {failed} paths failed; {} paths, {size}, are here ({fetched})",
            r.paths
        )
    }
}
