//! The server side of the control socket.
//!
//! Everybody may connect (mode 0666); clients other than root may make few requests
//! (`unprivileged.rs`).

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use narfs_mounting::passing;

use super::process::Daemon;
use super::unprivileged::{self, Client, Clients, TooManyClients};
use crate::command::{ErrorKind, NoOutput, Output, Request, RequestError, chain};
use crate::control::{self, DeadlineStream, SOCKET, Version, receive_rest, send};
use crate::fetch::Snapshot;
use crate::sync;

/// Pause after a client without a place of its own: who connects as fast as possible takes no core for
/// that, and root, who waits behind them, waits for a moment.
const CROWDED: Duration = Duration::from_millis(1);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Sends the output of a request to its client.
struct Remote<'s>(&'s mut UnixStream);

impl Output for Remote<'_> {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        send(self.0, control::DATA, bytes)
    }

    fn progress(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        send(self.0, control::PROGRESS, &serde_json::to_vec(snapshot)?)
    }
}

/// The control socket: that of the previous daemon, where clients that connected meanwhile are
/// waiting, or a new one. Clients are answered after [`accept`].
pub(super) fn listen(state: &Path, before: Option<OwnedFd>) -> io::Result<UnixListener> {
    let path = state.join(SOCKET);
    let listener = match before.filter(|_| path.exists()) {
        Some(before) => UnixListener::from(before),
        None => bind(state)?,
    };
    // What a client may do depends on its credentials, not on the mode of the socket.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

fn bind(state: &Path) -> io::Result<UnixListener> {
    let path = state.join(SOCKET);
    // We hold the lock of the state, so no process listens at an existing socket.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    control::at_socket(state, |socket| UnixListener::bind(socket))
}

/// Answers requests to `daemon`, each on its own thread, until the process ends.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn accept(daemon: Arc<Daemon>, listener: UnixListener) -> io::Result<()> {
    let clients = Arc::new(Clients::default());
    let accept = move || {
        for stream in listener.incoming() {
            let greeted = stream.and_then(|stream| {
                let client = clients.classify(&stream)?;
                Ok((stream, client))
            });
            if clients.is_crowded() && !matches!(greeted, Ok((_, Ok(None)))) {
                std::thread::sleep(CROWDED);
            }
            let (mut stream, client) = match greeted {
                Ok((stream, Ok(client))) => (stream, client),
                Ok((mut stream, Err(TooManyClients))) => {
                    // The text fits into the empty send buffer, so this does not block.
                    let _ = send(
                        &mut stream,
                        control::ERROR,
                        TooManyClients.to_string().as_bytes(),
                    );
                    continue;
                }
                Err(e) => {
                    tracing::warn!("cannot accept a connection to the control socket: {e}");
                    std::thread::sleep(PAUSE);
                    continue;
                }
            };
            let daemon = daemon.clone();
            let answer = move || {
                let answered = match client {
                    Some(client) => answer_unprivileged(&daemon, &stream, &client),
                    None => answer(&daemon, &mut stream),
                };
                if let Err(e) = answered {
                    tracing::debug!("a connection to the control socket failed: {e}");
                }
            };
            if let Err(e) = sync::spawn("narfs-request", answer) {
                tracing::warn!("cannot start a thread for a request: {e}");
                std::thread::sleep(PAUSE);
            }
        }
    };
    sync::spawn("narfs-control", accept).map(drop)
}

/// The kind of the next frame, with the descriptor attached to it; `None` at the end of the
/// connection.
fn next_kind(stream: &UnixStream) -> io::Result<Option<(u8, Option<OwnedFd>)>> {
    let mut kind = [0];
    let (length, descriptor) = passing::receive(stream.as_fd(), &mut kind)?;
    Ok((length > 0).then_some((kind[0], descriptor)))
}

/// The version of the client.
fn version(payload: &[u8]) -> Option<Version> {
    serde_json::from_slice(payload).ok()
}

/// Parses a request, which may come from a client of another version.
fn read(client: Option<&Version>, payload: &[u8]) -> Result<Request, RequestError> {
    serde_json::from_slice(payload).map_err(|e| {
        let client = client.map_or_else(|| "another version".to_owned(), ToString::to_string);
        let text = format!(
            "the daemon runs {}, and does not know this request of {client} ({e}); use the same version, \
             or switch the daemon to the new version with `narfs upgrade`",
            Version::ours()
        );
        RequestError::new(ErrorKind::Unknown, text)
    })
}

