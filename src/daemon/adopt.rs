//! Connections that another process has made: `mount.narfs` mounts, and this daemon serves.
//!
//! A frame of kind `A` on the control socket carries a [`HandOver`], and `/dev/fuse` as SCM_RIGHTS
//! with its first byte where something is handed over; the answer is a frame `R` with a
//! [`HandedOver`], or `E` with an error text. Invariant: a state has one superblock at a time, so
//! that its page cache is shared. Who comes second is told which it is, and binds that.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::command::{CommandError, Report};
use super::engine::Engine;
use super::serve::FUSE;
use crate::fuse::{self, MountError, MountRequest, Session, SessionError};

/// Who mounts what a daemon serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mounting {
    /// The daemon does; it ends when that is unmounted.
    Itself(MountRequest),
    /// Others do, one after the other, and hand over what they have mounted.
    Others {
        /// The daemon ends when the first of them is unmounted.
        until_unmounted: bool,
    },
}

impl Mounting {
    /// What the daemon mounts.
    pub(super) fn itself(&self) -> Option<&MountRequest> {
        match self {
            Self::Itself(request) => Some(request),
            Self::Others { .. } => None,
        }
    }
}

/// What another process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOver {
    /// It wants to know what is served.
    Ask,
    /// It hands over a new connection.
    Take {
        /// Its superblock, by its device number (0:NUMBER).
        superblock: u32,
    },
    /// Programs are to change profiles where it is mounted.
    WritableProfiles {
        /// The mount point, absolute; as bytes, which a path may have any of.
        mountpoint: Vec<u8>,
    },
}

/// What the daemon answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandedOver {
    /// It serves nothing, and takes what is handed over.
    Nothing,
    /// It serves what was handed over, or what was asked for.
    Taken,
    /// It serves something already, or just ends.
    Serving {
        /// Its superblock, by its device number (0:NUMBER).
        superblock: u32,
        /// The serving process.
        pid: u32,
    },
}

