//! A fetcher: fetches into a state from the sources of a mount or of a command.
//!
//! Invariants: every path comes by a flight; a flight goes on when those who waited for it give up,
//! unless its copy was stopped; a fetcher that waited for a flight of another fetcher asks its own
//! sources where that flight fails.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::budget::Budget;
use super::doubts::Doubts;
use super::error::FetchError;
use super::flights::{Flight, Flights, Landing, Need, Outcome, Waiting};
use super::offers::Offers;
use super::options::{Deadlines, FetchOptions, PrefetchPolicy};
use super::outcomes::Outcomes;
use super::priorities::Priorities;
use super::publish::Publisher;
use super::race;
use super::rate_limit::RateLimit;
use super::source::{Asked, Offer, Trust};
use super::sources::Sources;
use super::transfer::{Among, Errand};
use super::walk::Walk;
use crate::nix::listing;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Contents, PathInfo, RootKind, Store};

/// Narinfos of a closure that are asked for at once in the background.
const BACKGROUND: usize = 8;
/// Time for which a failure answers further requests for the same. The kernel passes on lookups of
/// one name one after the other: each would wait for the whole deadline in its turn.
const FAILED: Duration = Duration::from_millis(500);
/// Failures that are remembered.
const FAILURES: usize = 1 << 10;
/// Time between two failures that are logged.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// The state that is fetched into, and what all fetchers into it share.
#[derive(Clone, Debug)]
pub struct Destination {
    pub store: Arc<Store>,
    /// For the network.
    pub runtime: Handle,
    pub budget: Arc<Budget>,
    pub flights: Arc<Flights>,
}

pub(super) struct Inner {
    pub(super) to: Destination,
    pub(super) offers: Arc<Offers>,
    pub(super) deadlines: Deadlines,
    pub(super) prefetch: PrefetchPolicy,
    pub(super) priorities: Arc<Priorities>,
    pub(super) publisher: Arc<Publisher>,
    /// Set to end all flights, where the fetcher is that of one copy.
    pub(super) stop: Arc<AtomicBool>,
    failed: Cache<Need, (Instant, Arc<FetchError>)>,
    pub(super) background: Semaphore,
    pub(super) doubts: Doubts,
    /// Paths whose closures are being fetched ahead, or were.
    pub(super) followed: Mutex<HashSet<StorePathHash>>,
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    /// Bytes of the transfers that have ended.
    pub(super) fetched: AtomicU64,
    pub(super) outcomes: Outcomes,
    log_limit: RateLimit,
    /// Whether the caller reports failures to the user.
    quiet: AtomicBool,
}

/// Fetches what is asked for.
#[derive(Clone)]
pub struct Fetcher(pub(super) Arc<Inner>);

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.offers.sources.fmt(f)
    }
}

impl Fetcher {
    /// A fetcher for programs. No source is asked before something is needed.
    pub fn new(to: Destination, options: &FetchOptions) -> Self {
        let sources = Sources::new(options);
        let priorities = Priorities::for_programs(sources.urls().count(), options.prefetch);
        Self::with(to, sources, options, priorities)
    }

    /// A fetcher for one copy, from sources that have answered; `jobs` NARs are transferred at once.
    pub fn for_copy(to: Destination, sources: Sources, trust: Trust, jobs: usize) -> Self {
        let options = FetchOptions {
            urls: Vec::new(),
            trust,
            netrc: None,
            deadlines: Deadlines::default(),
            prefetch: PrefetchPolicy::None,
        };
        let priorities = Priorities::for_copy(jobs.max(1), sources.urls().count());
        Self::with(to, sources, &options, priorities).quiet()
    }

    fn with(
        to: Destination,
        sources: Sources,
        options: &FetchOptions,
        priorities: Arc<Priorities>,
    ) -> Self {
        let (trust, store_dir) = (options.trust.clone(), to.store.store_dir().clone());
        let offers = Offers::new(sources, trust, store_dir, options.deadlines.absent);
        Self(Arc::new(Inner {
            publisher: Arc::new(Publisher::new(to.store.clone())),
            offers: Arc::new(offers),
            to,
            deadlines: options.deadlines,
            prefetch: options.prefetch,
            priorities,
            stop: Arc::default(),
            failed: Cache::new(FAILURES),
            background: Semaphore::new(BACKGROUND),
            doubts: Doubts::new(options.deadlines.absent),
            followed: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            outcomes: Outcomes::default(),
            log_limit: RateLimit::new(LOG_EVERY),
            quiet: AtomicBool::new(false),
        }))
    }

    /// The same fetcher, whose caller reports failures to the user.
    #[must_use]
    pub fn quiet(self) -> Self {
        self.0.quiet.store(true, Ordering::Relaxed);
        self
    }

