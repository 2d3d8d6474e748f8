//! The body of a request, which must be short and arrive in time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use bytes::Bytes;
use http_body_util::Limited;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::time::{Sleep, sleep};

/// A body that breaks off when it is too long, or when it takes too long.
pub(super) struct Bounded {
    body: Limited<Incoming>,
    patience: Duration,
    /// Runs from when it is first waited for.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// It takes too long.
#[derive(Debug, Error)]
#[error("the body of the request did not arrive within {} s", .0.as_secs())]
struct TooSlow(Duration);

impl Bounded {
    pub(super) fn new(body: Incoming, bytes: usize, patience: Duration) -> Self {
        Self {
            body: Limited::new(body, bytes),
            patience,
            deadline: None,
        }
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let patience = self.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        let late = deadline.as_mut().poll(context);
        late.map(|()| Some(Err(TooSlow(patience).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
