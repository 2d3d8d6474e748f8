//! What is told of a daemon: `/metrics`, `/status` and `/healthz`.
//!
//! Invariant: however many ask at once, the daemon is asked one question of a kind at a time, and
//! no more often than the answers are fresh; and everybody gets an answer in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Mutex;

/// An answer is given out again for so long. Whoever scrapes does so every few seconds at most, and
/// sees nothing of it.
const FRESH: Duration = Duration::from_millis(500);
/// An answer that does not come in this time is given up. What is watched answers in less, or says
/// that it cannot.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the text format of Prometheus calls itself, in the version that [`Watched::metrics`] gives.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const LIST: &str = "/metrics   figures in the text format of Prometheus\n\
                    /status    the daemon, its sources and what it is fetching, as JSON\n\
                    /healthz   200 while the daemon answers, else 503 with the reason\n";

/// A daemon that is watched. Each may take some seconds to answer, or to say why there is no
/// answer; none is asked twice at a time.
pub trait Watched: Send + Sync + 'static {
    /// What it counts, in the text format of Prometheus.
    ///
    /// # Errors
    /// Why it does not answer, in words.
    fn metrics(&self) -> Result<String, String>;

    /// What it does, as JSON.
    ///
    /// # Errors
    /// Why it does not answer, in words.
    fn status(&self) -> Result<String, String>;

    /// Whether it is well.
    ///
    /// # Errors
    /// Why not, in words.
    fn health(&self) -> Result<(), String>;
}

/// A question and its last answer.
struct Question {
    ask: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
    last: Mutex<Option<(Instant, Answer)>>,
}

type Answer = Result<Arc<str>, Arc<str>>;

impl Question {
    fn new(ask: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> Arc<Self> {
        let ask = Box::new(ask);
        let last = Mutex::new(None);
        Arc::new(Self { ask, last })
    }

    /// A fresh answer.
    async fn answer(self: Arc<Self>) -> Answer {
        // On a task of its own: it is asked to the end though who wants to know goes away, so that
        // it is never asked twice at a time.
        let asking = tokio::spawn(async move {
            let mut last = self.last.lock().await;
            if let Some((when, answer)) = &*last
                && when.elapsed() < FRESH
            {
                return answer.clone();
            }
            let question = self.clone();
            let asked = tokio::task::spawn_blocking(move || (question.ask)());
            let answer = match asked.await {
                Ok(Ok(text)) => Ok(text.into()),
                Ok(Err(reason)) => Err(reason.into()),
                Err(_) => Err("the answer could not be put together; the log says more".into()),
            };
            *last = Some((Instant::now(), Answer::clone(&answer)));
            answer
        });
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(answer)) => answer,
            _ => Err(format!("no answer within {} s", PATIENCE.as_secs()).into()),
        }
    }
}

/// Answers to whoever watches.
pub fn observation(watched: Arc<dyn Watched>) -> Router {
    let (metrics, status) = (watched.clone(), watched.clone());
    let question = |question, kind| {
        get(move |State(question): State<Arc<Question>>| told(question, kind)).with_state(question)
    };
    Router::new()
        .route("/", get(|| async { text(StatusCode::OK, TEXT, LIST) }))
        .route(
            "/metrics",
            question(Question::new(move || metrics.metrics()), EXPOSITION),
        )
        .route(
            "/status",
            question(Question::new(move || status.status()), JSON),
        )
        .route(
            "/healthz",
            question(
                Question::new(move || watched.health().map(|()| "ok\n".to_owned())),
                TEXT,
            ),
        )
        .fallback(|uri: Uri| async move {
            let said = format!("there is no {}; there are\n{LIST}", uri.path());
            text(StatusCode::NOT_FOUND, TEXT, said)
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let said = format!(
                "{} can be read (GET, HEAD), and nothing else: no {method}\n",
                uri.path()
            );
            text(StatusCode::METHOD_NOT_ALLOWED, TEXT, said)
        })
}

async fn told(question: Arc<Question>, kind: &'static str) -> Response {
    match question.answer().await {
        Ok(answer) => text(StatusCode::OK, kind, answer.to_string()),
        Err(reason) => {
            let mut response = text(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n"));
            // A daemon that was killed is back by then.
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
        // What was true a moment ago is of no use, and none of it is a page.
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, text).into_response()
}

#[cfg(test)]
mod tests;
