//! What users ask of channels, and what is reported.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::command::Failure;

/// What a user asks of the channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChannelCommand {
    /// Add a channel.
    Add {
        name: String,
        /// Where its list is: `file://`, `http://` or `https://`.
        url: String,
        /// Read its list at once; if that fails, there is no channel.
        update: bool,
        /// The file with names and passwords for servers, if not that of the daemon.
        netrc: Option<PathBuf>,
    },
    /// Read the lists of channels again.
    Update {
        /// Which; empty for all.
        names: Vec<String>,
        /// The file with names and passwords for servers, if not that of the daemon.
        netrc: Option<PathBuf>,
    },
    /// Name all channels.
    List,
    /// Remove a channel.
    Remove { name: String },
}

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelReport {
    pub name: String,
    /// Where its list comes from; passwords are not shown.
    pub url: String,
    /// Paths of its list; `None` if it has none yet.
    pub paths: Option<u64>,
    /// When its list was replaced last, in seconds since 1970.
    pub updated: Option<u64>,
}

/// What became of channels that were to be updated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelUpdateReport {
    /// Those with a new list.
    pub updated: Vec<ChannelReport>,
    /// Those that have the list that they had, by their names.
    pub failures: Vec<Failure>,
}
