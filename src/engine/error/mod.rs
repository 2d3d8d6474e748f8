//! Why a request failed.

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
use crate::nix::store_path::StorePath;
use crate::store::StoreError;
use crate::tree::DumpError;

/// Why a request failed as a whole.
#[derive(Debug, Error)]
pub enum EngineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A path that is not here, or not a path.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// A record that is not there.
    #[error("there is no {0} in the state")]
    NoRecord(String),
    /// Roots that cannot be found or made.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// A local tree.
    #[error("cannot add {}", from.display())]
    Add {
        /// What was to be added.
        from: PathBuf,
        #[source]
        source: AddError,
    },
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A NAR that cannot be given out.
    #[error(transparent)]
    Dump(#[from] DumpError<StoreError>),
    /// Mounting.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Whoever asked does not listen any more.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// No threads or sockets to be had.
    #[error("cannot start the network runtime")]
    Runtime(#[source] io::Error),
    /// The command needs what is not given.
    #[error("{0}")]
    Usage(&'static str),
    /// Contents that were dropped, and that cannot be had now.
    #[error("the contents of {path} were dropped to save space, and could not be fetched again")]
    Contents {
        path: StorePath,
        #[source]
        source: FetchError,
    },
    /// There are no sources.
    #[error("nobody is asked: {}; name a source with --from", no_sources(.0.as_deref()))]
    NoSource(Option<String>),
    /// A trace that is not there, or is.
    #[error("{0}")]
    Trace(String),
    /// A profile.
    #[error(transparent)]
    Profile(Box<ProfileError>),
    /// A channel.
    #[error(transparent)]
    Channel(Box<ChannelError>),
    /// A closure view.
    #[error(transparent)]
    Closure(#[from] ClosureError),
    /// Nobody serves the state.
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
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSource(_) => ErrorKind::NoSource,
            Self::Profile(e) => match **e {
                ProfileError::Supply(SupplyError::Nobody(_)) => ErrorKind::NoSource,
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
            Self::Usage(_) | Self::Key(_) => ErrorKind::Usage,
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
