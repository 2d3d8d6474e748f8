//! A binary cache behind HTTP; the only place that knows the HTTP client.
//!
//! Status codes mean what they mean to Nix: 403, 404 and 410 say that a file is not there (S3
//! answers 403 for absent keys), 408, 429 and most of 5xx are tried again. Proxies are those of
//! the environment (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`); certificates are
//! checked against the system's authorities, or those of `SSL_CERT_FILE`; HTTP/2 is spoken where
//! the server chooses it while TLS is set up.

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

/// Time for a connection to stand, as in Nix.
const CONNECT: Duration = Duration::from_secs(15);
/// What is said of a server that sends its clients from one place to the next.
const CIRCLE: &str = "too many redirections";
/// What is said of a server that nobody vouches for.
const CERTIFICATE: &str = "its certificate is not trusted (a private authority is named by \
    SSL_CERT_FILE)";
/// Pieces of a body that wait for their reader. With pieces of some 16 KiB a slow reader holds
/// back the server after half a megabyte.
const PIECES: usize = 32;
/// What is read of a page that comes with a failure, so that its connection can be used again.
const PAGE: usize = 16 << 10;
/// Longest time for that: then a new connection is cheaper.
const PAGE_TIME: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct HttpCache(Arc<Shared>);

/// What the cache shares with the transfers that run.
struct Shared {
    /// As users named it, its password hidden.
    url: String,
    base: Url,
    client: Client,
    credentials: Credentials,
    gate: Gate,
    traffic: Arc<Traffic>,
}

/// What a request asks for.
struct Target {
    url: Url,
    /// The URL as it may be shown.
    shown: String,
    authorization: Option<HeaderValue>,
    sent: Sent,
}

