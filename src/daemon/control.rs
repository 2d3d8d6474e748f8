//! The control socket: commands to the daemon that owns the state.
//!
//! A frame is one byte of kind, four of length (little-endian), and the payload: `C` a command,
//! then from the daemon any number of `D` bytes and `P` progress, and at the end `R` a report or
//! `E` an error text. Commands, progress and reports are JSON. One command a connection; who
//! closes it stops the command. A frame `A` in place of `C` hands over a mount: `adopt.rs` has it.
//! Everybody may connect (mode 0666), and who is not root may ask little: `guests.rs` has it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adopt::{HandOver, HandedOver};
use super::command::{Command, CommandError, Output, Report, SourceRequest, StatusReport};
use super::engine::{Engine, chain};
use super::figures::FiguresReport;
use super::guests::{self, Guest, Guests, TooMany, Within};
use super::message;
use crate::fetch::Snapshot;
use crate::store::{Ownership, Store, StoreError, StoreOptions};

const COMMAND: u8 = b'C';
const ADOPT: u8 = b'A';
const DATA: u8 = b'D';
const PROGRESS: u8 = b'P';
const REPORT: u8 = b'R';
const ERROR: u8 = b'E';

/// Longest frame that is read, in bytes: the listing of a very large path.
const LIMIT: u32 = 1 << 30;

/// A command waits so long for a state that another process owns.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same where a daemon is starting, which will do what the command wants, and of a daemon for a
/// command that owns the state: it is mounted as soon as that is done.
const LONG_PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that is there says within this what it serves; where a daemon before it was killed, it has
/// started within this too.
const ANSWER: Duration = Duration::from_millis(500);

/// So often is a daemon asked that ends before it answers.
const STATUS_TRIES: u32 = 10;

/// Where a command is carried out.
enum Reached {
    Daemon(UnixStream),
    State(Arc<Store>),
}

const SOCKET: &str = "control.sock";

/// The name of a socket must be shorter than 108 bytes, that of a state need not be: the
/// directory is named by its descriptor.
fn through_descriptor<T>(state: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let directory = std::fs::File::open(state)?;
    with(Path::new(&format!(
        "/proc/self/fd/{}/{SOCKET}",
        directory.as_raw_fd()
    )))
}

fn connect(state: &Path) -> io::Result<UnixStream> {
    through_descriptor(state, |socket| UnixStream::connect(socket))
}

fn send(stream: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut header = [kind, 0, 0, 0, 0];
    header[1..].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&header)?;
    stream.write_all(payload)
}

fn receive(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut kind = [0; 1];
    stream.read_exact(&mut kind)?;
    let payload = receive_rest(stream, LIMIT)?;
    let payload =
        payload.ok_or_else(|| io::Error::other("a frame of the control socket is too long"))?;
    Ok((kind[0], payload))
}

/// The payload of a frame whose kind is known; `None` if it is longer than `limit`.
fn receive_rest(stream: &mut impl Read, limit: u32) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > limit {
        return Ok(None);
    }
    let mut payload = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut payload)?;
    if payload.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(payload))
}

/// The daemon's end of a connection, as an output.
struct Remote<'s>(&'s mut UnixStream);

impl Output for Remote<'_> {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        send(self.0, DATA, bytes)
    }

    fn progress(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        send(self.0, PROGRESS, &serde_json::to_vec(snapshot)?)
    }
}

