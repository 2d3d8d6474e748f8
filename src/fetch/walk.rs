//! The walk over closures: breadth first over references, each path once, several paths at a time.
//!
//! Invariant: no collection takes what was seen, as long as the walk or what it kept is there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;

use tokio::task::JoinSet;

use super::error::FetchError;
use super::source::Asked;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Store, TemporaryRoots};

/// What was asked for, and what is found of it: `T`, or why nothing is.
pub(super) type Found<T> = (Asked, Result<T, FetchError>);

/// Looks at a path.
type Look<T> = dyn Fn(Asked) -> Pin<Box<dyn Future<Output = Found<T>> + Send>> + Send + Sync;

/// A walk whose caller says which references of what is found are followed.
pub(super) struct Walk<T> {
    at_once: usize,
    look: Box<Look<T>>,
    unseen: VecDeque<StorePathHash>,
    names: HashMap<StorePathHash, StorePath>,
    seen: HashSet<StorePathHash>,
    looking: JoinSet<Found<T>>,
    kept: TemporaryRoots,
}

impl<T: Send + 'static> Walk<T> {
    /// A walk from nowhere yet, on which so many paths are looked at `at_once`.
    pub(super) fn new<F>(
        store: &Store,
        at_once: usize,
        look: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<T, FetchError>> + Send + 'static,
    {
        let look = move |asked: Asked| {
            let found = look(asked.clone());
            Box::pin(async move { (asked, found.await) }) as Pin<Box<_>>
        };
        Self {
            at_once,
            look: Box::new(look),
            unseen: VecDeque::new(),
            names: HashMap::new(),
            seen: HashSet::new(),
            looking: JoinSet::new(),
            kept: store.roots().temporary(),
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

    /// What is found next; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// A look panicked, so that the path would be left out silently.
    pub(super) async fn found(&mut self) -> Option<Result<Found<T>, FetchError>> {
        while self.looking.len() < self.at_once
            && let Some(hash) = self.unseen.pop_front()
        {
            if self.seen.insert(hash) {
                self.kept.add(hash);
                let path = self.names.remove(&hash);
                self.looking.spawn((self.look)(Asked { hash, path }));
            }
        }
        let found = self.looking.join_next().await?;
        Some(found.map_err(|_| FetchError::Stopped))
    }

    /// Whether nothing is left to be found.
    pub(super) fn is_done(&self) -> bool {
        self.looking.is_empty() && self.unseen.is_empty()
    }

    /// What keeps all that was seen from being collected.
    pub(super) fn into_kept(self) -> TemporaryRoots {
        self.kept
    }
}
