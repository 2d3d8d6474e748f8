//! Requests to one server: attempts, retries, redirections, and what its answers mean.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, IF_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::error::Elapsed;

use super::client::{self, CERTIFICATE, cause};
use super::target::Target;
use crate::substituter::credentials::Credentials;
use crate::substituter::encoding::Encoding;
use crate::substituter::error::SourceError;
use crate::substituter::range::Resumption;
use crate::substituter::redaction::redacted;
use crate::substituter::retry::{self, Gate, Retries};
use crate::substituter::source::{Bound, CACHE_INFO_NAME, Options};
use crate::substituter::traffic::Traffic;

/// Redirections that are followed for one request, as many as Nix lets curl follow.
const REDIRECTIONS: usize = 10;
/// Error text for a redirection loop.
const REDIRECT_LOOP: &str = "too many redirections";
/// Bytes of an error page that are read so that the connection can be reused.
const ERROR_PAGE: usize = 16 << 10;
/// Timeout for reading an error page; after that a new connection is cheaper.
const ERROR_PAGE_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest wait for the first byte of a NAR, as Nix (`stalled-download-timeout`): a proxy may fetch all of it
/// before it sends anything, and begins anew if it is asked anew.
const FIRST_BYTE: Duration = Duration::from_secs(300);
/// That wait at most, as a multiple of the time without a byte: whoever shortens one shortens both.
const FIRST_BYTE_STALLS: u32 = 20;

/// Bytes of a file that is fetched ahead which may be on their way over HTTP/2, if nobody reads it: 40 Mbit/s
/// at a round trip of 50 ms. Over HTTP/1 it is what the kernel gives a connection.
const WINDOW_AHEAD: u32 = 256 << 10;

/// A server, and what is needed to ask it; shared with running transfers.
pub(super) struct Server {
    /// As given by the user, with the password hidden.
    pub(super) url: String,
    pub(super) base: Url,
    client: Client,
    /// That of what is fetched ahead, once there was some: its connections are others.
    client_ahead: OnceLock<Option<Client>>,
    credentials: Credentials,
    gate: Gate,
    /// Time without a byte after which it is given up.
    pub(super) stall: Duration,
    pub(super) traffic: Arc<Traffic>,
}

/// A failed attempt.
pub(super) struct Failure {
    pub(super) error: SourceError,
    /// Whether a retry may succeed.
    pub(super) retryable: bool,
}

impl Failure {
    /// One that persists.
    fn lasting(error: SourceError) -> Self {
        Self {
            error,
            retryable: false,
        }
    }
}

impl Server {
    /// The server at a URL, which is not asked yet.
    pub(super) fn new(url: &str, options: &Options) -> Result<Self, SourceError> {
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
        Ok(Self {
            url: redacted(url),
            client: client::client(&base, options.stall, None).map_err(fail)?,
            client_ahead: OnceLock::new(),
            base,
            credentials,
            gate: Gate::default(),
            stall: options.stall,
            traffic: Arc::default(),
        })
    }

    fn client_for(&self, target: &Target) -> &Client {
        // Over HTTP/1, each transfer has a connection of its own anyway.
        if !target.is_ahead || target.url.scheme() == "http" {
            return &self.client;
        }
        let make = || client::client(&self.base, self.stall, Some(WINDOW_AHEAD)).ok();
        let ahead = self.client_ahead.get_or_init(make);
        ahead.as_ref().unwrap_or(&self.client)
    }

    pub(super) fn target(&self, reference: &str) -> Result<Target, SourceError> {
        Target::of(&self.base, reference, &self.credentials, &self.url)
    }

    /// Time for the first byte of a NAR.
    pub(super) fn first_byte(&self) -> Duration {
        self.stall.saturating_mul(FIRST_BYTE_STALLS).min(FIRST_BYTE)
    }

    /// Makes one attempt, which waits so long for the head of an answer, and follows redirections. `None` if
    /// the file is absent; with `rest`, requests the rest of a file.
    pub(super) async fn send(
        &self,
        target: &Target,
        patience: Duration,
        rest: Option<(u64, &Resumption)>,
    ) -> Result<Option<Response>, Failure> {
        self.gate.pass().await;
        let mut target = Cow::Borrowed(target);
        for _ in 0..=REDIRECTIONS {
            let response = self.send_once(&target, patience, rest).await?;
            let Some(location) = redirection(&response) else {
                return self.judge(&target, response).await;
            };
            let next = target.redirected(&location, &self.credentials);
            target = Cow::Owned(next.map_err(Failure::lasting)?);
            finish(response).await;
        }
        Err(Failure::lasting(SourceError::Unreachable {
            url: target.shown.clone(),
            what: REDIRECT_LOOP,
            source: io::Error::other(format!("more than {REDIRECTIONS}")),
        }))
    }

