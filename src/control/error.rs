//! Why a daemon could not be asked.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::frame::Version;
use crate::command::RequestError;

/// Why a daemon could not be asked, or what it answered.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The daemon says that the request failed.
    #[error(transparent)]
    Failed(#[from] RequestError),
    /// Nobody serves the state.
    #[error("no daemon serves the state {}; `narfs mount` starts one", .0.display())]
    NoDaemon(PathBuf),
    /// Its control socket cannot be reached.
    #[error("cannot ask the daemon of the state {}", state.display())]
    NotReached {
        state: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It does not say anything.
    #[error("the daemon of the state {} does not answer in time", .0.display())]
    Silent(PathBuf),
    /// It says something else.
    #[error("the daemon gave another report than the one that was asked for")]
    OtherReport,
    /// It says what this program does not understand.
    #[error(
        "the daemon is {}, and this is {}, which does not understand its answer ({what}); use the same \
         version, or have the daemon go on as this one with `narfs upgrade`",
        daemon_is(.daemon.as_ref()),
        Version::ours()
    )]
    OtherVersion {
        /// What the daemon is, if it said so.
        daemon: Option<Version>,
        /// What is not understood.
        what: String,
    },
    /// The daemon went away in the middle.
    #[error("the daemon that owns the state {} broke off", state.display())]
    BrokenOff {
        state: PathBuf,
        #[source]
        source: io::Error,
    },
    /// What it gave could not be passed on.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

fn daemon_is(daemon: Option<&Version>) -> String {
    daemon.map_or_else(|| "of another version".to_owned(), ToString::to_string)
}
