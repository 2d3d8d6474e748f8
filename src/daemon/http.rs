//! Metrics and status over HTTP, by the daemon itself or by an unprivileged process beside it.
//!
//! Invariant: both give the same answers. The separate process queries the daemon over the control
//! socket, waits for a daemon that is being restarted, and reports why it got no answer.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::process::Daemon;
use crate::command::{StatusReport, chain};
use crate::control;
use crate::fs::FileSystem;
use crate::http::{self, Address, Listener, Monitored, Server};
use crate::supervision::kept::HTTP;
use crate::supervision::{Supervisor, TerminationSignals};

/// Timeout for the daemon; a keeper restarts it within a second.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the check whether sockets are still open.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum HttpError {
    /// There is no address to listen at.
    #[error(
        "there is no address to listen at: give --listen ADDRESS (such as 127.0.0.1:9464), or have a \
         service manager pass a socket, as narfs-http.socket does"
    )]
    NoAddress,
    /// The address is in use, not local, or not permitted.
    #[error(
        "cannot listen at {address}; end the process that listens there, or give another address with \
         --listen"
    )]
    Listen {
        address: Address,
        #[source]
        source: io::Error,
    },
    /// A descriptor from the service manager is not a listening socket.
    #[error("the descriptor {name:?} from the service manager is not a listening socket")]
    InvalidDescriptor {
        name: String,
        #[source]
        source: io::Error,
    },
    /// Threads or signals are not available.
    #[error("cannot serve HTTP")]
    Serve(#[source] io::Error),
    #[error("all listening sockets were shut down")]
    SocketsClosed,
}

fn bind(address: &Address) -> Result<Listener, HttpError> {
    Listener::bind(address).map_err(|source| HttpError::Listen {
        address: address.clone(),
        source,
    })
}

/// The JSON of a report, as commands print it.
fn json(status: &StatusReport) -> Result<String, String> {
    let text = serde_json::to_string_pretty(status);
    text.map(|text| text + "\n").map_err(|e| e.to_string())
}

/// The daemon of a state, over the control socket.
struct RemoteDaemon {
    state: PathBuf,
}

impl Monitored for RemoteDaemon {
    fn metrics(&self) -> Result<String, String> {
        let figures = control::figures(&self.state, Some(DAEMON_TIMEOUT));
        figures.map(|f| f.exposition()).map_err(|e| chain(&e))
    }

    fn status(&self) -> Result<String, String> {
        let status = control::status(&self.state, Some(DAEMON_TIMEOUT));
        json(&status.map_err(|e| chain(&e))?)
    }

    fn health(&self) -> Result<(), String> {
        let figures = control::figures(&self.state, Some(DAEMON_TIMEOUT));
        figures.map(drop).map_err(|e| chain(&e))
    }

    fn is_here(&self) -> bool {
        false
    }
}

impl Monitored for Daemon {
    fn metrics(&self) -> Result<String, String> {
        Ok(self.figures().exposition())
    }

    fn status(&self) -> Result<String, String> {
        let status = Daemon::status(self).map_err(|e| chain(&e));
        json(&status?)
    }

    fn health(&self) -> Result<(), String> {
        let fs = FileSystem::new(self.store().clone(), None, Arc::default());
        fs.answers().map_err(|e| chain(&e))
    }

    fn is_here(&self) -> bool {
        true
    }
}

/// The HTTP socket: that of the previous daemon if it has the requested address, or else a new one.
pub(super) fn listen(
    supervisor: &Supervisor,
    wanted: Option<&Address>,
) -> Result<Option<Listener>, HttpError> {
    let before = supervisor.take(HTTP);
    if let Some((_, before)) = before {
        let before = Listener::try_from(before).ok();
        let address = before.as_ref().and_then(|b| b.address().ok().flatten());
        let is_there = |address: &Address| match address {
            Address::Tcp(_) => true,
            Address::Unix(path) => path.exists(),
        };
        let reusable = address.filter(is_there).zip(wanted);
        if reusable.is_some_and(|(actual, wanted)| wanted.is_met_by(&actual)) {
            return Ok(before);
        }
        supervisor.forget(HTTP);
    }
    wanted.map(bind).transpose()
}

impl Daemon {
    /// Serves HTTP until the process ends.
    pub(super) fn serve_http(self: &Arc<Self>, listener: Listener) -> Result<(), HttpError> {
        self.supervisor.keep(HTTP, listener.as_fd());
        let address = listener.address().ok().flatten();
        http::serve(listener, http::monitoring(self.clone())).map_err(HttpError::Serve)?;
        if let Some(address) = address {
            let _ = self.listens.set(address);
        }
        Ok(())
    }
}

/// The process that serves HTTP beside a daemon.
#[derive(Debug)]
pub struct HttpService {
    state: PathBuf,
    supervisor: Supervisor,
    listeners: Vec<Listener>,
}

impl HttpService {
    /// Takes the sockets from a service manager, and also listens at `address`.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn open(state: &Path, address: Option<&Address>) -> Result<Self, HttpError> {
        let supervisor = Supervisor::find().map_err(HttpError::Serve)?;
        let mut listeners = Vec::new();
        while let Some((name, descriptor)) = supervisor.take("") {
            let listener = Listener::try_from(descriptor);
            listeners
                .push(listener.map_err(|source| HttpError::InvalidDescriptor { name, source })?);
        }
        if let Some(address) = address {
            listeners.push(bind(address)?);
        }
        if listeners.is_empty() {
            return Err(HttpError::NoAddress);
        }
        Ok(Self {
            state: state.to_owned(),
            supervisor,
            listeners,
        })
    }

    pub fn addresses(&self) -> Vec<Address> {
        let addresses = self.listeners.iter();
        addresses
            .filter_map(|l| l.address().ok().flatten())
            .collect()
    }

    /// Serves until SIGTERM or SIGINT, or until there was no request for `idle`. Requests in flight
    /// are answered first.
    ///
    /// # Errors
    /// See [`HttpError`].
    /// See [`HttpError`].
    pub fn run(self, idle: Option<Duration>) -> Result<(), HttpError> {
        let mut signals = TerminationSignals::install().map_err(HttpError::Serve)?;
        let beside = Arc::new(RemoteDaemon { state: self.state });
        let serve = |listener| http::serve(listener, http::monitoring(beside.clone()));
        let servers = self.listeners.into_iter().map(serve);
        let servers: io::Result<Vec<Server>> = servers.collect();
        let servers = servers.map_err(HttpError::Serve)?;
        let _ = self.supervisor.ready(Path::new("/dev/null"));
        let is_idle = |server: &Server| idle.is_some_and(|idle| server.idle() >= idle);
        while !signals.wait_timeout(POLL_INTERVAL) {
            if !servers.iter().any(Server::runs) {
                return Err(HttpError::SocketsClosed);
            }
            if servers.iter().all(is_idle) {
                tracing::info!("idle; exiting until the next connection");
                break;
            }
        }
        self.supervisor.stopping();
        servers.into_iter().for_each(Server::end);
        Ok(())
    }
}
