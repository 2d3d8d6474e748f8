//! Binary caches over HTTP; the only file that uses the HTTP client.
//!
//! Status codes mean the same as in Nix: for 403, 404 and 410 a file is absent (S3 answers 403 for
//! absent keys); 408, 429 and most of 5xx are retried. Proxies are taken from the environment
//! (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`); certificates are checked against the
//! authorities of the system, or those in `SSL_CERT_FILE`; HTTP/2 is used if the server selects it
//! in ALPN.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use reqwest::header::{AUTHORIZATION, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::mpsc;

use super::body::{Body, Piece};
use super::credentials::{Credentials, Sent};
use super::encoding::Encoding;
use super::error::{BrokenOff, SourceError};
use super::range::{ContentRange, Resumption};
use super::redaction::redacted;
use super::retry::{self, Gate, PROGRESS, Retries};
use super::source::{Answer, LISTING_LIMIT, Options, Stream, Substituter, TEXT_LIMIT};
use super::traffic::{Request, Traffic};
use crate::nix::store_path::StorePathHash;

/// Timeout for establishing a connection, as in Nix.
const CONNECT: Duration = Duration::from_secs(15);
/// Error text for a redirection loop.
const REDIRECT_LOOP: &str = "too many redirections";
/// Error text for an untrusted certificate.
const CERTIFICATE: &str = "its certificate is not trusted (set SSL_CERT_FILE for a private \
    authority)";
/// Number of buffers between the network and the reader of a body. At some 16 KiB each, a slow
/// reader throttles the server after half a megabyte.
const QUEUE_LENGTH: usize = 32;
/// Bytes of an error page that are read so that the connection can be reused.
const ERROR_PAGE: usize = 16 << 10;
/// Timeout for reading an error page; after that a new connection is cheaper.
const ERROR_PAGE_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) struct HttpCache(Arc<Shared>);

/// State shared with running transfers.
struct Shared {
    /// As given by the user, with the password hidden.
    url: String,
    base: Url,
    client: Client,
    credentials: Credentials,
    gate: Gate,
    traffic: Arc<Traffic>,
}

struct Target {
    url: Url,
    /// The URL without secrets.
    shown: String,
    authorization: Option<HeaderValue>,
    sent: Sent,
}

/// A failed attempt.
struct Failure {
    error: SourceError,
    /// Whether a retry may succeed.
    retryable: bool,
}

impl HttpCache {
    pub(super) fn open(url: &str, options: &Options) -> Result<Self, SourceError> {
        let fail = |what: String| SourceError::Url {
            url: redacted(url),
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
        let credentials = Credentials::load(options.netrc.as_deref())?;
        Ok(Self(Arc::new(Shared {
            url: redacted(url),
            client: client(&base, options.stall).map_err(fail)?,
            base,
            credentials,
            gate: Gate::default(),
            traffic: Arc::default(),
        })))
    }
}

fn client(base: &Url, stall: Duration) -> Result<Client, String> {
    // A second source finds the provider installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .user_agent(concat!("narfs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(stall))
            .read_timeout(stall)
            .referer(false)
    };
    match builder().build() {
        // Servers without TLS need no authorities.
        Err(_) if base.scheme() == "http" => builder().tls_certs_only([]).build(),
        client => client,
    }
    .map_err(|e| {
        format!(
            "{}; install ca-certificates, or set SSL_CERT_FILE",
            cause(&e)
        )
    })
}

