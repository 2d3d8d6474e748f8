//! Errors of requests over the control socket.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::frame::Version;
use crate::command::RequestError;

#[derive(Debug, Error)]
pub enum ControlError {
    /// The daemon reports that the request failed.
    #[error(transparent)]
    Failed(#[from] RequestError),
    #[error("no daemon serves the state {}; `narfs mount` starts one", .0.display())]
    NoDaemon(PathBuf),
    #[error("cannot ask the daemon of the state {}", state.display())]
    Unreachable {
        state: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the daemon of the state {} does not answer in time", .0.display())]
    NoAnswer(PathBuf),
    #[error("the daemon sent a report of another kind than the request asks for")]
    UnexpectedReport,
    /// The daemon sent something that this program does not understand.
    #[error(
        "the daemon runs {}, and this program ({}) does not understand its answer ({what}); use the \
         same version, or switch the daemon to this version with `narfs upgrade`",
        daemon_is(.daemon.as_ref()),
        Version::ours()
    )]
    VersionMismatch {
        /// Version of the daemon, if it sent one.
        daemon: Option<Version>,
        what: String,
    },
    #[error("the daemon of the state {} closed the connection", state.display())]
    Disconnected {
        state: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl ControlError {
    /// Whether the daemon ended before it had read the request, and so has not executed it: the kernel
    /// resets a connection with unread bytes (unix(7)).
    pub fn is_unread(&self) -> bool {
        matches!(self, Self::Disconnected { source, .. }
            if source.kind() == io::ErrorKind::ConnectionReset)
    }
}

fn daemon_is(daemon: Option<&Version>) -> String {
    daemon.map_or_else(|| "of another version".to_owned(), ToString::to_string)
}
