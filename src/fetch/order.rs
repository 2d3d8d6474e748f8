//! The order of a copy: references before what refers to them.
//!
//! Invariants: no path of the copy is handed in for publication before its references are, unless
//! a program waits for it; what refers to a path that failed fails, without a request if it can;
//! and paths that wait for each other fail once nothing else is on its way.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use super::error::FetchError;
use super::priorities::Urgency;
use crate::nix::narinfo::NarInfo;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::sync;

/// What the flights of a copy know of each other.
pub(super) struct Order {
    /// Whether paths wait for their references. They do where whole closures were asked for.
    recursive: bool,
    /// Set to end the flights of the copy.
    pub(super) stop: Arc<AtomicBool>,
    paths: Mutex<Paths>,
    changed: watch::Sender<()>,
}

struct Paths {
    /// Neither handed in nor failed.
    coming: HashSet<StorePathHash>,
    /// Of these, those that have arrived and wait for their references.
    waiting: HashMap<StorePathHash, Vec<StorePath>>,
    failed: HashSet<StorePathHash>,
    /// Those that wait for each other, once nothing else is coming.
    circle: HashSet<StorePathHash>,
}

/// The first of `references` that is another path than `hash` and in `set`.
fn first_in<'r>(
    set: &HashSet<StorePathHash>,
    hash: StorePathHash,
    references: &'r [StorePath],
) -> Option<&'r StorePath> {
    let others = references.iter().filter(|r| r.hash() != hash);
    others.into_iter().find(|r| set.contains(&r.hash()))
}

impl Paths {
    fn remove(&mut self, hash: StorePathHash) {
        self.coming.remove(&hash);
        self.waiting.remove(&hash);
    }

    fn fail(&mut self, hash: StorePathHash) {
        self.remove(hash);
        self.failed.insert(hash);
    }

    /// Fails if a reference did, or if it waits for this path. `None` where one is still coming.
    fn judge(
        &mut self,
        hash: StorePathHash,
        needed: &[StorePath],
    ) -> Option<Result<(), FetchError>> {
        if let Some(other) = first_in(&self.circle, hash, needed) {
            return Some(Err(FetchError::Circle(other.clone())));
        }
        if let Some(missing) = first_in(&self.failed, hash, needed) {
            return Some(Err(FetchError::Reference(missing.clone())));
        }
        let other = first_in(&self.coming, hash, needed);
        let Some(other) = other else {
            return Some(Ok(()));
        };
        let hangs = |(hash, needed): (&StorePathHash, &Vec<StorePath>)| {
            let of = |set| first_in(set, *hash, needed);
            of(&self.failed).is_none() && of(&self.coming).is_some()
        };
        if self.waiting.len() == self.coming.len() && self.waiting.iter().all(hangs) {
            self.circle = self.coming.clone();
            return Some(Err(FetchError::Circle(other.clone())));
        }
        None
    }
}

impl Order {
    /// An order of paths that are `coming`, where others have `failed` already.
    pub(super) fn new(
        recursive: bool,
        coming: HashSet<StorePathHash>,
        failed: HashSet<StorePathHash>,
    ) -> Self {
        Self {
            recursive,
            stop: Arc::default(),
            paths: Mutex::new(Paths {
                coming,
                waiting: HashMap::new(),
                failed,
                circle: HashSet::new(),
            }),
            changed: watch::Sender::default(),
        }
    }

    fn paths(&self) -> MutexGuard<'_, Paths> {
        sync::lock(&self.paths)
    }

    fn needed<'i>(&self, info: &'i NarInfo) -> &'i [StorePath] {
        if self.recursive {
            &info.references
        } else {
            &[]
        }
    }

    /// Tells when paths have arrived or failed.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Paths that have neither arrived nor failed.
    pub(super) fn absent(&self) -> usize {
        let paths = self.paths();
        paths.coming.len().saturating_sub(paths.waiting.len())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends the flights of the copy.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.changed.send_replace(());
    }

    /// Notes that a path is not coming.
    pub(super) fn fail(&self, hash: StorePathHash) {
        self.paths().fail(hash);
        self.changed.send_replace(());
    }

    /// Notes that a path is here, whoever brought it.
    pub(super) fn land(&self, hash: StorePathHash) {
        self.paths().remove(hash);
        self.changed.send_replace(());
    }

    /// Says whether a path is still worth a request.
    ///
    /// # Errors
    /// The copy was stopped, or a reference of the path failed.
    pub(super) fn check(&self, info: &NarInfo) -> Result<(), FetchError> {
        if self.is_stopped() {
            return Err(FetchError::Stopped);
        }
        let paths = self.paths();
        let missing = first_in(&paths.failed, info.store_path.hash(), self.needed(info));
        missing.map_or(Ok(()), |r| Err(FetchError::Reference(r.clone())))
    }

    /// Does `hand_in` for a path that has arrived, as soon as its references are handed in or a
    /// program waits for it.
    ///
    /// # Errors
    /// A reference failed, or waits for this path; or the copy was stopped.
    pub(super) async fn after_references<T>(
        &self,
        info: &NarInfo,
        urgency: &Urgency,
        hand_in: impl FnOnce() -> T,
    ) -> Result<T, FetchError> {
        let (hash, needed) = (info.store_path.hash(), self.needed(info));
        self.paths().waiting.insert(hash, needed.to_vec());
        self.changed.send_replace(());
        let mut changed = self.changes();
        while !urgency.is_raised() {
            let judged = self.paths().judge(hash, needed);
            match judged {
                Some(judged) => {
                    judged?;
                    break;
                }
                None if self.is_stopped() => return Err(FetchError::Stopped),
                None => tokio::select! {
                    _ = changed.changed() => {}
                    () = urgency.raised() => {}
                },
            }
        }
        // Under the lock: what refers to it is handed in later.
        let mut paths = self.paths();
        paths.remove(hash);
        let handed = hand_in();
        drop(paths);
        self.changed.send_replace(());
        Ok(handed)
    }
}
