//! Which registered paths running programs use.
//!
//! Invariant: the result never misses a use that /proc shows. For a process that cannot be
//! inspected it includes what the process was last seen to use, and everything that was registered,
//! looked up or read since the process started.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::in_use::{InUse, InUseError, Unseen, Use};
use crate::fuse::Serving;
use crate::nix::store_path::StorePathHash;
use crate::store::{Store, StoreError};

/// What uses a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum User {
    /// A file in /proc or /sys shows the use.
    Seen(PathBuf),
    /// Possibly a process that could not be inspected, by pid.
    Unseen(u32),
}

/// Paths in use, and processes that could not be inspected.
pub(super) struct Usage {
    /// Each path once for each kind of user.
    pub(super) paths: Vec<(StorePathHash, User)>,
    /// Processes that could not be inspected.
    pub(super) unseen: Vec<Unseen>,
}

/// What processes use, if the superblock of our file system is this one.
pub(super) type Scan = fn(Use, Option<u32>) -> Result<InUse, InUseError>;

/// No process, not even one that cannot be inspected: such a one keeps what is newer.
#[cfg(test)]
pub(super) const NOBODY: Scan = |_, _| Ok(InUse::default());

/// Scans for users of the paths of a state.
pub(super) struct Users {
    store: Arc<Store>,
    serving: Arc<Serving>,
    processes: Scan,
}

impl Users {
    pub(super) fn of(store: Arc<Store>, serving: Arc<Serving>, processes: Scan) -> Self {
        Self {
            store,
            serving,
            processes,
        }
    }

    /// Scans all processes.
    ///
    /// # Errors
    /// The thread could not be started, or the database failed.
    pub(super) fn scan(&self, which: Use) -> Result<Usage, StoreError> {
        let mounted = self.serving.numbers();
        let superblock = mounted.map(|(superblock, _)| superblock);
        let found = (self.processes)(which, superblock).map_err(|e| StoreError::InUse(e.into()))?;
        let mut paths = Vec::new();
        for (inode, from) in found.inodes {
            let ordinal = mounted.and_then(|(_, numbers)| numbers.path(inode));
            let path = ordinal.map(|o| self.store.paths().with_ordinal(o));
            let path = match path.transpose() {
                // A collection takes nothing then.
                Err(e) if e.is_damage() => None,
                path => path?,
            };
            if let Some(path) = path.flatten() {
                paths.push((path.hash(), User::Seen(from)));
            }
        }
        let named = found.hashes.into_iter();
        paths.extend(named.map(|(hash, from)| (hash, User::Seen(from))));
        for unseen in &found.unseen {
            let newer = self.store.paths().newer_than(unseen.since)?.into_iter();
            paths.extend(newer.map(|hash| (hash, User::Unseen(unseen.process))));
        }
        Ok(Usage {
            paths,
            unseen: found.unseen,
        })
    }

    /// Paths that a program uses or may open by name later.
    ///
    /// # Errors
    /// See [`Users::scan`].
    pub(super) fn known(&self) -> Result<HashSet<StorePathHash>, StoreError> {
        let usage = self.scan(Use::Known)?;
        Ok(usage.paths.into_iter().map(|(hash, _)| hash).collect())
    }

    /// Paths whose contents a program uses.
    ///
    /// # Errors
    /// See [`Users::scan`].
    pub(super) fn open(&self) -> Result<HashSet<StorePathHash>, StoreError> {
        let usage = self.scan(Use::Open)?;
        Ok(usage.paths.into_iter().map(|(hash, _)| hash).collect())
    }
}
