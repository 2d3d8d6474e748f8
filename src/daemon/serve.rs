//! The life of a daemon: open the state, mount, listen, serve until unmounted.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::answering;
use super::ending::{EXIT_RESTART, end_on_signal, leave, settle};
use super::error::{ServeError, setup};
use super::http;
use super::process::Daemon;
use super::request::{Mounting, ServeRequest};
use super::startup::Startup;
use super::unix_socket::{NIX_WORKER, UnixSocket, VOLUME_PLUGIN};
use super::upkeep::{self, Show};
use crate::command::chain;
use crate::control;
use crate::engine::{ClosureError, Engine, EngineError};
use crate::fetch::Fetcher;
use crate::fuse::{self, Agreement, FileHandles, MountRequest, Session, SessionError};
use crate::store::{Ownership, Store, StoreError, StoreOptions};
use crate::supervision::kept::{CONTROL, FUSE, LOCK};
use crate::supervision::{Supervisor, keeper_command, watch_keeper};

/// Timeout for a state whose owner is expected to release it soon.
const OWNER_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout for a state whose owner is not listening, such as a command that runs for a while.
const LONG_OWNER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between attempts to open a state.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves the request in `startup` until the mount is unmounted, unless it waits for the next
/// mount, or until a signal. The starter is told when the daemon is ready, or why it is not;
/// fetches on demand are shown with `show`. A mount that the previous daemon has left with the
/// supervisor is taken over.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(
    startup: Startup,
    request: &ServeRequest,
    show: Option<Show>,
) -> Result<(), ServeError> {
    let supervisor = startup.supervisor.clone();
    match start(startup, request, show) {
        Ok(Some((daemon, sessions))) => {
            let until_unmounted = match request.mounting {
                Mounting::Itself(_) => true,
                Mounting::Others { until_unmounted } => until_unmounted,
            };
            let ended = daemon.serve_sessions(&sessions, until_unmounted);
            let ended = ended.map_err(ServeError::Broken);
            supervisor.stopping();
            daemon.release_kept();
            settle(daemon.store());
            ended
        }
        // It was unmounted while no daemon was running.
        Ok(None) => Ok(()),
        Err(e) => {
            if supervisor.failed(&chain(&e)) {
                // The starter has shown the reason already.
                std::process::exit(1);
            }
            Err(e)
        }
    }
}

/// A daemon and the sessions that it is to serve.
type Started = (Arc<Daemon>, Receiver<Session>);

fn start(
    startup: Startup,
    request: &ServeRequest,
    show: Option<Show>,
) -> Result<Option<Started>, ServeError> {
    let (supervisor, state) = (startup.supervisor.clone(), &*request.state);
    let connection = match connection(&supervisor)? {
        Connection::Unmounted if supervisor.is_keeper() => {
            // The sockets that a daemon has created are removed as well.
            for purpose in [VOLUME_PLUGIN, NIX_WORKER] {
                UnixSocket::find(purpose, &supervisor, None, true)?;
            }
            return Ok(None);
        }
        Connection::Mounted(agreement, device) => Some((agreement, device)),
        Connection::Unmounted | Connection::None => None,
    };
    let is_takeover = connection.is_some();
    let store = Arc::new(open_owned(request, &supervisor)?);
    let sources = request.sources.clone();
    let engine = Arc::new(Engine::new(store.clone(), sources, request.budget));
    let fetcher = fetcher(&engine, request)?;
    // Whatever can fail comes before the mount, so that a failure leaves no mount behind.
    configure_file_handles(&engine, request.file_handles, is_takeover)?;
    let listener = supervisor.take(CONTROL).map(|(_, listener)| listener);
    let listen = "listen on the control socket";
    let listener = answering::listen(state, listener).map_err(setup(listen))?;
    let http = match http::listen(&supervisor, request.listen.as_ref()) {
        // An existing mount is worth more than the HTTP server.
        Err(e) if is_takeover => {
            tracing::error!("{}", chain(&e));
            None
        }
        http => http?,
    };
    let find = |purpose, wanted: &Option<PathBuf>| {
        UnixSocket::find(purpose, &supervisor, wanted.as_deref(), is_takeover)
    };
    let plugin = find(VOLUME_PLUGIN, &request.volume_plugin)?;
    let nix_worker = find(NIX_WORKER, &request.nix_socket)?;
    let (daemon, sessions) = Daemon::new(engine, supervisor.clone(), startup.config_error.clone());
    end_on_signal(&daemon).map_err(setup("wait for signals"))?;
    daemon.take_profile_links(Arc::new(daemon.engine.file_system()));
    let own = request.mounting.itself();
    mount_or_take_over(&daemon, connection, own)?;
    supervisor.keep(LOCK, store.ownership().descriptor());
    supervisor.keep(CONTROL, listener.as_fd());
    startup
        .keep_record(request)
        .map_err(setup("keep the restart record"))?;
    if let Some(http) = http {
        daemon.serve_http(http)?;
    }
    serve_sockets(&daemon, plugin, nix_worker)?;
    // Only from here on is the reported status right.
    answering::accept(daemon.clone(), listener).map_err(setup(listen))?;
    if let Err(e) = supervisor.ready(&state.join("narfs.log")) {
        if let Some(own) = own {
            let _ = fuse::unmount(&own.mountpoint, true);
        }
        return Err(setup("write narfs.log")(e));
    }
    // The previous daemon may have left views incomplete.
    daemon.complete_views();
    watch_keeper_process(&daemon).map_err(setup("watch the keeper"))?;
    upkeep::begin(&daemon, request.memory, fetcher.zip(show));
    Ok(Some((daemon, sessions)))
}

