//! Why a channel cannot be changed, or does not lead to a path.

use thiserror::Error;

use crate::nix::compression::CompressionError;
use crate::profile::channel::ListError;
use crate::store::{ChannelName, ChannelNameError, StoreError};
use crate::substituter::SourceError;

/// Why a channel cannot be changed, or does not lead to a path.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// Its name is none.
    #[error(transparent)]
    Name(#[from] ChannelNameError),
    /// There is none of this name.
    #[error("there is no channel {name}; {there}")]
    Absent { name: ChannelName, there: String },
    /// There is one of this name already.
    #[error("there is a channel {name} already, of {url}; give another name, or remove it first")]
    Present {
        name: ChannelName,
        /// Where its list comes from.
        url: String,
    },
    /// Somebody else changed it while its list was read.
    #[error("the channel {0} was changed meanwhile by another command; nothing was done")]
    Changed(ChannelName),
    /// A channel is not added whose list cannot be read.
    #[error("the channel {name} was not added (--no-update adds it without a list)")]
    NotAdded {
        name: ChannelName,
        #[source]
        source: Box<ChannelError>,
    },
    /// No threads or sockets to be had.
    #[error("cannot start the network runtime")]
    Network,
    /// The file of the list.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no such file.
    #[error("{0}: there is no such file")]
    NoFile(String),
    /// The list is compressed in a way that is not known.
    #[error("{url}: {source}")]
    Compression {
        /// Where it comes from.
        url: String,
        source: CompressionError,
    },
    /// The list is not one.
    #[error("{url}")]
    List {
        /// Where it comes from.
        url: String,
        #[source]
        source: ListError,
    },
    /// What is neither a path nor a hash, where there are no channels.
    #[error(
        "{text:?} is neither a store path ({example}, HASH-NAME or HASH), nor can it be looked up \
         as the name of a package: {reason}"
    )]
    NoChannels {
        text: String,
        /// What a path looks like.
        example: String,
        /// Why it cannot.
        reason: String,
    },
    /// No channel has such a package.
    #[error("no package {text:?} is in the channels {channels}{near}")]
    NoPackage {
        text: String,
        /// Those that were searched.
        channels: String,
        /// Names that may have been meant.
        near: String,
    },
    /// Several paths have such a name.
    #[error("{text:?} is ambiguous: it may be {candidates}; give the version, or the store path")]
    Ambiguous {
        text: String,
        /// Paths, each with its channel, the newest first.
        candidates: String,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}
