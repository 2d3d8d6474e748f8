//! A daemon that is watched over HTTP: by itself in its own process, or by a process beside it that
//! needs no rights.
//!
//! Invariant: both tell the same. The one beside it asks over the control socket, waits for a daemon
//! that is just started anew, and says why there is no answer.

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
use crate::http::{self, Address, Listener, Server, Watched};
use crate::supervision::kept::HTTP;
use crate::supervision::{Supervisor, TerminationSignals};

/// So long is the daemon waited for: a keeper starts another one within a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether there is still something to serve.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why HTTP is not served.
#[derive(Debug, Error)]
pub enum HttpError {
    /// There is nothing to listen at.
    #[error(
        "there is nowhere to listen: give --listen ADDRESS (such as 127.0.0.1:9464), or have a \
         service manager hand over a socket, as narfs-http.socket does"
    )]
    Nowhere,
    /// The address is taken, or is not this machine's, or may not be used.
    #[error(
        "cannot listen at {address}; end who listens there, or name another address with --listen"
    )]
    Listen {
        address: Address,
        #[source]
        source: io::Error,
    },
    /// What was handed over is of no use.
    #[error("the descriptor {name:?} that the service manager hands over is of no use")]
    Handed {
        name: String,
        #[source]
        source: io::Error,
    },
    /// No threads or signals to be had.
    #[error("cannot serve HTTP")]
    Serve(#[source] io::Error),
    /// All sockets were shut down.
    #[error("nobody can connect any more: the sockets were shut down")]
    Gone,
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

/// The daemon of a state, whoever that is.
struct Beside {
    state: PathBuf,
}

impl Watched for Beside {
    fn metrics(&self) -> Result<String, String> {
        let figures = control::figures(&self.state, Some(PATIENCE));
        figures.map(|f| f.exposition()).map_err(|e| chain(&e))
    }

    fn status(&self) -> Result<String, String> {
        let status = control::status(&self.state, Some(PATIENCE));
        json(&status.map_err(|e| chain(&e))?)
    }

    fn health(&self) -> Result<(), String> {
        let figures = control::figures(&self.state, Some(PATIENCE));
        figures.map(drop).map_err(|e| chain(&e))
    }
}

impl Watched for Daemon {
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
}

/// Where a daemon listens: at the socket of the one before it, if that is where it is told to.
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
        let met = address.filter(is_there).zip(wanted);
        if met.is_some_and(|(actual, wanted)| wanted.is_met_by(&actual)) {
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
        http::serve(listener, http::observation(self.clone())).map_err(HttpError::Serve)?;
        if let Some(address) = address {
            let _ = self.listens.set(address);
        }
        Ok(())
    }
}

/// A process that serves HTTP beside the daemon of a state.
#[derive(Debug)]
pub struct HttpService {
    state: PathBuf,
    supervisor: Supervisor,
    listeners: Vec<Listener>,
}

impl HttpService {
    /// Takes the sockets that a service manager hands over, and listens at `address` besides.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn open(state: &Path, address: Option<&Address>) -> Result<Self, HttpError> {
        let supervisor = Supervisor::find().map_err(HttpError::Serve)?;
        let mut listeners = Vec::new();
        while let Some((name, descriptor)) = supervisor.take("") {
            let listener = Listener::try_from(descriptor);
            listeners.push(listener.map_err(|source| HttpError::Handed { name, source })?);
        }
        if let Some(address) = address {
            listeners.push(bind(address)?);
        }
        if listeners.is_empty() {
            return Err(HttpError::Nowhere);
        }
        Ok(Self {
            state: state.to_owned(),
            supervisor,
            listeners,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<Address> {
        let addresses = self.listeners.iter();
        addresses
            .filter_map(|l| l.address().ok().flatten())
            .collect()
    }

    /// Serves until the process is told to end (SIGTERM, SIGINT), or nobody has asked for `idle`;
    /// what is being answered then is answered.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn run(self, idle: Option<Duration>) -> Result<(), HttpError> {
        let mut signals = TerminationSignals::install().map_err(HttpError::Serve)?;
        let beside = Arc::new(Beside { state: self.state });
        let serve = |listener| http::serve(listener, http::observation(beside.clone()));
        let servers = self.listeners.into_iter().map(serve);
        let servers: io::Result<Vec<Server>> = servers.collect();
        let servers = servers.map_err(HttpError::Serve)?;
        let _ = self.supervisor.ready(Path::new("/dev/null"));
        let is_idle = |server: &Server| idle.is_some_and(|idle| server.idle() >= idle);
        while !signals.wait_timeout(LOOK_EVERY) {
            if !servers.iter().any(Server::runs) {
                return Err(HttpError::Gone);
            }
            if servers.iter().all(is_idle) {
                tracing::info!("nobody asks; ending until somebody does");
                break;
            }
        }
        self.supervisor.stopping();
        servers.into_iter().for_each(Server::end);
        Ok(())
    }
}
