//! Publishing in groups: one flush of the database for many paths that arrive together.
//!
//! Invariants: a path that a program waits for, or after which nothing more is arriving, is published at
//! once, with all that is ready. A path of a closure that is copied waits for its references, unless a
//! program waits for it, and fails with them; paths that wait for each other fail once nothing else is
//! coming.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::error::FetchError;
use super::priorities::Urgency;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Publication, Store};
use crate::sync;

/// Bytes of chunks with which a group is published: one flush then writes one large file rather
/// than one for each path.
const BYTES: u64 = 24 << 20;
/// Longest time for which a path waits for others of its group.
const TIME: Duration = Duration::from_secs(1);

type Outcome = Result<(), FetchError>;

/// See the module.
pub(super) struct Publisher {
    store: Arc<Store>,
    paths: Mutex<Paths>,
    /// Held by whoever publishes; meanwhile the next group gathers.
    turn: tokio::sync::Mutex<()>,
    /// Told when a path is handed in.
    pub(super) handed_in: Notify,
}

#[derive(Default)]
struct Paths {
    /// Of a copy, neither ready nor failed: what refers to them waits.
    coming: HashSet<StorePathHash>,
    failed: HashSet<StorePathHash>,
    /// Handed in, and waiting for references.
    waiting: Vec<Handed>,
    /// The next group.
    ready: Vec<Handed>,
}

struct Handed {
    publication: Publication,
    urgency: Arc<Urgency>,
    published: oneshot::Sender<Outcome>,
}

impl Handed {
    fn hash(&self) -> StorePathHash {
        self.publication.registration.path.hash()
    }

    /// The first of the references that is in `set`; unless a program waits for the path.
    fn needs(&self, set: &HashSet<StorePathHash>) -> Option<StorePath> {
        let registration = &self.publication.registration;
        let mut references = registration.references.iter();
        let needs = references.find(|r| **r != registration.path && set.contains(&r.hash()));
        needs.filter(|_| !self.urgency.is_raised()).cloned()
    }

    fn fail(self, error: FetchError) {
        // Its flight may have ended with the runtime.
        let _ = self.published.send(Err(error));
    }
}

impl Paths {
    fn fail(&mut self, hash: StorePathHash) {
        if self.coming.remove(&hash) {
            self.failed.insert(hash);
        }
    }

    /// Sorts out what waits, until nothing more follows.
    fn settle(&mut self) {
        let mut more = true;
        while std::mem::take(&mut more) {
            for handed in std::mem::take(&mut self.waiting) {
                if let Some(missing) = handed.needs(&self.failed) {
                    self.fail(handed.hash());
                    handed.fail(FetchError::Reference(missing));
                } else if handed.needs(&self.coming).is_none() {
                    self.coming.remove(&handed.hash());
                    self.ready.push(handed);
                } else {
                    self.waiting.push(handed);
                    continue;
                }
                more = true;
            }
        }
        if self.waiting.len() == self.coming.len() {
            let circle = std::mem::take(&mut self.coming);
            for handed in std::mem::take(&mut self.waiting) {
                self.failed.insert(handed.hash());
                match handed.needs(&circle) {
                    Some(other) => handed.fail(FetchError::Circle(other)),
                    // A program has begun to wait for it.
                    None => self.ready.push(handed),
                }
            }
        }
    }
}

impl Publisher {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            paths: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            handed_in: Notify::new(),
        }
    }

    fn paths(&self) -> MutexGuard<'_, Paths> {
        sync::lock(&self.paths)
    }

    /// Has paths wait for those of their references that are `coming`, and fail for those that
    /// have `failed`.
    pub(super) fn expect(&self, coming: HashSet<StorePathHash>, failed: HashSet<StorePathHash>) {
        let mut paths = self.paths();
        (paths.coming, paths.failed) = (coming, failed);
    }

    /// One of `references` that has failed.
    pub(super) fn missing(&self, references: &[StorePath]) -> Option<StorePath> {
        let paths = self.paths();
        let mut references = references.iter();
        references
            .find(|r| paths.failed.contains(&r.hash()))
            .cloned()
    }

    /// Notes that a path is not coming.
    pub(super) fn fail(&self, hash: StorePathHash) {
        let mut paths = self.paths();
        paths.fail(hash);
        paths.settle();
    }

    /// Notes that a path is here, whoever brought it.
    pub(super) fn land(&self, hash: StorePathHash) {
        let mut paths = self.paths();
        paths.coming.remove(&hash);
        paths.settle();
    }

    /// Fails what waits for references.
    pub(super) fn stop(&self) {
        for handed in std::mem::take(&mut self.paths().waiting) {
            handed.fail(FetchError::Stopped);
        }
    }

    /// Paths that are handed in and not published.
    pub(super) fn unpublished(&self) -> usize {
        let paths = self.paths();
        paths.waiting.len() + paths.ready.len()
    }

    fn hand_in(
        &self,
        publication: Publication,
        urgency: &Arc<Urgency>,
    ) -> oneshot::Receiver<Outcome> {
        let (sender, published) = oneshot::channel();
        let mut paths = self.paths();
        paths.waiting.push(Handed {
            publication,
            urgency: urgency.clone(),
            published: sender,
        });
        paths.settle();
        self.handed_in.notify_one();
        published
    }

    /// Publishes a path; returns when it can be seen.
    pub(super) async fn publish(
        &self,
        publication: Publication,
        urgency: &Arc<Urgency>,
    ) -> Outcome {
        let mut published = self.hand_in(publication, urgency);
        let is_urgent = || urgency.is_raised() || urgency.is_alone();
        let mut is_due = is_urgent() || self.store.contents().unflushed() >= BYTES;
        loop {
            if is_due {
                self.publish_ready().await;
            }
            tokio::select! {
                outcome = &mut published => return outcome.unwrap_or(Err(FetchError::Stopped)),
                () = urgency.raised(), if !urgency.is_raised() => {}
                () = tokio::time::sleep(TIME) => {}
            }
            is_due = true;
        }
    }

    /// Publishes what is ready, unless another one has meanwhile.
    async fn publish_ready(&self) {
        let _turn = self.turn.lock().await;
        let ready = self.take_ready();
        if ready.is_empty() {
            return;
        }
        let each = ready
            .into_iter()
            .map(|handed| (handed.publication, handed.published));
        let (group, senders): (Vec<_>, Vec<_>) = each.unzip();
        let store = self.store.clone();
        let publishing = tokio::task::spawn_blocking(move || store.paths().publish(&group)).await;
        let outcome = match publishing {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(Arc::new(FetchError::Store(e))),
            Err(_) => Err(Arc::new(FetchError::Stopped)),
        };
        for sender in senders {
            // Its flight may have ended with the runtime.
            let _ = sender.send(outcome.clone().map_err(FetchError::Shared));
        }
        if let Err(error) = outcome {
            // What was handed in meanwhile may refer to these.
            for handed in self.take_ready() {
                handed.fail(error.clone().into());
            }
        }
    }

    fn take_ready(&self) -> Vec<Handed> {
        let mut paths = self.paths();
        // A program may have begun to wait for one.
        paths.settle();
        std::mem::take(&mut paths.ready)
    }
}