fn serve_sockets(
    daemon: &Daemon,
    plugin: Option<UnixSocket>,
    nix_worker: Option<UnixSocket>,
) -> Result<(), ServeError> {
    if let Some(plugin) = plugin {
        let answering = daemon.serve_plugin(plugin);
        answering.map_err(setup("answer container engines"))?;
    }
    if let Some(socket) = nix_worker {
        let answering = daemon.serve_nix(socket);
        answering.map_err(setup("answer clients of Nix"))?;
    }
    Ok(())
}

/// Starts a new keeper if the keeper is killed.
fn watch_keeper_process(daemon: &Arc<Daemon>) -> std::io::Result<()> {
    let store = daemon.store().clone();
    let state = store.dir().to_owned();
    let keeper = move || keeper_command(&state);
    watch_keeper(&daemon.supervisor, keeper, move || {
        leave(&store, EXIT_RESTART)
    })?;
    daemon.supervisor.end_other_keeper();
    Ok(())
}

/// The fetcher; `None` without sources.
fn fetcher(engine: &Engine, request: &ServeRequest) -> Result<Option<Fetcher>, ServeError> {
    if request.sources.from.is_empty() {
        return Ok(None);
    }
    let (deadlines, prefetch) = (request.deadlines, request.prefetch);
    let options = request.sources.fetch_options(deadlines, prefetch);
    let options = options.map_err(EngineError::from)?;
    Ok(Some(engine.fetch_on_demand(&options)?))
}

/// Opens the state, with the ownership that the previous daemon has left.
fn open_owned(request: &ServeRequest, supervisor: &Supervisor) -> Result<Store, StoreError> {
    let ownership = supervisor.take(LOCK).map(|(_, lock)| lock);
    let ownership = ownership.map(Ownership::from_descriptor);
    let may_join = supervisor.is_keeper();
    open(&request.state, &request.options(), ownership, may_join)
}

/// Opens the state for a daemon, with the ownership that the previous daemon has left. Another
/// owner may be about to end, so its lock is waited for. With `may_join`, the starter uses another
/// daemon that listens.
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
        let timeout = match Store::open(state, options) {
            // The daemon of this state does not restart by itself.
            Err(StoreError::Waiting { .. }) => OWNER_TIMEOUT,
            Err(StoreError::Owned { .. }) if control::connect(state).is_ok() => match may_join {
                true => Duration::ZERO,
                false => OWNER_TIMEOUT,
            },
            Err(StoreError::Owned { .. }) => LONG_OWNER_TIMEOUT,
            opened => return opened,
        };
        if began.elapsed() >= timeout {
            return Store::open(state, options);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Takes over the mount of the previous daemon, or mounts if there is none.
fn mount_or_take_over(
    daemon: &Daemon,
    before: Option<(Agreement, OwnedFd)>,
    own: Option<&MountRequest>,
) -> Result<(), ServeError> {
    if let Some((agreement, device)) = before {
        let fs = daemon.engine.file_system();
        daemon.serve_session(Session::take_over(daemon.store(), fs, device, &agreement)?);
        daemon.take_over_profiles();
        if let Some(own) = own {
            bind_requested(daemon, own);
        }
    } else if let Some(own) = own {
        daemon.mount(own)?;
    }
    Ok(())
}

/// A restarted service may have a different mount point than before.
fn bind_requested(daemon: &Daemon, request: &MountRequest) {
    let mounted = daemon.engine.serving.mountpoints().unwrap_or_default();
    if !daemon.supervisor.is_keeper() && !mounted.contains(&request.mountpoint) {
        // The existing mount is worth more than another mount point.
        if let Err(e) = daemon.mount(request) {
            tracing::error!("{}", chain(&e));
        }
    }
}

/// Enables or disables file handles; an existing mount keeps its mode.
fn configure_file_handles(
    engine: &Engine,
    handles: FileHandles,
    is_takeover: bool,
) -> Result<(), ServeError> {
    let table = engine.store.views().table();
    if handles == FileHandles::Given
        && let Some(view) = table.views().next()
    {
        let view = view.name.to_string();
        let error = ClosureError::Handles { view };
        if !is_takeover {
            return Err(EngineError::from(error).into());
        }
        tracing::error!("{}", chain(&error));
        return Ok(());
    }
    engine.serving.set_file_handles(handles);
    Ok(())
}

/// The FUSE connection of the previous daemon.
enum Connection {
    None,
    /// It is still mounted.
    Mounted(Agreement, OwnedFd),
    /// It was unmounted meanwhile.
    Unmounted,
}

fn connection(supervisor: &Supervisor) -> Result<Connection, ServeError> {
    let mut connection = Connection::None;
    while let Some((agreement, device)) = supervisor.take(FUSE) {
        if fuse::is_connected(&device) {
            let agreement = agreement.parse().map_err(SessionError::TakeOver)?;
            return Ok(Connection::Mounted(agreement, device));
        }
        supervisor.forget(&format!("{FUSE}{agreement}"));
        connection = Connection::Unmounted;
    }
    Ok(connection)
}
