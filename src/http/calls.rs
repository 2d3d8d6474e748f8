//! Remote calls: POST requests with a path and a body, answered with JSON. Container engines call
//! their plugins in this way.
//!
//! Invariant: every answer is JSON that an engine can show: `{"Err": …}` if the request is not a
//! call.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::BytesRejection;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;

/// Media type that container engines send and accept.
const PLUGIN_JSON: &str = "application/vnd.docker.plugins.v1.1+json";

/// Answers each POST with `answer`, which gets its path and body and returns a status and JSON.
/// `answer` may block, and continues when the client disconnects.
pub fn calls(answer: impl Fn(&str, &[u8]) -> (u16, String) + Send + Sync + 'static) -> Router {
    let answer = Arc::new(answer);
    Router::new().fallback(
        |method: Method, uri: Uri, body: Result<Bytes, BytesRejection>| async move {
            let body = match body {
                _ if method != Method::POST => {
                    let said = format!("{method} is not supported; a call is a POST");
                    return refusal(StatusCode::METHOD_NOT_ALLOWED, &said);
                }
                Ok(body) => body,
                Err(e) => return refusal(e.status(), &e.body_text()),
            };
            let answering = tokio::task::spawn_blocking(move || answer(uri.path(), &body));
            match answering.await {
                Ok((status, json)) => {
                    let status = StatusCode::from_u16(status);
                    response(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), json)
                }
                Err(e) => {
                    tracing::error!("a call failed: {e}");
                    let said = "narfs failed; see its log";
                    refusal(StatusCode::INTERNAL_SERVER_ERROR, said)
                }
            }
        },
    )
}

fn refusal(status: StatusCode, said: &str) -> Response {
    response(status, json!({ "Err": said }).to_string())
}

fn response(status: StatusCode, json: String) -> Response {
    (status, [(CONTENT_TYPE, PLUGIN_JSON)], json).into_response()
}
