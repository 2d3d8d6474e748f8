//! A daemon's life: open the state, mount, listen, serve until unmounted.

use std::io;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use super::command::{CommandError, CopyRequest};
use super::engine::{Engine, chain};
use super::{control, ready};
use crate::fuse::{self, MountRequest, Session, SessionError};
use crate::store::{StoreError, StoreOptions};

/// Why a daemon could not serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The mount.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The sources.
    #[error(transparent)]
    Sources(CommandError),
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

/// Serves the state in `state` at the mount point of `request` until it is unmounted or the
/// process is told to end. With `sources`, what is looked up and is not there is fetched from
/// them. Whoever started it in the background is told when it is ready, or
/// why it is not.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(
    state: &Path,
    options: &StoreOptions,
    request: &MountRequest,
    sources: Option<&CopyRequest>,
) -> Result<(), ServeError> {
    let served = start(state, options, request, sources);
    match served {
        Ok(session) => {
            let ended = session.join().map_err(ServeError::Broken);
            ready::notify("STOPPING=1");
            ended
        }
        Err(e) => {
            if ready::failed(&chain(&e)) {
                // Said already, by whoever waited.
                std::process::exit(1);
            }
            Err(e)
        }
    }
}

fn start(
    state: &Path,
    options: &StoreOptions,
    request: &MountRequest,
    sources: Option<&CopyRequest>,
) -> Result<Session, ServeError> {
    let store = Arc::new(control::open(state, options)?);
    let engine = Arc::new(Engine::new(store.clone()));
    let fetcher = match sources {
        Some(sources) => Some(engine.fetcher(sources).map_err(ServeError::Sources)?),
        None => None,
    };
    // What can fail comes before the mount, so that a failure leaves none behind.
    control::listen(engine.clone(), state).map_err(setup("listen on the control socket"))?;
    unmount_when_told(state).map_err(setup("wait for signals"))?;
    let session = Session::start(&store, fetcher, request)?;
    engine.count(session.counters());
    if let Err(e) = ready::ready(&state.join("narfs.log")) {
        let _ = fuse::unmount(&request.mountpoint, true);
        return Err(setup("write narfs.log")(e));
    }
    tracing::info!(mountpoint = %request.mountpoint.display(), "serving");
    Ok(session)
}

/// SIGTERM and SIGINT unmount, so that the session ends in good order. Who still uses the mount
/// gets two seconds, and then errors.
fn unmount_when_told(state: &Path) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let state = state.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut term, mut interrupt) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        tracing::info!("told to end; unmounting");
        let mountpoints = fuse::mounted_states(&state).unwrap_or_default();
        let mut last = mountpoints.is_empty();
        for at in mountpoints.iter().rev() {
            if let Err(e) = fuse::unmount(at, false).or_else(|_| fuse::unmount(at, true)) {
                tracing::error!("{}", chain(&e));
                last = true;
            }
        }
        if last {
            std::process::exit(0);
        }
        // Users that hold it must not hold us.
        std::thread::sleep(std::time::Duration::from_secs(2));
        std::process::exit(0);
    };
    let thread = std::thread::Builder::new().name("narfs-signals".into());
    thread.spawn(wait).map(drop)
}
