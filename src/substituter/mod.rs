//! Substituters: binary caches at `file://`, `http://` and `https://`.
//!
//! Invariant: nothing received from a source is trusted here. A substituter moves bytes; their
//! meaning and trust are decided in higher layers.

mod body;
mod credentials;
mod encoding;
mod file;
mod http;
mod netrc;
mod range;
mod redaction;
mod retry;
mod traffic;
mod url;

use std::future::Future;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::nix::store_path::StorePathHash;
use file::FileCache;
use http::HttpCache;
pub use redaction::redacted;
pub use retry::Retries;
pub use traffic::{LastFailure, Traffic, TrafficSnapshot};
use url::Kind;
pub use url::check;

/// Limit of the length of a narinfo or nix-cache-info, in bytes; real ones have some kilobytes.
const TEXT_LIMIT: usize = 1 << 20;

/// Limit of the length of a `.ls` listing, in bytes: some hundred thousand files.
const LISTING_LIMIT: usize = 32 << 20;

#[derive(Debug, Error)]
pub enum SourceError {
    /// The URL is not that of a source.
    #[error("{url}: {what}")]
    Url {
        /// As given by the user, with the password hidden.
        url: String,
        what: String,
    },
    /// There was no response, or it was interrupted.
    #[error("{url}: {what}")]
    Unreachable {
        url: String,
        /// What happened.
        what: &'static str,
        /// The client's error.
        #[source]
        source: io::Error,
    },
    /// The server answered with an error status.
    #[error("{url}: the server answered {status}{hint}")]
    Refused {
        url: String,
        status: u16,
        /// Advice, if there is any.
        hint: String,
    },
    /// The encoding of the response is not supported.
    #[error("{url}: narfs does not support its Content-Encoding {encoding:?}")]
    Encoding {
        url: String,
        /// As the server names it.
        encoding: String,
    },
    /// The response exceeds a limit.
    #[error("{url}: it is longer than {limit} bytes")]
    TooLong { url: String, limit: usize },
    /// The given netrc file cannot be read.
    #[error("{}: cannot read this netrc file", file.display())]
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
        /// The error, without contents of the file.
        what: &'static str,
    },
    /// The source cannot be listed.
    #[error(
        "{url}: a source of this kind cannot be listed, so --all is not possible; give the paths"
    )]
    NoListing { url: String },
}

impl SourceError {
    /// Whether a retry may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => retry::is_transient(*status),
            _ => false,
        }
    }
}

/// The error of a stream when the transfer of a NAR was interrupted and could not be resumed.
#[derive(Debug, Error)]
#[error("{url}: the transfer broke off at byte {at}: {cause}")]
pub struct BrokenOff {
    pub url: String,
    /// Bytes received before.
    pub at: u64,
    pub cause: String,
    /// Whether the retries of the policy are used up.
    pub exhausted: bool,
}

impl BrokenOff {
    /// Whether a stream failed because of an interruption, so that a retry may succeed.
    pub fn is_passing(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Self>());
        inner.is_some_and(|broken| !broken.exhausted)
    }

    /// Whether a stream failed after all retries.
    pub fn is_final(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Self>());
        inner.is_some_and(|broken| broken.exhausted)
    }
}

/// The future of a request.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// A stream of bytes for a blocking reader.
pub type Stream = Box<dyn Read + Send>;

/// A binary cache.
pub trait Substituter: Send + Sync {
    /// Its URL, with the password hidden.
    fn url(&self) -> &str;

    /// Its counters.
    fn traffic(&self) -> &Traffic;

    /// The text of `nix-cache-info`, if the source has one.
    fn cache_info(&self) -> Answer<'_, Option<Bytes>>;

    /// The text of a narinfo; `None` if the source does not have the path.
    fn narinfo(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>>;

    /// The unsigned `.ls` listing of a path, if the source has one.
    fn listing(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>>;

    /// The file named by the `URL` of a narinfo, as stored; `None` if it is gone. The stream must
    /// be read on a thread that may block.
    fn nar(&self, url: &str) -> Answer<'_, Option<Stream>>;

    /// The hashes of all paths.
    fn list(&self) -> Answer<'_, Vec<StorePathHash>>;
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Time without data after which a transfer counts as failed.
    pub stall: Duration,
    /// The netrc file. `None` stands for the file named by `NETRC`, or else `~/.netrc`, or else
    /// `/etc/nix/netrc`; it is no error then if there is none.
    pub netrc: Option<PathBuf>,
}

/// Creates the substituter for a URL, without sending a request.
///
/// # Errors
/// The URL is of another kind, the netrc file is malformed, or a `file://` URL is not a directory.
pub fn open(url: &str, options: &Options) -> Result<Arc<dyn Substituter>, SourceError> {
    match Kind::of(url)? {
        Kind::File => Ok(Arc::new(FileCache::open(url)?)),
        Kind::Http => Ok(Arc::new(HttpCache::open(url, options)?)),
    }
}

/// The file at a `file://`, `http://` or `https://` URL, as stored; `None` if there is none. An
/// interrupted transfer is resumed if the server supports that. The stream must be read on a thread
/// that may block.
///
/// # Errors
/// See [`open`]; also errors of the request.
pub async fn file(url: &str, options: &Options) -> Result<Option<Stream>, SourceError> {
    match Kind::of(url)? {
        Kind::Http => HttpCache::open(url, options)?.nar(url).await,
        Kind::File => {
            let plain = url.split(['?', '#']).next().unwrap_or(url);
            let (directory, name) = plain.rsplit_once('/').unwrap_or((plain, ""));
            FileCache::open(&format!("{directory}/"))?.nar(name).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_other_kinds_are_refused_with_a_hint() {
        let options = Options {
            stall: Duration::from_secs(1),
            netrc: None,
        };
        let e = |u| open(u, &options).err().unwrap().to_string();
        assert!(e("/var/cache").contains("file:///DIRECTORY"));
        assert!(e("ftp://x").contains("http://"));
        assert!(e("http://").contains("http://"));
        assert!(e("file://relative").contains("absolute"));
        for url in [
            "ftp://u:secret@h",
            "http://u:secret@h:x/",
            "http://u:sec/secret@h",
        ] {
            let error = e(url);
            assert!(
                error.contains("u:***@h") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
