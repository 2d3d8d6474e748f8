//! An open state, and what requests on it need.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::network_state::Network;
use super::users::Users;
use crate::command::{Failure, Output, SourceRequest, chain};
use crate::fetch::{Budget, CopyFailure, Keep, Progress, Snapshot};
use crate::fs::{FileSystem, Recorder};
use crate::fuse::Serving;
use crate::nix::store_path::StorePath;
use crate::store::Store;
use crate::sync;

/// Time between two reports of how far a request is.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// An open state and what requests on it need.
pub struct Engine {
    pub(crate) store: Arc<Store>,
    pub(super) network: Network,
    pub(crate) budget: Arc<Budget>,
    /// Who knows what running programs use.
    pub(super) users: Arc<Users>,
    pub(crate) recorder: Arc<Recorder>,
    /// What of the state is mounted.
    pub(crate) serving: Arc<Serving>,
    running: Mutex<Vec<Arc<Progress>>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?})", self.store)
    }
}

impl Engine {
    /// An engine for a state that this process owns, with the sources of commands that name none
    /// and the budget of the state, in bytes.
    pub fn new(store: Arc<Store>, defaults: SourceRequest, budget: Option<u64>) -> Self {
        let serving: Arc<Serving> = Arc::default();
        let users = Arc::new(Users::of(store.clone(), serving.clone()));
        let (rooted, looked) = (store.clone(), users.clone());
        let rooted = move || {
            let pins = rooted.roots().pins()?;
            let mut roots: Vec<_> = pins.iter().map(|p| p.path.hash()).collect();
            let generations = rooted.profiles().roots()?;
            roots.extend(generations.iter().map(StorePath::hash));
            let closure = rooted.paths().closure(roots)?;
            let hashes = closure.iter().map(|i| i.registration.path.hash());
            Ok(hashes.collect())
        };
        let keep = Keep {
            rooted: Box::new(rooted),
            in_use: Box::new(move || looked.open()),
        };
        Self {
            budget: Arc::new(Budget::new(store.clone(), budget, keep)),
            users,
            store,
            network: Network {
                defaults,
                ..Network::default()
            },
            recorder: Arc::default(),
            serving,
            running: Mutex::default(),
        }
    }

    /// The file system, for one connection.
    pub fn file_system(&self) -> FileSystem {
        let (store, fetcher) = (self.store.clone(), self.fetcher().cloned());
        FileSystem::new(store, fetcher, self.recorder.clone())
    }

    /// Does something that takes long on a thread of its own, and shows how far it is; nobody who
    /// listens any more stops it.
    pub(super) fn showing<T: Send>(
        &self,
        output: &mut dyn Output,
        work: impl FnOnce(&Arc<Progress>) -> T + Send,
    ) -> T {
        let progress = Arc::new(Progress::default());
        self.running().push(progress.clone());
        let outcome = std::thread::scope(|scope| {
            let working = scope.spawn(|| work(&progress));
            while !working.is_finished() {
                std::thread::sleep(PROGRESS_EVERY);
                if output.progress(&progress.snapshot()).is_err() {
                    progress.stop.store(true, Ordering::Relaxed);
                }
            }
            working
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        self.running().retain(|p| !Arc::ptr_eq(p, &progress));
        outcome
    }

    pub(super) fn failures(&self, failures: &[CopyFailure]) -> Vec<Failure> {
        let each = failures.iter().map(|f| Failure {
            path: match &f.path {
                Some(path) => self.full(path),
                None => f.hash.to_string(),
            },
            error: chain(&f.error),
        });
        each.collect()
    }

    /// A path with its store directory.
    pub fn full(&self, path: &StorePath) -> String {
        path.to_full(self.store.store_dir())
    }

    fn running(&self) -> MutexGuard<'_, Vec<Arc<Progress>>> {
        sync::lock(&self.running)
    }

    /// How many copies and prefetches run now.
    pub fn running_commands(&self) -> u64 {
        self.running().len() as u64
    }

    /// How far the copies and prefetches are that run now.
    pub fn progress(&self) -> Vec<Snapshot> {
        self.running().iter().map(|p| p.snapshot()).collect()
    }
}
