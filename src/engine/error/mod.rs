//! Errors of the engine.

mod channel;
mod closure;
mod profile;
mod roots;
mod supply;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use channel::ChannelError;
pub use closure::ClosureError;
pub use profile::ProfileError;
pub use roots::RootsError;
pub use supply::SupplyError;

use crate::command::{ErrorKind, KeyError, RequestError, chain};
use crate::engine::location::LocationError;
use crate::fetch::{AddError, FetchError};
use crate::fuse::MountError;
use crate::nix::signature;
use crate::nix::store_path::StorePath;
use crate::store::StoreError;
use crate::tree::DumpError;

#[derive(Debug, Error)]
pub enum EngineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The path is absent or invalid.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The record is absent.
    #[error("there is no {0} in the state")]
    NoRecord(String),
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("cannot add {}", from.display())]
    Add {
        from: PathBuf,
        #[source]
        source: AddError,
    },
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What is to be forgotten is no key.
    #[error("{text:?} is no key: give its name, or the whole public key as NAME:BASE64")]
    ForgottenKey {
        text: String,
        #[source]
        source: signature::KeyError,
    },
    #[error(transparent)]
    Dump(#[from] DumpError<StoreError>),
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The requester has closed the connection.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// No threads or sockets are available.
    #[error("cannot start the network runtime")]
    Runtime(#[source] io::Error),
    /// An argument is missing.
    #[error("{0}")]
    Usage(&'static str),
    /// The file is read as a whole.
    #[error("{path} has {size} bytes, and at most {limit} are read of a file of its kind")]
    TooLarge {
        path: StorePath,
        size: u64,
        limit: u64,
    },
    /// The contents were dropped and cannot be fetched at the moment.
    #[error("the contents of {path} were dropped to save space, and could not be fetched again")]
    Contents {
        path: StorePath,
        #[source]
        source: FetchError,
    },
    #[error("no source is configured: {}; give one with --from", no_sources(.0.as_deref()))]
    NoSource(Option<String>),
    /// The trace does not exist, or exists already.
    #[error("{0}")]
    Trace(String),
    #[error(transparent)]
    Profile(Box<ProfileError>),
    #[error(transparent)]
    Channel(Box<ChannelError>),
    #[error(transparent)]
    Closure(#[from] ClosureError),
    /// What is written so far is not closed.
    #[error("paths were removed while their registrations were written; run the command again")]
    RemovedMeanwhile,
    #[error("no daemon serves the state {}; `narfs mount` starts one", .0.display())]
    NoDaemon(PathBuf),
}

fn no_sources(why: Option<&str>) -> &str {
    why.unwrap_or("the mount is --offline, or from = [] in the configuration")
}

impl From<ProfileError> for EngineError {
    fn from(error: ProfileError) -> Self {
        Self::Profile(Box::new(error))
    }
}

impl From<ChannelError> for EngineError {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Store(error) => Self::Store(error),
            error => Self::Channel(Box::new(error)),
        }
    }
}

impl EngineError {
    /// Whether something of the database cannot be read, or it refuses to write for that reason.
    pub fn comes_of_damage(&self) -> bool {
        StoreError::comes_of_damage(self)
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSource(_) => ErrorKind::NoSource,
            Self::Profile(e) => match **e {
                ProfileError::Supply(SupplyError::NoSources(_)) => ErrorKind::NoSource,
                ProfileError::Supply(_) => ErrorKind::Source,
                ProfileError::Absent { .. } => ErrorKind::Absent,
                _ => ErrorKind::Other,
            },
            Self::Fetch(_) | Self::Contents { .. } => ErrorKind::Source,
            Self::Store(_) | Self::Dump(_) | Self::Roots(_) => ErrorKind::State,
            Self::Location(_) | Self::NoRecord(_) | Self::Closure(ClosureError::Absent { .. }) => {
                ErrorKind::Absent
            }
            Self::Mount(_) => ErrorKind::Mount,
            Self::NoDaemon(_) => ErrorKind::NoDaemon,
            Self::Usage(_) | Self::Key(_) | Self::ForgottenKey { .. } => ErrorKind::Usage,
            Self::Channel(e) if matches!(**e, ChannelError::Source(_)) => ErrorKind::Source,
            _ => ErrorKind::Other,
        }
    }
}

impl From<&EngineError> for RequestError {
    fn from(error: &EngineError) -> Self {
        Self::new(error.kind(), chain(error))
    }
}
