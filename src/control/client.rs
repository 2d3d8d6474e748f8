//! Client of the control socket: sends requests to the daemon that serves a state.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::deadline::DeadlineStream;
use super::error::ControlError;
use super::frame::{self, Version};
use super::hand_over::{HandOver, HandedOver};
use crate::command::{
    ErrorKind, FiguresReport, NoOutput, Output, Report, Request, RequestError, StatusReport,
};

/// Timeout for the first answer of a live daemon. If the daemon was killed, its successor has
/// started within this time as well.
const ANSWER: Duration = Duration::from_millis(500);

/// Attempts before a daemon that closes the connection without an answer counts as absent.
const STATUS_TRIES: u32 = 10;

/// Pause between these attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Connects to the daemon of the state in a directory.
///
/// # Errors
/// No daemon is listening, or the socket is not accessible.
pub fn connect(state: &Path) -> io::Result<UnixStream> {
    frame::at_socket(state, |socket| UnixStream::connect(socket))
}

/// Asks the daemon of the state which superblock it serves.
fn query_mount(state: &Path) -> io::Result<HandedOver> {
    let mut stream = connect(state)?;
    stream.set_read_timeout(Some(ANSWER))?;
    frame::send(
        &mut stream,
        frame::HAND_OVER,
        &serde_json::to_vec(&HandOver::Ask)?,
    )?;
    match frame::receive(&mut stream)? {
        (frame::REPORT, answer) => Ok(serde_json::from_slice(&answer)?),
        (_, text) => Err(io::Error::other(
            String::from_utf8_lossy(&text).into_owned(),
        )),
    }
}

/// The status of the daemon. With a `timeout`, a daemon that is not listening because it is being
/// restarted is waited for that long.
///
/// # Errors
/// See [`ControlError`].
pub fn status(state: &Path, timeout: Option<Duration>) -> Result<StatusReport, ControlError> {
    match retry_request(state, &Request::Status, timeout)? {
        Report::Status(status) => Ok(status),
        _ => Err(ControlError::UnexpectedReport),
    }
}

/// The metrics of the daemon; `timeout` as for [`status`].
///
/// # Errors
/// See [`ControlError`].
pub fn figures(state: &Path, timeout: Option<Duration>) -> Result<FiguresReport, ControlError> {
    match retry_request(state, &Request::Figures, timeout)? {
        Report::Figures(figures) => Ok(*figures),
        _ => Err(ControlError::UnexpectedReport),
    }
}

fn retry_request(
    state: &Path,
    request: &Request,
    timeout: Option<Duration>,
) -> Result<Report, ControlError> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let is_before_deadline = || deadline.is_some_and(|deadline| Instant::now() < deadline);
    let mut tries = 1;
    loop {
        let result = connect(state)
            .map_err(|e| connect_error(state, e))
            .and_then(|stream| ask(state, stream, request, &mut NoOutput, deadline));
        match result {
            Err(ControlError::Disconnected { source, .. }) if is_timeout(&source) => {
                return Err(ControlError::NoAnswer(state.to_owned()));
            }
            // The daemon was killed while answering; its successor may be starting.
            Err(ControlError::Disconnected { .. })
                if is_before_deadline() || tries < STATUS_TRIES => {}
            // The socket file exists: the daemon is being restarted, or was killed for good.
            Err(ControlError::NoDaemon(_))
                if is_before_deadline() && state.join(frame::SOCKET).exists() => {}
            Err(ControlError::Disconnected { .. }) => {
                return Err(ControlError::NoDaemon(state.to_owned()));
            }
            answer => return answer,
        }
        tries += 1;
        std::thread::sleep(PAUSE);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{TimedOut, WouldBlock};
    [TimedOut, WouldBlock].contains(&error.kind())
}

fn connect_error(state: &Path, source: io::Error) -> ControlError {
    let state = state.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NoDaemon(state),
        _ => ControlError::Unreachable { state, source },
    }
}