impl Shared {
    fn target(&self, reference: &str) -> Result<Target, SourceError> {
        let fail = |url: &str, what| SourceError::Url {
            url: redacted(url),
            what,
        };
        let mut url = self
            .base
            .join(reference)
            .map_err(|e| fail(reference, e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            let what = format!("{} may not refer to this address", self.url);
            return Err(fail(url.as_str(), what));
        }
        let shown = redacted(url.as_str());
        let (mut sent, mut authorization) = (Sent::OfUrl, None);
        if url.password().is_none() {
            let name = percent_decode_str(url.username()).decode_utf8_lossy();
            let name = Some(name.as_bytes()).filter(|n| !n.is_empty());
            let basic = self
                .credentials
                .basic(url.host_str().unwrap_or_default(), name);
            // Base64 is always a valid header value.
            authorization = basic.and_then(|b| HeaderValue::from_str(&b).ok());
            if let Some(value) = &mut authorization {
                value.set_sensitive(true);
                // Otherwise the client sends this name as well. This cannot fail for a URL with a
                // host.
                let _ = url.set_username("");
                sent = Sent::OfNetrc;
            } else if name.is_none() {
                sent = Sent::Nothing;
            }
        }
        Ok(Target {
            url,
            shown,
            authorization,
            sent,
        })
    }

    /// Makes one attempt. `None` if the file is absent; with `rest`, requests the rest of a file.
    async fn send(
        &self,
        target: &Target,
        rest: Option<(u64, &Resumption)>,
    ) -> Result<Option<Response>, Failure> {
        self.gate.pass().await;
        let mut request = self.client.get(target.url.clone());
        if let Some(authorization) = &target.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some((at, resumption)) = rest {
            request = request.header(RANGE, format!("bytes={at}-"));
            if let Some(validator) = &resumption.validator {
                request = request.header(IF_RANGE, validator);
            }
        }
        let sent = Instant::now();
        let response = match request.send().await {
            Ok(response) => response,
            Err(e) => return Err(unreachable(target, &e)),
        };
        self.traffic.answered(sent.elapsed());
        if let Some(date) =
            header(&response, "date").and_then(|d| httpdate::parse_http_date(d).ok())
        {
            let age = header(&response, "age").and_then(|a| a.parse().ok());
            self.traffic.record_date(date, age.unwrap_or(0));
        }
        let status = response.status();
        if status.is_success() {
            return Ok(Some(response));
        }
        let retryable = retry::is_transient(status.as_u16());
        if retryable && let Some(delay) = retry_after(&response) {
            tracing::debug!(url = %target.shown, ?delay, "the source asks to delay further requests");
            self.gate.close_for(delay);
        }
        finish(response).await;
        if matches!(status.as_u16(), 403 | 404 | 410) {
            return Ok(None);
        }
        let error = self.refused(target, status);
        Err(Failure { error, retryable })
    }

    /// Makes a request with retries, and processes the response with `take`. `None` if the file is
    /// absent.
    async fn ask<T, F>(
        &self,
        target: &Target,
        take: impl Fn(Response) -> F,
    ) -> Result<Option<T>, SourceError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut retries = Retries::default();
        loop {
            let failure = match self.send(target, None).await {
                Ok(None) => return Ok(None),
                Ok(Some(response)) => match take(response).await {
                    Ok(taken) => return Ok(Some(taken)),
                    // The header arrived, but the body was interrupted.
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let wait = failure.retryable.then(|| retries.failed()).flatten();
            let Some(wait) = wait else {
                return Err(failure.error);
            };
            let attempt = retries.failures();
            let error = with_cause(&failure.error);
            tracing::debug!(url = %target.shown, attempt, ?wait, "{error}; retrying");
            self.traffic.retried();
            tokio::time::sleep(wait).await;
        }
    }

    async fn text(&self, name: &str, limit: usize) -> Result<Option<Bytes>, SourceError> {
        let request = self.traffic.request();
        let text = match self.target(name) {
            Ok(target) => {
                let take = |response| self.whole(&target, response, limit);
                self.ask(&target, take).await
            }
            Err(e) => Err(e),
        };
        request.end_found(&text);
        text
    }

    /// Reads the body of a short file.
    async fn whole(
        &self,
        target: &Target,
        mut response: Response,
        limit: usize,
    ) -> Result<Bytes, Failure> {
        let mut text = Vec::new();
        let broken = |e| unreachable(target, &e);
        let fatal = |error| Failure {
            error,
            retryable: false,
        };
        let encoding = header(&response, "content-encoding");
        let encoding = Encoding::of(encoding, &target.shown).map_err(fatal)?;
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            self.traffic.received(piece.len());
            text.extend_from_slice(&piece);
            if text.len() > limit {
                let url = target.shown.clone();
                return Err(fatal(SourceError::TooLong { url, limit }));
            }
        }
        let undone = encoding.decode(text.into(), limit, &target.shown);
        undone.map_err(fatal)
    }

    async fn nar(self: &Arc<Self>, reference: &str) -> Result<Option<Stream>, SourceError> {
        let request = self.traffic.request();
        let response = async {
            let target = self.target(reference)?;
            let response = self.ask(&target, |r| std::future::ready(Ok(r))).await?;
            Ok(response.map(|r| (target, r)))
        };
        let (target, response) = match response.await {
            Ok(Some(found)) => found,
            Ok(None) => {
                request.absent();
                return Ok(None);
            }
            Err(e) => {
                request.failed(&e);
                return Err(e);
            }
        };
        let shown = target.shown.clone();
        let encoding = Encoding::of(header(&response, "content-encoding"), &shown)?;
        let download = Download {
            source: self.clone(),
            target,
            resumption: Resumption::offered(|name| header(&response, name)),
            length: response.content_length(),
            at: 0,
        };
        let (sender, pieces) = mpsc::channel(QUEUE_LENGTH);
        tokio::spawn(download.run(request, response, sender));
        let stream = encoding.stream(Box::new(Body::new(pieces)), &shown)?;
        Ok(Some(stream))
    }

    fn refused(&self, target: &Target, status: StatusCode) -> SourceError {
        SourceError::Refused {
            url: target.shown.clone(),
            status: status.as_u16(),
            hint: match status.as_u16() {
                401 => self.credentials.hint(&target.sent),
                407 => "; the proxy requires a name and a password, set in the URL in http_proxy, \
                        https_proxy or all_proxy: http://NAME:PASSWORD@HOST:PORT"
                    .into(),
                429 => "; it limits the rate of requests".into(),
                s if retry::is_transient(s) => {
                    "; it has a temporary problem, try again later".into()
                }
                _ => String::new(),
            },
        }
    }
}

impl Substituter for HttpCache {
    fn url(&self) -> &str {
        &self.0.url
    }

    fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    fn cache_info(&self) -> Answer<'_, Option<Bytes>> {
        Box::pin(self.0.text("nix-cache-info", TEXT_LIMIT))
    }

    fn narinfo(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>> {
        Box::pin(async move { self.0.text(&format!("{hash}.narinfo"), TEXT_LIMIT).await })
    }

    fn listing(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>> {
        Box::pin(async move { self.0.text(&format!("{hash}.ls"), LISTING_LIMIT).await })
    }

    fn nar(&self, url: &str) -> Answer<'_, Option<Stream>> {
        let url = url.to_owned();
        Box::pin(async move { self.0.nar(&url).await })
    }

    fn list(&self) -> Answer<'_, Vec<StorePathHash>> {
        let url = self.0.url.clone();
        Box::pin(std::future::ready(Err(SourceError::NoListing { url })))
    }
}

/// The transfer of a NAR, which is resumed after interruptions as long as the source supports that.
struct Download {
    source: Arc<Shared>,
    target: Target,
    resumption: Option<Resumption>,
    /// Length of the whole NAR, if known.
    length: Option<u64>,
    /// Bytes received.
    at: u64,
}

/// Why a body ended early.
struct Interruption {
    cause: String,
    /// Whether the rest can be requested.
    resumable: bool,
}

impl Download {
    async fn run(mut self, request: Request, response: Response, pieces: mpsc::Sender<Piece>) {
        let outcome = tokio::select! {
            biased;
            outcome = self.pass_on(response, &pieces) => outcome,
            // The reader is gone; it may have read everything.
            () = pieces.closed() => {
                if self.length == Some(self.at) {
                    request.succeeded();
                }
                return;
            }
        };
        request.end(&outcome);
        if let Err(broken) = outcome {
            // It does not matter whether the reader is still there.
            let _ = pieces.send(Err(io::Error::other(broken))).await;
        }
    }

