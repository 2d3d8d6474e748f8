//! `narfs profile`

mod change;
mod link;
mod list;

use anyhow::bail;
use clap::{Args, Subcommand};

use crate::cli::global::Global;
use crate::cli::outcome::{Outcome, Usage};
use crate::cli::output::{print_json, println};
use crate::cli::sources::Sources;
use crate::command::{ProfileAction, ProfileRequest, Report, Request, SourceRequest};
use crate::profile::{DeleteSpec, ProfileName};
pub(super) use change::{announce, show_change};

/// Show and change profiles: what is installed, and the generations of that
///
/// A profile is a list of generations, numbered from 1; each points to a user environment (links
/// to everything in the packages) or to any store path, and one is current. Environments are
/// computed, byte for byte as Nix builds them, and a switch takes effect at once. Only what links
/// have to be known of is fetched, and of the rest of the closure its narinfos; the contents come
/// when something looks inside.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name such as default, system or per-user/ann/profile, or its path …/var/nix/profiles/NAME
    /// [default: default]
    #[arg(short, long, global = true, value_name = "PROFILE")]
    profile: Option<String>,
    #[command(subcommand)]
    action: Actions,
}

#[derive(Debug, Subcommand)]
enum Actions {
    /// Say what is installed
    List {
        #[command(flatten)]
        sources: Sources,
        /// Print as JSON, in the form of `nix profile list --json`
        #[arg(long)]
        json: bool,
    },
    /// Add packages: one new generation for all of them
    ///
    /// What is installed already stays as it is; if all of it is, no generation is made.
    Install {
        /// Which package has its way where two have the same file: that with the lower number
        /// [default: 5]; of packages that are installed already it is changed
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        priority: Option<i64>,
        #[command(flatten)]
        prefetch: Prefetch,
        #[command(flatten)]
        how: How,
        /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH; or packages of a channel: NAME or
        /// NAME-VERSION
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<String>,
    },
    /// Take packages out: one new generation
    Remove {
        #[command(flatten)]
        how: How,
        /// Names as `narfs profile list` has them, store paths, hashes, or names of packages
        #[arg(value_name = "PACKAGE", required = true)]
        packages: Vec<String>,
    },
    /// Have a new generation point to a store path, such as a whole system
    Set {
        #[command(flatten)]
        prefetch: Prefetch,
        #[command(flatten)]
        how: How,
        /// Store path: /nix/store/HASH-NAME, HASH-NAME or HASH; or a package of a channel: NAME or
        /// NAME-VERSION
        path: String,
    },
    /// Name all generations with the times when they were made, as `nix-env --list-generations`
    #[command(visible_alias = "list-generations")]
    History {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Switch to the generation before the current one
    Rollback {
        #[command(flatten)]
        what: What,
    },
    /// Switch to a generation
    Switch {
        #[command(flatten)]
        what: What,
        /// Its number
        #[arg(value_name = "N")]
        generation: u64,
    },
    /// Delete generations, never the current one
    DeleteGenerations {
        #[command(flatten)]
        what: What,
        /// Numbers; old: all but the current one; +K: all before the last K up to the current one;
        /// Nd: those that were not current in the last N days
        #[arg(value_name = "SPEC", required = true)]
        spec: Vec<String>,
    },
    /// Delete a whole profile: the current generation, and all others
    Delete {
        #[command(flatten)]
        what: What,
        /// Its name, or its path; there is no default
        #[arg(value_name = "PROFILE")]
        named: String,
    },
    /// Say how the closures of two generations differ: versions, and sizes of NARs
    Diff {
        #[command(flatten)]
        sources: Sources,
        /// Print as JSON
        #[arg(long)]
        json: bool,
        /// Number of a generation [default: the one before the other]
        #[arg(value_name = "A")]
        first: Option<u64>,
        /// Number of a generation [default: the current one]
        #[arg(value_name = "B")]
        second: Option<u64>,
    },
    /// Have a symlink outside of the mount lead to the profile in it
    ///
    /// A symlink that is there is replaced in one step; anything else is left alone, and an error.
    Link(link::Arguments),
}

/// Whether closures are made complete.
#[derive(Debug, Args)]
struct Prefetch {
    /// Fetch the whole closure first, so that nothing has to be fetched any more
    #[arg(long)]
    prefetch: bool,
}

/// How a change is made and told.
#[derive(Debug, Args)]
struct What {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// The same where something may have to be fetched.
#[derive(Debug, Args)]
struct How {
    #[command(flatten)]
    sources: Sources,
    /// Only say what would be done; what has to be known for that is fetched all the same
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What the daemon is asked, and how its answer is told.
struct Asked {
    action: ProfileAction,
    sources: SourceRequest,
    dry_run: bool,
    json: bool,
}

impl Asked {
    fn new(action: ProfileAction, json: bool) -> Self {
        Self {
            action,
            sources: SourceRequest::default(),
            dry_run: false,
            json,
        }
    }

