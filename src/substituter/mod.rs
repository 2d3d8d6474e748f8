//! Where paths come from: binary caches behind `file://`, `http://` and `https://`.
//!
//! Invariant: nothing that a source says is believed here. A substituter moves bytes; what they
//! mean, and whether they may be trusted, is decided above.

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

/// Longest narinfo or nix-cache-info that is read, in bytes; real ones have some kilobytes.
const TEXT_LIMIT: usize = 1 << 20;

/// Longest `.ls` listing that is read, in bytes: some hundred thousand files.
const LISTING_LIMIT: usize = 32 << 20;

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
        "{url}: a source of this kind cannot be listed, so --all is not possible; name the paths"
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

/// What a request becomes.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// A stream of bytes that a blocking thread reads.
pub type Stream = Box<dyn Read + Send>;

/// A binary cache.
pub trait Substituter: Send + Sync {
    /// How users name it, a password hidden.
    fn url(&self) -> &str;

    /// What went on with it so far.
    fn traffic(&self) -> &Traffic;

    /// The text of `nix-cache-info`; `None` if there is none.
    fn cache_info(&self) -> Answer<'_, Option<Bytes>>;

    /// The text of a narinfo; `None` if the source has no such path.
    fn narinfo(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>>;

    /// The text of the `.ls` listing of a path, unsigned; `None` if the source has none.
    fn listing(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>>;

    /// The bytes that a narinfo's `URL` names, as they are stored; `None` if they are gone. The
    /// stream must be read on a thread that may block.
    fn nar(&self, url: &str) -> Answer<'_, Option<Stream>>;

    /// The hashes of all paths.
    fn list(&self) -> Answer<'_, Vec<StorePathHash>>;
}

/// How a source is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time without a byte after which a server is given up.
    pub stall: Duration,
    /// The netrc file. `None` is the one that `NETRC` names, else `~/.netrc`, else
    /// `/etc/nix/netrc`; that there is none is no error then.
    pub netrc: Option<PathBuf>,
}

/// The source that a URL names. No server is asked yet.
///
/// # Errors
/// A URL of another kind, a netrc file that is malformed, or no directory at a `file://` URL.
pub fn open(url: &str, options: &Options) -> Result<Arc<dyn Substituter>, SourceError> {
    match Kind::of(url)? {
        Kind::File => Ok(Arc::new(FileCache::open(url)?)),
        Kind::Http => Ok(Arc::new(HttpCache::open(url, options)?)),
    }
}

/// The file that a `file://`, `http://` or `https://` URL names, as it is stored; `None` if there is
/// none. A transfer that breaks off goes on where the server offers that. The stream must be read
/// on a thread that may block.
///
/// # Errors
/// As [`open`], and those of the request.
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
