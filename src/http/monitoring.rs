//! Monitoring endpoints: `/metrics`, `/status` and `/healthz`.
//!
//! Invariant: however many clients ask, there is one query of each kind at a time, no more often
//! than answers expire, and so many answers a second; and every client gets an answer in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Mutex;

use crate::sync::Pace;

/// Lifetime of a cached answer. Monitoring systems scrape every few seconds at most, and do not
/// notice.
const LIFETIME: Duration = Duration::from_millis(500);
/// Share of the time that queries take at most: an answer that took long is used for that much longer, so
/// that a large state costs no more of a core than a small one.
const SHARE: u32 = 10;
/// Longest lifetime that follows from that.
const LONGEST: Duration = Duration::from_secs(30);
/// Answers a second. One costs some 100 us, so that whoever asks as fast as possible takes a few percent
/// of a core; the 128 connections that may wait at once have their turns within a second.
const RATE: u32 = 200;
/// Timeout for an answer. The daemon answers sooner, or reports why it cannot.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Media type of the text format of Prometheus, in the version that [`Monitored::metrics`] produces.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const LIST: &str = "/metrics   metrics in the text format of Prometheus\n\
                    /status    the daemon, its sources and what it is fetching, as JSON\n\
                    /healthz   200 if the daemon answers, else 503 with the reason\n";

/// A monitored daemon. Each method may block for some seconds; no method is called concurrently
/// with itself.
pub trait Monitored: Send + Sync + 'static {
    /// The metrics, in the text format of Prometheus.
    ///
    /// # Errors
    /// The reason for the failure, as text.
    fn metrics(&self) -> Result<String, String>;

    /// The status, as JSON.
    ///
    /// # Errors
    /// The reason for the failure, as text.
    fn status(&self) -> Result<String, String>;

    /// Checks whether the daemon is healthy.
    ///
    /// # Errors
    /// The reason why it is not, as text.
    fn health(&self) -> Result<(), String>;

    /// Whether answers are computed in this process, so that the time for one is work. Elsewhere it may
    /// be the wait for a daemon that is being restarted.
    fn is_here(&self) -> bool;
}

/// A query and its cached answer.
struct Query {
    ask: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
    last: Mutex<Option<Last>>,
    /// How long an answer is used that took no time.
    lifetime: Duration,
    /// How many times longer than it took it is used at least.
    share: u32,
}

type Answer = Result<Arc<str>, Arc<str>>;

/// The last answer.
struct Last {
    expires: Instant,
    answer: Answer,
}

impl Query {
    fn new(
        (lifetime, share): (Duration, u32),
        ask: impl Fn() -> Result<String, String> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            ask: Box::new(ask),
            last: Mutex::new(None),
            lifetime,
            share,
        })
    }

    /// An answer that is not expired.
    async fn answer(self: Arc<Self>) -> Answer {
        // A separate task completes the query even if the client disconnects, so that there never
        // are two at a time.
        let query_task = tokio::spawn(async move {
            let mut last = self.last.lock().await;
            if let Some(Last { expires, answer }) = &*last
                && Instant::now() < *expires
            {
                return answer.clone();
            }
            let (query, began) = (self.clone(), Instant::now());
            let answer = tokio::task::spawn_blocking(move || (query.ask)());
            let answer = match answer.await {
                Ok(Ok(text)) => Ok(text.into()),
                Ok(Err(reason)) => Err(reason.into()),
                Err(_) => Err("the answer could not be produced; see the log".into()),
            };
            let took = began.elapsed();
            *last = Some(Last {
                expires: Instant::now() + self.lifetime.max((took * self.share).min(LONGEST)),
                answer: Answer::clone(&answer),
            });
            answer
        });
        match tokio::time::timeout(TIMEOUT, query_task).await {
            Ok(Ok(answer)) => answer,
            _ => Err(format!("no answer within {} s", TIMEOUT.as_secs()).into()),
        }
    }
}

/// The endpoints, as a router.
pub fn monitoring(monitored: Arc<dyn Monitored>) -> Router {
    let share = if monitored.is_here() { SHARE } else { 0 };
    monitoring_with((LIFETIME, share), monitored)
}

fn monitoring_with(lifetime: (Duration, u32), monitored: Arc<dyn Monitored>) -> Router {
    let (metrics, status) = (monitored.clone(), monitored.clone());
    let pace = Arc::new(Pace::new(RATE));
    let query = |query, kind| {
        get(move |State(query): State<Arc<Query>>| respond(query, kind)).with_state(query)
    };
    Router::new()
        .route("/", get(|| async { text(StatusCode::OK, TEXT, LIST) }))
        .route(
            "/metrics",
            query(Query::new(lifetime, move || metrics.metrics()), EXPOSITION),
        )
        .route(
            "/status",
            query(Query::new(lifetime, move || status.status()), JSON),
        )
        .route(
            "/healthz",
            query(
                Query::new(lifetime, move || {
                    monitored.health().map(|()| "ok\n".to_owned())
                }),
                TEXT,
            ),
        )
        .fallback(|uri: Uri| async move {
            let said = format!("there is no {}; the endpoints are\n{LIST}", uri.path());
            text(StatusCode::NOT_FOUND, TEXT, said)
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let said = format!("{} supports GET and HEAD, not {method}\n", uri.path());
            text(StatusCode::METHOD_NOT_ALLOWED, TEXT, said)
        })
        .layer(from_fn(move |request: Request, next: Next| {
            let turn = pace.turn();
            async move {
                tokio::time::sleep(turn).await;
                next.run(request).await
            }
        }))
}

async fn respond(query: Arc<Query>, kind: &'static str) -> Response {
    match query.answer().await {
        Ok(answer) => text(StatusCode::OK, kind, answer.to_string()),
        Err(reason) => {
            let mut response = text(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n"));
            // A daemon that was killed has been restarted by then.
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

fn text(status: StatusCode, kind: &'static str, text: impl IntoResponse) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        // Answers expire at once, and none is HTML.
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, text).into_response()
}

#[cfg(test)]
mod tests;
