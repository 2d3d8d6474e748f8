//! Which paths of a state running programs use.
//!
//! Invariant: what is said is never less than what is used, as far as /proc shows it: of a process that
//! cannot be looked at, what it was seen to use last counts, and all that came to be known, was looked
//! up or was read since it began.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::in_use::{Unseen, Use, in_use};
use crate::fuse::Serving;
use crate::nix::store_path::StorePathHash;
use crate::store::{Store, StoreError};

/// What uses a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum User {
    /// What a file in /proc or /sys tells of.
    Seen(PathBuf),
    /// Perhaps a process that cannot be looked at, by its number.
    Unseen(u32),
}

/// Paths in use, and who cannot be looked at.
pub(super) struct Usage {
    /// Each path once for each kind of user.
    pub(super) paths: Vec<(StorePathHash, User)>,
    /// Processes that cannot be looked at.
    pub(super) unseen: Vec<Unseen>,
}

/// Looks for users of the paths of a state.
pub(super) struct Users {
    store: Arc<Store>,
    serving: Arc<Serving>,
}

impl Users {
    pub(super) fn of(store: Arc<Store>, serving: Arc<Serving>) -> Self {
        Self { store, serving }
    }

    /// Looks at all processes.
    ///
    /// # Errors
    /// There is no thread to look on, or the database failed.
    pub(super) fn look(&self, which: Use) -> Result<Usage, StoreError> {
        let mounted = self.serving.numbers();
        let superblock = mounted.map(|(superblock, _)| superblock);
        let found = in_use(which, superblock).map_err(|e| StoreError::InUse(e.into()))?;
        let mut paths = Vec::new();
        for (inode, from) in found.inodes {
            let ordinal = mounted.and_then(|(_, numbers)| numbers.path(inode));
            let path = ordinal
                .map(|o| self.store.paths().with_ordinal(o))
                .transpose()?;
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

    /// Paths that a program uses or may come back to.
    ///
    /// # Errors
    /// As of [`Users::look`].
    pub(super) fn known(&self) -> Result<HashSet<StorePathHash>, StoreError> {
        let usage = self.look(Use::Known)?;
        Ok(usage.paths.into_iter().map(|(hash, _)| hash).collect())
    }

    /// Paths whose contents a program uses.
    ///
    /// # Errors
    /// As of [`Users::look`].
    pub(super) fn open(&self) -> Result<HashSet<StorePathHash>, StoreError> {
        let usage = self.look(Use::Open)?;
        Ok(usage.paths.into_iter().map(|(hash, _)| hash).collect())
    }
}
