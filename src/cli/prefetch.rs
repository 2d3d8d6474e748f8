//! `narfs prefetch` and `narfs pin`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::{Outcome, Usage};
use super::output::{bytes, print_json, println, show_failures, warn_unsigned_paths};
use super::sources::Sources;
use crate::command::{PrefetchReport, PrefetchRequest, Report, Request};

/// Make closures completely local, so that nothing in them has to be fetched later
///
/// The sources are those of the daemon that serves the state, unless others are given. Every path
/// is verified as it arrives; fetches that programs wait for have priority.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    what: PrefetchOptions,
    /// Fetch the paths of a trace, in the order of access, without their closures
    #[arg(long, value_name = "NAME")]
    trace: Option<String>,
}

/// Keep closures: fetch what is missing, and never drop them
///
/// Like `narfs prefetch`; in addition the closures are not dropped, whatever the budget is, until
/// they are unpinned.
#[derive(Debug, Args)]
pub(super) struct PinArguments {
    #[command(flatten)]
    what: PrefetchOptions,
}

/// Closures and their sources.
#[derive(Debug, Args)]
struct PrefetchOptions {
    #[command(flatten)]
    sources: Sources,
    /// Only the given paths, without their references
    #[arg(long)]
    no_recursive: bool,
    /// Afterwards read everything from disk and compare the NAR hashes
    #[arg(long)]
    check: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH; or packages of a channel: NAME or
    /// NAME-VERSION; `-` reads them from stdin, one per line
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

impl PrefetchOptions {
    fn run(self, global: &Global, trace: Option<String>, pin: bool) -> anyhow::Result<Outcome> {
        let paths = paths(self.paths)?;
        if paths.is_empty() && trace.is_none() {
            let what = if pin { "" } else { ", or a trace with --trace" };
            return Err(Usage::error(format!("give store paths{what}")));
        }
        let command = Request::Prefetch(PrefetchRequest {
            sources: self.sources.request(global)?,
            paths,
            trace,
            recursive: !self.no_recursive,
            check: self.check,
            pin,
        });
        let Report::Prefetch(report) = global.run(command, true)? else {
            bail!("the daemon sent an unexpected report instead of a prefetch");
        };
        if self.json {
            print_json(&report)?;
        } else {
            println(&summary(&report, self.check))?;
            if report.complete {
                warn_unsigned_paths(report.unsigned, "of these paths");
            }
        }
        Ok(show_failures(&report.failures))
    }
}

/// The paths of the command line, or those on stdin.
pub(super) fn paths(named: Vec<String>) -> anyhow::Result<Vec<String>> {
    if named.as_slice() != ["-"] {
        return Ok(named);
    }
    let lines = std::io::stdin().lines().collect::<Result<Vec<_>, _>>()?;
    let lines = lines.iter().map(|l| l.trim().to_owned());
    Ok(lines.filter(|l| !l.is_empty()).collect())
}

/// What was here before was verified when it came, and is read only if that is asked for.
fn summary(r: &PrefetchReport, checked: bool) -> String {
    let size = bytes(r.nar_bytes);
    let fetched = bytes(r.fetched_bytes);
    let fetched = match checked {
        true => format!("{} fetched now, {fetched}", r.fetched),
        false => format!("{} fetched and verified now, {fetched}", r.fetched),
    };
    if r.complete {
        let read = if checked {
            ", all read and verified"
        } else {
            ""
        };
        format!("complete: {} paths, {size}{read} ({fetched})", r.paths)
    } else {
        let failed = r.failures.len();
        format!(
            "incomplete: {failed} paths failed; {} paths, {size}, are local ({fetched})",
            r.paths
        )
    }
}
