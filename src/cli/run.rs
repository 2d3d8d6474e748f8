//! Execution of a request, by the daemon that owns the state or in this process.

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
use crate::engine::{Engine, EngineError, open_for};
use crate::store::{Rebuilt, Store, StoreError, StoreOptions};

/// Timeout for a state whose owner is expected to release it soon; it begins anew with each owner.
const OWNER_TIMEOUT: Duration = Duration::from_secs(2);

/// Timeout for a daemon that is starting, and will execute the request, and for all owners together.
const LONG_OWNER_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a request was not executed.
#[derive(Debug, Error)]
pub(super) enum RunError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no daemon, and this user may not open the state.
    #[error(
        "no daemon serves the state {}, and user {} may not change it; run the command as root, or give \
         a state of your own with --state", state.display(), rustix::process::geteuid().as_raw()
    )]
    NotAllowed {
        /// The state.
        state: PathBuf,
        /// The failed operation.
        #[source]
        source: io::Error,
    },
}

/// Where a request is executed.
enum Target {
    Daemon(UnixStream),
    /// What came of the database, if it had to be made anew.
    State(Arc<Store>, Option<Rebuilt>),
}

impl Global {
    /// Executes a request on the state, which is created if `create`.
    ///
    /// # Errors
    /// The state cannot be opened, the request failed as a whole ([`RunError`]), or stdout cannot
    /// be written.
    pub(super) fn run(&self, request: Request, create: bool) -> anyhow::Result<Report> {
        let mut terminal = Terminal::new();
        let state = self.state()?;
        let defaults = sources::in_force(&self.decided.settings);
        let options = self.options(create);
        let report = run(&state, &options, defaults, request, &mut terminal);
        terminal.finish();
        let report = report?;
        // Output that cannot be written is a failure of this command.
        io::Write::flush(&mut io::stdout())?;
        Ok(report)
    }
}

/// Executes a request on the state in `state`. `defaults` are the sources if neither the request
/// nor the daemon has any.
fn run(
    state: &Path,
    options: &StoreOptions,
    defaults: SourceRequest,
    request: Request,
    output: &mut dyn Output,
) -> Result<Report, RunError> {
    let began = Instant::now();
    let (mut is_first, mut rebuilt) = (true, None);
    loop {
        let stream = match open_target(state, options, &request)? {
            Target::Daemon(stream) => stream,
            Target::State(store, anew) => {
                rebuilt = rebuilt.or(anew);
                let can_be_repeated = is_first && request.can_be_repeated();
                let engine = Engine::new(store.clone(), defaults.clone(), None);
                let engine = engine.after(rebuilt.clone());
                match engine.execute(request.clone(), output) {
                    // The next opening takes out what is damaged.
                    Err(e) if can_be_repeated && e.comes_of_damage() && store.has_new_damage() => {}
                    done => return Ok(done?),
                }
                is_first = false;
                continue;
            }
        };
        match control::ask(state, stream, &request, output, None) {
            // The daemon just ended, and has not executed it.
            Err(e) if e.is_unread() && began.elapsed() < OWNER_TIMEOUT => {}
            // It has handed over to the next one meanwhile.
            Err(ControlError::Disconnected { .. }) if is_first && request.can_be_repeated() => {
                is_first = false;
            }
            answer => return Ok(answer?),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Opens the state, or connects to the daemon that owns it.
fn open_target(
    state: &Path,
    options: &StoreOptions,
    request: &Request,
) -> Result<Target, RunError> {
    let began = Instant::now();
    let (mut last_owner, mut since) = (String::new(), began);
    loop {
        if let Ok(stream) = control::connect(state) {
            return Ok(Target::Daemon(stream));
        }
        let error = match open_for(request, state, options) {
            Ok((store, rebuilt)) => return Ok(Target::State(Arc::new(store), rebuilt)),
            Err(error) => error,
        };
        // Other commands take their turns.
        if let StoreError::Owned { owner, .. } = &error
            && *owner != last_owner
        {
            (last_owner, since) = (owner.clone(), Instant::now());
        }
        // A daemon may be starting, or another command may end soon.
        let timeout = match &error {
            StoreError::Owned { owner, .. } if is_daemon(owner) => LONG_OWNER_TIMEOUT,
            StoreError::Owned { .. } | StoreError::Waiting { .. } => OWNER_TIMEOUT,
            _ => Duration::ZERO,
        };
        if since.elapsed() < timeout && began.elapsed() < LONG_OWNER_TIMEOUT {
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

/// Whether the owner of a state, as named in its lock, is a daemon.
fn is_daemon(owner: &str) -> bool {
    let mut words = owner.split(' ');
    words.any(|w| ["mount", "daemon"].contains(&w.trim_end_matches(')')))
}

impl RunError {
    /// Whether the daemon closed the connection during the request.
    pub(super) fn is_disconnected(&self) -> bool {
        matches!(self, Self::Control(ControlError::Disconnected { .. }))
    }
}
