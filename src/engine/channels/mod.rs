//! Channels: adding, updating, removing, and package lookup.
//!
//! Invariant: a channel only maps names to store paths; the paths are verified like any others
//! before they become visible.

mod download;

use std::path::PathBuf;

use crate::command::{ChannelCommand, ChannelReport, ChannelUpdateReport, Failure, Report, chain};
use crate::engine::error::{ChannelError, EngineError};
use crate::engine::location;
use crate::engine::location::{LocationError, Named};
use crate::engine::state::Engine;
use crate::nix::store_path::StorePath;
use crate::profile::channel::{Candidate, Found, Lookup, Nearest};
use crate::store::{Channel, ChannelName, Replaces};
use crate::substituter::{self, Options, redacted};
use download::{STALL, download};

/// Number of candidates in an error message.
const SHOWN: usize = 10;

impl Engine {
    pub(super) fn channel(&self, command: ChannelCommand) -> Result<Report, EngineError> {
        match command {
            ChannelCommand::Add {
                name,
                url,
                update,
                netrc,
            } => {
                let name = ChannelName::parse(&name).map_err(ChannelError::from)?;
                self.add_channel(&name, &url, update, netrc)
            }
            ChannelCommand::Update { names, netrc } => self.update_channels(&names, netrc),
            ChannelCommand::List => {
                let channels = self.store.channels().list()?;
                let reports = channels.iter().map(report);
                Ok(Report::Channels(reports.collect()))
            }
            ChannelCommand::Remove { name } => {
                let name = ChannelName::parse(&name).map_err(ChannelError::from)?;
                if !self.store.channels().remove(&name)? {
                    return Err(self.absent_channel(name)?.into());
                }
                Ok(Report::Done)
            }
        }
    }

    fn absent_channel(&self, name: ChannelName) -> Result<ChannelError, EngineError> {
        let channels = self.store.channels().list()?;
        let there = match channels.as_slice() {
            [] => "there are none yet; `narfs channel add` adds one".to_owned(),
            channels => format!("the channels are: {}", names_of(channels)),
        };
        Ok(ChannelError::Absent { name, there })
    }

    fn add_channel(
        &self,
        name: &ChannelName,
        url: &str,
        update: bool,
        netrc: Option<PathBuf>,
    ) -> Result<Report, EngineError> {
        substituter::check(url).map_err(ChannelError::from)?;
        let present = |there: Channel| ChannelError::Present {
            name: name.clone(),
            url: redacted(&there.url),
        };
        let there = self.store.channels().get(name)?;
        let replaces = match there {
            // Adding the same channel again is no error.
            Some(there) if there.url == url => Replaces::Old,
            Some(there) => return Err(present(there).into()),
            None => Replaces::Nothing,
        };
        if update {
            let updated = self.update_channel(name, url, replaces, netrc);
            updated.map_err(|source| match replaces {
                Replaces::Old => source,
                Replaces::Nothing => ChannelError::NotAdded {
                    name: name.clone(),
                    source: Box::new(source),
                },
            })?;
        } else if replaces == Replaces::Nothing && !self.store.channels().add(name, url)? {
            return Err(ChannelError::Changed(name.clone()).into());
        }
        let added = self.store.channels().get(name)?;
        Ok(Report::Channels(added.iter().map(report).collect()))
    }

    fn update_channels(
        &self,
        names: &[String],
        netrc: Option<PathBuf>,
    ) -> Result<Report, EngineError> {
        let mut channels = Vec::new();
        for name in names {
            let name = ChannelName::parse(name).map_err(ChannelError::from)?;
            match self.store.channels().get(&name)? {
                Some(channel) if channels.contains(&channel) => {}
                Some(channel) => channels.push(channel),
                None => return Err(self.absent_channel(name)?.into()),
            }
        }
        if names.is_empty() {
            channels = self.store.channels().list()?;
        }
        let mut done = ChannelUpdateReport::default();
        for Channel { name, url, .. } in channels {
            match self.update_channel(&name, &url, Replaces::Old, netrc.clone()) {
                Ok(()) => done
                    .updated
                    .extend(self.store.channels().get(&name)?.as_ref().map(report)),
                Err(error) => done.failures.push(Failure {
                    path: name.to_string(),
                    error: chain(&error),
                }),
            }
        }
        Ok(Report::ChannelUpdate(done))
    }

