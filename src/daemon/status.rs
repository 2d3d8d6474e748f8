//! The status of a daemon.

use std::path::PathBuf;
use std::sync::Mutex;

use super::error::DaemonError;
use super::process::Daemon;
use super::unix_socket::UnixSocket;
use crate::command::StatusReport;
use crate::fetch::Fetcher;
use crate::sync;

fn path_of(socket: &Mutex<Option<UnixSocket>>) -> Option<PathBuf> {
    sync::lock(socket).as_ref().map(UnixSocket::path)
}

impl Daemon {
    pub(super) fn status(&self) -> Result<StatusReport, DaemonError> {
        let (engine, store) = (&self.engine, self.store());
        let activity = engine.fetcher().map(Fetcher::activity);
        let mountpoints = engine.serving.mountpoints()?;
        Ok(StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: store.dir().to_owned(),
            mountpoint: mountpoints.first().cloned(),
            mountpoints,
            supervisor: self.supervisor.name(),
            writable_profiles: self.writable_mountpoints()?,
            listen: self.listens.get().cloned(),
            volume_plugin: path_of(&self.plugin),
            nix_socket: path_of(&self.nix_worker),
            configuration: self.config_error.clone(),
            uptime: self.started.elapsed().as_secs(),
            paths: store.paths().count()?,
            stored_bytes: store.upkeep().stored_bytes()?,
            damaged_chunks: store.contents().damaged_chunks(),
            unreadable_paths: store.paths().unreadable_count(),
            budget: engine.budget.budget(),
            evicted: engine.budget.evicted(),
            activity: activity.unwrap_or_default(),
            commands: engine.progress(),
            traces: engine.recording(),
        })
    }
}
