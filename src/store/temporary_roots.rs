//! Temporary roots: paths that a running command counts on, and that no collection removes.
//!
//! Invariant: a path that was added here before it was looked for is there as long as the root, if
//! it was found. A collection takes what is here into account for each path that it removes, with
//! all that is referred to, and what was here for a moment while it runs until it ends: what a
//! command has made permanent meanwhile, a pin or a generation, it need not have seen.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::{Store, lock};
use crate::nix::store_path::StorePathHash;

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

    fn note(&mut self, hash: StorePathHash) {
        if let Some(news) = &mut self.news {
            news.insert(hash);
        }
    }
}

/// Temporary roots of one command, until dropped.
#[derive(Debug)]
pub struct TemporaryRoots {
    relied: Arc<Mutex<TemporaryHashes>>,
    own: Mutex<HashSet<StorePathHash>>,
}

impl TemporaryRoots {
    /// Keeps a path, and what it refers to, if it is there. Whoever wants to find it adds it
    /// first.
    pub fn add(&self, hash: StorePathHash) {
        if lock(&self.own).insert(hash) {
            let mut relied = lock(&self.relied);
            *relied.counts.entry(hash).or_default() += 1;
            relied.note(hash);
        }
    }
}

impl Drop for TemporaryRoots {
    fn drop(&mut self) {
        let own = std::mem::take(&mut *lock(&self.own));
        let mut relied = lock(&self.relied);
        for hash in own {
            if let Some(count) = relied.counts.get_mut(&hash) {
                *count -= 1;
                if *count == 0 {
                    relied.counts.remove(&hash);
                }
            }
        }
    }
}

/// Has all that is relied on told to a collection, until dropped.
pub(super) struct Listening(Arc<Mutex<TemporaryHashes>>);

impl Drop for Listening {
    fn drop(&mut self) {
        lock(&self.0).news = None;
    }
}

impl Store {
    /// Begins to count on paths; none yet.
    pub fn temporary_roots(&self) -> TemporaryRoots {
        TemporaryRoots {
            relied: self.relied.clone(),
            own: Mutex::default(),
        }
    }

    /// Has a running collection know of what is about to be published, or to be a permanent root.
    pub(super) fn note_roots(&self, roots: impl IntoIterator<Item = StorePathHash>) {
        let mut relied = lock(&self.relied);
        roots.into_iter().for_each(|hash| relied.note(hash));
    }

    /// Whoever collects listens before it looks for roots; one at a time.
    pub(super) fn listen_for_roots(&self) -> Listening {
        let mut relied = lock(&self.relied);
        relied.news = Some(relied.counts.keys().copied().collect());
        Listening(self.relied.clone())
    }
}
