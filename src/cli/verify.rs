//! `narfs verify`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{bytes, print_json, println, show_failures, warn_unsigned_paths};
use super::sources::Sources;
use crate::command::{Report, Request, VerifyReport};

/// Read paths completely and check their digests and NAR hashes
///
/// Without PATH also the second copy of what no source can bring back (profiles, pins, closure views, path
/// infos). With --repair, damaged contents are fetched again, a damaged second copy is made anew, and a
/// database that cannot be opened is made anew from the second copy and from what can still be read of its
/// files; what is left of it is moved to damaged-db in the state. Pinned paths whose contents are lost are
/// fetched then, others when they are used, and paths that were added here and that no source has are named.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Fetch damaged contents again, and make a database anew that cannot be opened
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    sources: Sources,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH [default: all]
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let repair = match self.repair {
            true => Some(self.sources.request(global)?),
            false => None,
        };
        let paths = self.paths;
        let Report::Verify(report) = global.run(Request::Verify { paths, repair }, false)? else {
            bail!("the daemon sent an unexpected report instead of a verification");
        };
        if self.json {
            print_json(&report)?;
        } else {
            println(&summary(&report))?;
            warn_unsigned_paths(report.unsigned, "of these paths");
        }
        Ok(show_failures(&report.failures))
    }
}

fn summary(r: &VerifyReport) -> String {
    let dropped = match r.dropped {
        0 => String::new(),
        n => format!(", {n} dropped and not checked"),
    };
    format!(
        "{} paths are good ({} of NARs), {} repaired, {} damaged{dropped}",
        r.good,
        bytes(r.nar_bytes),
        r.repaired.len(),
        r.failures.len()
    )
}
