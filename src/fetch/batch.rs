//! The paths of one command, fetched by flights that are begun in order and counted together.
//!
//! Invariant: no more is begun than can soon be done, so that the order is kept.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::error::{CopyFailure, FetchError};
use super::fetcher::Inner;
use super::flights::{Need, Outcome};
use super::progress::Progress;
use super::source::Offer;
use crate::nix::store_path::{StorePath, StorePathHash};

/// Paths that are under way at once, those apart that wait to be published: enough that a place
/// for a transfer is taken as soon as it is free.
const BEGUN: usize = 64;

/// Interval between counts of what has arrived.
const COUNT: Duration = Duration::from_millis(100);

/// What a copy or a prefetch found and did.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Paths that were here before.
    pub already: u64,
    /// Their NAR bytes; not counted by a copy.
    pub already_bytes: u64,
    /// Paths that are new.
    pub fetched: u64,
    /// Their NAR bytes.
    pub nar_bytes: u64,
    /// Bytes that the sources sent for them.
    pub fetched_bytes: u64,
    /// Paths that could not be had; the others are here.
    pub failures: Vec<CopyFailure>,
}

/// A path that is not here.
pub(super) struct Missing {
    pub(super) path: StorePath,
    pub(super) nar_size: u64,
    /// What the plan of a copy found.
    pub(super) offer: Option<Arc<Offer>>,
}

/// See the module.
pub(super) struct Batch<'a> {
    inner: &'a Arc<Inner>,
    pub(super) progress: &'a Progress,
    pub(super) unbegun: VecDeque<Missing>,
    fetching: JoinSet<(Missing, Outcome)>,
    /// Progress of our own flights.
    flying: HashMap<StorePathHash, Arc<Progress>>,
    pub(super) done: Fetched,
}

impl<'a> Batch<'a> {
    pub(super) fn new(inner: &'a Arc<Inner>, progress: &'a Progress) -> Self {
        Self {
            inner,
            progress,
            unbegun: VecDeque::new(),
            fetching: JoinSet::new(),
            flying: HashMap::new(),
            done: Fetched::default(),
        }
    }

    /// Begins as many as may be under way, those apart that wait to be published.
    pub(super) fn begin(&mut self) {
        while self.fetching.len() < BEGUN + self.inner.publisher.unpublished()
            && let Some(missing) = self.unbegun.pop_front()
        {
            let (inner, need) = (self.inner.clone(), Need::Contents(missing.path.clone()));
            let offer = missing.offer.clone();
            let waiting = inner.join(&need, false, offer.as_ref());
            if inner.is_own(&waiting.0) {
                let progress = waiting.0.progress.clone();
                self.flying.insert(missing.path.hash(), progress);
            }
            self.fetching.spawn(async move {
                let met = inner.met(waiting, &need, false, offer.as_ref()).await;
                (missing, met)
            });
        }
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.fetching.is_empty()
    }

    /// Whether flights of this fetcher are under way for it.
    pub(super) fn is_flying(&self) -> bool {
        !self.flying.is_empty()
    }

    /// Waits until a path is published or fails, until others may be begun, or for a moment.
    ///
    /// # Errors
    /// What ends a whole copy.
    pub(super) async fn step(&mut self) -> Result<(), FetchError> {
        tokio::select! {
            Some(landed) = self.fetching.join_next() => {
                let (missing, outcome) = landed.map_err(|_| FetchError::Stopped)?;
                self.land(missing, outcome)?;
            }
            () = self.inner.publisher.handed_in.notified() => {}
            () = tokio::time::sleep(COUNT) => {}
        }
        self.count();
        Ok(())
    }

    fn land(&mut self, missing: Missing, outcome: Outcome) -> Result<(), FetchError> {
        let (hash, is_copy) = (missing.path.hash(), missing.offer.is_some());
        if let Some(flight) = self.flying.remove(&hash) {
            self.done.fetched_bytes += flight.fetched_bytes.load(Ordering::Relaxed);
        }
        let is_done = outcome.is_ok() || !is_copy;
        let paths_done = &self.progress.paths_done;
        paths_done.fetch_add(u64::from(is_done), Ordering::Relaxed);
        match outcome {
            Ok(()) => {
                self.inner.publisher.land(hash);
                self.done.fetched += 1;
                self.done.nar_bytes += missing.nar_size;
            }
            Err(error) if is_copy && error.is_final() => return Err(error.into()),
            Err(error) => {
                self.inner.publisher.fail(hash);
                let (path, error) = (Some(missing.path), error.into());
                self.done.failures.push(CopyFailure { hash, path, error });
            }
        }
        Ok(())
    }

    /// Adds up what has arrived, of flights that are under way too.
    fn count(&self) {
        let flying = |part: fn(&Progress) -> &AtomicU64| {
            let each = self.flying.values();
            each.map(|p| part(p).load(Ordering::Relaxed)).sum::<u64>()
        };
        let unpacked = self.done.nar_bytes + flying(|p| &p.nar_bytes_done);
        let progress = self.progress;
        progress.nar_bytes_done.store(unpacked, Ordering::Relaxed);
        let fetched = self.done.fetched_bytes + flying(|p| &p.fetched_bytes);
        progress.fetched_bytes.store(fetched, Ordering::Relaxed);
    }
}
