//! The adapter from the kernel's requests to [`crate::fs`]. It translates and decides nothing.
//!
//! Invariant: everything inside a store path is told to the kernel as valid for ever, so that a
//! warm file system costs no request; what is asked of every file and means nothing here (OPEN,
//! FLUSH, GETXATTR, …) is answered with ENOSYS once, after which the kernel does not ask again.

mod adapter;
mod announcement;
mod counters;
mod entries;
mod examination;
mod handshake;
mod invalidation;
mod kernel_caches;
mod mount;
mod mountinfo;
mod notices;
mod removed;
mod serving;
mod writable;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use thiserror::Error;

pub use announcement::announce;
pub use counters::{Counters, RequestCounts, RequestTimes};
pub use examination::{dead_mounts, mount_points, parent_mount, take_dead_away};
pub use handshake::{Agreement, is_connected, release};
pub use mount::{
    MountRequest, Subtree, label, mount_again, mounted_states, mountpoint, mounts_of_superblock,
    mounts_of_whole, unmount,
};
pub use narfs_mounting::MountError;
pub use serving::Serving;
pub use writable::ProfilesSession;

use crate::fs::{FileSystem, Numbers};
use crate::store::Store;
use adapter::Adapter;
use entries::Entries;
use handshake::Beginning;
use invalidation::Invalidation;
use kernel_caches::ConnectionCaches;

/// Threads that read requests, for each core. They share one descriptor: a clone of it would
/// lose the requests in flight with its daemon.
const THREADS_PER_CORE: usize = 2;

/// Whether files can be opened by their handles (open_by_handle_at(2)), as servers of NFS and of virtiofs
/// do. Whoever may do so opens what no view shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum FileHandles {
    /// They cannot.
    #[default]
    Refused,
    /// They can.
    Given,
}

/// A mounted file system that is being served.
#[derive(Debug)]
pub struct Session {
    background: fuser::BackgroundSession,
    counters: Arc<Counters>,
    device: OwnedFd,
    agreement: Agreement,
}

/// Why a session could not start.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The mount point, or the mounting.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel and fuser did not come to terms.
    #[error("the kernel does not accept the FUSE session at {}", at.display())]
    Handshake {
        /// The mount point.
        at: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
    /// A connection could not be taken over.
    #[error("the FUSE connection of the daemon before this one cannot be taken over")]
    TakeOver(#[source] io::Error),
    /// A connection that another process has made.
    #[error("the FUSE connection that was handed over cannot be served")]
    Adopt(#[source] io::Error),
}

impl Session {
    /// Mounts `fs`, which shows `store`, as `request` says, and serves it until it is unmounted. Returns
    /// once the mount answers.
    ///
    /// # Errors
    /// See [`SessionError`]; nothing stays mounted.
    pub fn start(
        store: &Arc<Store>,
        fs: FileSystem,
        request: &MountRequest,
        handles: FileHandles,
    ) -> Result<Self, SessionError> {
        let at = request.check(None)?;
        let new = mount::make(request, store.dir())?;
        let beginning = Beginning::New(new.number);
        let session = Self::serve(store, fs, new.device, &beginning, handles);
        let session = session.map_err(|source| SessionError::Handshake {
            at: at.path.clone(),
            source,
        })?;
        mount::attach(&new.mount, &at, request, store.dir())?;
        Ok(session)
    }

    /// Serves a connection that another process has made, of the superblock with this device
    /// number. That is mounted nowhere yet, or nobody has looked into it.
    ///
    /// # Errors
    /// See [`SessionError::Adopt`].
    pub fn adopt(
        store: &Arc<Store>,
        fs: FileSystem,
        device: OwnedFd,
        superblock: u32,
        handles: FileHandles,
    ) -> Result<Self, SessionError> {
        handshake::is_to_begin(&device)
            .and_then(|()| Self::serve(store, fs, device, &Beginning::New(superblock), handles))
            .map_err(SessionError::Adopt)
    }

    /// Goes on to serve a connection that another daemon of the same state has served before. The
    /// other one must be gone. What it has not answered is answered now.
    ///
    /// # Errors
    /// See [`SessionError::TakeOver`]; the connection is as it was.
    pub fn take_over(
        store: &Arc<Store>,
        fs: FileSystem,
        device: OwnedFd,
        agreement: &Agreement,
    ) -> Result<Self, SessionError> {
        let handles = agreement.file_handles();
        Self::serve(store, fs, device, &Beginning::After(agreement), handles)
            .map_err(SessionError::TakeOver)
    }

    fn serve(
        store: &Arc<Store>,
        fs: FileSystem,
        device: OwnedFd,
        beginning: &Beginning<'_>,
        handles: FileHandles,
    ) -> io::Result<Self> {
        let counters = Arc::new(Counters::default());
        let entries = Entries {
            device: device.try_clone()?,
            numbers: beginning.numbers(),
        };
        let adapter = Adapter::new(Arc::new(fs), counters.clone(), entries, handles);
        let mut config = fuser::Config::default();
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        config.n_threads = Some(cores * THREADS_PER_CORE);
        let (session, agreement) = handshake::begin(adapter, device.as_fd(), beginning, config)?;
        let background = session.spawn()?;
        // Done by the thread that changes the state, before it goes on. It is never one that
        // answers requests.
        let invalidation = Invalidation::new(store, background.notifier(), counters.clone());
        if matches!(beginning, Beginning::After(_)) {
            invalidation.apply_all(store);
        } else if let Ok(untold) = store.views().untold() {
            // This kernel was never told anything else.
            store.views().told(&untold);
        }
        let forgetter = invalidation.forgetter().clone();
        let caches = ConnectionCaches::new(
            store,
            device.try_clone()?,
            counters.clone(),
            forgetter,
            handles,
        );
        store.paths().set_kernel_caches(Arc::new(caches));
        store.observe(move |change| invalidation.apply(change));
        Ok(Self {
            background,
            counters,
            device,
            agreement,
        })
    }

    /// How often the kernel has asked for what.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// How inode numbers are shown.
    pub fn numbers(&self) -> Numbers {
        self.agreement.numbers()
    }

    /// What another daemon needs to take the connection over: `/dev/fuse`, and how it was begun.
    pub fn connection(&self) -> (BorrowedFd<'_>, Agreement) {
        (self.device.as_fd(), self.agreement)
    }

    /// Serves until the file system is unmounted.
    ///
    /// # Errors
    /// The session broke.
    pub fn join(self) -> io::Result<()> {
        self.background.join()
    }
}