    async fn send_once(
        &self,
        target: &Target,
        patience: Duration,
        rest: Option<(u64, &Resumption)>,
    ) -> Result<Response, Failure> {
        let mut request = self.client_for(target).get(target.url.clone());
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
        let response = tokio::time::timeout(patience, request.send()).await;
        let response = response.map_err(|late| silent(target, late))?;
        let response = response.map_err(|e| unreachable(target, &e))?;
        self.traffic.answered(sent.elapsed());
        Ok(response)
    }

    /// What an answer means that is no redirection.
    async fn judge(
        &self,
        target: &Target,
        response: Response,
    ) -> Result<Option<Response>, Failure> {
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
        // As in Nix: S3 answers 403 for files that are not there, but a source says what it is.
        let is_absent = match status.as_u16() {
            404 | 410 => true,
            403 => !target.url.path().ends_with(CACHE_INFO_NAME),
            _ => false,
        };
        if is_absent {
            return Ok(None);
        }
        let error = self.refused(target, status);
        Err(Failure { error, retryable })
    }

    /// Makes a request with retries, each of which waits so long for the head of an answer, and processes the
    /// response with `take`. `None` if the file is absent.
    pub(super) async fn ask<T, F>(
        &self,
        target: &Target,
        patience: Duration,
        take: impl Fn(Response) -> F,
    ) -> Result<Option<T>, SourceError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut retries = Retries::default();
        loop {
            let failure = match self.send(target, patience, None).await {
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

    pub(super) async fn text(
        &self,
        name: &str,
        bound: Bound,
    ) -> Result<Option<Bytes>, SourceError> {
        let request = self.traffic.request();
        let text = match self.target(name) {
            Ok(target) => {
                let take = |response| self.whole(&target, response, bound);
                self.ask(&target, self.stall, take).await
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
        bound: Bound,
    ) -> Result<Bytes, Failure> {
        let mut text = Vec::new();
        let broken = |e| unreachable(target, &e);
        let encoding = header(&response, "content-encoding");
        let encoding = Encoding::of(encoding, &target.shown).map_err(Failure::lasting)?;
        loop {
            let piece = tokio::time::timeout(self.stall, response.chunk()).await;
            let piece = piece.map_err(|late| silent(target, late))?;
            let Some(piece) = piece.map_err(broken)? else {
                break;
            };
            self.traffic.received(piece.len());
            text.extend_from_slice(&piece);
            match bound {
                Bound::Refuse(limit) if text.len() > limit => {
                    let url = target.shown.clone();
                    return Err(Failure::lasting(SourceError::TooLong { url, limit }));
                }
                // The connection is given up: what follows may be long.
                Bound::Cut(limit) if text.len() >= limit => break,
                _ => {}
            }
        }
        let undone = encoding.decode(text.into(), bound, &target.shown);
        undone.map_err(Failure::lasting)
    }

    fn refused(&self, target: &Target, status: StatusCode) -> SourceError {
        SourceError::Refused {
            url: target.shown.clone(),
            status: status.as_u16(),
            hint: match status.as_u16() {
                401 | 403 => self.credentials.hint(&target.sent),
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

/// Where a response sends the client.
fn redirection(response: &Response) -> Option<String> {
    let is_redirection = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = header(response, "location").filter(|_| is_redirection);
    location.map(str::to_owned)
}

pub(super) fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
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

fn silent(target: &Target, late: Elapsed) -> Failure {
    let error = SourceError::Unreachable {
        url: target.shown.clone(),
        what: "no answer in time",
        source: late.into(),
    };
    let retryable = true;
    Failure { error, retryable }
}

fn unreachable(target: &Target, error: &reqwest::Error) -> Failure {
    let untrusted = is_about_certificate(error);
    let error = SourceError::Unreachable {
        url: target.shown.clone(),
        what: if untrusted {
            CERTIFICATE
        } else if error.is_timeout() {
            "no answer in time"
        } else if error.is_connect() {
            "cannot connect"
        } else {
            "the transfer failed"
        },
        source: io::Error::other(cause(error)),
    };
    // Certificate errors persist.
    let retryable = !untrusted;
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

pub(super) fn with_cause(error: &SourceError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
