//! Answers requests that come in at a listening socket, on threads of its own.

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
use super::request_body::Bounded;
use super::stream::{Patient, Stream};

use crate::sync;

/// Threads that move bytes.
const WORKERS: usize = 2;
/// Threads on which handlers may wait for something.
const BLOCKING: usize = 16;
/// Longest head of a request, in bytes, and also what is gathered before it is written.
const HEAD_BYTES: usize = 32 << 10;
/// Between two tries to accept, where the system has no descriptors or memory left.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. Those that wait for a request make way for new ones.
    pub connections: u32,
    /// Time for the head of a request, from the connection or from the answer before on.
    pub head: Duration,
    /// Time for the body of a request.
    pub body: Duration,
    /// Longest body of a request.
    pub body_bytes: usize,
    /// Time in which the client must have taken some of an answer.
    pub answer: Duration,
    /// Time for what is being answered when the server ends.
    pub end: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A process that was started from a shell may have 1024 descriptors, and needs others.
            connections: 128,
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            body_bytes: 1 << 20,
            answer: Duration::from_secs(30),
            end: Duration::from_secs(5),
        }
    }
}

/// A server that runs until it is told to [`end`](Self::end), or the process ends.
#[derive(Debug)]
pub struct Server {
    connections: Arc<Connections>,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Whether it still runs: it does not for long when its socket was shut down.
    pub fn runs(&self) -> bool {
        !self.thread.is_finished()
    }

    /// For how long there has been no connection.
    pub fn idle(&self) -> Duration {
        self.connections.idle()
    }

    /// Accepts no more, and returns when what is being answered is, or at the time for that.
    pub fn end(self) {
        // Who does not listen any more has ended, and so has a thread that panicked.
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

/// Answers by `router` what comes in at `listener`, within the default [`Limits`].
///
/// # Errors
/// No threads are to be had.
pub fn serve(listener: Listener, router: Router) -> io::Result<Server> {
    serve_within(Limits::default(), listener, router)
}

/// The same within other limits.
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
    // What extractors take is bounded by ours.
    let router = router.layer(DefaultBodyLimit::disable());
    let (end, told) = oneshot::channel();
    let connections = Connections::new(limits.connections);
    let open = connections.clone();
    let thread = sync::spawn("narfs-http", move || {
        runtime.block_on(accept(incoming, router, limits, &open, told));
        // What did not end in time is left.
        runtime.shutdown_background();
    })?;
    Ok(Server {
        connections,
        end,
        thread,
    })
}

/// Accepts connections until `told` to end, and then waits for the last of them.
async fn accept(
    incoming: Incoming,
    router: Router,
    limits: Limits,
    connections: &Arc<Connections>,
    told: oneshot::Receiver<()>,
) {
    let (ends, ending) = watch::channel(false);
    let mut told = pin!(async {
        if told.await.is_err() {
            // Nobody will tell.
            std::future::pending::<()>().await;
        }
    });
    loop {
        let accepted = tokio::select! {
            () = &mut told => break,
            accepted = incoming.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let place = tokio::select! {
                    () = &mut told => break,
                    place = connections.enter() => place,
                };
                let conversation = converse(stream, place, router.clone(), limits, ending.clone());
                tokio::spawn(conversation);
            }
            // So says accept(2) of a socket that does not listen any more.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                tracing::error!("nobody can connect any more: the HTTP socket was shut down");
                break;
            }
            Err(e) => {
                tracing::warn!("an HTTP connection was lost: {e}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(incoming);
    ends.send_replace(true);
    // What takes longer is left.
    let _ = tokio::time::timeout(limits.end, connections.all_ended()).await;
}

/// Answers the requests of a connection, until its client or the server ends it.
async fn converse(
    stream: Box<dyn Stream>,
    place: Place,
    router: Router,
    limits: Limits,
    mut ending: watch::Receiver<bool>,
) {
    let place = Arc::new(place);
    let stream = Patient::new(stream, place.clone(), limits.answer);
    let router = TowerToHyperService::new(router);
    let answer = {
        let place = place.clone();
        move |request: Request<RequestBody>| {
            let answering = place.answers();
            let body = |body| Body::new(Bounded::new(body, limits.body_bytes, limits.body));
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
                    tracing::debug!("an HTTP connection broke off: {e}");
                }
                return;
            }
            () = place.must_go() => {
                // A request may have come just then; another one makes way.
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

/// The body of an answer; when it is through, the rest is to send it.
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
