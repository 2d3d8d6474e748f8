//! The walk over closures: breadth first over references, each path once, several looked at a time.
//!
//! Invariant: no collection takes what was seen, as long as the walk or what it kept is there.

use std::collections::{HashMap, HashSet, VecDeque};

use tokio::task::JoinSet;

use super::error::FetchError;
use super::sources::Asked;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Store, TemporaryRoots};

/// What is found of a path: `T`, or why nothing is.
pub(super) type Found<T> = (Asked, Result<T, FetchError>);

/// A walk whose caller says how to look at a path, and which references to follow.
pub(super) struct Walk<T> {
    at_once: usize,
    unseen: VecDeque<StorePathHash>,
    names: HashMap<StorePathHash, StorePath>,
    seen: HashSet<StorePathHash>,
    looking: JoinSet<Found<T>>,
    kept: TemporaryRoots,
}

impl<T: Send + 'static> Walk<T> {
    /// A walk that looks at so many paths `at_once`, from nowhere yet.
    pub(super) fn new(store: &Store, at_once: usize) -> Self {
        Self {
            at_once,
            unseen: VecDeque::new(),
            names: HashMap::new(),
            seen: HashSet::new(),
            looking: JoinSet::new(),
            kept: store.temporary_roots(),
        }
    }

    /// Goes on to these paths, after all that are known already.
    pub(super) fn add(
        &mut self,
        paths: impl IntoIterator<Item = (StorePathHash, Option<StorePath>)>,
    ) {
        for (hash, path) in paths {
            self.unseen.push_back(hash);
            self.names.extend(path.map(|path| (hash, path)));
        }
    }

    /// Goes on to these paths, under their names.
    pub(super) fn add_named(&mut self, paths: &[StorePath]) {
        self.add(paths.iter().map(|path| (path.hash(), Some(path.clone()))));
    }

    /// Goes on to whatever has the hashes of these paths.
    pub(super) fn add_hashes(&mut self, paths: &[StorePath]) {
        self.add(paths.iter().map(|path| (path.hash(), None)));
    }

    /// The next path to look at, unless as many are being looked at as may be.
    pub(super) fn next(&mut self) -> Option<Asked> {
        while self.looking.len() < self.at_once {
            let hash = self.unseen.pop_front()?;
            if self.seen.insert(hash) {
                self.kept.add(hash);
                let path = self.names.remove(&hash);
                return Some(Asked { hash, path });
            }
        }
        None
    }

    /// Looks at a path.
    pub(super) fn look(
        &mut self,
        asked: Asked,
        looking: impl Future<Output = Result<T, FetchError>> + Send + 'static,
    ) {
        self.looking.spawn(async move { (asked, looking.await) });
    }

    /// What is found next; `None` when nothing is being looked at. Cancel safe.
    ///
    /// # Errors
    /// Looking panicked: the path must not be missing without a word.
    pub(super) async fn found(&mut self) -> Option<Result<Found<T>, FetchError>> {
        let found = self.looking.join_next().await?;
        Some(found.map_err(|_| FetchError::Stopped))
    }

    /// Whether nothing is being looked at.
    pub(super) fn is_idle(&self) -> bool {
        self.looking.is_empty()
    }

    /// What keeps all that was seen from being collected.
    pub(super) fn into_kept(self) -> TemporaryRoots {
        self.kept
    }
}
