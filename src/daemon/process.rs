//! The serving process, and what it has beside the state.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::completion::Completion;
use super::volumes::socket::PluginSocket;
use crate::engine::Engine;
use crate::fs::WritableProfiles;
use crate::fuse::{ProfilesSession, Session};
use crate::http;
use crate::store::Store;
use crate::supervision::Supervisor;

/// The serving process.
pub struct Daemon {
    pub(super) engine: Arc<Engine>,
    /// Who looks after it.
    pub(super) supervisor: Arc<Supervisor>,
    /// Where sessions go, one at a time: held from the look at what is served until something else is.
    pub(super) sessions: Mutex<Sender<Session>>,
    /// What programs change by links, where the state is mounted.
    pub(super) writable_profiles: OnceLock<Arc<WritableProfiles>>,
    /// Where they do.
    pub(super) profiles_session: Mutex<Option<ProfilesSession>>,
    /// Completes closure views.
    pub(super) completion: Arc<Completion>,
    /// Where HTTP is served.
    pub(super) listens: OnceLock<http::Address>,
    /// Where container engines ask.
    pub(super) plugin: Mutex<Option<PluginSocket>>,
    /// Why the configuration is not what is served.
    pub(super) mistake: Option<String>,
    pub(super) started: Instant,
}

impl Daemon {
    /// The process that serves the state of an engine; sessions come out of the receiver.
    pub(super) fn new(
        engine: Arc<Engine>,
        supervisor: Arc<Supervisor>,
        mistake: Option<String>,
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
            mistake,
            started: Instant::now(),
        };
        (Arc::new(daemon), receiver)
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.engine.store
    }

    /// Where container engines are answered.
    pub(super) fn plugin_socket(&self) -> Option<PathBuf> {
        crate::sync::lock(&self.plugin)
            .as_ref()
            .map(PluginSocket::path)
    }

    /// Has views completed whose closures are not all known.
    pub(super) fn complete_views(&self) {
        self.completion.begin(&self.engine);
    }
}