/// Why a connection is not taken.
#[derive(Debug, Error)]
pub enum AdoptError {
    /// No daemon serves this state.
    #[error("this process serves no mounts")]
    NotServing,
    /// There was no descriptor with the message.
    #[error("no descriptor of /dev/fuse came with the connection that is handed over")]
    NoDescriptor,
    /// Writable profiles were wanted where the daemon sees nothing of its own.
    #[error(
        "process {} does not see its mount at {}, so that profiles cannot be writable there; is it in \
         another mount namespace?",
        std::process::id(),
        .0.display()
    )]
    NotHere(PathBuf),
    /// Profiles cannot be writable.
    #[error(transparent)]
    Profiles(#[from] MountError),
    /// It cannot be served.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// With [`Mounting::Others`] until it is unmounted, a daemon that nobody hands anything ends after
/// this: whoever started it was stopped.
const NOBODY_COMES: Duration = Duration::from_secs(30);

/// Where sessions go, one at a time.
pub(super) struct Adoptions(Mutex<Sender<Session>>);

impl Adoptions {
    /// Held from the look at what is served until something else is.
    fn enter(&self) -> MutexGuard<'_, Sender<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Has connections served from now on, whoever has made them; the sessions come out here. Once.
    pub(super) fn adopt(&self) -> Receiver<Session> {
        let (sender, receiver) = channel();
        let _ = self.adoptions.set(Adoptions(Mutex::new(sender)));
        receiver
    }

    /// Takes a connection, or says what is served.
    ///
    /// # Errors
    /// It is not served, and is gone.
    pub(super) fn hand_over(
        &self,
        request: HandOver,
        device: Option<OwnedFd>,
    ) -> Result<HandedOver, AdoptError> {
        let serving = |superblock| HandedOver::Serving {
            superblock,
            pid: std::process::id(),
        };
        let sessions = self.adoptions.get().ok_or(AdoptError::NotServing)?.enter();
        if let HandOver::WritableProfiles { mountpoint } = request {
            let mountpoint = PathBuf::from(OsString::from_vec(mountpoint));
            if !self.mountpoints()?.contains(&mountpoint) {
                return Err(AdoptError::NotHere(mountpoint));
            }
            self.mount_profiles(&mountpoint)?;
            return Ok(HandedOver::Taken);
        }
        if let Some(served) = self.superblock() {
            return Ok(serving(served));
        }
        let HandOver::Take { superblock } = request else {
            return Ok(HandedOver::Nothing);
        };
        let device = device.ok_or(AdoptError::NoDescriptor)?;
        let session = Session::adopt(
            &self.store,
            self.file_system(),
            device,
            superblock,
            self.file_handles(),
        )?;
        self.begin(session, &sessions);
        Ok(HandedOver::Taken)
    }

    /// Mounts: what is served already at one more place.
    pub(super) fn mount(&self, request: &MountRequest) -> Result<Report, CommandError> {
        let dir = self.store.dir();
        let nowhere = || MountError::NowhereMounted(dir.to_owned());
        let sessions = self.adoptions.get().ok_or_else(nowhere)?.enter();
        match self.superblock() {
            Some(superblock) => fuse::mount_again(dir, superblock, request)?,
            None => {
                let session = Session::start(
                    &self.store,
                    self.file_system(),
                    request,
                    self.file_handles(),
                )?;
                self.begin(session, &sessions);
            }
        }
        if request.writable_profiles {
            self.mount_profiles(&request.mountpoint)
                .inspect_err(|_| drop(fuse::unmount(&request.mountpoint, true)))?;
        }
        Ok(Report::Done)
    }

    /// Has a session that this daemon has begun served with the others.
    pub(super) fn goes_on(&self, session: Session) {
        if let Some(adoptions) = self.adoptions.get() {
            self.begin(session, &adoptions.enter());
        }
    }

    fn begin(&self, session: Session, sessions: &Sender<Session>) {
        self.serves(&session);
        if let Some(supervisor) = self.supervisor.get() {
            let (device, agreement) = session.connection();
            supervisor.keep(&format!("{FUSE}{agreement}"), device);
        }
        // The receiver lives as long as the process.
        let _ = sessions.send(session);
    }

    /// Serves what comes, one after the other; with `until_unmounted` only the first.
    ///
    /// # Errors
    /// The only session broke.
    pub(super) fn serve_sessions(
        &self,
        sessions: &Receiver<Session>,
        until_unmounted: bool,
    ) -> io::Result<()> {
        loop {
            let session = if until_unmounted {
                sessions.recv_timeout(NOBODY_COMES)
            } else {
                sessions.recv().map_err(RecvTimeoutError::from)
            };
            let Ok(session) = session else {
                tracing::warn!("nothing to serve was handed over");
                return Ok(());
            };
            tracing::info!(mountpoints = ?self.mountpoints().unwrap_or_default(), "serving");
            let name = format!("{FUSE}{}", session.connection().1);
            let ended = session.join();
            self.detach_profiles();
            if let Some(supervisor) = self.supervisor.get() {
                supervisor.forget(&name);
            }
            // Who comes while the process ends must not think that it waits.
            if until_unmounted {
                return ended;
            }
            tracing::info!("unmounted; waiting for the next mount");
            if let Err(e) = ended {
                tracing::error!("the FUSE session broke: {e}");
            }
            self.serves_nothing();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `mount.narfs` writes and reads these without a library.
    #[test]
    fn what_is_said_does_not_change() {
        let json = |said: &HandOver| serde_json::to_string(said).unwrap();
        assert_eq!(json(&HandOver::Ask), r#""Ask""#);
        let take = HandOver::Take { superblock: 98 };
        assert_eq!(json(&take), r#"{"Take":{"superblock":98}}"#);
        let profiles = HandOver::WritableProfiles {
            mountpoint: b"/a".to_vec(),
        };
        let expected = r#"{"WritableProfiles":{"mountpoint":[47,97]}}"#;
        assert_eq!(json(&profiles), expected);
        let json = |said: &HandedOver| serde_json::to_string(said).unwrap();
        assert_eq!(json(&HandedOver::Nothing), r#""Nothing""#);
        assert_eq!(json(&HandedOver::Taken), r#""Taken""#);
        let serving = HandedOver::Serving {
            superblock: 98,
            pid: 7,
        };
        let expected = r#"{"Serving":{"superblock":98,"pid":7}}"#;
        assert_eq!(json(&serving), expected);
    }
}