    /// The path with a hash (and a name, if one is given), from the state or the sources.
    ///
    /// # Errors
    /// There is none, or the sources cannot say.
    pub async fn resolve(
        &self,
        hash: StorePathHash,
        path: Option<&StorePath>,
    ) -> Result<StorePath, FetchError> {
        let path = path.cloned();
        let known = self.0.registered(&Asked { hash, path }).await?;
        Ok(known.registration.path)
    }

    /// Counts a request that needed nothing to be fetched.
    pub fn hit(&self) {
        self.0.hits.fetch_add(1, Ordering::Relaxed);
    }
}

impl Inner {
    /// Logs a failure; not each, since a source in trouble makes every lookup fail.
    fn log(&self, error: &FetchError) {
        if self.quiet.load(Ordering::Relaxed) {
            tracing::info!("not fetched: {error}");
        } else if let Some(unsaid) = self.log_limit.say() {
            tracing::warn!(unsaid, "not fetched: {error}");
        }
    }

    /// Logs a failure, and has it answer the next requests for the same.
    pub(super) fn note_failure(&self, need: &Need, error: &Arc<FetchError>) {
        if !matches!(**error, FetchError::Absent { .. }) {
            self.log(error);
        }
        let failure = (Instant::now(), error.clone());
        self.failed.insert(need.clone(), failure);
    }

    /// The failure of a moment ago.
    pub(super) fn failed_lately(&self, need: &Need) -> Option<Arc<FetchError>> {
        let (when, error) = self.failed.get(need)?;
        (when.elapsed() < FAILED).then_some(error)
    }

    /// Joins the flight for a need, or begins one.
    pub(super) fn join(
        self: &Arc<Self>,
        need: &Need,
        urgent: bool,
        offer: Option<&Arc<Offer>>,
    ) -> Waiting {
        let flights = &self.to.flights;
        let (waiting, landing) = flights.join(need, &self.priorities, &self.stop);
        if urgent {
            waiting.0.urgency.raise();
        }
        if let Some(landing) = landing {
            let span = tracing::info_span!("fetch", path = %need.path());
            let (inner, need, flight) = (self.clone(), need.clone(), waiting.0.clone());
            let fly = inner.fly(need, flight, landing, offer.cloned());
            self.to.runtime.spawn(fly.instrument(span));
        }
        waiting
    }

    /// Whether a flight has the sources of this fetcher.
    pub(super) fn is_own(&self, flight: &Flight) -> bool {
        flight.urgency.is_of(&self.priorities)
    }

    /// Waits for a flight and, where it was another fetcher's and failed, for one of our own.
    pub(super) async fn met(
        self: &Arc<Self>,
        mut waiting: Waiting,
        need: &Need,
        urgent: bool,
        offer: Option<&Arc<Offer>>,
    ) -> Outcome {
        loop {
            let outcome = waiting.outcome().await;
            if outcome.is_ok() || self.is_own(&waiting.0) {
                return outcome;
            }
            waiting = self.join(need, urgent, offer);
        }
    }

    async fn fly(
        self: Arc<Self>,
        need: Need,
        flight: Arc<Flight>,
        landing: Landing,
        offer: Option<Arc<Offer>>,
    ) {
        // The kernel knows the number that it has by its registration: a collection leaves it.
        let kept = self.to.store.roots().temporary();
        kept.add(need.path().hash());
        let work = {
            let (inner, need, flight) = (self.clone(), need.clone(), flight.clone());
            async move { inner.meet(&need, &flight, offer).await }
        };
        // A task of its own, so that those who wait get an outcome even if it panics.
        let work = work.instrument(tracing::Span::current());
        let met = self.to.runtime.spawn(work).await;
        let outcome = met.unwrap_or(Err(FetchError::Stopped)).map_err(Arc::new);
        self.outcomes.count(&need, &flight, outcome.as_ref().err());
        if let Err(error) = &outcome {
            self.note_failure(&need, error);
        }
        self.to.flights.land(&need, &landing, outcome);
    }

    /// Whether nothing needs to be fetched for `need`.
    fn is_met(&self, need: &Need, there: &PathInfo) -> Result<bool, FetchError> {
        Ok(match (need, there.contents) {
            (Need::Root(_), Contents::Local(_) | Contents::Absent(Some(RootKind::Directory))) => {
                true
            }
            (Need::Contents(_), Contents::Local(_)) => {
                self.is_believed(there) && self.to.store.paths().has_contents(there)?
            }
            (_, Contents::Absent(_)) => false,
        })
    }

