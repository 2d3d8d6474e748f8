//! What of a state is mounted by this process, for whoever asks.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use super::{Counters, FileHandles, MountError, Session, mount};
use crate::fs::Numbers;
use crate::sync;

/// A connection that is served.
struct Served {
    counters: Arc<Counters>,
    superblock: u32,
    numbers: Numbers,
    handles: FileHandles,
}

/// What is mounted of a state, of which one superblock is served at a time.
#[derive(Default)]
pub struct Serving {
    served: Mutex<Option<Served>>,
    /// Whether what is mounted from now on has file handles.
    handles: OnceLock<FileHandles>,
}

impl Serving {
    /// Says that a session begins.
    pub fn begin(&self, session: &Session) {
        let agreement = session.connection().1;
        *sync::lock(&self.served) = Some(Served {
            counters: session.counters(),
            superblock: agreement.superblock,
            numbers: session.numbers(),
            handles: agreement.file_handles(),
        });
    }

    /// Says that nothing is mounted any more.
    pub fn end(&self) {
        *sync::lock(&self.served) = None;
    }

    fn served<T>(&self, of: impl FnOnce(&Served) -> T) -> Option<T> {
        sync::lock(&self.served).as_ref().map(of)
    }

    /// The superblock, by its device number (0:NUMBER).
    pub fn superblock(&self) -> Option<u32> {
        self.served(|s| s.superblock)
    }

    /// The superblock, and how inode numbers are shown there.
    pub fn numbers(&self) -> Option<(u32, Numbers)> {
        self.served(|s| (s.superblock, s.numbers))
    }

    /// The counts of the kernel's requests.
    pub fn counters(&self) -> Option<Arc<Counters>> {
        self.served(|s| s.counters.clone())
    }

    /// Whether the kernel's requests come here.
    pub fn is_mounted(&self) -> bool {
        self.superblock().is_some()
    }

    /// Has what is mounted from now on have file handles, or not; once.
    pub fn decide_on_handles(&self, handles: FileHandles) {
        let _ = self.handles.set(handles);
    }

    /// Whether what is mounted, or will be, has file handles.
    pub fn file_handles(&self) -> FileHandles {
        let wanted = || self.handles.get().copied().unwrap_or_default();
        self.served(|s| s.handles).unwrap_or_else(wanted)
    }

    /// Where it is mounted, in this process's mount namespace.
    ///
    /// # Errors
    /// The list of mounts cannot be read.
    pub fn mountpoints(&self) -> Result<Vec<PathBuf>, MountError> {
        let superblock = self.superblock();
        superblock.map_or(Ok(Vec::new()), mount::mounts_of_superblock)
    }

    /// Where all of it is mounted, not the store alone.
    ///
    /// # Errors
    /// The list of mounts cannot be read.
    pub fn whole_mounts(&self) -> Result<Vec<PathBuf>, MountError> {
        let superblock = self.superblock();
        superblock.map_or(Ok(Vec::new()), mount::mounts_of_whole)
    }
}