    fn update_channel(
        &self,
        name: &ChannelName,
        url: &str,
        replaces: Replaces,
        netrc: Option<PathBuf>,
    ) -> Result<(), ChannelError> {
        let options = Options {
            stall: STALL,
            netrc: netrc.or_else(|| self.network.defaults.netrc.clone()),
        };
        let runtime = self.runtime().map_err(|_| ChannelError::Network)?;
        let writer = download(&self.store, runtime, name, url, &options)?;
        if writer.commit(replaces)? {
            Ok(())
        } else {
            Err(ChannelError::Changed(name.clone()))
        }
    }

    /// The path that the user means: a store path, a hash, or a package of a channel.
    pub(super) fn named(&self, text: &str) -> Result<Named, EngineError> {
        match location::parse(&self.store, text) {
            Err(LocationError::NotAPath { .. }) if location::may_be_package(text) => {
                let path = self.package(text)?;
                let hash = path.hash();
                tracing::info!("{text} is {}", self.full(&path));
                Ok(Named {
                    hash,
                    path: Some(path),
                    place: Vec::new(),
                })
            }
            named => Ok(named?),
        }
    }

    /// The store path of a package.
    fn package(&self, text: &str) -> Result<StorePath, ChannelError> {
        let mut channels = self.store.channels().list()?;
        let without_list = match channels.first() {
            None => "there are no channels; `narfs channel add NAME URL` adds one".to_owned(),
            Some(_) => format!(
                "the channels {} have no lists yet; `narfs channel update` fetches them",
                names_of(&channels)
            ),
        };
        channels.retain(|channel| channel.list.is_some());
        if channels.is_empty() {
            return Err(ChannelError::NoChannels {
                text: text.to_owned(),
                example: format!("{}/HASH-NAME", self.store.store_dir()),
                reason: without_list,
            });
        }
        let mut lookup = Lookup::new(text);
        for Channel { name, .. } in &channels {
            let see = |path| lookup.see(path, name.as_str());
            self.store.channels().paths(name, see)?;
        }
        match lookup.finish() {
            Found::One(one) => Ok(one.path),
            Found::Several(candidates) => Err(ChannelError::Ambiguous {
                text: text.to_owned(),
                candidates: self.list_candidates(&candidates),
            }),
            Found::Nothing => {
                let mut nearest = Nearest::new(text);
                for Channel { name, .. } in &channels {
                    self.store
                        .channels()
                        .paths(name, |path| nearest.see(&path))?;
                }
                let nearest = nearest.finish();
                Err(ChannelError::NoPackage {
                    text: text.to_owned(),
                    channels: names_of(&channels),
                    near: match nearest.as_slice() {
                        [] => "; `narfs channel update` fetches newer lists".to_owned(),
                        names => format!("; similar names are {}", names.join(", ")),
                    },
                })
            }
        }
    }

    fn list_candidates(&self, candidates: &[Candidate]) -> String {
        let shown = candidates.iter().take(SHOWN);
        let shown = shown.map(|c| format!("{} (of {})", self.full(&c.path), c.channel));
        let shown: Vec<_> = shown.collect();
        match candidates.len().saturating_sub(SHOWN) {
            0 => shown.join(", "),
            more => format!("{}, and {more} more", shown.join(", ")),
        }
    }
}

fn names_of(channels: &[Channel]) -> String {
    let names: Vec<_> = channels.iter().map(|c| c.name.as_str()).collect();
    names.join(", ")
}

fn report(channel: &Channel) -> ChannelReport {
    ChannelReport {
        name: channel.name.to_string(),
        url: redacted(&channel.url),
        paths: channel.list.map(|list| list.paths),
        updated: channel.list.map(|list| list.updated),
    }
}
