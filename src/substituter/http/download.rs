//! The transfer of a NAR, which goes on after interruptions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Response, StatusCode};
use tokio::sync::{mpsc, watch};

use super::client::cause;
use super::requests::{Server, header, with_cause};
use super::target::Target;
use crate::substituter::body::Piece;
use crate::substituter::encoding::Encoding;
use crate::substituter::error::BrokenOff;
use crate::substituter::range::{ContentRange, Resumption};
use crate::substituter::retry::{PROGRESS, Retries};
use crate::substituter::traffic::Request;

/// The transfer of a NAR, which is resumed after interruptions as long as the source supports that.
pub(super) struct Download {
    pub(super) source: Arc<Server>,
    pub(super) target: Target,
    /// Of the first response: that of the rest must be the same.
    pub(super) encoding: Encoding,
    pub(super) resumption: Option<Resumption>,
    /// Length of the whole NAR, if known.
    pub(super) length: Option<u64>,
    /// Bytes received.
    pub(super) at: u64,
    /// Time for the first byte, and for any byte if the rest cannot be asked for.
    pub(super) patience: Duration,
    /// True once nobody wants it any more.
    pub(super) ended: Option<watch::Receiver<bool>>,
}

/// Returns when nobody wants the transfer any more.
async fn told(ended: Option<watch::Receiver<bool>>) {
    if let Some(mut ended) = ended
        && ended.wait_for(|ended| *ended).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Why a body ended early.
struct Interruption {
    cause: String,
    /// Whether the rest can be requested.
    resumable: bool,
}

impl Download {
    pub(super) async fn run(
        mut self,
        request: Request,
        response: Response,
        pieces: mpsc::Sender<Piece>,
    ) {
        let ended = self.ended.take();
        let outcome = tokio::select! {
            biased;
            outcome = self.pass_on(response, &pieces) => outcome,
            // Its reader waits for what comes.
            () = told(ended) => return,
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
            // What would have to begin anew is given all the time.
            let patience = match &self.resumption {
                Some(_) if self.at > 0 => self.source.stall,
                _ => self.patience,
            };
            let piece = match tokio::time::timeout(patience, response.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => break,
                Ok(Err(_)) if self.length == Some(self.at) => break,
                Ok(Err(e)) => return broken(cause(&e), true),
                Err(_) => {
                    return broken(format!("nothing came for {} s", patience.as_secs()), true);
                }
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
            // A proxy may have to fetch all of it again before it sends the rest.
            let longer = self.source.stall.saturating_mul(1 << attempt.min(16));
            let patience = longer.min(self.patience);
            let error = match self.source.send(&self.target, patience, rest).await {
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
        let encoding = Encoding::of(header(response, "content-encoding"), &self.target.shown);
        let range = header(response, "content-range").and_then(ContentRange::parse);
        response.status() == StatusCode::PARTIAL_CONTENT
            && encoding.is_ok_and(|encoding| encoding == self.encoding)
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
