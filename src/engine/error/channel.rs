//! Errors of channels.

use thiserror::Error;

use crate::nix::compression::CompressionError;
use crate::profile::channel::ListError;
use crate::store::{ChannelName, ChannelNameError, StoreError};
use crate::substituter::SourceError;

#[derive(Debug, Error)]
pub enum ChannelError {
    #[error(transparent)]
    Name(#[from] ChannelNameError),
    #[error("there is no channel {name}; {there}")]
    Absent { name: ChannelName, there: String },
    #[error("the channel {name} already exists, for {url}; give another name, or remove it first")]
    Present {
        name: ChannelName,
        /// URL of its list.
        url: String,
    },
    /// The channel was changed concurrently.
    #[error("another command changed the channel {0} concurrently; nothing was done")]
    Changed(ChannelName),
    /// The list cannot be read, so the channel is not added.
    #[error("the channel {name} was not added (--no-update adds it without a list)")]
    NotAdded {
        name: ChannelName,
        #[source]
        source: Box<ChannelError>,
    },
    /// No threads or sockets are available.
    #[error("cannot start the network runtime")]
    Network,
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{0}: there is no such file")]
    NoFile(String),
    #[error("{url}: {source}")]
    Compression {
        /// URL of the list.
        url: String,
        source: CompressionError,
    },
    /// The file is not a package list.
    #[error("{url}")]
    List {
        /// URL of the list.
        url: String,
        #[source]
        source: ListError,
    },
    /// Neither a path nor a hash, and there are no channels.
    #[error(
        "{text:?} is neither a store path ({example}, HASH-NAME or HASH), nor can it be looked up \
         as the name of a package: {reason}"
    )]
    NoChannels {
        text: String,
        /// An example of a store path.
        example: String,
        /// Why it cannot be looked up as a package.
        reason: String,
    },
    #[error("no package {text:?} is in the channels {channels}{near}")]
    NoPackage {
        text: String,
        /// The channels that were searched.
        channels: String,
        /// Similar package names.
        near: String,
    },
    #[error("{text:?} is ambiguous: it may be {candidates}; give the version, or the store path")]
    Ambiguous {
        text: String,
        /// The paths with their channels, newest first.
        candidates: String,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}
