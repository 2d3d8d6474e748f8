//! Temporary roots: paths that a running command counts on, and that no collection removes.
//!
//! Invariant: a path that was added here before it was looked for is there as long as the root, if
//! it was found. A collection takes what is here into account for each path that it removes, with
//! all that is referred to, and what was here for a moment while it runs until it ends: what a
//! command has made permanent meanwhile, a pin or a generation, it need not have seen.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::nix::store_path::StorePathHash;
use crate::sync::lock;

/// What all commands on a state count on.
#[derive(Debug, Default)]
pub(super) struct TemporaryHashes {
    /// For each path, how many roots it has.
    counts: HashMap<StorePathHash, u32>,
    /// While a collection runs: what it has not taken into account yet.
    news: Option<HashSet<StorePathHash>>,
}

impl TemporaryHashes {
    /// What is new since it was asked last.
    pub(super) fn take_news(&mut self) -> HashSet<StorePathHash> {
        let news = self.news.as_mut();
        news.map(std::mem::take).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.counts.len()
    }

    fn note(&mut self, hash: StorePathHash) {
        if let Some(news) = &mut self.news {
            news.insert(hash);
        }
    }
}

/// The temporary roots of all commands on a state. Held locked while a path is collected.
#[derive(Clone, Debug, Default)]
pub(super) struct AllTemporaryRoots(Arc<Mutex<TemporaryHashes>>);

impl AllTemporaryRoots {
    /// Temporary roots for one more command; none yet.
    pub(super) fn begin(&self) -> TemporaryRoots {
        TemporaryRoots {
            all: self.clone(),
            own: Mutex::default(),
        }
    }

    /// Has a running collection know of what is about to be published, or to be a permanent root.
    pub(super) fn note(&self, roots: impl IntoIterator<Item = StorePathHash>) {
        let mut all = self.lock();
        roots.into_iter().for_each(|hash| all.note(hash));
    }

    /// Whoever collects listens before it looks for roots; one at a time.
    pub(super) fn listen(&self) -> Listening {
        let mut all = self.lock();
        all.news = Some(all.counts.keys().copied().collect());
        Listening(self.clone())
    }

    /// Keeps all temporary roots as they are, until dropped.
    pub(super) fn lock(&self) -> MutexGuard<'_, TemporaryHashes> {
        lock(&self.0)
    }
}

/// Temporary roots of one command, until dropped.
#[derive(Debug)]
pub struct TemporaryRoots {
    all: AllTemporaryRoots,
    own: Mutex<HashSet<StorePathHash>>,
}

impl TemporaryRoots {
    /// Keeps a path, and what it refers to, if it is there. Whoever wants to find it adds it
    /// first.
    pub fn add(&self, hash: StorePathHash) {
        if lock(&self.own).insert(hash) {
            let mut all = self.all.lock();
            *all.counts.entry(hash).or_default() += 1;
            all.note(hash);
        }
    }

    /// How many paths are kept.
    pub fn count(&self) -> usize {
        lock(&self.own).len()
    }
}

impl Drop for TemporaryRoots {
    fn drop(&mut self) {
        let own = std::mem::take(&mut *lock(&self.own));
        let mut all = self.all.lock();
        for hash in own {
            if let Some(count) = all.counts.get_mut(&hash) {
                *count -= 1;
                if *count == 0 {
                    all.counts.remove(&hash);
                }
            }
        }
    }
}

/// Has every temporary root told to a collection, until dropped.
#[derive(Debug)]
pub(super) struct Listening(AllTemporaryRoots);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.lock().news = None;
    }
}