/// A try that failed.
struct Failure {
    error: SourceError,
    /// Whether another one may not.
    again: bool,
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
    // A second source finds the provider installed, which is what it wants.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .user_agent(concat!("narfs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(stall))
            .read_timeout(stall)
            .referer(false)
    };
    match builder().build() {
        // Where no authority is installed, servers without TLS can be used all the same.
        Err(_) if base.scheme() == "http" => builder().tls_certs_only([]).build(),
        client => client,
    }
    .map_err(|e| {
        format!(
            "{}; install ca-certificates, or name a file in SSL_CERT_FILE",
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
            let what = format!("an address that {} may not give", self.url);
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
            // Base64 is always a value of a header.
            authorization = basic.and_then(|b| HeaderValue::from_str(&b).ok());
            if let Some(value) = &mut authorization {
                value.set_sensitive(true);
                // The client would send this name by itself as well. It cannot fail with a host.
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

    /// One try. `None` is a file that is not there; with `rest`, the rest of one is asked for.
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
        let asked = Instant::now();
        let response = match request.send().await {
            Ok(response) => response,
            Err(e) => return Err(unreachable(target, &e)),
        };
        self.traffic.answered(asked.elapsed());
        if let Some(date) =
            header(&response, "date").and_then(|d| httpdate::parse_http_date(d).ok())
        {
            let age = header(&response, "age").and_then(|a| a.parse().ok());
            self.traffic.told_time(date, age.unwrap_or(0));
        }
        let status = response.status();
        if status.is_success() {
            return Ok(Some(response));
        }
        let again = retry::is_transient(status.as_u16());
        if again && let Some(asked) = retry_after(&response) {
            tracing::debug!(url = %target.shown, ?asked, "the source asks to be left alone");
            self.gate.close_for(asked);
        }
        finish(response).await;
        if matches!(status.as_u16(), 403 | 404 | 410) {
            return Ok(None);
        }
        let error = self.refused(target, status);
        Err(Failure { error, again })
    }

    /// Asks with retries, and has `take` make something of the answer. `None` is a file that is
    /// not there.
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
                    // The head was there, but the body broke off.
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let wait = failure.again.then(|| retries.failed()).flatten();
            let Some(wait) = wait else {
                return Err(failure.error);
            };
            let attempt = retries.failures();
            let error = with_cause(&failure.error);
            tracing::debug!(url = %target.shown, attempt, ?wait, "{error}; trying again");
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

    /// The body of a short file.
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
            again: false,
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
        let undone = encoding.undo(text.into(), limit, &target.shown);
        undone.map_err(fatal)
    }

    async fn nar(self: &Arc<Self>, reference: &str) -> Result<Option<Stream>, SourceError> {
        let request = self.traffic.request();
        let asked = async {
            let target = self.target(reference)?;
            let response = self.ask(&target, |r| std::future::ready(Ok(r))).await?;
            Ok(response.map(|r| (target, r)))
        };
        let (target, response) = match asked.await {
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
        let (sender, pieces) = mpsc::channel(PIECES);
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
                407 => "; the proxy wants a name and a password, which the URL in http_proxy, \
                        https_proxy or all_proxy has: http://NAME:PASSWORD@HOST:PORT"
                    .into(),
                429 => "; it asks for fewer requests".into(),
                s if retry::is_transient(s) => "; it is in trouble, try again later".into(),
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

/// The transfer of a NAR, which goes on where it broke off as long as the source offers that.
struct Download {
    source: Arc<Shared>,
    target: Target,
    resumption: Option<Resumption>,
    /// Of the whole NAR, where the source says it.
    length: Option<u64>,
    /// Bytes that have come.
    at: u64,
}

/// Why a body did not come to its end.
struct Break {
    cause: String,
    /// Whether the rest can be asked for.
    resumable: bool,
}

impl Download {
    async fn run(mut self, request: Request, response: Response, pieces: mpsc::Sender<Piece>) {
        let outcome = tokio::select! {
            biased;
            outcome = self.pass_on(response, &pieces) => outcome,
            // A reader that went away needs no more; it may have had all.
            () = pieces.closed() => {
                if self.length == Some(self.at) {
                    request.succeeded();
                }
                return;
            }
        };
        request.end(&outcome);
        if let Err(broken) = outcome {
            // Whether the reader is still there makes no difference any more.
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

    /// Passes on the body of one response.
    async fn body(
        &mut self,
        mut response: Response,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<(), Break> {
        let broken = |cause, resumable| Err(Break { cause, resumable });
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
                return broken(format!("more than the {length} bytes that it has"), false);
            }
            self.at = end;
            if pieces.send(Ok(piece)).await.is_err() {
                // Without a reader, `run` ends.
                std::future::pending::<()>().await;
            }
        }
        match self.length {
            Some(length) if self.at < length => {
                broken(format!("it ended before its {length} bytes"), true)
            }
            _ => Ok(()),
        }
    }

    /// Asks for the rest of what broke off because of `cause`.
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
            tracing::debug!(%url, attempt, ?wait, at, "broke off: {cause}; going on from there");
            self.source.traffic.retried();
            tokio::time::sleep(wait).await;
            let rest = Some((self.at, resumption));
            let error = match self.source.send(&self.target, rest).await {
                Ok(Some(rest)) if self.continues(&rest) => return Ok(rest),
                Ok(Some(other)) => {
                    let status = other.status().as_u16();
                    let what = format!("{cause}; asked for the rest, it sent something else");
                    return Err(self.broken_off(format!("{what} ({status})"), false));
                }
                Ok(None) => "the rest is gone".into(),
                Err(failure) if failure.again => {
                    cause = with_cause(&failure.error);
                    continue;
                }
                Err(failure) => with_cause(&failure.error),
            };
            return Err(self.broken_off(error, false));
        }
    }

    /// Whether a response is the rest from where we are.
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

/// Reads the page that came with a failure, if it is short: only then the connection can be used
/// for the next request.
async fn finish(mut response: Response) {
    let page = async {
        let mut length = 0;
        while let Ok(Some(piece)) = response.chunk().await {
            length += piece.len();
            if length > PAGE {
                break;
            }
        }
    };
    // What comes too late is not needed.
    let _ = tokio::time::timeout(PAGE_TIME, page).await;
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
            CIRCLE
        } else {
            "the transfer failed"
        },
        source: io::Error::other(cause(error)),
    };
    // Around in circles again is not worth the time, and a certificate stays what it is.
    let again = !circle && !untrusted;
    Failure { error, again }
}

/// Whether the server's certificate is why there is no connection.
fn is_about_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if matches!(
            error.downcast_ref(),
            Some(rustls::Error::InvalidCertificate(_))
        ) {
            return true;
        }
        // An I/O error is not the source of what it wraps, but stands for it.
        next = match error.downcast_ref::<io::Error>().and_then(|e| e.get_ref()) {
            Some(wrapped) => Some(wrapped as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    false
}

/// The innermost reason, which says more than the client's outermost sentence.
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