/// Where commands come in: the socket `before` of a daemon before this one, where who has connected
/// meanwhile waits, or a new one. They are answered once they are [`accept`]ed.
pub(super) fn listen(state: &Path, before: Option<OwnedFd>) -> io::Result<UnixListener> {
    let path = state.join(SOCKET);
    let listener = match before.filter(|_| path.exists()) {
        Some(before) => UnixListener::from(before),
        None => bind(state)?,
    };
    // Who has connected decides what is answered.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

fn bind(state: &Path) -> io::Result<UnixListener> {
    let path = state.join(SOCKET);
    // The state's lock is ours: whoever left the socket is gone.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    through_descriptor(state, |socket| UnixListener::bind(socket))
}

/// Answers commands to `engine`, each on a thread of its own, until the process ends.
pub(super) fn accept(engine: Arc<Engine>, listener: UnixListener) -> io::Result<()> {
    let guests = Arc::new(Guests::default());
    let accept = move || {
        for stream in listener.incoming() {
            let greeted = stream.and_then(|stream| {
                let guest = guests.greet(&stream)?;
                Ok((stream, guest))
            });
            let (mut stream, guest) = match greeted {
                Ok((stream, Ok(guest))) => (stream, guest),
                Ok((mut stream, Err(TooMany))) => {
                    // It is short enough for a socket on which nothing was sent.
                    let _ = send(&mut stream, ERROR, TooMany.to_string().as_bytes());
                    continue;
                }
                Err(e) => {
                    tracing::warn!("a connection to the control socket was lost: {e}");
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            let engine = engine.clone();
            let answer = move || {
                let answered = match guest {
                    Some(guest) => answer_guest(&engine, &stream, &guest),
                    None => answer(&engine, &mut stream),
                };
                if let Err(e) = answered {
                    tracing::debug!("a connection to the control socket broke off: {e}");
                }
            };
            let thread = std::thread::Builder::new().name("narfs-command".into());
            if let Err(e) = thread.spawn(answer) {
                tracing::warn!("no thread for a command: {e}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    };
    let thread = std::thread::Builder::new().name("narfs-control".into());
    thread.spawn(accept).map(drop)
}

fn unknown(error: serde_json::Error) -> String {
    format!("the daemon does not know this; is it an older version? {error}")
}

/// What is sent at the end of a command.
fn finish(
    stream: &mut impl Write,
    answered: Result<serde_json::Result<Vec<u8>>, String>,
) -> io::Result<()> {
    match answered {
        Ok(report) => send(stream, REPORT, &report?),
        Err(text) => send(stream, ERROR, text.as_bytes()),
    }
}

/// Does what root wants.
fn answer(engine: &Engine, stream: &mut UnixStream) -> io::Result<()> {
    let Some((kind, descriptor)) = message::receive_byte(stream.as_fd())? else {
        return Ok(());
    };
    let payload = receive_rest(stream, LIMIT)?;
    let payload = payload.ok_or(io::ErrorKind::InvalidData)?;
    let answered = match kind {
        COMMAND => match serde_json::from_slice(&payload) {
            Ok(command) => engine
                .execute(command, &mut Remote(stream))
                .map_err(|e| chain(&e))
                .map(|report| serde_json::to_vec(&report)),
            Err(e) => Err(unknown(e)),
        },
        ADOPT => match serde_json::from_slice(&payload) {
            Ok(request) => engine
                .hand_over(request, descriptor)
                .map_err(|e| chain(&e))
                .map(|answer| serde_json::to_vec(&answer)),
            Err(e) => Err(unknown(e)),
        },
        _ => Err("a command was expected".to_owned()),
    };
    finish(stream, answered)
}

/// Answers what a guest may ask.
fn answer_guest(engine: &Engine, stream: &UnixStream, guest: &Guest) -> io::Result<()> {
    let mut request = Within::new(stream, guests::PATIENCE);
    // A descriptor that comes along is closed.
    let Some((kind, _)) = message::receive_byte(request.stream()?.as_fd())? else {
        return Ok(());
    };
    let command = match receive_rest(&mut request, guests::REQUEST_LIMIT)? {
        Some(payload) if kind == COMMAND => serde_json::from_slice(&payload).map_err(unknown),
        _ => Err(guest.refusal(engine.store.dir())),
    };
    let answered = command.and_then(|command: Command| {
        if !Guest::may(&command) {
            return Err(guest.refusal(engine.store.dir()));
        }
        let _turn = guest.turn();
        let report = engine.execute(command, &mut Nobody);
        let report = report.map_err(|e| chain(&e))?;
        Ok(serde_json::to_vec(&report))
    });
    finish(&mut Within::new(stream, guests::PATIENCE), answered)
}

/// What the daemon that serves the state in `state` says that it serves.
fn ask_what_is_served(state: &Path) -> io::Result<HandedOver> {
    let mut stream = connect(state)?;
    stream.set_read_timeout(Some(ANSWER))?;
    send(&mut stream, ADOPT, &serde_json::to_vec(&HandOver::Ask)?)?;
    match receive(&mut stream)? {
        (REPORT, answer) => Ok(serde_json::from_slice(&answer)?),
        (_, text) => Err(io::Error::other(
            String::from_utf8_lossy(&text).into_owned(),
        )),
    }
}

/// What the daemon that serves the state says of itself.
///
/// # Errors
/// See [`ask_daemon`].
pub fn status(state: &Path) -> Result<StatusReport, CommandError> {
    status_within(state, None)
}

/// The same, not waiting for longer than `patience`.
pub(super) fn status_within(
    state: &Path,
    patience: Option<Duration>,
) -> Result<StatusReport, CommandError> {
    match ask_daemon(state, &Command::Status, patience)? {
        Report::Status(status) => Ok(status),
        _ => Err(CommandError::OtherReport),
    }
}

/// What the daemon that serves the state counts.
///
/// # Errors
/// See [`ask_daemon`].
pub fn figures(state: &Path) -> Result<FiguresReport, CommandError> {
    figures_within(state, None)
}

/// The same, not waiting for longer than `patience`.
pub(super) fn figures_within(
    state: &Path,
    patience: Option<Duration>,
) -> Result<FiguresReport, CommandError> {
    match ask_daemon(state, &Command::Figures, patience)? {
        Report::Figures(figures) => Ok(*figures),
        _ => Err(CommandError::OtherReport),
    }
}

/// Asks the daemon that serves the state. With `patience` one that does not listen for a moment,
/// being just started anew, is waited for.
///
/// # Errors
/// No daemon serves the state, or it is just ending; it may not be asked, or does not answer in time;
/// it does not know the question, being an older version.
fn ask_daemon(
    state: &Path,
    command: &Command,
    patience: Option<Duration>,
) -> Result<Report, CommandError> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    let is_time = || deadline.is_some_and(|deadline| Instant::now() < deadline);
    let mut tries = 1;
    loop {
        let asked = match connect(state) {
            Ok(stream) => ask(
                state,
                &mut Within::until(&stream, deadline),
                command,
                &mut Nobody,
            ),
            Err(e) => Err(not_reached(state, e)),
        };
        match asked {
            Err(CommandError::BrokenOff { source, .. }) if is_late(&source) => {
                return Err(CommandError::Silent(state.to_owned()));
            }
            // It was killed in the middle; the next one may be coming.
            Err(CommandError::BrokenOff { .. }) if is_time() || tries < STATUS_TRIES => {}
            // Its socket is there: it is just being started, or gone for good.
            Err(CommandError::NoDaemon(_)) if is_time() && state.join(SOCKET).exists() => {}
            Err(CommandError::BrokenOff { .. }) => {
                return Err(CommandError::NoDaemon(state.to_owned()));
            }
            answer => return answer,
        }
        tries += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether something was waited for until its time.
fn is_late(error: &io::Error) -> bool {
    use io::ErrorKind::{TimedOut, WouldBlock};
    [TimedOut, WouldBlock].contains(&error.kind())
}

/// Why nobody answers at the control socket.
fn not_reached(state: &Path, source: io::Error) -> CommandError {
    let state = state.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CommandError::NoDaemon(state),
        _ => CommandError::NotReached { state, source },
    }
}

/// An output for commands that have none but their report, or where nobody waits for it.
pub(super) struct Nobody;

impl Output for Nobody {
    fn data(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn progress(&mut self, _snapshot: &Snapshot) -> io::Result<()> {
        Ok(())
    }
}

/// Carries out `command` on the state in `state`: in the daemon that owns it, or here, with
/// `defaults` for sources that the command does not name.
///
/// # Errors
/// The state cannot be opened, or the command failed as a whole.
pub fn run(
    state: &Path,
    options: &StoreOptions,
    defaults: &SourceRequest,
    command: Command,
    output: &mut dyn Output,
) -> Result<Report, CommandError> {
    match reach(state, options)? {
        Reached::Daemon(mut stream) => ask(state, &mut stream, &command, output),
        Reached::State(store) => {
            Engine::new(store, defaults.clone(), None).execute(command, output)
        }
    }
}

/// Opens the state for a daemon, with the ownership that one before it has left. Who else owned it
/// a moment ago may just be ending. With `may_join` whoever started this daemon turns to another one
/// that listens.
pub(super) fn open(
    state: &Path,
    options: &StoreOptions,
    ownership: Option<Ownership>,
    may_join: bool,
) -> Result<Store, StoreError> {
    if ownership.is_some() {
        return Store::open_owned(state, options, ownership);
    }
    let began = Instant::now();
    loop {
        let patience = match Store::open(state, options) {
            // Its daemon does not come back by itself.
            Err(StoreError::Waiting { .. }) => PATIENCE,
            Err(StoreError::Owned { .. }) if connect(state).is_ok() => match may_join {
                true => Duration::ZERO,
                false => PATIENCE,
            },
            Err(StoreError::Owned { .. }) => LONG_PATIENCE,
            opened => return opened,
        };
        if began.elapsed() >= patience {
            return Store::open(state, options);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Opens the state, or finds the daemon that owns it.
fn reach(state: &Path, options: &StoreOptions) -> Result<Reached, CommandError> {
    let began = Instant::now();
    loop {
        if let Ok(stream) = connect(state) {
            return Ok(Reached::Daemon(stream));
        }
        let error = match Store::open(state, options) {
            Ok(store) => return Ok(Reached::State(Arc::new(store))),
            Err(error) => error,
        };
        // A daemon may have started and not listen yet, or another command is soon done.
        let patience = match &error {
            StoreError::Owned { owner, .. } if is_daemon(owner) => LONG_PATIENCE,
            StoreError::Owned { .. } | StoreError::Waiting { .. } => PATIENCE,
            _ => Duration::ZERO,
        };
        if began.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        return Err(match error {
            StoreError::Directory { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied
                    && !rustix::process::geteuid().is_root() =>
            {
                let state = state.to_owned();
                CommandError::NotAllowed { state, source }
            }
            error => error.into(),
        });
    }
}

/// Whether the owner of a state, as its lock names it, is to serve it.
fn is_daemon(owner: &str) -> bool {
    let mut words = owner.split(' ');
    words.any(|w| ["mount", "daemon"].contains(&w.trim_end_matches(')')))
}

fn ask(
    state: &Path,
    stream: &mut (impl Read + Write),
    command: &Command,
    output: &mut dyn Output,
) -> Result<Report, CommandError> {
    let broken = |source| CommandError::BrokenOff {
        state: state.to_owned(),
        source,
    };
    let json = |e: serde_json::Error| broken(e.into());
    let command = serde_json::to_vec(command).map_err(json)?;
    match send(stream, COMMAND, &command) {
        // Who closed it before may have said why.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(broken(e)),
        _ => {}
    }
    loop {
        let (kind, payload) = receive(stream).map_err(broken)?;
        match kind {
            DATA => output.data(&payload)?,
            PROGRESS => output.progress(&serde_json::from_slice(&payload).map_err(json)?)?,
            REPORT => return serde_json::from_slice(&payload).map_err(json),
            _ => {
                let text = String::from_utf8_lossy(&payload).into_owned();
                return Err(CommandError::Remote(text));
            }
        }
    }
}

/// Who owns the state, as its lock says; `None` if nobody does.
pub(super) fn owner(state: &Path) -> Option<String> {
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
