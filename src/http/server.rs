//! The HTTP server, on threads of its own.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use bytes::Bytes;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming as RequestBody, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{oneshot, watch};

use super::connections::{Answering, Connections, Place};
use super::listener::{Incoming, Listener};
use super::request_body::LimitedBody;
use super::stream::{Stream, TimeoutStream};

use crate::sync;

/// Threads of the asynchronous runtime.
const WORKERS: usize = 2;
/// Threads on which handlers may block.
const BLOCKING: usize = 16;
/// Limit of the length of a request head, in bytes, and size of the write buffer.
const HEAD_BYTES: usize = 32 << 10;
/// Pause between attempts to accept when the system is out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Limits of what a client may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. Those waiting for a request are closed for new ones.
    pub connections: u32,
    /// Timeout for the head of a request, from the connection or the previous response on.
    pub head: Duration,
    /// Timeout for the body of a request.
    pub body: Duration,
    /// Limit of the length of a request body.
    pub body_bytes: usize,
    /// Timeout within which the client must accept part of a response.
    pub answer: Duration,
    /// Timeout for responses in flight when the server ends.
    pub end: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A process started from a shell may have only 1024 descriptors, and needs others.
            connections: 128,
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            body_bytes: 1 << 20,
            answer: Duration::from_secs(30),
            end: Duration::from_secs(5),
        }
    }
}

/// A server that runs until [`end`](Self::end), or until the process ends.
#[derive(Debug)]
pub struct Server {
    connections: Arc<Connections>,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Whether it is still running; it stops when its socket is shut down.
    pub fn runs(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Time since there was a connection.
    pub fn idle(&self) -> Duration {
        self.connections.idle()
    }

    /// Stops accepting connections, and returns when responses in flight are done or have timed
    /// out.
    pub fn end(self) {
        // The receiver is gone if the server has ended, and a panic was logged already.
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

/// Serves `router` at `listener`, within the default [`Limits`].
///
/// # Errors
/// No threads are available.
pub fn serve(listener: Listener, router: Router) -> io::Result<Server> {
    serve_within(Limits::default(), listener, router)
}

/// Serves `router` within other limits.
///
/// # Errors
/// See [`serve`].
fn serve_within(limits: Limits, listener: Listener, router: Router) -> io::Result<Server> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_name("narfs-http")
        .enable_all()
        .build()?;
    let incoming = {
        let _inside = runtime.enter();
        listener.into_incoming()?
    };
    // The size limit of extractors is replaced by ours.
    let router = router.layer(DefaultBodyLimit::disable());
    let (end, shutdown) = oneshot::channel();
    let connections = Connections::new(limits.connections);
    let open = connections.clone();
    let thread = sync::spawn("narfs-http", move || {
        runtime.block_on(accept(incoming, router, limits, &open, shutdown));
        // Tasks that did not end in time are dropped.
        runtime.shutdown_background();
    })?;
    Ok(Server {
        connections,
        end,
        thread,
    })
}

/// Accepts connections until `shutdown` completes, and then waits for the last of them.
async fn accept(
    incoming: Incoming,
    router: Router,
    limits: Limits,
    connections: &Arc<Connections>,
    shutdown: oneshot::Receiver<()>,
) {
    let (ends, ending) = watch::channel(false);
    let mut shutdown = pin!(async {
        if shutdown.await.is_err() {
            // The sender was dropped without a message.
            std::future::pending::<()>().await;
        }
    });
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = incoming.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let place = tokio::select! {
                    () = &mut shutdown => break,
                    place = connections.admit() => place,
                };
                let conversation =
                    serve_connection(stream, place, router.clone(), limits, ending.clone());
                tokio::spawn(conversation);
            }
            // accept(2) returns EINVAL for a socket that was shut down.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                tracing::error!("the HTTP socket was shut down; no more connections are possible");
                break;
            }
            Err(e) => {
                tracing::warn!("cannot accept an HTTP connection: {e}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(incoming);
    ends.send_replace(true);
    // Responses that take longer are dropped.
    let _ = tokio::time::timeout(limits.end, connections.all_ended()).await;
}

/// Answers the requests of a connection, until its client or the server ends it.
async fn serve_connection(
    stream: Box<dyn Stream>,
    place: Place,
    router: Router,
    limits: Limits,
    mut ending: watch::Receiver<bool>,
) {
    let place = Arc::new(place);
    let stream = TimeoutStream::new(stream, place.clone(), limits.answer);
    let router = TowerToHyperService::new(router);
    let answer = {
        let place = place.clone();
        move |request: Request<RequestBody>| {
            let answering = place.answers();
            let body = |body| Body::new(LimitedBody::new(body, limits.body_bytes, limits.body));
            let response = router.call(request.map(body));
            async move {
                let body = |body| Answer {
                    body,
                    _answering: answering,
                };
                response.await.map(|response| response.map(body))
            }
        }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut connection = pin!(connection);
    let mut goes_on = true;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(e) = ended {
                    tracing::debug!("an HTTP connection failed: {e}");
                }
                return;
            }
            () = place.close_requested() => {
                // If a request has just arrived, another connection is closed instead.
                if place.is_waiting() {
                    return;
                }
            }
            _ = ending.wait_for(|ends| *ends), if goes_on => {
                if place.is_waiting() {
                    return;
                }
                goes_on = false;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A response body; when it is complete, the connection is only sending.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
