//! A daemon's life: open the state, mount, listen, serve until unmounted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use thiserror::Error;

use super::adopt::Mounting;
use super::command::{CommandError, ServeRequest};
use super::control;
use super::engine::{Engine, chain};
use super::memory::{self, Bound};
use super::observed::{self, HTTP, HttpError};
use super::signals::EndSignals;
use super::succession;
use super::supervisor::Supervisor;
use super::upgrade::AGAIN;
use super::volumes::{PluginSocket, SocketError};
use crate::fetch::{Activity, Fetcher};
use crate::fs::FileSystem;
use crate::fuse::{self, Agreement, MountRequest, Session, SessionError};
use crate::store::{Ownership, Store, StoreError, StoreOptions};

/// Why a daemon could not serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The mount.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The sources, or the mount.
    #[error(transparent)]
    Command(CommandError),
    /// HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The socket for container engines.
    #[error(transparent)]
    Plugin(#[from] SocketError),
    /// The control socket, the signals or the log.
    #[error("cannot {what}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The session broke.
    #[error("the FUSE session broke")]
    Broken(#[source] io::Error),
}

fn setup(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Setup { what, source }
}

/// Shows what is being fetched.
pub type Show = Box<dyn FnMut(&Activity) + Send>;

/// How often that is shown.
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// How often it is kept when what was used, so that a crash does not lose the order.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether the state is above its budget, besides while something arrives:
/// what arrived together, was in use or was pinned may be dropped later.
const SETTLE_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked whether the database has given up writing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What the supervisor keeps for the next daemon: a connection to the kernel, after this its
/// [`Agreement`].
pub(super) const FUSE: &str = "fuse-";
/// The ownership of the state.
const LOCK: &str = "lock";
/// The control socket.
const CONTROL: &str = "control";

/// Serves the state in `state` as `request` says, until it is unmounted, where it does not wait for
/// the next mount, or the process is told to end. Whoever started it in the background is told
/// when it is ready, or why it is not; what is fetched on demand is told to `show` now and then.
/// Where a daemon before this one has left its mount to whoever looks after them, it is served on.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(
    state: &Path,
    options: &StoreOptions,
    request: &ServeRequest,
    show: Option<Show>,
) -> Result<(), ServeError> {
    let supervisor = Supervisor::find().map_err(setup("reach the keeper"))?;
    let supervisor = Arc::new(supervisor);
    match start(state, options, request, show, &supervisor) {
        Ok(Some((engine, sessions))) => {
            let until_unmounted = match request.mounting {
                Mounting::Itself(_) => true,
                Mounting::Others { until_unmounted } => until_unmounted,
            };
            let ended = engine.serve_sessions(&sessions, until_unmounted);
            let ended = ended.map_err(ServeError::Broken);
            supervisor.stopping();
            for name in [LOCK, CONTROL, HTTP] {
                supervisor.forget(name);
            }
            engine.end_plugin(&supervisor);
            if let Err(e) = engine.store.save_uses() {
                tracing::warn!("it was not kept when what was used: {e}");
            }
            ended
        }
        // It was unmounted while no daemon was there.
        Ok(None) => Ok(()),
        Err(e) => {
            if supervisor.failed(&chain(&e)) {
                // Said already, by whoever waited.
                std::process::exit(1);
            }
            Err(e)
        }
    }
}

/// What serves mounts, and where they come out.
type Started = (Arc<Engine>, Receiver<Session>);

