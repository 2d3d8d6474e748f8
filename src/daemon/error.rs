//! Errors of the daemon.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::http::HttpError;
use super::unix_socket::SocketError;
use crate::command::{ErrorKind, RequestError, chain};
use crate::engine::EngineError;
use crate::fuse::{MountError, SessionError};
use crate::store::StoreError;

#[derive(Debug, Error)]
pub enum DaemonError {
    #[error(transparent)]
    Engine(#[from] EngineError),
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

/// Why there can be no successor.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// Started by hand in the foreground.
    #[error(
        "nothing would start the next daemon: this one was started with --foreground by something \
         other than a service manager; unmount it, and mount it again with the new program"
    )]
    NotSupervised,
    /// The unit of a service determines its executable.
    #[error(
        "the unit of a service names its program: replace the program file, and give no \
         --program"
    )]
    ProgramOfService,
    /// The keeper is gone at the moment.
    #[error("the keeper of the daemon was killed and is being replaced; try again")]
    NoKeeper(#[source] std::io::Error),
}

/// Why a hand-over is refused.
#[derive(Debug, Error)]
pub enum HandOverError {
    #[error("the hand-over has no descriptor of /dev/fuse attached")]
    NoDescriptor,
    /// The mount point is not visible in the daemon's mount namespace.
    #[error(
        "process {} does not see its mount at {}, so profiles cannot be writable there; is it in \
         another mount namespace?",
        std::process::id(),
        .0.display()
    )]
    NotHere(PathBuf),
    #[error(transparent)]
    Profiles(#[from] MountError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

#[derive(Debug, Error)]
pub enum ServeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    UnixSocket(#[from] SocketError),
    /// Setup of the control socket, the signals or the log.
    #[error("cannot {what}")]
    Setup {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the FUSE session failed")]
    Broken(#[source] io::Error),
}

impl ServeError {
    /// Whether something is at the mount point that only the user can take away.
    pub fn is_occupied(&self) -> bool {
        match self {
            Self::Session(e) | Self::Daemon(DaemonError::Session(e)) => e.is_occupied(),
            Self::Daemon(DaemonError::Mount(e)) => e.is_occupied(),
            _ => false,
        }
    }
}

/// Wraps an I/O error of the setup.
pub(super) fn setup(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Setup { what, source }
}
