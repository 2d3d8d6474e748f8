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

/// Show and change profiles: installed packages and their generations
///
/// A profile is a list of generations, numbered from 1; each points to a user environment (links to
/// everything in the packages) or to any store path, and one is current. Environments are computed,
/// byte for byte as Nix builds them, and a switch takes effect at once. Only what is needed to
/// compute the links is fetched, and the narinfos of the closure; contents are fetched on access.
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
    /// List the installed packages
    List {
        #[command(flatten)]
        sources: Sources,
        /// Print as JSON, in the form of `nix profile list --json`
        #[arg(long)]
        json: bool,
    },
    /// Add packages: one new generation for all of them
    ///
    /// Packages that are already installed are kept; if all are, no generation is created.
    Install {
        /// Priority: of two packages with the same file, the one with the lower number provides it
        /// [default: 5]; also changes the priority of packages that are already installed
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        priority: Option<i64>,
        #[command(flatten)]
        prefetch: Prefetch,
        #[command(flatten)]
        how: FetchOptions,
        /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH; or packages of a channel: NAME or
        /// NAME-VERSION
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<String>,
    },
    /// Remove packages: one new generation
    Remove {
        #[command(flatten)]
        how: FetchOptions,
        /// Names as in `narfs profile list`, store paths, hashes, or package names
        #[arg(value_name = "PACKAGE", required = true)]
        packages: Vec<String>,
    },
    /// Create a generation that points to a store path, such as a whole system
    Set {
        #[command(flatten)]
        prefetch: Prefetch,
        #[command(flatten)]
        how: FetchOptions,
        /// Store path: /nix/store/HASH-NAME, HASH-NAME or HASH; or a package of a channel: NAME or
        /// NAME-VERSION
        path: String,
    },
    /// List all generations with their creation times, as `nix-env --list-generations`
    #[command(visible_alias = "list-generations")]
    History {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Switch to the generation before the current one
    Rollback {
        #[command(flatten)]
        what: ChangeOptions,
    },
    /// Switch to a generation
    Switch {
        #[command(flatten)]
        what: ChangeOptions,
        /// Its number
        #[arg(value_name = "N")]
        generation: u64,
    },
    /// Delete generations, never the current one
    DeleteGenerations {
        #[command(flatten)]
        what: ChangeOptions,
        /// Numbers; old: all but the current one; +K: all but the last K up to the current one; Nd:
        /// those that were not current in the last N days
        #[arg(value_name = "SPEC", required = true)]
        spec: Vec<String>,
    },
    /// Delete a profile with all its generations
    Delete {
        #[command(flatten)]
        what: ChangeOptions,
        /// Its name or path; there is no default
        #[arg(value_name = "PROFILE")]
        named: String,
    },
    /// Compare the closures of two generations: versions and NAR sizes
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
    /// Create a symlink outside of the mount that points to the profile in it
    ///
    /// An existing symlink is replaced atomically; anything else is not replaced, and an error.
    Link(link::Arguments),
}

/// Whether to fetch closures completely.
#[derive(Debug, Args)]
struct Prefetch {
    /// Fetch the closure completely before switching
    #[arg(long)]
    prefetch: bool,
}

/// Options of a change.
#[derive(Debug, Args)]
struct ChangeOptions {
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Options of a change that may fetch.
#[derive(Debug, Args)]
struct FetchOptions {
    #[command(flatten)]
    sources: Sources,
    /// Only show what would be done; path infos needed for that are fetched nevertheless
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// A request, and how its report is shown.
struct Prepared {
    action: ProfileAction,
    sources: SourceRequest,
    dry_run: bool,
    json: bool,
}

impl Prepared {
    fn new(action: ProfileAction, json: bool) -> Self {
        Self {
            action,
            sources: SourceRequest::default(),
            dry_run: false,
            json,
        }
    }

    fn changing(action: ProfileAction, what: &ChangeOptions) -> Self {
        let dry_run = what.dry_run;
        Self {
            dry_run,
            ..Self::new(action, what.json)
        }
    }

    fn fetching(
        action: ProfileAction,
        how: &FetchOptions,
        global: &Global,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            sources: how.sources.request(global)?,
            dry_run: how.dry_run,
            ..Self::new(action, how.json)
        })
    }
}

/// The profile if none is given.
pub(super) const DEFAULT: &str = "default";

/// Parses the name of a profile; an invalid one is a usage error.
fn profile_name(text: &str) -> anyhow::Result<ProfileName> {
    ProfileName::parse_argument(text).map_err(|e| Usage::error(e.to_string()))
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let profile = match (&self.action, &self.profile) {
            (Actions::Delete { named, .. }, Some(other)) if named != other => {
                let text =
                    format!("both '{named}' and '{other}' are given; give the one to delete");
                return Err(Usage::error(text));
            }
            (Actions::Delete { named, .. }, _) => profile_name(named)?,
            (_, named) => profile_name(named.as_deref().unwrap_or(DEFAULT))?,
        };
        if let Actions::Link(link) = self.action {
            return link.run(global, &profile);
        }
        let prepared = self.action.prepared(global)?;
        let creates = matches!(
            prepared.action,
            ProfileAction::Install { .. } | ProfileAction::Set { .. }
        );
        let command = Request::Profile(ProfileRequest {
            profile: profile.to_string(),
            action: prepared.action,
            sources: prepared.sources,
            dry_run: prepared.dry_run,
        });
        match (global.run(command, creates)?, prepared.json) {
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
            _ => bail!("the daemon sent an unexpected report instead of a profile"),
        }
        Ok(Outcome::Good)
    }
}

impl Actions {
    fn prepared(self, global: &Global) -> anyhow::Result<Prepared> {
        Ok(match self {
            Self::List { sources, json } => Prepared {
                sources: sources.request(global)?,
                ..Prepared::new(ProfileAction::List, json)
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
                Prepared::fetching(action, &how, global)?
            }
            Self::Remove { how, packages } => {
                Prepared::fetching(ProfileAction::Remove(packages), &how, global)?
            }
            Self::Set {
                prefetch: Prefetch { prefetch },
                how,
                path,
            } => Prepared::fetching(ProfileAction::Set { path, prefetch }, &how, global)?,
            Self::History { json } => Prepared::new(ProfileAction::History, json),
            Self::Rollback { what } => Prepared::changing(ProfileAction::Rollback, &what),
            Self::Switch { what, generation } => {
                Prepared::changing(ProfileAction::Switch(generation), &what)
            }
            Self::DeleteGenerations { what, spec } => {
                DeleteSpec::parse(&spec).map_err(|e| Usage::error(e.to_string()))?;
                Prepared::changing(ProfileAction::DeleteGenerations(spec), &what)
            }
            Self::Delete { what, .. } => Prepared::changing(ProfileAction::Delete, &what),
            Self::Diff {
                sources,
                json,
                first: from,
                second: to,
            } => Prepared {
                sources: sources.request(global)?,
                ..Prepared::new(ProfileAction::Diff { from, to }, json)
            },
            Self::Link(_) => bail!("links are created by the command itself"),
        })
    }
}

/// Prints what is done, or would be.
fn line(dry_run: bool, would: &str, does: &str, what: &str) -> anyhow::Result<()> {
    println(&format!("{} {what}", if dry_run { would } else { does }))
}
