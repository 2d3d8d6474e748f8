//! Limits of the size and duration of a request body.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use bytes::Bytes;
use http_body_util::Limited;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::time::{Sleep, sleep};

/// A body that fails when it is too long or takes too long.
pub(super) struct LimitedBody {
    body: Limited<Incoming>,
    timeout: Duration,
    /// Starts when the body is first polled.
    deadline: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, Error)]
#[error("the body of the request did not arrive within {} s", .0.as_secs())]
struct BodyTimeout(Duration);

impl LimitedBody {
    pub(super) fn new(body: Incoming, bytes: usize, timeout: Duration) -> Self {
        Self {
            body: Limited::new(body, bytes),
            timeout,
            deadline: None,
        }
    }
}

impl Body for LimitedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let timeout = self.timeout;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(timeout)));
        let late = deadline.as_mut().poll(context);
        late.map(|()| Some(Err(BodyTimeout(timeout).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