/// Sends the last frame of an exchange.
fn finish(
    stream: &mut impl Write,
    client: Option<&Version>,
    answered: Result<impl AsRef<[u8]>, RequestError>,
) -> io::Result<()> {
    match (answered, client) {
        (Ok(report), _) => send(stream, control::REPORT, report.as_ref()),
        (Err(e), Some(_)) => send(stream, control::FAILURE, &serde_json::to_vec(&e)?),
        (Err(e), None) => send(stream, control::ERROR, e.message.as_bytes()),
    }
}

fn written(report: &impl serde::Serialize) -> Result<Vec<u8>, RequestError> {
    let written = serde_json::to_vec(report);
    written.map_err(|e| RequestError::new(ErrorKind::Other, e.to_string()))
}

/// Answers a privileged client.
fn answer(daemon: &Daemon, stream: &mut UnixStream) -> io::Result<()> {
    let mut client = None;
    loop {
        let Some((kind, descriptor)) = next_kind(stream)? else {
            return Ok(());
        };
        let payload = receive_rest(stream, control::LIMIT)?;
        let payload = payload.ok_or(io::ErrorKind::InvalidData)?;
        let answered = match kind {
            control::VERSION => {
                client = version(&payload);
                let ours = serde_json::to_vec(&Version::ours())?;
                send(stream, control::VERSION, &ours)?;
                continue;
            }
            control::REQUEST => read(client.as_ref(), &payload).and_then(|request| {
                let done = daemon.execute(request, &mut Remote(stream));
                written(&done.map_err(|e| RequestError::from(&e))?)
            }),
            control::HAND_OVER => hand_over(daemon, &payload, descriptor),
            kind => Err(RequestError::new(
                ErrorKind::Unknown,
                format!(
                    "expected a request, got a frame of kind {:?}",
                    char::from(kind)
                ),
            )),
        };
        return finish(stream, client.as_ref(), answered);
    }
}

fn hand_over(
    daemon: &Daemon,
    payload: &[u8],
    device: Option<OwnedFd>,
) -> Result<Vec<u8>, RequestError> {
    let request = serde_json::from_slice(payload).map_err(|e| {
        let text =
            format!("the daemon does not understand this message; is it an older version? {e}");
        RequestError::new(ErrorKind::Unknown, text)
    })?;
    let answer = daemon.hand_over(request, device);
    written(&answer.map_err(|e| RequestError::new(ErrorKind::Mount, chain(&e)))?)
}

/// Answers an unprivileged client.
fn answer_unprivileged(daemon: &Daemon, stream: &UnixStream, client: &Client) -> io::Result<()> {
    let mut request = DeadlineStream::new(stream, unprivileged::REQUEST_TIMEOUT);
    let mut version_of = None;
    let refused = || {
        let text = client.refusal(daemon.store().dir());
        RequestError::new(ErrorKind::NotAllowed, text)
    };
    let request = loop {
        // An attached descriptor is closed.
        let Some((kind, _)) = next_kind(request.stream()?)? else {
            return Ok(());
        };
        match receive_rest(&mut request, unprivileged::REQUEST_LIMIT)? {
            Some(payload) if kind == control::VERSION && version_of.is_none() => {
                version_of = version(&payload);
                let ours = serde_json::to_vec(&Version::ours())?;
                send(&mut request, control::VERSION, &ours)?;
            }
            Some(payload) if kind == control::REQUEST => {
                break read(version_of.as_ref(), &payload);
            }
            _ => break Err(refused()),
        }
    };
    let answered = request.and_then(|request| {
        if !Client::may(&request) {
            return Err(refused());
        }
        client.answer(request, stream, |request| {
            let report = daemon.execute(request, &mut NoOutput);
            written(&report.map_err(|e| RequestError::from(&e))?)
        })
    });
    let mut stream = DeadlineStream::new(stream, unprivileged::REQUEST_TIMEOUT);
    finish(&mut stream, version_of.as_ref(), answered)
}
