//! The daemon process and its resources besides the engine.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::completion::Completion;
use super::unix_socket::UnixSocket;
use crate::engine::Engine;
use crate::fs::WritableProfiles;
use crate::fuse::{ProfilesSession, Session};
use crate::http;
use crate::store::Store;
use crate::supervision::Supervisor;

pub struct Daemon {
    pub(super) engine: Arc<Engine>,
    pub(super) supervisor: Arc<Supervisor>,
    /// Sessions to serve, one at a time; locked from the check of what is mounted until that has
    /// changed.
    pub(super) sessions: Mutex<Sender<Session>>,
    /// The writable profiles, if the state is mounted.
    pub(super) writable_profiles: OnceLock<Arc<WritableProfiles>>,
    /// Their FUSE session.
    pub(super) profiles_session: Mutex<Option<ProfilesSession>>,
    pub(super) completion: Arc<Completion>,
    /// Address of the HTTP server.
    pub(super) listens: OnceLock<http::Address>,
    /// Socket of the volume plugin.
    pub(super) plugin: Mutex<Option<UnixSocket>>,
    /// Socket of the worker for Nix.
    pub(super) nix_worker: Mutex<Option<UnixSocket>>,
    /// Why the configuration could not be applied.
    pub(super) config_error: Option<String>,
    pub(super) started: Instant,
}

impl Daemon {
    /// A daemon for an engine; sessions come out of the receiver.
    pub(super) fn new(
        engine: Arc<Engine>,
        supervisor: Arc<Supervisor>,
        config_error: Option<String>,
    ) -> (Arc<Self>, Receiver<Session>) {
        let (sender, receiver) = channel();
        let daemon = Self {
            engine,
            supervisor,
            sessions: Mutex::new(sender),
            writable_profiles: OnceLock::new(),
            profiles_session: Mutex::default(),
            completion: Arc::default(),
            listens: OnceLock::new(),
            plugin: Mutex::default(),
            nix_worker: Mutex::default(),
            config_error,
            started: Instant::now(),
        };
        (Arc::new(daemon), receiver)
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.engine.store
    }

    /// Removes the sockets that a daemon has created, as there will be no next one.
    pub(super) fn end_sockets(&self) {
        for socket in [&self.plugin, &self.nix_worker] {
            if let Some(socket) = crate::sync::lock(socket).take() {
                socket.end(&self.supervisor);
            }
        }
    }

    /// Starts the completion of closure views, if any is incomplete.
    pub(super) fn complete_views(&self) {
        self.completion.begin(&self.engine);
    }
}
