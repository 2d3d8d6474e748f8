//! A daemon's life: open the state, mount, listen, serve until unmounted.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::command::{CommandError, ServeRequest};
use super::engine::{Engine, chain};
use super::{control, ready};
use crate::fetch::Activity;
use crate::fs::FileSystem;
use crate::fuse::{self, Session, SessionError};
use crate::store::{Store, StoreError, StoreOptions};

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

/// Shows what is being fetched.
pub type Show = Box<dyn FnMut(&Activity) + Send>;

/// How often that is shown.
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// How often it is kept when what was used, so that a crash does not lose the order.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Serves the state in `state` as `request` says, until it is unmounted or the process is told to
/// end. Whoever started it in the background is told when it is ready, or why it is not; what is
/// fetched on demand is told to `show` now and then.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(
    state: &Path,
    options: &StoreOptions,
    request: &ServeRequest,
    show: Option<Show>,
) -> Result<(), ServeError> {
    match start(state, options, request, show) {
        Ok((session, store)) => {
            let ended = session.join().map_err(ServeError::Broken);
            ready::notify("STOPPING=1");
            if let Err(e) = store.save_uses() {
                tracing::warn!("it was not kept when what was used: {e}");
            }
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
    request: &ServeRequest,
    show: Option<Show>,
) -> Result<(Session, Arc<Store>), ServeError> {
    let store = Arc::new(control::open(state, options)?);
    let engine = Engine::new(store.clone(), request.sources.clone(), request.budget);
    let engine = Arc::new(engine);
    let fetcher = engine.fetcher(request).map_err(ServeError::Sources)?;
    // What can fail comes before the mount, so that a failure leaves none behind.
    control::listen(engine.clone(), state).map_err(setup("listen on the control socket"))?;
    unmount_when_told(state, &store).map_err(setup("wait for signals"))?;
    let mount = &request.mount;
    let recorder = engine.recorder().clone();
    let fs = FileSystem::new(store.clone(), fetcher.clone(), recorder);
    let session = Session::start(&store, fs, mount)?;
    engine.count(session.counters());
    if let Err(e) = ready::ready(&state.join("narfs.log")) {
        let _ = fuse::unmount(&mount.mountpoint, true);
        return Err(setup("write narfs.log")(e));
    }
    tracing::info!(mountpoint = %mount.mountpoint.display(), "serving");
    every(SAVE_EVERY, "narfs-uses", {
        let store = store.clone();
        move || {
            if let Err(e) = store.save_uses() {
                tracing::warn!("it was not kept when what was used: {e}");
            }
        }
    });
    if let (Some(fetcher), Some(mut show)) = (fetcher, show) {
        every(SHOW_EVERY, "narfs-show", move || show(&fetcher.activity()));
    }
    Ok((session, store))
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

/// SIGTERM and SIGINT unmount, so that the session ends in good order. Who still uses the mount
/// gets two seconds, and then errors.
fn unmount_when_told(state: &Path, store: &Arc<Store>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (state, store) = (state.to_owned(), store.clone());
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
        let _ = store.save_uses();
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
