//! Requests on channels, and their reports.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::command::Failure;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChannelCommand {
    /// Add a channel.
    Add {
        name: String,
        /// URL of its package list: `file://`, `http://` or `https://`.
        url: String,
        /// Fetch the list now; if that fails, the channel is not added.
        update: bool,
        /// netrc file to use in place of the daemon's.
        netrc: Option<PathBuf>,
    },
    /// Fetch the package lists again.
    Update {
        /// Channels to update; empty for all.
        names: Vec<String>,
        /// netrc file to use in place of the daemon's.
        netrc: Option<PathBuf>,
    },
    List,
    Remove {
        name: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelReport {
    pub name: String,
    /// URL of its list, without passwords.
    pub url: String,
    /// Number of paths in its list; `None` before the first update.
    pub paths: Option<u64>,
    /// When its list was last replaced, in seconds since 1970.
    pub updated: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelUpdateReport {
    /// Channels whose list was replaced.
    pub updated: Vec<ChannelReport>,
    /// Channels that could not be updated and keep their old list.
    pub failures: Vec<Failure>,
}
