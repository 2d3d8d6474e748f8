//! `narfs nix-db`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::log;
use super::outcome::Outcome;
use super::sources::Sources;
use crate::command::{NixDbRequest, Report, Request};

/// Write the registrations of closures for Nix's own database
///
/// `narfs nix-db PATH… | nix-store --load-db` has a Nix whose store is the mount, or an overlay of it, know
/// these closures as valid. What is not known yet is asked for at the sources; no contents are fetched. Nix's
/// format has no place for signatures: `nix store verify` and `nix copy` from such a database lack them.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// Everything that is known already, contents here or not; what refers to something unknown is left out
    #[arg(long, conflicts_with = "paths")]
    all: bool,
    /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH; or packages of a channel: NAME or NAME-VERSION
    #[arg(value_name = "PATH", required_unless_present = "all")]
    paths: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let request = NixDbRequest {
            paths: self.paths,
            sources: self.sources.request(global)?,
        };
        let creates = !self.all;
        let Report::NixDb(report) = global.run(Request::NixDb(request), creates)? else {
            bail!("the daemon sent an unexpected report instead of one on registrations");
        };
        if let Some(first) = report.left_out.first() {
            log::warn(&format!(
                "{} of the known paths are left out: {}: {}",
                report.left_out.len(),
                first.path,
                first.error
            ));
        }
        Ok(Outcome::Good)
    }
}
