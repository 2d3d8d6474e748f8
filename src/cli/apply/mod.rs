//! `narfs apply`

mod file;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use super::profile::{announce, show_change};
use crate::cli::global::Global;
use crate::cli::outcome::Outcome;
use crate::cli::output::print_json;
use crate::cli::sources::Sources;
use crate::command::{ApplyRequest, Report, Request};

/// Make profiles what a file declares, all together or none
///
/// The file has a table [profile.NAME] for each profile (a name with slashes in quotes) with
/// packages = ["HASH-NAME", { path = "HASH-NAME", priority = 4 }], which are all that it then has
/// installed, or with set = "HASH-NAME". A profile that is like that already gets no new
/// generation, and one that the file does not name is left alone.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// Fetch the whole closures first, so that nothing has to be fetched any more
    #[arg(long)]
    prefetch: bool,
    /// Only say what would be done; what has to be known for that is fetched all the same
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// TOML
    file: PathBuf,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let bytes = std::fs::read(&self.file)
            .with_context(|| format!("cannot read {}", self.file.display()))?;
        let (profiles, mistakes) = file::parse(&self.file, &bytes);
        for mistake in &mistakes {
            eprintln!("narfs: {mistake}");
        }
        if !mistakes.is_empty() {
            return Ok(Outcome::Failed);
        }
        let command = Request::Apply(ApplyRequest {
            profiles,
            sources: self.sources.request(global),
            prefetch: self.prefetch,
            dry_run: self.dry_run,
        });
        let Report::ProfileChanges(reports) = global.run(command, true)? else {
            bail!("the daemon gave another report than that of profiles");
        };
        announce(global, &reports)?;
        if self.json {
            print_json(&reports)?;
            return Ok(Outcome::Good);
        }
        for report in &reports {
            show_change(report, false)?;
        }
        Ok(Outcome::Good)
    }
}
