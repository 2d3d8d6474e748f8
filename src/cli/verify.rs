//! `narfs verify`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{bytes, print_json, println, show_failures, warn_unsigned_paths};
use super::rebuild::{fetch_again, rebuild};
use super::sources::Sources;
use crate::command::{Report, Request, VerifyReport};

/// Read paths completely and check their digests and NAR hashes
///
/// Without PATH also the second copy of what no source can bring back (profiles, pins, closure views, path
/// infos). With --repair, damaged contents are fetched again, a damaged second copy is made anew, and a
/// database that cannot be opened is made anew from the second copy; what was left of it is moved to
/// damaged-db in the state. Pinned paths are fetched then, all others when they are used, and paths that were
/// added here and that no source has are named.
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
        let mut rebuilt = match repair {
            Some(_) => rebuild(global)?,
            None => None,
        };
        let command = Request::Verify {
            paths: self.paths,
            repair: repair.clone(),
        };
        let report = match global.run(command.clone(), false) {
            // The daemon that had the state open has ended, and nobody can open it again.
            Err(e) if repair.is_some() && rebuilt.is_none() => {
                rebuilt = rebuild(global)?;
                if rebuilt.is_none() {
                    return Err(e);
                }
                global.run(command, false)?
            }
            report => report?,
        };
        let Report::Verify(mut report) = report else {
            bail!("the daemon sent an unexpected report instead of a verification");
        };
        if let Some((rebuilt, sources)) = rebuilt.zip(repair) {
            let (rebuilt, failures) = fetch_again(global, &sources, rebuilt)?;
            report.rebuilt = Some(rebuilt);
            report.failures.extend(failures);
        }
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
