//! How a daemon comes to know what it is to serve: from its command, or from the daemon before it.
//!
//! Invariant: a daemon that was killed is followed by one that serves the same, whatever the
//! configuration says meanwhile. Only who was told to leave has the next one read it again; if it is
//! wrong then, what was served before is served on.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::process::Daemon;
use super::request::ServeRequest;
use crate::supervision::kept::{REQUEST, REREAD};
use crate::supervision::{RestartRecord, Supervisor};

/// What is there when a daemon begins.
#[derive(Debug)]
pub struct Beginning {
    pub(super) supervisor: Arc<Supervisor>,
    /// What the daemon before this one, or whoever started it in the background, has said.
    held: Option<RestartRecord>,
    /// Whether the configuration is to be read again.
    rereads: bool,
    /// How the next daemon is started, and how it reads the configuration again.
    arguments: Vec<OsString>,
    flags: Vec<OsString>,
    /// Why the configuration is not what is served.
    pub(super) mistake: Option<String>,
}

impl Beginning {
    /// That of this process; asked once.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn find() -> io::Result<Self> {
        let supervisor = Arc::new(Supervisor::find()?);
        let held = supervisor.take(REQUEST);
        let held = held.and_then(|(_, descriptor)| match RestartRecord::read(descriptor) {
            Ok(held) => Some(held),
            Err(e) => {
                tracing::warn!("what the daemon before this one served is not known: {e}");
                None
            }
        });
        let rereads = supervisor.take(REREAD).is_some();
        Ok(Self {
            supervisor,
            held,
            rereads,
            arguments: Vec::new(),
            flags: Vec::new(),
            mistake: None,
        })
    }

    /// What is to be served as it was, without a look at the configuration.
    pub fn held(&self) -> Option<ServeRequest> {
        self.before().filter(|_| !self.rereads)
    }

    /// What was served before.
    pub fn before(&self) -> Option<ServeRequest> {
        let request = self.held.as_ref()?.request.clone();
        serde_json::from_value(request)
            .inspect_err(|e| tracing::warn!("another version has served something else: {e}"))
            .ok()
    }

    /// The flags of the command, where whoever looks after this daemon has them from its start.
    pub fn flags(&self) -> Option<&[OsString]> {
        let held = self.held.as_ref()?;
        self.supervisor.is_keeper().then_some(&held.flags)
    }

    /// Says how the next daemon is started (`arguments`, without secrets), and what it goes by if it
    /// reads the configuration again (`flags`).
    pub fn set_command(&mut self, arguments: Vec<OsString>, flags: Vec<OsString>) {
        (self.arguments, self.flags) = (arguments, flags);
    }

    /// Says why the configuration is not what is served.
    pub fn set_mistake(&mut self, mistake: String) {
        tracing::error!("what was served before is served on: {mistake}");
        self.mistake = Some(mistake);
    }

    /// Tells whoever waits that nothing is served, and why.
    pub fn failed(&self, reason: &str) {
        self.supervisor.failed(reason);
    }

    /// Has what is served kept for the next daemon.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn hold(&self, request: &ServeRequest) -> io::Result<()> {
        let before = self.held.as_ref().filter(|_| self.arguments.is_empty());
        let held = RestartRecord {
            arguments: before.map_or(&self.arguments, |b| &b.arguments).clone(),
            flags: before.map_or(&self.flags, |b| &b.flags).clone(),
            request: serde_json::to_value(request)?,
        };
        let (is_new, is_keeper) = (
            self.held.as_ref() != Some(&held),
            self.supervisor.is_keeper(),
        );
        // A service manager would keep both of this name, where a keeper takes the new one for the old.
        if is_new && !is_keeper {
            self.supervisor.forget(REQUEST);
        }
        // What is kept already is told to a keeper all the same, for another one in its place.
        if is_new || is_keeper {
            self.supervisor.keep(REQUEST, held.seal()?.as_fd());
        }
        if self.rereads {
            self.supervisor.forget(REREAD);
        }
        Ok(())
    }
}

impl Daemon {
    /// Has the next daemon read the configuration again.
    pub(super) fn reread_next_time(&self) {
        match io::pipe() {
            Ok((mark, _)) => self.supervisor.keep(REREAD, mark.as_fd()),
            Err(e) => tracing::warn!("the next daemon serves what this one does: {e}"),
        }
    }
}
