//! Mounts made by the daemon, and mounts handed over by `mount.narfs`.
//!
//! Invariant: a state has one superblock at a time, so that its page cache is shared. A second
//! hand-over is answered with the existing superblock, and binds that.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use super::error::{DaemonError, HandOverError};
use super::process::Daemon;
use crate::command::Report;
use crate::control::{HandOver, HandedOver};
use crate::fuse::{self, MountRequest, Session};
use crate::supervision::kept::FUSE;
use crate::sync;

/// Time after which a daemon that was started for a hand-over exits without one: its starter was
/// killed.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(30);

impl Daemon {
    /// Accepts a hand-over, or reports what is already mounted.
    ///
    /// # Errors
    /// The connection cannot be served, and is closed.
    pub(super) fn hand_over(
        &self,
        request: HandOver,
        device: Option<OwnedFd>,
    ) -> Result<HandedOver, HandOverError> {
        let serving = |superblock| HandedOver::Serving {
            superblock,
            pid: std::process::id(),
        };
        let sessions = sync::lock(&self.sessions);
        if let HandOver::WritableProfiles { mountpoint } = request {
            let mountpoint = PathBuf::from(OsString::from_vec(mountpoint));
            if !self.engine.serving.mountpoints()?.contains(&mountpoint) {
                return Err(HandOverError::NotHere(mountpoint));
            }
            self.mount_profiles(&mountpoint)?;
            return Ok(HandedOver::Taken);
        }
        if let Some(served) = self.engine.serving.superblock() {
            return Ok(serving(served));
        }
        let HandOver::Take { superblock } = request else {
            return Ok(HandedOver::Nothing);
        };
        let device = device.ok_or(HandOverError::NoDescriptor)?;
        let session = Session::accept_hand_over(
            self.store(),
            self.engine.file_system(),
            device,
            superblock,
            self.engine.serving.file_handles(),
        )?;
        self.start_session(session, &sessions);
        Ok(HandedOver::Taken)
    }

    /// Mounts, or binds the existing mount at one more mount point.
    pub(super) fn mount(&self, request: &MountRequest) -> Result<Report, DaemonError> {
        let dir = self.store().dir();
        let sessions = sync::lock(&self.sessions);
        match self.engine.serving.superblock() {
            Some(superblock) if fuse::mount_again(dir, superblock, request)? => {}
            Some(_) => return Err(DaemonError::NowhereMounted(dir.to_owned())),
            None => {
                let session = Session::start(
                    self.store(),
                    self.engine.file_system(),
                    request,
                    self.engine.serving.file_handles(),
                )?;
                self.start_session(session, &sessions);
            }
        }
        if request.writable_profiles {
            self.mount_profiles(&request.mountpoint)
                .inspect_err(|_| drop(fuse::unmount(&request.mountpoint, true)))?;
        }
        Ok(Report::Done)
    }

    /// Adds a session that the daemon has mounted.
    pub(super) fn serve_session(&self, session: Session) {
        self.start_session(session, &sync::lock(&self.sessions));
    }

    fn start_session(&self, session: Session, sessions: &Sender<Session>) {
        self.engine.serving.begin(&session);
        let (device, agreement) = session.connection();
        self.supervisor.keep(&format!("{FUSE}{agreement}"), device);
        // The receiver lives as long as the process.
        let _ = sessions.send(session);
    }

    /// Serves sessions one after the other; with `until_unmounted` only the first.
    ///
    /// # Errors
    /// That session failed.
    pub(super) fn serve_sessions(
        &self,
        sessions: &Receiver<Session>,
        until_unmounted: bool,
    ) -> io::Result<()> {
        loop {
            let session = if until_unmounted {
                sessions.recv_timeout(HAND_OVER_TIMEOUT)
            } else {
                sessions.recv().map_err(RecvTimeoutError::from)
            };
            let Ok(session) = session else {
                tracing::warn!("no mount was handed over");
                return Ok(());
            };
            tracing::info!(mountpoints = ?self.engine.serving.mountpoints().unwrap_or_default(), "serving");
            let name = format!("{FUSE}{}", session.connection().1);
            let ended = session.join();
            self.detach_profiles();
            self.supervisor.forget(&name);
            // A client that comes while the process ends must not wait for it.
            if until_unmounted {
                return ended;
            }
            tracing::info!("unmounted; waiting for the next mount");
            if let Err(e) = ended {
                tracing::error!("the FUSE session failed: {e}");
            }
            self.engine.serving.end();
        }
    }
}
