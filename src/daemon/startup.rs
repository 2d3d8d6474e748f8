//! Where a daemon gets its serve request from: its command line, or the restart record of the
//! previous daemon.
//!
//! Invariant: the successor of a daemon that was killed serves the same, whatever the configuration
//! says meanwhile. Only after an orderly stop does the next daemon read the configuration again; if
//! that is invalid then, the previous serve request stays in effect.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::process::Daemon;
use super::request::ServeRequest;
use crate::supervision::kept::{REQUEST, REREAD};
use crate::supervision::{RestartRecord, Supervisor};

/// What a daemon finds when it starts.
#[derive(Debug)]
pub struct Startup {
    pub(super) supervisor: Arc<Supervisor>,
    /// The record of the previous daemon, or of the command that started this one in the
    /// background.
    record: Option<RestartRecord>,
    /// Whether to read the configuration again.
    rereads: bool,
    /// How to start the next daemon, and how that reads the configuration again.
    arguments: Vec<OsString>,
    flags: Vec<OsString>,
    /// Why the configuration could not be applied.
    pub(super) config_error: Option<String>,
}

impl Startup {
    /// Collects this for the current process; to be called once.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn find() -> io::Result<Self> {
        let supervisor = Arc::new(Supervisor::find()?);
        let record = supervisor.take(REQUEST);
        let record = record.and_then(|(_, descriptor)| match RestartRecord::read(descriptor) {
            Ok(record) => Some(record),
            Err(e) => {
                tracing::warn!("cannot read the restart record of the previous daemon: {e}");
                None
            }
        });
        let rereads = supervisor.take(REREAD).is_some();
        Ok(Self {
            supervisor,
            record,
            rereads,
            arguments: Vec::new(),
            flags: Vec::new(),
            config_error: None,
        })
    }

    /// The serve request to continue with, unless the configuration is to be read again.
    pub fn resumed_request(&self) -> Option<ServeRequest> {
        self.previous_request().filter(|_| !self.rereads)
    }

    /// The serve request of the previous daemon.
    pub fn previous_request(&self) -> Option<ServeRequest> {
        let request = self.record.as_ref()?.request.clone();
        serde_json::from_value(request)
            .inspect_err(|e| {
                tracing::warn!("cannot read the serve request of the previous daemon: {e}")
            })
            .ok()
    }

    /// The command line flags, if the supervisor has them from an earlier start.
    pub fn flags(&self) -> Option<&[OsString]> {
        let record = self.record.as_ref()?;
        self.supervisor.is_keeper().then_some(&record.flags)
    }

    /// Sets how the next daemon is started (`arguments`, without secrets), and the flags that it
    /// uses if it reads the configuration again (`flags`).
    pub fn set_command(&mut self, arguments: Vec<OsString>, flags: Vec<OsString>) {
        (self.arguments, self.flags) = (arguments, flags);
    }

    /// Notes why the configuration could not be applied.
    pub fn set_config_error(&mut self, config_error: String) {
        tracing::error!("continuing with the previous configuration: {config_error}");
        self.config_error = Some(config_error);
    }

    /// Reports to the starter why the daemon is not ready.
    pub fn failed(&self, reason: &str) {
        self.supervisor.failed(reason);
    }

    /// Has the supervisor keep the restart record for the next daemon.
    ///
    /// # Errors
    /// The kernel is out of memory.
    pub(super) fn keep_record(&self, request: &ServeRequest) -> io::Result<()> {
        let old = self.record.as_ref().filter(|_| self.arguments.is_empty());
        let record = RestartRecord {
            arguments: old.map_or(&self.arguments, |b| &b.arguments).clone(),
            flags: old.map_or(&self.flags, |old| &old.flags).clone(),
            request: serde_json::to_value(request)?,
        };
        let (is_new, is_keeper) = (
            self.record.as_ref() != Some(&record),
            self.supervisor.is_keeper(),
        );
        // A service manager keeps both descriptors of a name; a keeper replaces the old one.
        if is_new && !is_keeper {
            self.supervisor.forget(REQUEST);
        }
        // A keeper gets the descriptor in any case, so that it is among the duplicates for a new
        // keeper.
        if is_new || is_keeper {
            self.supervisor.keep(REQUEST, record.seal()?.as_fd());
        }
        if self.rereads {
            self.supervisor.forget(REREAD);
        }
        Ok(())
    }
}

impl Daemon {
    /// Makes the next daemon read the configuration again.
    pub(super) fn reread_config_next(&self) {
        match io::pipe() {
            Ok((mark, _)) => self.supervisor.keep(REREAD, mark.as_fd()),
            Err(e) => tracing::warn!("the next daemon will not read the configuration again: {e}"),
        }
    }
}
