//! Paths that one command or one mount brings together: begun in their order, and counted.
//!
//! Invariant: no more is begun than can soon be done, so that the order is kept.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::error::{CopyFailure, FetchError};
use super::fetcher::{Inner, Planned};
use super::flights::{Need, Outcome};
use super::order::Order;
use super::progress::Progress;
use super::sources::Offer;
use crate::nix::store_path::{StorePath, StorePathHash};

/// Paths that are begun and have not arrived: enough that a place that gets free is taken at once,
/// while others wait to be published together.
const BEGUN: usize = 64;

/// What a copy or a prefetch found and did.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Paths that were here before.
    pub already: u64,
    /// Their NAR bytes, as far as somebody wants to know.
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
    /// The order of a copy.
    order: Option<Arc<Order>>,
    pub(super) unbegun: VecDeque<Missing>,
    fetching: JoinSet<(Missing, Outcome)>,
    /// Progress of our own flights.
    flying: HashMap<StorePathHash, Arc<Progress>>,
    pub(super) done: Fetched,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        inner: &'a Arc<Inner>,
        progress: &'a Progress,
        order: Option<Arc<Order>>,
    ) -> Self {
        Self {
            inner,
            progress,
            order,
            unbegun: VecDeque::new(),
            fetching: JoinSet::new(),
            flying: HashMap::new(),
            done: Fetched::default(),
        }
    }

    /// Begins as many as may be under way.
    pub(super) fn begin(&mut self) {
        loop {
            let begun = match &self.order {
                // What has arrived and waits, maybe for what is not begun, does not count.
                Some(order) => order.absent().saturating_sub(self.unbegun.len()),
                None => self.fetching.len(),
            };
            if begun >= BEGUN {
                return;
            }
            let Some(missing) = self.unbegun.pop_front() else {
                return;
            };
            let planned = missing.offer.clone().zip(self.order.clone());
            let planned = planned.map(|(offer, order)| Planned { offer, order });
            let (inner, need) = (self.inner.clone(), Need::Contents(missing.path.clone()));
            let waiting = inner.join(&need, false, planned.as_ref());
            if inner.is_own(&waiting.0) {
                let progress = waiting.0.progress.clone();
                self.flying.insert(missing.path.hash(), progress);
            }
            self.fetching.spawn(async move {
                let met = inner.met(waiting, &need, false, planned.as_ref()).await;
                (missing, met)
            });
        }
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.fetching.is_empty()
    }

    /// Waits for the next path to arrive or to fail; `None` when nothing is under way. Cancel safe.
    ///
    /// # Errors
    /// A failure that ends the whole copy.
    pub(super) async fn arrival(&mut self) -> Option<Result<(), FetchError>> {
        let arrived = self.fetching.join_next().await?;
        Some(match arrived {
            Ok((missing, outcome)) => self.arrive(missing, outcome),
            Err(_) => Err(FetchError::Stopped),
        })
    }

    fn arrive(&mut self, missing: Missing, outcome: Outcome) -> Result<(), FetchError> {
        let hash = missing.path.hash();
        if let Some(flight) = self.flying.remove(&hash) {
            self.done.fetched_bytes += flight.fetched_bytes.load(Ordering::Relaxed);
        }
        match (outcome, &self.order) {
            (Ok(()), order) => {
                if let Some(order) = order {
                    order.land(hash);
                }
                self.done.fetched += 1;
                self.done.nar_bytes += missing.nar_size;
                self.progress.paths_done.fetch_add(1, Ordering::Relaxed);
            }
            (Err(error), Some(_)) if error.is_final() => return Err(error.into()),
            (Err(error), order) => {
                match order {
                    Some(order) => order.fail(hash),
                    None => _ = self.progress.paths_done.fetch_add(1, Ordering::Relaxed),
                }
                let (path, error) = (Some(missing.path), error.into());
                self.done.failures.push(CopyFailure { hash, path, error });
            }
        }
        self.count();
        Ok(())
    }

    /// Adds up what has arrived, flights in the air included.
    pub(super) fn count(&self) {
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