    fn changing(action: ProfileAction, what: &What) -> Self {
        let dry_run = what.dry_run;
        Self {
            dry_run,
            ..Self::new(action, what.json)
        }
    }

    fn fetching(action: ProfileAction, how: &How, global: &Global) -> anyhow::Result<Self> {
        Ok(Self {
            sources: how.sources.request(global),
            dry_run: how.dry_run,
            ..Self::new(action, how.json)
        })
    }
}

/// The profile that is meant if none is named.
pub(super) const DEFAULT: &str = "default";

/// The name of a profile; one that is none is misuse.
fn profile_name(text: &str) -> anyhow::Result<ProfileName> {
    ProfileName::parse_argument(text).map_err(|e| Usage::error(e.to_string()))
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let profile = match (&self.action, &self.profile) {
            (Actions::Delete { named, .. }, Some(other)) if named != other => {
                let text = format!("is '{named}' to be deleted, or '{other}'? name one of them");
                return Err(Usage::error(text));
            }
            (Actions::Delete { named, .. }, _) => profile_name(named)?,
            (_, named) => profile_name(named.as_deref().unwrap_or(DEFAULT))?,
        };
        if let Actions::Link(link) = self.action {
            return link.run(global, &profile);
        }
        let asked = self.action.asked(global)?;
        let creates = matches!(
            asked.action,
            ProfileAction::Install { .. } | ProfileAction::Set { .. }
        );
        let command = Request::Profile(ProfileRequest {
            profile: profile.to_string(),
            action: asked.action,
            sources: asked.sources,
            dry_run: asked.dry_run,
        });
        match (global.run(command, creates)?, asked.json) {
            (Report::ProfileChanges(reports), json) => {
                announce(global, &reports)?;
                for report in &reports {
                    show_change(report, json)?;
                }
            }
            (Report::Profile(report), true) => print_json(&report)?,
            (Report::Profile(report), false) => list::show(&report)?,
            (Report::Generations(reports), true) => print_json(&reports)?,
            (Report::Generations(reports), false) => list::show_history(&reports)?,
            (Report::ProfileDiff(report), json) => list::show_diff(&report, json)?,
            _ => bail!("the daemon gave another report than that of a profile"),
        }
        Ok(Outcome::Good)
    }
}

impl Actions {
    fn asked(self, global: &Global) -> anyhow::Result<Asked> {
        Ok(match self {
            Self::List { sources, json } => Asked {
                sources: sources.request(global),
                ..Asked::new(ProfileAction::List, json)
            },
            Self::Install {
                priority,
                prefetch: Prefetch { prefetch },
                how,
                paths,
            } => {
                let action = ProfileAction::Install {
                    paths,
                    priority,
                    prefetch,
                };
                Asked::fetching(action, &how, global)?
            }
            Self::Remove { how, packages } => {
                Asked::fetching(ProfileAction::Remove(packages), &how, global)?
            }
            Self::Set {
                prefetch: Prefetch { prefetch },
                how,
                path,
            } => Asked::fetching(ProfileAction::Set { path, prefetch }, &how, global)?,
            Self::History { json } => Asked::new(ProfileAction::History, json),
            Self::Rollback { what } => Asked::changing(ProfileAction::Rollback, &what),
            Self::Switch { what, generation } => {
                Asked::changing(ProfileAction::Switch(generation), &what)
            }
            Self::DeleteGenerations { what, spec } => {
                DeleteSpec::parse(&spec).map_err(|e| Usage::error(e.to_string()))?;
                Asked::changing(ProfileAction::DeleteGenerations(spec), &what)
            }
            Self::Delete { what, .. } => Asked::changing(ProfileAction::Delete, &what),
            Self::Diff {
                sources,
                json,
                first: from,
                second: to,
            } => Asked {
                sources: sources.request(global),
                ..Asked::new(ProfileAction::Diff { from, to }, json)
            },
            Self::Link(_) => bail!("a link is made here"),
        })
    }
}

/// A line of what would be done, or is.
fn line(dry_run: bool, would: &str, does: &str, what: &str) -> anyhow::Result<()> {
    println(&format!("{} {what}", if dry_run { would } else { does }))
}
