//! A session: a connection to the kernel, from its first request on or after another daemon.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use narfs_mounting::MountError;
use thiserror::Error;

use super::adapter::Adapter;
use super::counters::Counters;
use super::entries::Entries;
use super::file_handles::FileHandles;
use super::handshake::{self, Agreement, Origin};
use super::invalidation::Invalidation;
use super::kernel_caches::ConnectionCaches;
use super::mount::{self, MountRequest};
use crate::fs::{FileSystem, Numbers};
use crate::store::Store;

/// Threads per core that read requests. They share one descriptor: requests read through a clone of
/// it would be lost with the daemon.
const THREADS_PER_CORE: usize = 2;

/// A served FUSE connection.
#[derive(Debug)]
pub struct Session {
    background: fuser::BackgroundSession,
    counters: Arc<Counters>,
    device: OwnedFd,
    agreement: Agreement,
}

#[derive(Debug, Error)]
pub enum SessionError {
    /// The mount point is not usable, or mounting failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The handshake of the kernel and fuser failed.
    #[error("the kernel does not accept the FUSE session at {}", at.display())]
    Handshake {
        at: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
    /// The connection cannot be taken over.
    #[error("cannot take over the FUSE connection of the previous daemon")]
    TakeOver(#[source] io::Error),
    /// The connection that was handed over cannot be used.
    #[error("cannot serve the FUSE connection that was handed over")]
    Adopt(#[source] io::Error),
}

impl SessionError {
    /// Whether something is at the mount point that only the user can take away.
    pub fn is_occupied(&self) -> bool {
        matches!(self, Self::Mount(e) if e.is_occupied())
    }
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
        let beginning = Origin::New(new.number);
        let session = Self::serve(store, fs, new.device, &beginning, handles);
        let session = session.map_err(|source| SessionError::Handshake {
            at: at.path.clone(),
            source,
        })?;
        mount::attach(&new.mount, &at, request, store.dir())?;
        Ok(session)
    }

    /// Serves a connection created by another process, with the superblock of this device number,
    /// which is not mounted yet, or not used yet.
    ///
    /// # Errors
    /// See [`SessionError::Adopt`].
    pub fn accept_hand_over(
        store: &Arc<Store>,
        fs: FileSystem,
        device: OwnedFd,
        superblock: u32,
        handles: FileHandles,
    ) -> Result<Self, SessionError> {
        handshake::has_pending_init(&device)
            .and_then(|()| Self::serve(store, fs, device, &Origin::New(superblock), handles))
            .map_err(SessionError::Adopt)
    }

    /// Takes over a connection of a previous daemon of the same state, which must be gone. Its
    /// unanswered requests are answered now.
    ///
    /// # Errors
    /// See [`SessionError::TakeOver`]; the connection is unchanged.
    pub fn take_over(
        store: &Arc<Store>,
        fs: FileSystem,
        device: OwnedFd,
        agreement: &Agreement,
    ) -> Result<Self, SessionError> {
        let handles = agreement.file_handles();
        Self::serve(store, fs, device, &Origin::After(agreement), handles)
            .map_err(SessionError::TakeOver)
    }

    fn serve(
        store: &Arc<Store>,
        fs: FileSystem,
        device: OwnedFd,
        beginning: &Origin<'_>,
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
        // Called by the thread that changes the state, before it returns. It is never a thread that
        // answers requests.
        let invalidation = Invalidation::new(store, background.notifier(), counters.clone());
        if matches!(beginning, Origin::After(_)) {
            invalidation.apply_all(store);
        } else if let Ok(untold) = store.views().untold() {
            // This kernel has no earlier entries cached.
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

    /// The counters of requests.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// The kind of visible inode numbers.
    pub fn numbers(&self) -> Numbers {
        self.agreement.numbers()
    }

    /// What a successor needs to take over: `/dev/fuse`, and the agreement on it.
    pub fn connection(&self) -> (BorrowedFd<'_>, Agreement) {
        (self.device.as_fd(), self.agreement)
    }

    /// Serves until the file system is unmounted.
    ///
    /// # Errors
    /// The session failed.
    pub fn join(self) -> io::Result<()> {
        match self.background.join() {
            // A thread was reading a request that nobody waits for, like RELEASE, when the kernel ended the
            // connection: fuse_dev_do_read of the kernel gives this error then, and ENODEV a moment later.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
            ended => ended,
        }
    }
}