    async fn meet(
        self: &Arc<Self>,
        need: &Need,
        flight: &Arc<Flight>,
        offer: Option<Arc<Offer>>,
    ) -> Result<(), FetchError> {
        let (path, store) = (need.path(), &self.to.store);
        if let Some(there) = store.paths().readable_info(path.hash())?
            && self.is_met(need, &there)?
        {
            return Ok(());
        }
        if let Some(planned) = offer {
            return self.transfer(planned, flight).await;
        }
        let offer = self.offers.get(&path.into()).await;
        let offer = offer.map_err(|error| match (need, self.unless_lost(path.hash(), error)) {
            // Programs see its directory: that there is nothing in it would be wrong.
            (Need::Contents(path), FetchError::Absent { unreachable, .. })
                if !unreachable.is_empty() =>
            {
                let path = path.clone();
                FetchError::OutOfReach { path, unreachable }
            }
            (_, error) => error,
        })?;
        if matches!(need, Need::Root(_)) {
            self.register_references(&offer);
            // Only the kind of the root is believed of a listing, and only of a directory: the
            // size of a file or a target would have to be right.
            if self.says_directory(&offer).await {
                let kind = Some(RootKind::Directory);
                return Ok(store.paths().register(&[(offer.registration(), kind)])?);
            }
            // The tree says it, and others who want the contents share the transfer.
            let need = Need::Contents(path.clone());
            let waiting = self.join(&need, true, None);
            return Ok(self.met(waiting, &need, true, None).await?);
        }
        let transferred = self.transfer(offer, flight).await;
        if transferred.is_err() {
            self.offers.forget(path.hash());
        }
        transferred
    }

    async fn says_directory(&self, offer: &Offer) -> bool {
        let hash = offer.info.store_path.hash();
        let listing = offer.source.substituter.listing_start(hash);
        // A hint is not worth the whole deadline.
        let listing = tokio::time::timeout(self.deadlines.lookup / 3, listing).await;
        let Ok(Ok(Some(text))) = listing else {
            return false;
        };
        listing::says_directory(&text)
    }

    /// Fetches, verifies and publishes a path.
    async fn transfer(
        self: &Arc<Self>,
        offer: Arc<Offer>,
        flight: &Arc<Flight>,
    ) -> Result<(), FetchError> {
        let offer = self.as_vouched(offer)?;
        let nar_bytes = &flight.progress.nar_bytes;
        nar_bytes.store(offer.info.nar_size, Ordering::Relaxed);
        let errand = Errand {
            store: self.to.store.clone(),
            runtime: self.to.runtime.clone(),
            sources: self.offers.sources.clone(),
            trust: self.offers.trust.clone(),
            progress: flight.progress.clone(),
            urgency: flight.urgency.clone(),
            among: Some(Among {
                offers: self.offers.clone(),
                publisher: self.publisher.clone(),
                budget: self.to.budget.clone(),
            }),
        };
        let received = race::fetch(errand, Offer::clone(&offer)).await;
        let sent = flight.progress.fetched_bytes.load(Ordering::Relaxed);
        self.fetched.fetch_add(sent, Ordering::Relaxed);
        self.publisher.publish(received?, flight).await
    }

    /// What the state knows of a path; where it knows nothing, or only the word of a source where
    /// signatures are required, what the sources say is registered.
    pub(super) async fn registered(
        self: &Arc<Self>,
        asked: &Asked,
    ) -> Result<PathInfo, FetchError> {
        let store = &self.to.store;
        if let Some(there) = store.paths().readable_info(asked.hash)? {
            let path = &there.registration.path;
            return match &asked.path {
                Some(asked) if asked != path => Err(FetchError::OtherName(path.clone())),
                _ => self.vouched(there).await,
            };
        }
        let offer = self.offers.get(asked).await;
        let offer = offer.map_err(|error| self.unless_lost(asked.hash, error))?;
        store.paths().register(&[(offer.registration(), None)])?;
        let there = store.paths().info(asked.hash)?;
        there.ok_or_else(|| self.offers.sources.nowhere(asked, Vec::new()))
    }

    /// That no source has a path, unless it is here and cannot be read: then it is not absent.
    pub(super) fn unless_lost(&self, hash: StorePathHash, error: FetchError) -> FetchError {
        match error {
            FetchError::Absent {
                path,
                sources,
                unreachable,
            } if self.to.store.paths().info(hash).is_err() => FetchError::Lost {
                path,
                sources,
                unreachable,
            },
            error => error,
        }
    }

    /// Registers what a path refers to, and what these refer to, so that the next lookups find it.
    fn register_references(self: &Arc<Self>, offer: &Offer) {
        let inner = self.clone();
        let mut walk = Walk::new(&self.to.store, BACKGROUND, move |asked| {
            let inner = inner.clone();
            async move {
                let is_known = inner.to.store.paths().readable_info(asked.hash)?.is_some();
                if is_known || inner.offers.knows(asked.hash) {
                    return Ok(Vec::new());
                }
                let _permit = inner.background.acquire().await;
                Ok(inner.registered(&asked).await?.registration.references)
            }
        });
        walk.add_named(&offer.info.references);
        self.to.runtime.spawn(async move {
            while let Some(Ok((asked, found))) = walk.found().await {
                match found {
                    Ok(references) => walk.add_named(&references),
                    Err(e) => tracing::debug!(?asked, "not registered: {e}"),
                }
            }
        });
    }
}