fn start(
    state: &Path,
    options: &StoreOptions,
    request: &ServeRequest,
    show: Option<Show>,
    supervisor: &Arc<Supervisor>,
) -> Result<Option<Started>, ServeError> {
    let connection = match connection(supervisor)? {
        Connection::Gone if supervisor.is_keeper() => {
            // The socket for container engines goes, too.
            PluginSocket::find(supervisor, None, true)?;
            return Ok(None);
        }
        Connection::Before(agreement, device) => Some((agreement, device)),
        Connection::Gone | Connection::None => None,
    };
    let ownership = supervisor.take(LOCK).map(|(_, lock)| lock);
    let ownership = ownership.map(Ownership::from_descriptor);
    let store = Arc::new(control::open(
        state,
        options,
        ownership,
        supervisor.is_keeper(),
    )?);
    let engine = Engine::new(store.clone(), request.sources.clone(), request.budget);
    let engine = Arc::new(engine);
    let fetcher = engine.fetcher(request).map_err(ServeError::Command)?;
    // What can fail comes before the mount, so that a failure leaves none behind.
    decide_on_handles(&engine, request, connection.is_some())?;
    let listener = supervisor.take(CONTROL).map(|(_, listener)| listener);
    let listen = "listen on the control socket";
    let listener = control::listen(state, listener).map_err(setup(listen))?;
    let http = match observed::listen(supervisor, request.listen.as_ref()) {
        // It is not worth the mount that is there.
        Err(e) if connection.is_some() => {
            tracing::error!("{}", chain(&e));
            None
        }
        http => http?,
    };
    let wanted = request.volume_plugin.as_deref();
    let plugin = PluginSocket::find(supervisor, wanted, connection.is_some())?;
    end_when_told(&engine, supervisor).map_err(setup("wait for signals"))?;
    engine.take_profile_links(Arc::new(engine.file_system()));
    engine.supervise(supervisor.clone());
    let sessions = engine.adopt();
    let own = request.mounting.itself();
    mount_or_go_on(&engine, supervisor, connection, own)?;
    supervisor.keep(LOCK, store.ownership().descriptor());
    supervisor.keep(CONTROL, listener.as_fd());
    if let Some(http) = http {
        supervisor.keep(HTTP, http.as_fd());
        engine.serve_http(http)?;
    }
    // Only now: what commands say of the mount is so.
    control::accept(engine.clone(), listener).map_err(setup(listen))?;
    if let Some(plugin) = plugin {
        let answering = engine.answer_engines(plugin, supervisor);
        answering.map_err(setup("answer container engines"))?;
    }
    if let Err(e) = supervisor.ready(&state.join("narfs.log")) {
        if let Some(own) = own {
            let _ = fuse::unmount(&own.mountpoint, true);
        }
        return Err(setup("write narfs.log")(e));
    }
    // What the daemon before this one has not come to know.
    engine.complete_views();
    succession::watch(&store, supervisor).map_err(setup("watch the keeper"))?;
    repeat(&store, engine.clone(), request, fetcher.zip(show));
    watch(&store, options, supervisor);
    Ok(Some((engine, sessions)))
}

/// Has mounts have file handles, or not; one that is there goes on as it began.
fn decide_on_handles(
    engine: &Engine,
    request: &ServeRequest,
    goes_on: bool,
) -> Result<(), ServeError> {
    match engine.decide_on_handles(request.file_handles) {
        Err(e) if goes_on => tracing::error!("{}", chain(&e)),
        decided => decided.map_err(|e| ServeError::Command(e.into()))?,
    }
    Ok(())
}

/// The connection of a daemon before this one.
enum Connection {
    /// There was none.
    None,
    /// It leads to a mount.
    Before(Agreement, OwnedFd),
    /// It was unmounted meanwhile.
    Gone,
}

fn connection(supervisor: &Supervisor) -> Result<Connection, ServeError> {
    let mut connection = Connection::None;
    while let Some((agreement, device)) = supervisor.take(FUSE) {
        if fuse::is_connected(&device) {
            let agreement = agreement.parse().map_err(SessionError::TakeOver)?;
            return Ok(Connection::Before(agreement, device));
        }
        supervisor.forget(&format!("{FUSE}{agreement}"));
        connection = Connection::Gone;
    }
    Ok(connection)
}

/// Serves what a daemon before this one has served, or mounts, where it is to.
fn mount_or_go_on(
    engine: &Engine,
    supervisor: &Supervisor,
    before: Option<(Agreement, OwnedFd)>,
    own: Option<&MountRequest>,
) -> Result<(), ServeError> {
    if let Some((agreement, device)) = before {
        let fs = engine.file_system();
        engine.goes_on(Session::take_over(&engine.store, fs, device, &agreement)?);
        engine.take_over_profiles();
        if let Some(own) = own {
            show_where_wanted(engine, supervisor, own);
        }
    } else if let Some(own) = own {
        engine.mount(own).map_err(ServeError::Command)?;
    }
    Ok(())
}

/// A service that is started anew may name another mount point than before.
fn show_where_wanted(engine: &Engine, supervisor: &Supervisor, request: &MountRequest) {
    let mounted = engine.mountpoints().unwrap_or_default();
    if !supervisor.is_keeper() && !mounted.contains(&request.mountpoint) {
        // It is not worth the mount that is there.
        if let Err(e) = engine.mount(request) {
            tracing::error!("{}", chain(&e));
        }
    }
}

/// Has another daemon go on where the database writes no more, and could again: after an error of
/// the disk, mostly a full one, RocksDB refuses all writes until it is opened anew.
fn go_on_after_errors(store: &Store) {
    if store.has_given_up_writing() && store.has_room() {
        tracing::error!(
            "the database has stopped to write after an error of the disk; another daemon goes on"
        );
        leave(store, AGAIN);
    }
}

