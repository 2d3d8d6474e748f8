//! Failures of requests: of a whole request, with a kind that crosses the control socket, or of one
//! path.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A path that failed, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Store path or hash.
    pub path: String,
    /// The reason, and what to do about it.
    pub error: String,
}

/// Kind of failure; scripts and the advice shown to users depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request is incomplete or invalid.
    Usage,
    /// Something named in the request does not exist.
    Absent,
    /// No source is configured for what is needed.
    NoSource,
    /// A source failed, or does not have the path.
    Source,
    /// The state or its disk failed.
    State,
    Mount,
    /// The requester is not permitted to do this.
    NotAllowed,
    NoDaemon,
    /// The daemon does not know the request.
    Unknown,
    /// Any other kind, also one added by a later version.
    #[serde(other)]
    Other,
}

/// Failure of a whole request, as it crosses the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct RequestError {
    pub kind: ErrorKind,
    /// The error with its chain of causes, and what to do about it.
    pub message: String,
}

impl RequestError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message }
    }
}

/// An error and its chain of causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let reason_text = reason.to_string();
        // Some errors repeat their source in their own text.
        if !text.contains(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        source = reason.source();
    }
    text
}
