//! Why a request failed: as a whole, with a kind that crosses the control socket, or for one path.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A path that failed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Store path or hash.
    pub path: String,
    /// What is wrong, and what to do.
    pub error: String,
}

/// What kind of failure it is: advice, and programs, go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request lacks something, or makes no sense.
    Usage,
    /// Something that was named is not there.
    Absent,
    /// No source may be asked for what is needed.
    NoSource,
    /// A source failed, or has not got it.
    Source,
    /// The state or its disk failed.
    State,
    /// A mount failed.
    Mount,
    /// Whoever asks may not have this.
    NotAllowed,
    /// No daemon serves the state.
    NoDaemon,
    /// The daemon does not know the request.
    Unknown,
    /// Another one, or one that this version does not know.
    #[serde(other)]
    Other,
}

/// Why a request failed as a whole, as it crosses the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct RequestError {
    /// Its kind.
    pub kind: ErrorKind,
    /// What is wrong with all reasons, and what to do.
    pub message: String,
}

impl RequestError {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message }
    }
}

/// An error with all its reasons, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let reason_text = reason.to_string();
        // Some errors repeat their source in their own sentence.
        if !text.contains(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        source = reason.source();
    }
    text
}