/// Keeps the memory within its bound, has another daemon go on where the database does not, and tells
/// a service manager that all is well.
fn watch(store: &Arc<Store>, options: &StoreOptions, supervisor: &Arc<Supervisor>) {
    let (kept, mut bound) = (store.clone(), Bound::new(options.memory as u64));
    every(memory::LOOK_EVERY, "narfs-memory", move || {
        bound.keep(&kept)
    });
    if supervisor.restarts() {
        let store = store.clone();
        every(LOOK_EVERY, "narfs-disk", move || go_on_after_errors(&store));
    }
    let fs = FileSystem::new(store.clone(), None, Arc::default());
    watch_over_itself(fs, supervisor.clone());
}

/// Starts what is done now and then.
fn repeat(
    store: &Arc<Store>,
    engine: Arc<Engine>,
    request: &ServeRequest,
    show: Option<(Fetcher, Show)>,
) {
    let store = store.clone();
    every(SAVE_EVERY, "narfs-uses", move || {
        if let Err(e) = store.save_uses() {
            tracing::warn!("it was not kept when what was used: {e}");
        }
    });
    if request.budget.is_some() {
        every(SETTLE_EVERY, "narfs-room", move || engine.room.settle());
    }
    if let Some((fetcher, mut show)) = show {
        every(SHOW_EVERY, "narfs-show", move || show(&fetcher.activity()));
    }
}

/// Tells a service manager that wants to hear it (sd_watchdog_enabled(3)) that the daemon is well:
/// that it can say what it would show. It does not ask by the mount: a process that waits for
/// itself cannot be killed.
fn watch_over_itself(fs: FileSystem, supervisor: Arc<Supervisor>) {
    let within = std::env::var("WATCHDOG_USEC").ok();
    let Some(within) = within.and_then(|t| t.parse::<u64>().ok()) else {
        return;
    };
    every(
        Duration::from_micros(within / 3),
        "narfs-watchdog",
        move || match fs.answers() {
            Ok(()) => supervisor.well(),
            Err(e) => tracing::error!("the daemon is not well: {}", chain(&e)),
        },
    );
}

/// Does something again and again until the process ends.
fn every(pause: Duration, name: &str, mut work: impl FnMut() + Send + 'static) {
    let repeat = move || {
        loop {
            std::thread::sleep(pause);
            work();
        }
    };
    let thread = std::thread::Builder::new().name(name.to_owned());
    if let Err(e) = thread.spawn(repeat) {
        tracing::warn!("no thread {name}: {e}");
    }
}

/// SIGTERM and SIGINT end the daemon. Where it is left to another one, the mount stays; else it is
/// unmounted, so that the session ends in good order, and who still uses it gets two seconds, and
/// then errors.
fn end_when_told(engine: &Arc<Engine>, supervisor: &Arc<Supervisor>) -> io::Result<()> {
    let (engine, supervisor) = (engine.clone(), supervisor.clone());
    let mut signals = EndSignals::hear()?;
    let wait = move || {
        signals.wait();
        supervisor.stopping();
        if supervisor.leaves_mounts() && engine.is_mounted() {
            tracing::info!("told to end; the mount waits for the next daemon");
            // Who asks gets an answer, if not the wanted one.
            supervisor.forget(CONTROL);
            supervisor.forget(HTTP);
            leave(&engine.store, AGAIN);
        }
        tracing::info!("told to end; unmounting");
        for name in [LOCK, CONTROL, HTTP] {
            supervisor.forget(name);
        }
        let mountpoints = engine.mountpoints().unwrap_or_default();
        let mut last = mountpoints.is_empty();
        for at in mountpoints.iter().rev() {
            if let Err(e) = fuse::unmount(at, false).or_else(|_| fuse::unmount(at, true)) {
                tracing::error!("{}", chain(&e));
                last = true;
            }
        }
        if !last {
            // Users that hold it must not hold us.
            std::thread::sleep(Duration::from_secs(2));
        }
        engine.end_plugin(&supervisor);
        leave(&engine.store, 0);
    };
    let thread = std::thread::Builder::new().name("narfs-signals".into());
    thread.spawn(wait).map(drop)
}

/// Ends the process at once: what waits for an answer gets it from the next daemon, if there is
/// one. Whatever was published is durable. Nothing is torn down under threads that still run.
pub(super) fn leave(store: &Store, status: i32) -> ! {
    if let Err(e) = store.save_uses() {
        tracing::warn!("it was not kept when what was used: {e}");
    }
    // SAFETY: it does not return, and runs nothing of ours.
    unsafe { libc::_exit(status) }
}
