//! `narfs channel`

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};

use super::config::{Flags, LISTING};
use super::global::Global;
use super::outcome::Outcome;
use super::output::{print_json, println, show_failures};
use crate::command::{ChannelCommand, ChannelReport, Report, Request};

/// Lists of store paths, to find packages by name
///
/// A channel is a file with one store path a line, plain or compressed, such as
/// https://channels.nixos.org/nixos-unstable/store-paths.xz. With it, `narfs profile install`,
/// `prefetch`, `pin` and `copy` accept NAME or NAME-VERSION in place of a store path. If a name is
/// ambiguous, they list the candidates and do nothing. Paths found through a channel are verified
/// like any others.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Channels,
}

#[derive(Debug, Subcommand)]
enum Channels {
    /// Add a channel and fetch its list
    Add {
        /// Only add the name and the URL; `narfs channel update` fetches the list
        #[arg(long)]
        no_update: bool,
        #[command(flatten)]
        how: ListOptions,
        /// Letters, digits and +-._
        name: String,
        /// The list: a file, file:///FILE, http://… or https://…
        #[arg(value_name = "URL-OR-FILE")]
        url: String,
    },
    /// Fetch lists again; if that fails, the old list is kept
    Update {
        #[command(flatten)]
        how: ListOptions,
        /// Channels to update [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// List all channels, with the number of their paths
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a channel and its list; installed packages stay
    Remove {
        /// Name of the channel
        name: String,
    },
}

/// Options for fetching lists.
#[derive(Debug, Args)]
struct ListOptions {
    #[command(flatten)]
    flags: Flags<LISTING>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl ListOptions {
    fn netrc(&self) -> Option<PathBuf> {
        self.flags.choices.netrc_file.clone()?.value
    }
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let (command, as_json, creates) = match self.command {
            Channels::Add {
                no_update,
                how,
                name,
                url,
            } => {
                let command = ChannelCommand::Add {
                    name,
                    url: url_of(&url)?,
                    update: !no_update,
                    netrc: how.netrc(),
                };
                (command, how.json, true)
            }
            Channels::Update { how, names } => {
                let netrc = how.netrc();
                (ChannelCommand::Update { names, netrc }, how.json, false)
            }
            Channels::List { json } => (ChannelCommand::List, json, false),
            Channels::Remove { name } => (ChannelCommand::Remove { name }, false, false),
        };
        match global.run(Request::Channel(command), creates)? {
            Report::Done => {}
            Report::Channels(channels) if as_json => print_json(&channels)?,
            Report::Channels(channels) => show(&channels)?,
            Report::ChannelUpdate(report) => {
                if as_json {
                    print_json(&report)?;
                } else {
                    show(&report.updated)?;
                }
                return Ok(show_failures(&report.failures));
            }
            _ => bail!("the daemon sent an unexpected report instead of channels"),
        }
        Ok(Outcome::Good)
    }
}

fn show(channels: &[ChannelReport]) -> anyhow::Result<()> {
    for c in channels {
        let paths = c
            .paths
            .map_or("no list yet".into(), |n| format!("{n} paths"));
        println(&format!("{}   {paths}   {}", c.name, c.url))?;
    }
    Ok(())
}

/// The URL of a file, or the URL itself.
fn url_of(text: &str) -> anyhow::Result<String> {
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let file = std::path::absolute(Path::new(text))?;
    let mut url = "file://".to_owned();
    for byte in file.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~+=,@:".contains(byte) {
            url.push(char::from(*byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_urls_and_urls_stay() {
        let url = |text: &str| url_of(text).unwrap();
        assert_eq!(url("/a b/x%?#.xz"), "file:///a%20b/x%25%3F%23.xz");
        assert_eq!(url("https://h/x y"), "https://h/x y");
        let here = std::env::current_dir().unwrap();
        let expected = format!("file://{}/store-paths", here.display());
        assert_eq!(url("store-paths"), expected);
    }
}
