//! Runs a request: in the daemon that owns the state, or here.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::global::Global;
use super::progress::Terminal;
use super::sources;
use crate::command::{Output, Report, Request, SourceRequest};
use crate::control::{self, ControlError};
use crate::engine::{Engine, EngineError};
use crate::store::{Store, StoreError, StoreOptions};

/// Patience with a state that another process owns and that is soon free.
const PATIENCE: Duration = Duration::from_secs(2);

/// Patience where a daemon is starting, which will do what the request wants.
const LONG_PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a request was not carried out.
#[derive(Debug, Error)]
pub(super) enum RunError {
    /// Asking the daemon.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Carrying it out here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The state cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no daemon to ask, and the state belongs to somebody else.
    #[error(
        "no daemon serves the state {}, and user {} may not change it; run the command as root, or name \
         a state of your own with --state", state.display(), rustix::process::geteuid().as_raw()
    )]
    NotAllowed {
        /// The state.
        state: PathBuf,
        /// What was tried.
        #[source]
        source: io::Error,
    },
}

/// Where a command is carried out.
enum Reached {
    Daemon(UnixStream),
    State(Arc<Store>),
}

impl Global {
    /// Runs a request on the state, which it makes if `create`.
    ///
    /// # Errors
    /// The state cannot be opened, or the request failed as a whole ([`RunError`]), or what it printed
    /// did not reach its reader.
    pub(super) fn run(&self, request: Request, create: bool) -> anyhow::Result<Report> {
        let mut terminal = Terminal::new();
        let state = self.state()?;
        let defaults = sources::in_force(&self.decided.settings);
        let options = self.options(create);
        let report = run(&state, &options, defaults, request, &mut terminal);
        terminal.finish();
        let report = report?;
        // What does not reach its reader is a failure of this command.
        io::Write::flush(&mut io::stdout())?;
        Ok(report)
    }
}

/// Carries out a request on the state in `state`, with `defaults` for sources that it does not name
/// where no daemon has others.
fn run(
    state: &Path,
    options: &StoreOptions,
    defaults: SourceRequest,
    request: Request,
    output: &mut dyn Output,
) -> Result<Report, RunError> {
    match reach(state, options)? {
        Reached::Daemon(stream) => Ok(control::ask(state, stream, &request, output, None)?),
        Reached::State(store) => Ok(Engine::new(store, defaults, None).execute(request, output)?),
    }
}

/// Opens the state, or finds the daemon that owns it.
fn reach(state: &Path, options: &StoreOptions) -> Result<Reached, RunError> {
    let began = Instant::now();
    loop {
        if let Ok(stream) = control::connect(state) {
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
            std::thread::sleep(PAUSE);
            continue;
        }
        return Err(match error {
            StoreError::Directory { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied
                    && !rustix::process::geteuid().is_root() =>
            {
                let state = state.to_owned();
                RunError::NotAllowed { state, source }
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

impl RunError {
    /// Whether the daemon went away in the middle of the request.
    pub(super) fn is_broken_off(&self) -> bool {
        matches!(self, Self::Control(ControlError::Disconnected { .. }))
    }
}
