//! `narfs profiles`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{print_json, println};
use super::profile;
use crate::command::{ProfileAction, ProfileRequest, Report, Request, SourceRequest};

/// List all profiles: the current generation, the number of generations, and the target
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let command = Request::Profile(ProfileRequest {
            profile: profile::DEFAULT.to_owned(),
            action: ProfileAction::ListAll,
            sources: SourceRequest::default(),
            dry_run: false,
        });
        let Report::Profiles(profiles) = global.run(command, false)? else {
            bail!("the daemon sent an unexpected report instead of profiles");
        };
        if self.json {
            print_json(&profiles)?;
            return Ok(Outcome::Good);
        }
        for profile in profiles {
            let path = profile.path.as_deref().unwrap_or("none is current");
            let (name, count) = (&profile.profile, profile.generations);
            let generations = match (profile.generation, count) {
                (Some(current), 1) => format!("generation {current}"),
                (Some(current), _) => format!("generation {current}, of {count}"),
                (None, _) => format!("{count} generations"),
            };
            println(&format!("{name}   {generations}   {path}"))?;
        }
        Ok(Outcome::Good)
    }
}
