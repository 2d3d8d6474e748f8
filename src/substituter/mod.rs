//! Where paths come from: binary caches behind `file://`, `http://` and `https://`.
//!
//! Invariant: nothing that a source says is believed here. A substituter moves bytes; what they
//! mean, and whether they may be trusted, is decided above.

mod file;
mod http;
mod url;

use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::nix::store_path::StorePathHash;
use file::FileCache;
use http::HttpCache;
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
        /// As it was given.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// The request got no answer, or the answer broke off.
    #[error("{url}: {what}")]
    Unreachable {
        /// What was asked for.
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
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
        /// What to do, where something can be done.
        hint: &'static str,
    },
    /// The answer is longer than such a file may be.
    #[error("{url}: longer than {limit} bytes")]
    TooLong {
        /// What was asked for.
        url: String,
        /// The bound.
        limit: usize,
    },
    /// The source cannot be listed.
    #[error(
        "{url}: a source of this kind cannot be listed, so --all is not possible; name the paths"
    )]
    NoListing {
        /// The source.
        url: String,
    },
}

impl SourceError {
    /// Whether another try may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => http::is_transient(*status),
            _ => false,
        }
    }
}

/// What a request becomes.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// A stream of bytes that a blocking thread reads.
pub type Stream = Box<dyn Read + Send>;

/// A binary cache.
pub trait Substituter: Send + Sync {
    /// How users name it.
    fn url(&self) -> &str;

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

/// The source that a URL names. HTTP gives up on a silent server after `stall`.
///
/// # Errors
/// A URL of another kind.
pub fn open(url: &str, stall: Duration) -> Result<Arc<dyn Substituter>, SourceError> {
    match Kind::of(url)? {
        Kind::File => Ok(Arc::new(FileCache::open(url)?)),
        Kind::Http => Ok(Arc::new(HttpCache::open(url, stall)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_other_kinds_are_refused_with_a_hint() {
        let e = |u| open(u, Duration::from_secs(1)).err().unwrap().to_string();
        assert!(e("/var/cache").contains("file:///DIRECTORY"));
        assert!(e("ftp://x").contains("http://"));
        assert!(e("http://").contains("http://"));
        assert!(e("file://relative").contains("absolute"));
    }
}
