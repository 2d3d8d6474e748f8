//! The mounts of a state in this process.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use narfs_mounting::MountError;

use super::counters::Counters;
use super::file_handles::FileHandles;
use super::mount;
use super::session::Session;
use crate::fs::Numbers;
use crate::sync;

/// A connection being served.
struct Served {
    counters: Arc<Counters>,
    superblock: u32,
    numbers: Numbers,
    handles: FileHandles,
}

/// The mounts of a state, which have a single superblock.
#[derive(Default)]
pub struct Serving {
    served: Mutex<Option<Served>>,
    /// Whether new mounts have file handles.
    handles: OnceLock<FileHandles>,
}

impl Serving {
    /// Marks the start of a session.
    pub fn begin(&self, session: &Session) {
        let agreement = session.connection().1;
        *sync::lock(&self.served) = Some(Served {
            counters: session.counters(),
            superblock: agreement.superblock,
            numbers: session.numbers(),
            handles: agreement.file_handles(),
        });
    }

    /// Marks the end of the session.
    pub fn end(&self) {
        *sync::lock(&self.served) = None;
    }

    fn served<T>(&self, of: impl FnOnce(&Served) -> T) -> Option<T> {
        sync::lock(&self.served).as_ref().map(of)
    }

    /// Device number of the superblock (0:NUMBER).
    pub fn superblock(&self) -> Option<u32> {
        self.served(|s| s.superblock)
    }

    /// The superblock, and its kind of visible inode numbers.
    pub fn numbers(&self) -> Option<(u32, Numbers)> {
        self.served(|s| (s.superblock, s.numbers))
    }

    /// The counters of requests.
    pub fn counters(&self) -> Option<Arc<Counters>> {
        self.served(|s| s.counters.clone())
    }

    /// Whether the state is mounted by this process.
    pub fn is_mounted(&self) -> bool {
        self.superblock().is_some()
    }

    /// Decides whether new mounts have file handles; to be called once.
    pub fn set_file_handles(&self, handles: FileHandles) {
        let _ = self.handles.set(handles);
    }

    /// Whether the current or next mount has file handles.
    pub fn file_handles(&self) -> FileHandles {
        let wanted = || self.handles.get().copied().unwrap_or_default();
        self.served(|s| s.handles).unwrap_or_else(wanted)
    }

    /// The mount points, in this process's mount namespace.
    ///
    /// # Errors
    /// The list of mounts cannot be read.
    pub fn mountpoints(&self) -> Result<Vec<PathBuf>, MountError> {
        let superblock = self.superblock();
        superblock.map_or(Ok(Vec::new()), mount::mounts_of_superblock)
    }

    /// The mount points of the full file system, not of the store alone.
    ///
    /// # Errors
    /// The list of mounts cannot be read.
    pub fn full_mounts(&self) -> Result<Vec<PathBuf>, MountError> {
        let superblock = self.superblock();
        superblock.map_or(Ok(Vec::new()), mount::mounts_of_whole)
    }
}
