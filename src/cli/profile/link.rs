//! `narfs profile link`: symlinks outside of the mount, such as `~/.nix-profile`.
//!
//! Invariant: at any moment there is the old link or the new one, and only a symlink is ever
//! replaced.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use crate::cli::global::Global;
use crate::cli::outcome::Outcome;
use crate::cli::output::{print_json, println};
use crate::command::{ProfileAction, ProfileRequest, Request, SourceRequest};
use crate::control;
use crate::profile::ProfileName;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Change nothing; fail if the link is missing or has another target
    #[arg(long)]
    check: bool,
    /// Only show what would be done
    #[arg(long, conflicts_with = "check")]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Path of the link, such as ~/.nix-profile or /run/current-system
    #[arg(value_name = "PLACE")]
    place: PathBuf,
}

/// What exists at the path of a link.
enum Existing {
    Nothing,
    Link(PathBuf),
}

impl Arguments {
    pub(super) fn run(self, global: &Global, profile: &ProfileName) -> anyhow::Result<Outcome> {
        let target = target(global, profile)?;
        // A trailing slash would make the kernel follow the link.
        let place: PathBuf = std::path::absolute(&self.place)?.components().collect();
        let existing = inspect(&place)?;
        let is_right = matches!(&existing, Existing::Link(to) if *to == target);
        let (shown, to) = (place.display(), target.display());
        if self.check && !is_right {
            match existing {
                Existing::Nothing => bail!("{shown} does not exist; without --check it is created"),
                Existing::Link(other) => bail!(
                    "{shown} leads to {}, not to {to}; without --check it is replaced",
                    other.display()
                ),
            }
        }
        if !is_right && !self.dry_run {
            replace_link(&place, &target)?;
        }
        if self.json {
            print_json(&json!({
                "place": place.to_string_lossy(),
                "target": target.to_string_lossy(),
                "changed": !is_right,
                "dryRun": self.dry_run,
            }))?;
        } else if is_right {
            println(&format!("{shown} leads to {to} already"))?;
        } else if self.dry_run {
            println(&format!("{shown} would lead to {to}"))?;
        } else {
            println(&format!("{shown} leads to {to} now"))?;
        }
        Ok(Outcome::Good)
    }
}

/// The path of an existing profile in the mount.
fn target(global: &Global, profile: &ProfileName) -> anyhow::Result<PathBuf> {
    let state = global.state()?;
    let status = control::status(&state, None).ok();
    let mountpoints = status.map(|s| s.mountpoints).unwrap_or_default();
    // A mount of the store alone shows no profiles.
    let shows = |at: &&PathBuf| at.join("var/nix/profiles").is_dir();
    let Some(at) = mountpoints.iter().find(shows) else {
        bail!(
            "the state {} is not mounted with its profiles, so there is nothing to link \
             to; `narfs mount` it first",
            state.display()
        );
    };
    let command = Request::Profile(ProfileRequest {
        profile: profile.to_string(),
        action: ProfileAction::History,
        sources: SourceRequest::default(),
        dry_run: false,
    });
    global.run(command, false)?;
    Ok(at.join("var/nix/profiles").join(profile.as_str()))
}

fn inspect(place: &Path) -> anyhow::Result<Existing> {
    match fs::symlink_metadata(place) {
        Ok(found) if found.is_symlink() => Ok(Existing::Link(fs::read_link(place)?)),
        Ok(_) => bail!(
            "{} exists and is not a symlink, so it is not replaced; move it away",
            place.display()
        ),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Existing::Nothing),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", place.display())),
    }
}

/// Creates the link under a temporary name, and renames it into place.
fn replace_link(place: &Path, target: &Path) -> anyhow::Result<()> {
    let name = place
        .file_name()
        .with_context(|| format!("{} is not a valid path for a link", place.display()))?;
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(format!(".narfs-{}", std::process::id()));
    let draft = place.with_file_name(draft_name);
    let made = symlink(target, &draft);
    made.with_context(|| format!("cannot create the link {}", draft.display()))?;
    // Checked again, since rename(2) fails for a directory but would replace a file.
    let replaced = inspect(place).and_then(|_| {
        fs::rename(&draft, place).with_context(|| format!("cannot replace {}", place.display()))
    });
    if replaced.is_err() {
        let _ = fs::remove_file(&draft);
    }
    replaced
}
