//! A binary cache behind HTTP; the only place that knows the HTTP client.
//!
//! Status codes mean what they mean to Nix: 403, 404 and 410 say that a file is not there (S3
//! answers 403 for absent keys), 408, 429 and most of 5xx are tried again.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::mpsc;

use super::{Answer, LISTING_LIMIT, SourceError, Stream, Substituter, TEXT_LIMIT};
use crate::nix::store_path::StorePathHash;

/// Tries for one request, the first included; what Nix does.
const TRIES: u32 = 5;
/// Wait before the second try; doubled for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest `Retry-After` that is honoured.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Time for a connection to stand, as in Nix.
const CONNECT: Duration = Duration::from_secs(15);
/// What is said of a server that sends its clients from one place to the next.
const CIRCLE: &str = "too many redirections";
/// Pieces of a body that wait for their reader. With pieces of some 16 KiB a slow reader holds
/// back the server after half a megabyte.
const PIECES: usize = 32;

/// See the module.
pub(super) struct HttpCache {
    url: String,
    base: Url,
    client: Client,
}

/// Whether a server may answer differently later.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429) || (status >= 500 && !matches!(status, 501 | 505 | 511))
}

impl HttpCache {
    pub(super) fn open(url: &str, stall: Duration) -> Result<Self, SourceError> {
        let fail = |what: String| SourceError::Url {
            url: url.to_owned(),
            what,
        };
        let mut base = Url::parse(url).map_err(|e| fail(format!("{e}; give http://HOST/…")))?;
        // Parameters are for the client; paths are relative to the directory.
        base.set_query(None);
        base.set_fragment(None);
        if !base.path().ends_with('/') {
            let directory = format!("{}/", base.path());
            base.set_path(&directory);
        }
        // A second source finds the provider installed, which is what it wants.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("narfs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(stall))
            .read_timeout(stall)
            .build()
            .map_err(|e| fail(cause(&e)))?;
        Ok(Self {
            url: url.to_owned(),
            base,
            client,
        })
    }

    /// GET with retries. `None` is a file that is not there.
    async fn get(&self, reference: &str) -> Result<Option<Response>, SourceError> {
        let url = self.base.join(reference).map_err(|e| SourceError::Url {
            url: reference.to_owned(),
            what: e.to_string(),
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SourceError::Url {
                url: url.to_string(),
                what: format!("an address that {} may not give", self.url),
            });
        }
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let (error, asked) = match self.client.get(url.clone()).send().await {
                Ok(r) if r.status().is_success() => return Ok(Some(r)),
                Ok(r) if absent(r.status()) => return Ok(None),
                Ok(r) => (refused(&url, r.status()), retry_after(&r)),
                Err(e) => (unreachable(&url, &e), None),
            };
            // Around in circles again is not worth the time.
            let circle = matches!(&error, SourceError::Unreachable { what, .. } if *what == CIRCLE);
            if attempt >= TRIES || circle || !error.is_transient() {
                return Err(error);
            }
            tracing::debug!(%url, attempt, "{error}; trying again");
            tokio::time::sleep(asked.unwrap_or(wait).min(LONGEST_WAIT)).await;
            wait *= 2;
        }
        Ok(None)
    }

    async fn text(&self, name: &str, limit: usize) -> Result<Option<Bytes>, SourceError> {
        let mut attempt = 1;
        loop {
            let Some(response) = self.get(name).await? else {
                return Ok(None);
            };
            match whole(response, limit).await {
                // The head was there, but the body broke off.
                Err(e) if e.is_transient() && attempt < TRIES => {
                    tracing::debug!(attempt, "{e}; trying again");
                    tokio::time::sleep(FIRST_WAIT * attempt).await;
                    attempt += 1;
                }
                text => return text.map(Some),
            }
        }
    }
}

/// The body of a short file.
async fn whole(mut response: Response, limit: usize) -> Result<Bytes, SourceError> {
    let url = response.url().clone();
    let mut text = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| unreachable(&url, &e))? {
        text.extend_from_slice(&piece);
        if text.len() > limit {
            return Err(SourceError::TooLong {
                url: url.to_string(),
                limit,
            });
        }
    }
    Ok(text.into())
}

impl Substituter for HttpCache {
    fn url(&self) -> &str {
        &self.url
    }

    fn cache_info(&self) -> Answer<'_, Option<Bytes>> {
        Box::pin(self.text("nix-cache-info", TEXT_LIMIT))
    }

    fn narinfo(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>> {
        Box::pin(async move { self.text(&format!("{hash}.narinfo"), TEXT_LIMIT).await })
    }

    fn listing(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>> {
        Box::pin(async move { self.text(&format!("{hash}.ls"), LISTING_LIMIT).await })
    }

    fn nar(&self, url: &str) -> Answer<'_, Option<Stream>> {
        let url = url.to_owned();
        Box::pin(async move {
            let Some(mut response) = self.get(&url).await? else {
                return Ok(None);
            };
            let (sender, pieces) = mpsc::channel(PIECES);
            tokio::spawn(async move {
                loop {
                    let piece = match response.chunk().await {
                        Ok(Some(piece)) => Ok(piece),
                        Ok(None) => return,
                        Err(e) => Err(io::Error::other(format!(
                            "{}: the transfer broke off: {}",
                            response.url(),
                            cause(&e)
                        ))),
                    };
                    let last = piece.is_err();
                    // A reader that went away needs no more.
                    if sender.send(piece).await.is_err() || last {
                        return;
                    }
                }
            });
            Ok(Some(Box::new(Body {
                pieces,
                current: Bytes::new(),
            }) as Stream))
        })
    }

    fn list(&self) -> Answer<'_, Vec<StorePathHash>> {
        let url = self.url.clone();
        Box::pin(std::future::ready(Err(SourceError::NoListing { url })))
    }
}

/// The body of a response, for a thread that may block.
struct Body {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let n = out.len().min(self.current.len());
        out[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

fn absent(status: StatusCode) -> bool {
    matches!(status.as_u16(), 403 | 404 | 410)
}

fn refused(url: &Url, status: StatusCode) -> SourceError {
    SourceError::Refused {
        url: url.to_string(),
        status: status.as_u16(),
        hint: match status.as_u16() {
            401 | 407 => "; it wants a name and a password",
            429 => "; it asks for fewer requests",
            s if is_transient(s) => "; it is in trouble, try again later",
            _ => "",
        },
    }
}

fn unreachable(url: &Url, error: &reqwest::Error) -> SourceError {
    SourceError::Unreachable {
        url: url.to_string(),
        what: if error.is_timeout() {
            "no answer in time"
        } else if error.is_connect() {
            "cannot connect"
        } else if error.is_redirect() {
            CIRCLE
        } else {
            "the transfer failed"
        },
        source: io::Error::other(cause(error)),
    }
}

/// The innermost reason, which says more than the client's outermost sentence.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get("retry-after")?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}
