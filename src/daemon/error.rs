//! Why a daemon does not do what it is asked for, or does not serve.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::http::HttpError;
use super::volumes::socket::SocketError;
use crate::command::{ErrorKind, RequestError, chain};
use crate::engine::EngineError;
use crate::fuse::{MountError, SessionError};
use crate::store::StoreError;

/// Why a request failed as a whole.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// What the request does to the state.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Mounting.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// What the daemon serves is not mounted where this process can see it.
    #[error(
        "a daemon serves the state {}, but it is not mounted anywhere in this mount namespace; unmount it \
         there first",
        .0.display()
    )]
    NowhereMounted(PathBuf),
    /// A mount that cannot be served.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No other daemon can go on.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
}

impl From<StoreError> for DaemonError {
    fn from(error: StoreError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<&DaemonError> for RequestError {
    fn from(error: &DaemonError) -> Self {
        let kind = match error {
            DaemonError::Engine(error) => error.kind(),
            DaemonError::Mount(_) | DaemonError::NowhereMounted(_) | DaemonError::Session(_) => {
                ErrorKind::Mount
            }
            DaemonError::Upgrade(_) => ErrorKind::Other,
        };
        Self::new(kind, chain(error))
    }
}

/// Why no other daemon can go on.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// It was started in the foreground by hand.
    #[error(
        "nobody would start the next daemon: this one was started with --foreground by something \
         that is no service manager; unmount it, and mount it again with the new program"
    )]
    NotSupervised,
    /// The service manager knows the program.
    #[error(
        "the program of a service stands in its unit: put the new one in its place, and give no \
         --program"
    )]
    ProgramOfService,
    /// There is none at the moment.
    #[error("the keeper of the daemon was killed; another one takes its place, so try again")]
    NoKeeper(#[source] std::io::Error),
}

/// Why a connection is not taken.
#[derive(Debug, Error)]
pub enum HandOverError {
    /// There was no descriptor with the message.
    #[error("no descriptor of /dev/fuse came with the connection that is handed over")]
    NoDescriptor,
    /// Writable profiles were wanted where the daemon sees nothing of its own.
    #[error(
        "process {} does not see its mount at {}, so that profiles cannot be writable there; is it in \
         another mount namespace?",
        std::process::id(),
        .0.display()
    )]
    NotHere(PathBuf),
    /// Profiles cannot be writable.
    #[error(transparent)]
    Profiles(#[from] MountError),
    /// It cannot be served.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Why a daemon could not serve.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The mount.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The sources, or closure views.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The first mount.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The socket for container engines.
    #[error(transparent)]
    Plugin(#[from] SocketError),
    /// The control socket, the signals or the log.
    #[error("cannot {what}")]
    Setup {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// The session broke.
    #[error("the FUSE session broke")]
    Broken(#[source] io::Error),
}

/// The error of something that a daemon needs.
pub(super) fn setup(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Setup { what, source }
}
