//! Why a source gave nothing, and why a transfer broke off.
//!
//! Invariant: no error shows the password of a URL, or what a netrc file holds.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::retry;

/// Why a source gave nothing.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The URL is not one of a source.
    #[error("{url}: {what}")]
    Url {
        /// As it was given, its password hidden.
        url: String,
        what: String,
    },
    /// The request got no answer, or the answer broke off.
    #[error("{url}: {what}")]
    Unreachable {
        url: String,
        /// What happened.
        what: &'static str,
        /// The client's words.
        #[source]
        source: io::Error,
    },
    /// The server says no.
    #[error("{url}: the server answered {status}{hint}")]
    Refused {
        url: String,
        /// HTTP status.
        status: u16,
        /// What to do, where something can be done.
        hint: String,
    },
    /// The answer is encoded in a way that is not known.
    #[error("{url}: it comes with the Content-Encoding {encoding:?}, which narfs does not know")]
    Encoding {
        url: String,
        /// As the server names it.
        encoding: String,
    },
    /// The answer is longer than such a file may be.
    #[error("{url}: longer than {limit} bytes")]
    TooLong {
        url: String,
        /// The bound.
        limit: usize,
    },
    /// The netrc file that the caller names cannot be read.
    #[error("{}: this netrc file cannot be read", file.display())]
    NetrcFile {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A netrc file is malformed.
    #[error("{}: line {line} of this netrc file: {what}", file.display())]
    Netrc {
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, without its contents.
        what: &'static str,
    },
    /// The source cannot be listed.
    #[error(
        "{url}: a source of this kind cannot be listed, so --all is not possible; give the paths"
    )]
    NoListing { url: String },
}

impl SourceError {
    /// Whether another try may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => retry::is_transient(*status),
            _ => false,
        }
    }
}

/// Why a stream gave an error: the transfer of a NAR broke off, and could not be resumed.
#[derive(Debug, Error)]
#[error("{url}: the transfer broke off at byte {at}: {cause}")]
pub struct BrokenOff {
    pub url: String,
    /// Bytes that had come.
    pub at: u64,
    pub cause: String,
    /// Whether the policy for retries is used up already.
    pub exhausted: bool,
}

impl BrokenOff {
    /// Whether a stream's error says that its transfer may come to its end at another try.
    pub fn is_passing(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Self>());
        inner.is_some_and(|broken| !broken.exhausted)
    }

    /// Whether a stream's error says that its source was tried often enough.
    pub fn is_final(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Self>());
        inner.is_some_and(|broken| broken.exhausted)
    }
}
