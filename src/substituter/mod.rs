//! Substituters: binary caches at `file://`, `http://` and `https://`.
//!
//! Invariant: nothing received from a source is trusted here. A substituter moves bytes; their
//! meaning and trust are decided in higher layers.

mod body;
mod credentials;
mod encoding;
mod error;
mod file;
mod http;
mod netrc;
mod range;
mod redaction;
mod retry;
mod source;
mod traffic;
mod url;

use std::sync::Arc;

pub use error::{BrokenOff, SourceError};
use file::FileCache;
use http::HttpCache;
pub use redaction::redacted;
pub use retry::{Retries, spread};
pub use source::{Options, Stream, Substituter};
pub use traffic::{LastFailure, Traffic, TrafficSnapshot};
use url::Kind;
pub use url::{check, is_optional, parameter};

/// The source that a URL names. Nothing is asked yet.
///
/// # Errors
/// The URL is of another kind, or the netrc file is malformed.
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
        Kind::Http => HttpCache::open(url, options)?.file(url).await,
        Kind::File => FileCache::stream_of(url).await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
