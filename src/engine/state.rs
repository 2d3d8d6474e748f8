//! The engine: an open state and the resources of its requests.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::in_use::in_use;
use super::network_state::Network;
use super::users::{Scan, Users};
use crate::command::{Failure, Output, SourceRequest, chain};
use crate::fetch::{Budget, CopyFailure, Keep, Progress, Snapshot};
use crate::fs::{FileSystem, Recorder};
use crate::fuse::Serving;
use crate::nix::store_path::StorePath;
use crate::store::{Rebuilt, Store};
use crate::sync;

/// Interval of progress reports.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

pub struct Engine {
    pub(crate) store: Arc<Store>,
    pub(super) network: Network,
    pub(crate) budget: Arc<Budget>,
    /// Scans for what running programs use.
    pub(super) users: Arc<Users>,
    pub(crate) recorder: Arc<Recorder>,
    /// The mounts of the state.
    pub(crate) serving: Arc<Serving>,
    running: Mutex<Vec<Arc<Progress>>>,
    /// What came of the database where it had to be made anew, until that is reported.
    pub(super) rebuilt: Mutex<Option<Rebuilt>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?})", self.store)
    }
}

impl Engine {
    /// An engine for a state owned by this process, with default sources for commands and the
    /// budget of stored bytes.
    pub fn new(store: Arc<Store>, defaults: SourceRequest, budget: Option<u64>) -> Self {
        Self::among(in_use, store, defaults, budget)
    }

    /// An engine that sees these processes.
    pub(super) fn among(
        processes: Scan,
        store: Arc<Store>,
        defaults: SourceRequest,
        budget: Option<u64>,
    ) -> Self {
        let serving: Arc<Serving> = Arc::default();
        let users = Arc::new(Users::of(store.clone(), serving.clone(), processes));
        let (rooted, looked) = (store.clone(), users.clone());
        let rooted = move || {
            let pins = rooted.roots().pins()?;
            let mut roots: Vec<_> = pins.iter().map(|p| p.path.hash()).collect();
            let generations = rooted.profiles().roots()?;
            roots.extend(generations.iter().map(StorePath::hash));
            let closure = rooted.paths().readable_closure(roots)?;
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
            rebuilt: Mutex::default(),
        }
    }

    /// The file system, for one connection.
    pub fn file_system(&self) -> FileSystem {
        let (store, fetcher) = (self.store.clone(), self.fetcher().cloned());
        FileSystem::new(store, fetcher, self.recorder.clone())
    }

    /// Runs a long operation on another thread and reports its progress; a closed connection stops
    /// it.
    pub(super) fn with_progress<T: Send>(
        &self,
        output: &mut dyn Output,
        work: impl FnOnce(&Arc<Progress>) -> T + Send,
    ) -> T {
        let progress = Arc::new(Progress::default());
        self.running().push(progress.clone());
        let outcome = std::thread::scope(|scope| {
            let (ended, end) = channel::<()>();
            let working = scope.spawn(|| {
                // Dropped at the end, also by a panic.
                let _ended = ended;
                work(&progress)
            });
            while end.recv_timeout(PROGRESS_EVERY) == Err(RecvTimeoutError::Timeout) {
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

    /// Number of copies and prefetches in progress.
    pub fn running_commands(&self) -> u64 {
        self.running().len() as u64
    }

    /// Progress of the copies and prefetches.
    pub fn progress(&self) -> Vec<Snapshot> {
        self.running().iter().map(|p| p.snapshot()).collect()
    }
}
