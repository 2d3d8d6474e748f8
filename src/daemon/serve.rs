//! A daemon's life: open the state, mount, listen, serve until unmounted.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::answering;
use super::beginning::Beginning;
use super::ending::{AGAIN, end_when_told, leave};
use super::error::{ServeError, setup};
use super::http;
use super::process::Daemon;
use super::request::{Mounting, ServeRequest};
use super::upkeep::{self, Show};
use super::volumes::socket::PluginSocket;
use crate::command::chain;
use crate::control;
use crate::engine::{ClosureError, Engine, EngineError};
use crate::fetch::Fetcher;
use crate::fuse::{self, Agreement, FileHandles, MountRequest, Session, SessionError};
use crate::store::{Ownership, Store, StoreError, StoreOptions};
use crate::supervision::kept::{CONTROL, FUSE, LOCK};
use crate::supervision::{Supervisor, keeper_command, watch_keeper};

/// Patience with a state that another process owns and that is soon free.
const PATIENCE: Duration = Duration::from_secs(2);
/// Patience with one whose owner does not listen: it is mounted as soon as that is done.
const LONG_PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two tries to open a state.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves what `beginning` says, until it is unmounted, where it does not wait for the next mount, or
/// the process is told to end. Whoever started it in the background is told when it is ready, or why it
/// is not; what is fetched on demand is told to `show` now and then. Where a daemon before this one has
/// left its mount to whoever looks after them, it is served on.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(
    beginning: Beginning,
    request: &ServeRequest,
    show: Option<Show>,
) -> Result<(), ServeError> {
    let supervisor = beginning.supervisor.clone();
    match start(beginning, request, show) {
        Ok(Some((daemon, sessions))) => {
            let until_unmounted = match request.mounting {
                Mounting::Itself(_) => true,
                Mounting::Others { until_unmounted } => until_unmounted,
            };
            let ended = daemon.serve_sessions(&sessions, until_unmounted);
            let ended = ended.map_err(ServeError::Broken);
            supervisor.stopping();
            daemon.is_last();
            if let Err(e) = daemon.store().paths().save_uses() {
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
type Started = (Arc<Daemon>, Receiver<Session>);

fn start(
    beginning: Beginning,
    request: &ServeRequest,
    show: Option<Show>,
) -> Result<Option<Started>, ServeError> {
    let (supervisor, state) = (beginning.supervisor.clone(), &*request.state);
    let connection = match connection(&supervisor)? {
        Connection::Gone if supervisor.is_keeper() => {
            // The socket for container engines goes, too.
            PluginSocket::find(&supervisor, None, true)?;
            return Ok(None);
        }
        Connection::Before(agreement, device) => Some((agreement, device)),
        Connection::Gone | Connection::None => None,
    };
    let goes_on = connection.is_some();
    let store = Arc::new(open_owned(request, &supervisor)?);
    let sources = request.sources.clone();
    let engine = Arc::new(Engine::new(store.clone(), sources, request.budget));
    let fetcher = fetcher(&engine, request)?;
    // What can fail comes before the mount, so that a failure leaves none behind.
    decide_on_handles(&engine, request.file_handles, goes_on)?;
    let listener = supervisor.take(CONTROL).map(|(_, listener)| listener);
    let listen = "listen on the control socket";
    let listener = answering::listen(state, listener).map_err(setup(listen))?;
    let http = match http::listen(&supervisor, request.listen.as_ref()) {
        // It is not worth the mount that is there.
        Err(e) if goes_on => {
            tracing::error!("{}", chain(&e));
            None
        }
        http => http?,
    };
    let wanted = request.volume_plugin.as_deref();
    let plugin = PluginSocket::find(&supervisor, wanted, goes_on)?;
    let (daemon, sessions) = Daemon::new(engine, supervisor.clone(), beginning.mistake.clone());
    end_when_told(&daemon).map_err(setup("wait for signals"))?;
    daemon.take_profile_links(Arc::new(daemon.engine.file_system()));
    let own = request.mounting.itself();
    mount_or_go_on(&daemon, connection, own)?;
    supervisor.keep(LOCK, store.ownership().descriptor());
    supervisor.keep(CONTROL, listener.as_fd());
    beginning
        .hold(request)
        .map_err(setup("hold what is served"))?;
    if let Some(http) = http {
        daemon.serve_http(http)?;
    }
    // Only now: what is said of the mount is so.
    answering::accept(daemon.clone(), listener).map_err(setup(listen))?;
    if let Some(plugin) = plugin {
        let answering = daemon.answer_engines(plugin);
        answering.map_err(setup("answer container engines"))?;
    }
    if let Err(e) = supervisor.ready(&state.join("narfs.log")) {
        if let Some(own) = own {
            let _ = fuse::unmount(&own.mountpoint, true);
        }
        return Err(setup("write narfs.log")(e));
    }
    // What the daemon before this one has not come to know.
    daemon.complete_views();
    watch_over_keeper(&daemon).map_err(setup("watch the keeper"))?;
    upkeep::begin(&daemon, request.memory, fetcher.zip(show));
    Ok(Some((daemon, sessions)))
}

/// Has another keeper take the place of one that is killed.
fn watch_over_keeper(daemon: &Arc<Daemon>) -> std::io::Result<()> {
    let store = daemon.store().clone();
    let state = store.dir().to_owned();
    let keeper = move || keeper_command(&state);
    watch_keeper(&daemon.supervisor, keeper, move || leave(&store, AGAIN))?;
    daemon.supervisor.end_other_keeper();
    Ok(())
}

/// What fetches on demand; `None` if there are no sources.
fn fetcher(engine: &Engine, request: &ServeRequest) -> Result<Option<Fetcher>, ServeError> {
    if request.sources.from.is_empty() {
        return Ok(None);
    }
    let (deadlines, prefetch) = (request.deadlines, request.prefetch);
    let options = request.sources.fetch_options(deadlines, prefetch);
    let options = options.map_err(EngineError::from)?;
    Ok(Some(engine.fetch_on_demand(&options)?))
}

/// Opens the state, with the ownership that a daemon before this one has left.
fn open_owned(request: &ServeRequest, supervisor: &Supervisor) -> Result<Store, StoreError> {
    let ownership = supervisor.take(LOCK).map(|(_, lock)| lock);
    let ownership = ownership.map(Ownership::from_descriptor);
    let may_join = supervisor.is_keeper();
    open(&request.state, &request.options(), ownership, may_join)
}

/// Opens the state for a daemon, with the ownership that one before it has left. Who else owned it
/// a moment ago may just be ending. With `may_join` whoever started this daemon turns to another one
/// that listens.
fn open(
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
            Err(StoreError::Owned { .. }) if control::connect(state).is_ok() => match may_join {
                true => Duration::ZERO,
                false => PATIENCE,
            },
            Err(StoreError::Owned { .. }) => LONG_PATIENCE,
            opened => return opened,
        };
        if began.elapsed() >= patience {
            return Store::open(state, options);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Serves what a daemon before this one has served, or mounts, where it is to.
fn mount_or_go_on(
    daemon: &Daemon,
    before: Option<(Agreement, OwnedFd)>,
    own: Option<&MountRequest>,
) -> Result<(), ServeError> {
    if let Some((agreement, device)) = before {
        let fs = daemon.engine.file_system();
        daemon.goes_on(Session::take_over(daemon.store(), fs, device, &agreement)?);
        daemon.take_over_profiles();
        if let Some(own) = own {
            show_where_wanted(daemon, own);
        }
    } else if let Some(own) = own {
        daemon.mount(own)?;
    }
    Ok(())
}

/// A service that is started anew may name another mount point than before.
fn show_where_wanted(daemon: &Daemon, request: &MountRequest) {
    let mounted = daemon.engine.serving.mountpoints().unwrap_or_default();
    if !daemon.supervisor.is_keeper() && !mounted.contains(&request.mountpoint) {
        // It is not worth the mount that is there.
        if let Err(e) = daemon.mount(request) {
            tracing::error!("{}", chain(&e));
        }
    }
}

/// Has mounts have file handles, or not; one that is there goes on as it began.
fn decide_on_handles(
    engine: &Engine,
    handles: FileHandles,
    goes_on: bool,
) -> Result<(), ServeError> {
    let table = engine.store.views().table();
    if handles == FileHandles::Given
        && let Some(view) = table.views().next()
    {
        let view = view.name.to_string();
        let error = ClosureError::Handles { view };
        if !goes_on {
            return Err(EngineError::from(error).into());
        }
        tracing::error!("{}", chain(&error));
        return Ok(());
    }
    engine.serving.decide_on_handles(handles);
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
