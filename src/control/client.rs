//! Asks the daemon that serves a state.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::deadline::Within;
use super::error::ControlError;
use super::frame::{self, Version};
use super::hand_over::{HandOver, HandedOver};
use crate::command::{
    ErrorKind, FiguresReport, NoOutput, Output, Report, Request, RequestError, StatusReport,
};

/// Time within which a daemon that is there says what it serves; where a daemon before it was killed,
/// it has started within this too.
const ANSWER: Duration = Duration::from_millis(500);

/// Tries before a daemon that ends without an answer counts as gone.
const STATUS_TRIES: u32 = 10;

/// Pause between these tries.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection to the daemon of the state in a directory.
///
/// # Errors
/// None listens, or it may not be reached.
pub fn connect(state: &Path) -> io::Result<UnixStream> {
    frame::through_descriptor(state, |socket| UnixStream::connect(socket))
}

/// What the daemon that serves the state in `state` says that it serves.
fn ask_what_is_served(state: &Path) -> io::Result<HandedOver> {
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

/// What the daemon that serves the state says of itself. With `patience` one that does not listen for
/// a moment, being just started anew, is waited for, and none for longer.
///
/// # Errors
/// See [`ControlError`].
pub fn status(state: &Path, patience: Option<Duration>) -> Result<StatusReport, ControlError> {
    match ask_daemon(state, &Request::Status, patience)? {
        Report::Status(status) => Ok(status),
        _ => Err(ControlError::OtherReport),
    }
}

/// What the daemon that serves the state counts; `patience` is that of [`status`].
///
/// # Errors
/// See [`ControlError`].
pub fn figures(state: &Path, patience: Option<Duration>) -> Result<FiguresReport, ControlError> {
    match ask_daemon(state, &Request::Figures, patience)? {
        Report::Figures(figures) => Ok(*figures),
        _ => Err(ControlError::OtherReport),
    }
}

fn ask_daemon(
    state: &Path,
    request: &Request,
    patience: Option<Duration>,
) -> Result<Report, ControlError> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    let is_time = || deadline.is_some_and(|deadline| Instant::now() < deadline);
    let mut tries = 1;
    loop {
        let asked = connect(state)
            .map_err(|e| not_reached(state, e))
            .and_then(|stream| ask(state, stream, request, &mut NoOutput, deadline));
        match asked {
            Err(ControlError::BrokenOff { source, .. }) if is_late(&source) => {
                return Err(ControlError::Silent(state.to_owned()));
            }
            // It was killed in the middle; the next one may be coming.
            Err(ControlError::BrokenOff { .. }) if is_time() || tries < STATUS_TRIES => {}
            // Its socket is there: it is just being started, or gone for good.
            Err(ControlError::NoDaemon(_)) if is_time() && state.join(frame::SOCKET).exists() => {}
            Err(ControlError::BrokenOff { .. }) => {
                return Err(ControlError::NoDaemon(state.to_owned()));
            }
            answer => return answer,
        }
        tries += 1;
        std::thread::sleep(PAUSE);
    }
}

/// Whether something was waited for until its time.
fn is_late(error: &io::Error) -> bool {
    use io::ErrorKind::{TimedOut, WouldBlock};
    [TimedOut, WouldBlock].contains(&error.kind())
}

/// Why nobody answers at the control socket.
fn not_reached(state: &Path, source: io::Error) -> ControlError {
    let state = state.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NoDaemon(state),
        _ => ControlError::NotReached { state, source },
    }
}

/// Has the daemon of `state`, to which `stream` leads, carry out a request, not later than a
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
        stream: Within::until(&stream, deadline),
        daemon: None,
    };
    exchange.send(frame::VERSION, &Version::ours())?;
    exchange.send(frame::REQUEST, request)?;
    match exchange.answer(output) {
        // A daemon of the time before there were versions: it knows the request itself.
        Err(ControlError::Failed(_)) if exchange.daemon.is_none() => {}
        answer => return answer,
    }
    let stream = connect(state).map_err(|e| not_reached(state, e))?;
    exchange.stream = Within::until(&stream, deadline);
    exchange.send(frame::REQUEST, request)?;
    exchange.answer(output)
}

/// A request and its answer.
struct Exchange<'s> {
    state: &'s Path,
    stream: Within<'s>,
    /// What the daemon said that it is.
    daemon: Option<Version>,
}

impl Exchange<'_> {
    fn broken(&self, source: io::Error) -> ControlError {
        ControlError::BrokenOff {
            state: self.state.to_owned(),
            source,
        }
    }

    fn send(&mut self, kind: u8, payload: &impl serde::Serialize) -> Result<(), ControlError> {
        let payload = serde_json::to_vec(payload).map_err(|e| self.broken(e.into()))?;
        match frame::send(&mut self.stream, kind, &payload) {
            // Who closed it before may have said why.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(self.broken(e)),
            _ => Ok(()),
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, payload: &[u8]) -> Result<T, ControlError> {
        serde_json::from_slice(payload).map_err(|e| ControlError::OtherVersion {
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
                    return Err(ControlError::OtherVersion {
                        daemon: self.daemon.clone(),
                        what: format!("a frame of kind {:?}", char::from(kind)),
                    });
                }
            }
        }
    }
}

/// Who owns the state, as its lock says; `None` if nobody does.
pub fn owner(state: &Path) -> Option<String> {
    let mut lock = std::fs::File::open(state.join("lock")).ok()?;
    // Taken and let go at once.
    if lock.try_lock().is_ok() {
        return None;
    }
    let mut owner = String::new();
    lock.read_to_string(&mut owner).ok()?;
    Some(owner.trim().to_owned())
}

/// Whether somebody owns the state.
pub fn is_owned(state: &Path) -> bool {
    owner(state).is_some()
}

/// Waits until the daemon of the state has nothing mounted any more: it has ended, or waits for the
/// next mount, or was killed or stopped and is not started again yet, which a service manager may do only
/// after the unmount. `false` if it takes longer than `patience`.
pub fn wait_until_unmounted(state: &Path, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let Some(owner) = owner(state) else {
            return true;
        };
        let process = owner.split(' ').next().unwrap_or_default();
        let is_gone = || !Path::new("/proc").join(process).exists();
        // Nobody has taken the question, or nobody listens.
        let unheard = [io::ErrorKind::WouldBlock, io::ErrorKind::ConnectionRefused];
        match ask_what_is_served(state) {
            Ok(HandedOver::Nothing) => return true,
            Err(e) if unheard.contains(&e.kind()) && is_gone() => return true,
            _ => {}
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
