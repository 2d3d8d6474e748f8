//! Output of profile changes, in the words of Nix where it has them.

use super::line;
use crate::cli::global::Global;
use crate::cli::log;
use crate::cli::output::{print_json, println};
use crate::command::{ProfileChangeReport, ProfileOutcome, chain};
use crate::fuse;

/// Notifies watchers of the directories of profiles about the change.
pub(in crate::cli) fn announce(
    global: &Global,
    reports: &[ProfileChangeReport],
) -> anyhow::Result<()> {
    let state = global.state()?;
    for report in reports {
        let is_one = report.from != report.to || !report.deleted.is_empty();
        if is_one
            && !report.dry_run
            && let Err(e) = fuse::announce(&state, &report.profile)
        {
            log::warn(&format!(
                "cannot notify watchers of {} about the change: {}",
                report.profile,
                chain(&e)
            ));
        }
    }
    Ok(())
}

/// Prints the change of a profile; warnings go to stderr.
pub(in crate::cli) fn show_change(r: &ProfileChangeReport, json: bool) -> anyhow::Result<()> {
    for warning in &r.warnings {
        log::warn(warning);
    }
    if json {
        return print_json(r);
    }
    for path in &r.installed {
        line(r.dry_run, "would install", "installing", path)?;
    }
    for path in &r.kept {
        println(&format!("{path} is installed already"))?;
    }
    for path in &r.removed {
        line(r.dry_run, "would remove", "removing", path)?;
    }
    for number in &r.deleted {
        let what = format!("profile version {number}");
        line(r.dry_run, "would remove", "removing", &what)?;
    }
    let (from, to) = (r.from.unwrap_or(0), r.to.unwrap_or(0));
    let (profile, path) = (&r.profile, r.path.as_deref().unwrap_or("nothing"));
    match r.outcome {
        ProfileOutcome::Switched => {
            let what = format!("profile from version {from} to {to}");
            line(r.dry_run, "would switch", "switching", &what)
        }
        ProfileOutcome::Created => {
            let would = format!("profile '{profile}' would get version {to}:");
            let does = format!("profile '{profile}' has version {to} now:");
            line(r.dry_run, &would, &does, path)
        }
        ProfileOutcome::Deleted => {
            let gone = format!("profile '{profile}'");
            line(r.dry_run, "would delete", "deleted", &gone)
        }
        // The deletions were printed, and nothing else changed.
        ProfileOutcome::Unchanged if !r.deleted.is_empty() => Ok(()),
        ProfileOutcome::Unchanged => println(&format!(
            "profile '{profile}' stays at version {to}: {path}"
        )),
    }
}
