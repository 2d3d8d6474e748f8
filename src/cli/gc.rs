//! `narfs gc`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::log;
use super::outcome::Outcome;
use super::output::{print_json, println, warn_unsigned_paths};
use super::size::Size;
use crate::command::{GcReport, GcRequest, OldGenerations, Report, Request};
use crate::profile::{DeleteSpec, DeleteSpecError};

/// Remove the store paths that no root reaches, and free their space
///
/// Roots are pins, the generations of profiles, paths in use by running programs, and links: those
/// in the directory gcroots of the state that point into the store, or to a link that does. `narfs
/// roots` lists them, `narfs add-root` creates one. A removed path is fetched again when it is
/// looked up, if a source has it.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Change nothing; print what would be removed
    #[arg(long)]
    dry_run: bool,
    /// First delete all generations of all profiles but the current ones: no profile can be rolled
    /// back afterwards
    #[arg(short, long, conflicts_with = "delete_older_than")]
    delete_old: bool,
    /// First delete the generations of all profiles that have not been current for so many days:
    /// 30d
    #[arg(long, value_name = "AGE", value_parser = days)]
    delete_older_than: Option<u32>,
    /// Stop when this much is freed: 500M, 20G, or a number of bytes
    #[arg(long, value_name = "SIZE", conflicts_with = "dry_run")]
    max_freed: Option<Size>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

fn days(text: &str) -> Result<u32, DeleteSpecError> {
    match DeleteSpec::parse_days(text)? {
        DeleteSpec::Days(days) => Ok(days),
        _ => Err(DeleteSpecError::NoDays(text.to_owned())),
    }
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let request = GcRequest {
            dry_run: self.dry_run,
            delete: match self.delete_older_than {
                Some(days) => Some(OldGenerations::Days(days)),
                None => self.delete_old.then_some(OldGenerations::All),
            },
            max_freed: self.max_freed.map(|Size(bytes)| bytes),
            lines: !self.json,
        };
        let Report::Gc(report) = global.run(Request::Gc(request), false)? else {
            bail!("the daemon sent an unexpected report instead of a collection");
        };
        if self.json {
            print_json(&report)?;
        } else {
            println(&summary(&report))?;
            warn_unsigned_paths(report.unsigned, "paths that stay");
            for path in &report.unreadable {
                log::warn(&format!(
                    "{path}: its path info is damaged, and what it refers to is not known, so that nothing \
                     is deleted that it may need; `narfs verify --repair` fetches the path info again, and \
                     `narfs forget` gives it up"
                ));
            }
        }
        Ok(Outcome::Good)
    }
}

/// The summary, in the words of Nix.
fn summary(r: &GcReport) -> String {
    let mib = r.freed_bytes as f64 / f64::from(1 << 20);
    let would = if r.dry_run { "would be " } else { "" };
    format!(
        "{} store paths {would}deleted, {mib:.2} MiB {would}freed",
        r.paths.len()
    )
}
