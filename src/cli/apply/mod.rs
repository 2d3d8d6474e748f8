//! `narfs apply`

mod file;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use super::profile::{announce, show_change};
use crate::cli::global::Global;
use crate::cli::log;
use crate::cli::outcome::Outcome;
use crate::cli::output::print_json;
use crate::cli::sources::Sources;
use crate::command::{ApplyRequest, Report, Request};

/// Bring profiles into the state that a file declares, all together or none
///
/// The file has a table [profile.NAME] for each profile (a name with slashes in quotes) with
/// packages = ["HASH-NAME", { path = "HASH-NAME", priority = 4 }], the complete list of installed
/// packages, or with set = "HASH-NAME". A profile that is in the declared state gets no new
/// generation, and profiles that the file does not name are left alone.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// Fetch the closures completely before switching
    #[arg(long)]
    prefetch: bool,
    /// Only show what would be done; path infos needed for that are fetched nevertheless
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// The TOML file
    file: PathBuf,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let bytes = std::fs::read(&self.file)
            .with_context(|| format!("cannot read {}", self.file.display()))?;
        let (profiles, mistakes) = file::parse(&self.file, &bytes);
        for mistake in &mistakes {
            log::error(&mistake.to_string());
        }
        if !mistakes.is_empty() {
            return Ok(Outcome::Failed);
        }
        let command = Request::Apply(ApplyRequest {
            profiles,
            sources: self.sources.request(global)?,
            prefetch: self.prefetch,
            dry_run: self.dry_run,
        });
        let Report::ProfileChanges(reports) = global.run(command, true)? else {
            bail!("the daemon sent an unexpected report instead of profiles");
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