    async fn pass_on(
        &mut self,
        mut response: Response,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<(), BrokenOff> {
        let mut retries = Retries::default();
        loop {
            let from = self.at;
            let Err(broken) = self.body(response, pieces).await else {
                return Ok(());
            };
            if self.at - from >= PROGRESS {
                retries.progressed();
            }
            response = match &self.resumption {
                Some(resumption) if broken.resumable => {
                    self.resume(resumption, &mut retries, broken.cause).await?
                }
                _ => return Err(self.broken_off(broken.cause, false)),
            };
        }
    }

    /// Passes the body of one response to the reader.
    async fn body(
        &mut self,
        mut response: Response,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<(), Interruption> {
        let broken = |cause, resumable| Err(Interruption { cause, resumable });
        loop {
            let piece = match response.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(_) if self.length == Some(self.at) => break,
                Err(e) => return broken(cause(&e), true),
            };
            self.source.traffic.received(piece.len());
            let end = self.at + piece.len() as u64;
            if let Some(length) = self.length.filter(|length| end > *length) {
                return broken(format!("it sent more than its {length} bytes"), false);
            }
            self.at = end;
            if pieces.send(Ok(piece)).await.is_err() {
                // The reader is gone, so `run` ends.
                std::future::pending::<()>().await;
            }
        }
        match self.length {
            Some(length) if self.at < length => {
                broken(format!("it ended before {length} bytes"), true)
            }
            _ => Ok(()),
        }
    }

    /// Requests the rest of a transfer that was interrupted because of `cause`.
    async fn resume(
        &self,
        resumption: &Resumption,
        retries: &mut Retries,
        mut cause: String,
    ) -> Result<Response, BrokenOff> {
        loop {
            let Some(wait) = retries.failed() else {
                return Err(self.broken_off(cause, true));
            };
            let (url, attempt, at) = (&self.target.shown, retries.failures(), self.at);
            tracing::debug!(%url, attempt, ?wait, at, "interrupted: {cause}; resuming");
            self.source.traffic.retried();
            tokio::time::sleep(wait).await;
            let rest = Some((self.at, resumption));
            let error = match self.source.send(&self.target, rest).await {
                Ok(Some(rest)) if self.continues(&rest) => return Ok(rest),
                Ok(Some(other)) => {
                    let status = other.status().as_u16();
                    let what = format!(
                        "{cause}; it answered the request for the rest with something else"
                    );
                    return Err(self.broken_off(format!("{what} ({status})"), false));
                }
                Ok(None) => "the file is gone".into(),
                Err(failure) if failure.retryable => {
                    cause = with_cause(&failure.error);
                    continue;
                }
                Err(failure) => with_cause(&failure.error),
            };
            return Err(self.broken_off(error, false));
        }
    }

    /// Whether a response continues at the current position.
    fn continues(&self, response: &Response) -> bool {
        let range = header(response, "content-range").and_then(ContentRange::parse);
        response.status() == StatusCode::PARTIAL_CONTENT
            && header(response, "content-encoding").is_none()
            && range.is_some_and(|range| range.continues(self.at, self.length))
    }

    fn broken_off(&self, cause: String, exhausted: bool) -> BrokenOff {
        BrokenOff {
            url: self.target.shown.clone(),
            at: self.at,
            cause,
            exhausted,
        }
    }
}

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

fn retry_after(response: &Response) -> Option<Duration> {
    retry::retry_after(header(response, "retry-after")?, header(response, "date"))
}

/// Reads the page that comes with an error, if it is short; otherwise the connection cannot be
/// reused.
async fn finish(mut response: Response) {
    let page = async {
        let mut length = 0;
        while let Ok(Some(piece)) = response.chunk().await {
            length += piece.len();
            if length > ERROR_PAGE {
                break;
            }
        }
    };
    // If it takes too long, a new connection is used.
    let _ = tokio::time::timeout(ERROR_PAGE_TIMEOUT, page).await;
}

fn unreachable(target: &Target, error: &reqwest::Error) -> Failure {
    let circle = error.is_redirect();
    let untrusted = is_about_certificate(error);
    let error = SourceError::Unreachable {
        url: target.shown.clone(),
        what: if untrusted {
            CERTIFICATE
        } else if error.is_timeout() {
            "no answer in time"
        } else if error.is_connect() {
            "cannot connect"
        } else if circle {
            REDIRECT_LOOP
        } else {
            "the transfer failed"
        },
        source: io::Error::other(cause(error)),
    };
    // Redirection loops and certificate errors are not retried, as they persist.
    let retryable = !circle && !untrusted;
    Failure { error, retryable }
}

/// Whether the certificate of the server is the cause.
fn is_about_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if matches!(
            error.downcast_ref(),
            Some(rustls::Error::InvalidCertificate(_))
        ) {
            return true;
        }
        // An I/O error does not return the error that it wraps as its source.
        next = match error.downcast_ref::<io::Error>().and_then(|e| e.get_ref()) {
            Some(wrapped) => Some(wrapped as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    false
}

/// The innermost cause, which is more specific than the client's own text.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let innermost = std::iter::successors(Some(error), |e| e.source()).last();
    innermost.unwrap_or(error).to_string()
}

fn with_cause(error: &SourceError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