/// Sends a request to the daemon of `state` over `stream`, and waits for its report until the
/// deadline.
///
/// # Errors
/// See [`ControlError`].
pub fn ask(
    state: &Path,
    stream: UnixStream,
    request: &Request,
    output: &mut dyn Output,
    deadline: Option<Instant>,
) -> Result<Report, ControlError> {
    let mut exchange = Exchange {
        state,
        stream: DeadlineStream::until(&stream, deadline),
        daemon: None,
    };
    exchange.send(frame::VERSION, &Version::ours())?;
    exchange.send(frame::REQUEST, request)?;
    match exchange.answer(output) {
        // Daemons before protocol versions do not know this frame, but know the request.
        Err(ControlError::Failed(_)) if exchange.daemon.is_none() => {}
        answer => return answer,
    }
    let stream = connect(state).map_err(|e| connect_error(state, e))?;
    exchange.stream = DeadlineStream::until(&stream, deadline);
    exchange.send(frame::REQUEST, request)?;
    exchange.answer(output)
}

struct Exchange<'s> {
    state: &'s Path,
    stream: DeadlineStream<'s>,
    /// The version that the daemon sent.
    daemon: Option<Version>,
}

impl Exchange<'_> {
    fn broken(&self, source: io::Error) -> ControlError {
        ControlError::Disconnected {
            state: self.state.to_owned(),
            source,
        }
    }

    fn send(&mut self, kind: u8, payload: &impl serde::Serialize) -> Result<(), ControlError> {
        let payload = serde_json::to_vec(payload).map_err(|e| self.broken(e.into()))?;
        match frame::send(&mut self.stream, kind, &payload) {
            // On EPIPE the daemon has closed the connection, and its last frame may say why.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(self.broken(e)),
            _ => Ok(()),
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, payload: &[u8]) -> Result<T, ControlError> {
        serde_json::from_slice(payload).map_err(|e| ControlError::VersionMismatch {
            daemon: self.daemon.clone(),
            what: e.to_string(),
        })
    }

    fn answer(&mut self, output: &mut dyn Output) -> Result<Report, ControlError> {
        loop {
            let received = frame::receive(&mut self.stream);
            let (kind, payload) = received.map_err(|e| self.broken(e))?;
            match kind {
                frame::VERSION => self.daemon = Some(self.read(&payload)?),
                frame::DATA => output.data(&payload)?,
                frame::PROGRESS => output.progress(&self.read(&payload)?)?,
                frame::REPORT => return self.read(&payload),
                frame::FAILURE => {
                    let failed: RequestError = self.read(&payload)?;
                    return Err(failed.into());
                }
                frame::ERROR => {
                    let text = String::from_utf8_lossy(&payload);
                    return Err(RequestError::new(ErrorKind::Other, text).into());
                }
                kind => {
                    return Err(ControlError::VersionMismatch {
                        daemon: self.daemon.clone(),
                        what: format!("a frame of kind {:?}", char::from(kind)),
                    });
                }
            }
        }
    }
}

/// The owner of the state as written in its lock file; `None` if the lock is free.
pub fn owner(state: &Path) -> Option<String> {
    let mut lock = std::fs::File::open(state.join("lock")).ok()?;
    // The lock is released at once.
    if lock.try_lock().is_ok() {
        return None;
    }
    let mut owner = String::new();
    lock.read_to_string(&mut owner).ok()?;
    Some(owner.trim().to_owned())
}

pub fn is_owned(state: &Path) -> bool {
    owner(state).is_some()
}

/// Waits until the daemon of the state has nothing mounted: it has ended, or is waiting for a
/// mount, or was stopped or killed and not restarted yet, since a service manager may restart it
/// only after the unmount. `false` if this takes longer than `timeout`.
pub fn wait_until_unmounted(state: &Path, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let Some(owner) = owner(state) else {
            return true;
        };
        let process = owner.split(' ').next().unwrap_or_default();
        let process_is_gone = || !Path::new("/proc").join(process).exists();
        // No process accepts the connection.
        let unanswered = [io::ErrorKind::WouldBlock, io::ErrorKind::ConnectionRefused];
        match query_mount(state) {
            Ok(HandedOver::Nothing) => return true,
            Err(e) if unanswered.contains(&e.kind()) && process_is_gone() => return true,
            _ => {}
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
