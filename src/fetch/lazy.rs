//! Paths on demand: what a file system waits for is fetched once, however many ask.
//!
//! Invariants: nobody who asks is blocked (whoever asks is called back); whoever waits hears
//! within its deadline, while the transfer itself goes on; a source that cannot be reached is
//! never taken for one that has not got the path.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tracing::Instrument;

use super::availability::Slots;
use super::budget::Budget;
use super::group::Publisher;
use super::outcomes::Outcomes;
use super::priorities::{Priorities, Urgency};
use super::rate_limit::RateLimit;
use super::requester::Requester;
use super::sources::Offer;
use super::transfer::{Pace, Transfer};
use super::{FetchError, Progress, Trust};
use crate::nix::listing::{Listing, Node};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Contents, PathInfo, Registration, RootKind, Store};
use crate::sync;

/// What a request waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// That it is registered, and known what its root is.
    Root(StorePath),
    /// Its tree and contents.
    Contents(StorePath),
}

impl Need {
    pub(super) fn path(&self) -> &StorePath {
        match self {
            Self::Root(path) | Self::Contents(path) => path,
        }
    }
}

/// How long whoever waits is let wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Deadlines {
    /// For a lookup in the store directory.
    pub lookup: Duration,
    /// For contents, without any of them arriving.
    pub contents: Duration,
    /// How long it is remembered that no source has a path.
    pub absent: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            lookup: Duration::from_secs(10),
            contents: Duration::from_secs(30),
            absent: Duration::from_secs(10),
        }
    }
}

/// What is fetched before anything asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefetchPolicy {
    /// Nothing.
    #[default]
    None,
    /// Whatever a path refers to, once something looks inside that path.
    Closure,
}

impl PrefetchPolicy {
    /// How users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Closure => "closure",
        }
    }
}

/// How to fetch on demand.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    pub urls: Vec<String>,
    /// Whom to believe.
    pub trust: Trust,
    /// The file with names and passwords for servers; `None` for the usual ones.
    pub netrc: Option<PathBuf>,
    /// How long whoever waits is let wait.
    pub deadlines: Deadlines,
    /// What is fetched ahead.
    pub prefetch: PrefetchPolicy,
}

/// Called once, with how it went; never on a thread that may not block.
pub(super) type Ready = Box<dyn FnOnce(Result<(), Arc<FetchError>>) + Send>;

/// Narinfos that are kept in memory, so that contents need not ask for them again.
const OFFERS: usize = 1 << 14;
/// Paths that are remembered as absent.
const ABSENT: usize = 1 << 16;
/// Narinfos of a closure that are asked for at once in the background.
const BACKGROUND: usize = 8;
/// How often a waiter's deadline is looked at, as a part of it …
const LOOKS: u32 = 20;
/// … and at least so often whether the waiter is still alive.
const LOOK: Duration = Duration::from_millis(200);
/// How long a failure answers whoever asks for the same. The kernel lets processes that look up
/// one name ask one after the other: each would wait for the whole deadline in its turn.
const FAILED: Duration = Duration::from_millis(500);
/// Failures that are remembered.
const FAILURES: usize = 1 << 10;
/// How often a failure is worth a line of the log.
const COMPLAINT: Duration = Duration::from_secs(5);

/// Everyone who waits for the same need.
pub(super) struct Flight {
    pub(super) waiters: HashMap<u64, Ready>,
    pub(super) progress: Arc<Progress>,
    pub(super) urgency: Arc<Urgency>,
    pub(super) since: Instant,
}

impl Flight {
    /// Grows as long as there is hope: with what arrives, and while it waits for a place with what
    /// arrives for those that have one.
    fn arrived(&self) -> u64 {
        let own = || self.progress.furthest.load(Ordering::Relaxed);
        self.urgency.arrived_before().unwrap_or_else(own)
    }
}

pub(super) struct Inner {
    pub(super) store: Arc<Store>,
    pub(super) runtime: Handle,
    pub(super) slots: Slots,
    trust: Trust,
    deadlines: Deadlines,
    prefetch: PrefetchPolicy,
    pub(super) priorities: Arc<Priorities>,
    publisher: Publisher,
    pub(super) budget: Arc<Budget>,
    flights: Mutex<HashMap<Need, Flight>>,
    next_waiter: AtomicU64,
    failed: Cache<Need, (Instant, Arc<FetchError>)>,
    offers: Cache<StorePathHash, Arc<Offer>>,
    absent: Cache<StorePathHash, Instant>,
    background: Semaphore,
    /// Paths whose closures are being fetched ahead, or were.
    followed: Mutex<HashSet<StorePathHash>>,
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    /// Bytes that the transfers took that have ended.
    pub(super) fetched: AtomicU64,
    pub(super) outcomes: Outcomes,
    complaint: RateLimit,
    /// Whether whoever asked tells the user of failures.
    quiet: AtomicBool,
}

/// Fetches what a file system asks for.
#[derive(Clone)]
pub struct Fetcher(pub(super) Arc<Inner>);

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.slots.urls()).finish()
    }
}

impl Fetcher {
    /// A fetcher into the state of `budget`. No source is asked before something is needed.
    pub fn new(
        store: Arc<Store>,
        runtime: Handle,
        options: &FetchOptions,
        budget: Arc<Budget>,
    ) -> Self {
        let deadlines = options.deadlines;
        Self(Arc::new(Inner {
            publisher: Publisher::new(store.clone()),
            slots: Slots::new(options),
            store,
            runtime,
            trust: options.trust.clone(),
            deadlines,
            prefetch: options.prefetch,
            priorities: Priorities::new(),
            budget,
            flights: Mutex::default(),
            next_waiter: AtomicU64::new(0),
            failed: Cache::new(FAILURES),
            offers: Cache::new(OFFERS),
            absent: Cache::new(ABSENT),
            background: Semaphore::new(BACKGROUND),
            followed: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            outcomes: Outcomes::default(),
            complaint: RateLimit::new(COMPLAINT),
            quiet: AtomicBool::new(false),
        }))
    }

    /// The same fetcher, which leaves it to whoever asks to tell of failures.
    #[must_use]
    pub fn quiet(self) -> Self {
        self.0.quiet.store(true, Ordering::Relaxed);
        self
    }

    /// Counts a request that needed nothing to be fetched.
    pub fn hit(&self) {
        self.0.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Has `ready` called when `need` is met or cannot be, at the latest after the deadline, or
    /// when `requester` was killed.
    pub fn request(
        &self,
        need: Need,
        requester: Requester,
        ready: impl FnOnce(Result<(), Arc<FetchError>>) + Send + 'static,
    ) {
        let inner = &self.0;
        inner.misses.fetch_add(1, Ordering::Relaxed);
        if let Some((when, error)) = inner.failed.get(&need)
            && when.elapsed() < FAILED
        {
            return answer(&inner.runtime, Box::new(ready), Err(error));
        }
        let (waiter, _) = inner.join(need.clone(), true, Box::new(ready));
        if let (Need::Contents(path), PrefetchPolicy::Closure) = (&need, inner.prefetch) {
            self.follow(path);
        }
        let watch = watch(inner.clone(), need, waiter, requester);
        inner.runtime.spawn(watch);
    }

    /// Says that paths are there no more: if they come back, so do their closures.
    pub fn removed(&self, paths: &[StorePath]) {
        let mut followed = self.0.followed();
        for path in paths {
            followed.remove(&path.hash());
        }
    }

    /// Fetches ahead what a path refers to, once.
    fn follow(&self, path: &StorePath) {
        let hash = path.hash();
        if !self.0.followed().insert(hash) {
            return;
        }
        let (fetcher, path) = (self.clone(), path.clone());
        self.0.runtime.spawn(async move {
            let progress = Arc::new(Progress::default());
            let wanted = vec![(hash, Some(path.clone()))];
            let done = fetcher.prefetch(wanted, true, &progress).await;
            match done {
                Ok(done) if done.failures.is_empty() => {
                    tracing::info!(%path, paths = done.paths, "its closure is here");
                }
                // The next one who looks inside begins again.
                _ => {
                    fetcher.0.followed().remove(&hash);
                }
            }
        });
    }
}

/// Calls back where blocking is allowed.
fn answer(runtime: &Handle, ready: Ready, outcome: Result<(), Arc<FetchError>>) {
    drop(runtime.spawn_blocking(move || ready(outcome)));
}

/// Gives up one waiter when its time is over, or its life. Contents that keep arriving are
/// waited for.
async fn watch(inner: Arc<Inner>, need: Need, waiter: u64, requester: Requester) {
    let patience = match need {
        Need::Root(_) => inner.deadlines.lookup,
        Need::Contents(_) => inner.deadlines.contents,
    };
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(LOOK.min(patience / LOOKS)).await;
        let killed = requester.is_killed();
        let mut flights = inner.flights();
        let Some(flight) = flights.get_mut(&need) else {
            return;
        };
        if !flight.waiters.contains_key(&waiter) {
            return;
        }
        let now = flight.arrived();
        if matches!(need, Need::Contents(_)) && now != seen {
            (seen, since) = (now, Instant::now());
        }
        if since.elapsed() < patience && !killed {
            continue;
        }
        let ready = flight.waiters.remove(&waiter);
        drop(flights);
        let error = if killed {
            Arc::new(FetchError::Killed)
        } else {
            let path = need.path().clone();
            let error = Arc::new(FetchError::Patience { path, patience });
            inner.complain(&error);
            inner.failed.insert(need, (Instant::now(), error.clone()));
            error
        };
        if let Some(ready) = ready {
            answer(&inner.runtime, ready, Err(error));
        }
        return;
    }
}

impl Inner {
    pub(super) fn flights(&self) -> MutexGuard<'_, HashMap<Need, Flight>> {
        sync::lock(&self.flights)
    }

    fn followed(&self) -> MutexGuard<'_, HashSet<StorePathHash>> {
        sync::lock(&self.followed)
    }

    /// A source in trouble makes every lookup fail: one line now and then says so.
    fn complain(&self, error: &FetchError) {
        if self.quiet.load(Ordering::Relaxed) {
            tracing::info!("not fetched: {error}");
        } else if let Some(unsaid) = self.complaint.say() {
            tracing::warn!(unsaid, "not fetched: {error}");
        }
    }

    /// Waits with others for a need, or sets out for it.
    pub(super) fn join(
        self: &Arc<Self>,
        need: Need,
        urgent: bool,
        ready: Ready,
    ) -> (u64, Arc<Progress>) {
        let waiter = self.next_waiter.fetch_add(1, Ordering::Relaxed);
        let mut flights = self.flights();
        let mut start = false;
        let flight = flights.entry(need.clone()).or_insert_with(|| {
            start = true;
            Flight {
                waiters: HashMap::new(),
                progress: Arc::new(Progress::default()),
                urgency: Urgency::new(&self.priorities),
                since: Instant::now(),
            }
        });
        flight.waiters.insert(waiter, ready);
        let (progress, urgency) = (flight.progress.clone(), flight.urgency.clone());
        drop(flights);
        if urgent {
            urgency.raise();
        }
        if start {
            let span = tracing::info_span!("fetch", path = %need.path());
            let (inner, progress) = (self.clone(), progress.clone());
            let fly = async move { inner.fly(need, &progress, urgency).await };
            self.runtime.spawn(fly.instrument(span));
        }
        (waiter, progress)
    }

    async fn fly(self: Arc<Self>, need: Need, progress: &Arc<Progress>, urgency: Arc<Urgency>) {
        // The kernel knows the number that it has by its registration: a collection leaves it.
        let kept = self.store.roots().temporary();
        kept.add(need.path().hash());
        let since = Instant::now();
        let work = {
            let (inner, need) = (self.clone(), need.clone());
            let (progress, urgency) = (progress.clone(), urgency.clone());
            async move { inner.meet(&need, &progress, &urgency).await }
        };
        // A task of its own: whoever waits hears of it even if it panics.
        let work = work.instrument(tracing::Span::current());
        let met = self.runtime.spawn(work).await;
        let outcome = met.unwrap_or(Err(FetchError::Stopped)).map_err(Arc::new);
        let failure = outcome.as_ref().err().map(AsRef::as_ref);
        self.outcomes.count(&need, &urgency, since, failure);
        if let Err(e) = &outcome {
            if !matches!(**e, FetchError::Absent { .. }) {
                self.complain(e);
            }
            self.failed
                .insert(need.clone(), (Instant::now(), e.clone()));
        }
        let flight = self.flights().remove(&need);
        for (_, ready) in flight.into_iter().flat_map(|f| f.waiters) {
            answer(&self.runtime, ready, outcome.clone());
        }
    }

    /// Whether nothing needs to be fetched for `need`.
    fn is_met(&self, need: &Need, there: &PathInfo) -> Result<bool, FetchError> {
        Ok(match (need, there.contents) {
            (Need::Root(_), Contents::Local(_) | Contents::Absent(Some(RootKind::Directory))) => {
                true
            }
            (Need::Contents(_), Contents::Local(_)) => self.store.paths().has_contents(there)?,
            (_, Contents::Absent(_)) => false,
        })
    }

    async fn meet(
        self: &Arc<Self>,
        need: &Need,
        progress: &Arc<Progress>,
        urgency: &Arc<Urgency>,
    ) -> Result<(), FetchError> {
        let path = need.path();
        if let Some(there) = self.store.paths().info(path.hash())?
            && self.is_met(need, &there)?
        {
            return Ok(());
        }
        let offer = self.offer(path.hash(), Some(path)).await?;
        if matches!(need, Need::Root(_)) {
            self.register_references(&offer);
            // Only the kind of the root is believed of a listing, and only of a directory: the
            // size of a file or a target would have to be right.
            if self.says_directory(&offer).await {
                let registration = registration(&offer);
                let kind = Some(RootKind::Directory);
                return Ok(self.store.paths().register(&[(registration, kind)])?);
            }
            // The tree says it; who else wants the contents shares the transfer.
            let (sender, met) = oneshot::channel();
            let ready = Box::new(move |met| drop(sender.send(met)));
            self.join(Need::Contents(path.clone()), true, ready);
            let met = met.await.map_err(|_| FetchError::Stopped)?;
            return Ok(met?);
        }
        let transferred = self.transfer(offer, progress, urgency).await;
        if transferred.is_err() {
            // The next try may find the narinfo mended as well.
            self.offers.remove(&path.hash());
        }
        transferred
    }

    /// The best offer of a path; asked for once, however many want it. Where a name is given, it
    /// is the path of that name or none.
    pub(super) async fn offer(
        &self,
        hash: StorePathHash,
        path: Option<&StorePath>,
    ) -> Result<Arc<Offer>, FetchError> {
        let nowhere = || self.nowhere(path.map_or_else(|| hash.to_string(), ToString::to_string));
        let ask = async {
            // Looked at here: whoever waited for another one's question has its answer.
            let absent = self.absent.get(&hash);
            if absent.is_some_and(|since| since.elapsed() < self.deadlines.absent) {
                return Err(nowhere());
            }
            let offer = self.slots.offer(hash, self.store.store_dir(), &self.trust);
            if let Some(offer) = offer.await? {
                return Ok(Arc::new(offer));
            }
            self.absent.insert(hash, Instant::now());
            Err(nowhere())
        };
        let offer = self.offers.get_or_insert_async(&hash, ask).await?;
        if path.is_some_and(|path| offer.info.store_path != *path) {
            // The hash is another path's, so that there is none of this name.
            return Err(nowhere());
        }
        Ok(offer)
    }

    fn nowhere(&self, path: String) -> FetchError {
        let urls: Vec<_> = self.slots.urls().collect();
        FetchError::Absent {
            path,
            sources: urls.join(", "),
        }
    }

    async fn says_directory(&self, offer: &Offer) -> bool {
        let hash = offer.info.store_path.hash();
        let listing = offer.source.substituter.listing(hash);
        // A hint is not worth the whole deadline.
        let listing = tokio::time::timeout(self.deadlines.lookup / 3, listing).await;
        let Ok(Ok(Some(text))) = listing else {
            return false;
        };
        let root = Listing::parse(&text).map(|l| l.root);
        matches!(root, Ok(Node::Directory { .. }))
    }

    /// Fetches, verifies and publishes a path.
    async fn transfer(
        self: &Arc<Self>,
        offer: Arc<Offer>,
        progress: &Arc<Progress>,
        urgency: &Arc<Urgency>,
    ) -> Result<(), FetchError> {
        let place = urgency.enter().await;
        let sources = self.slots.answered();
        progress
            .nar_bytes
            .store(offer.info.nar_size, Ordering::Relaxed);
        let (inner, progress, span) = (self.clone(), progress.clone(), tracing::Span::current());
        let pace = Pace {
            urgency: Some(urgency.clone()),
            budget: Some(self.budget.clone()),
        };
        let transfer = move || {
            let _inside = span.enter();
            let transfer = Transfer {
                store: &inner.store,
                runtime: &inner.runtime,
                sources: &sources,
                trust: &inner.trust,
                progress: &progress,
                pace,
            };
            let fetched = transfer.fetch(&offer);
            let sent = progress.fetched_bytes.load(Ordering::Relaxed);
            inner.fetched.fetch_add(sent, Ordering::Relaxed);
            // What has arrived is above the budget before it is published, so never after.
            inner.budget.make();
            fetched
        };
        let fetched = self.runtime.spawn_blocking(transfer).await;
        drop(place);
        match fetched {
            Ok(publication) => self.publisher.publish(publication?, urgency).await,
            Err(_) => Err(FetchError::Stopped),
        }
    }

    /// Asks for the narinfos of what a path refers to, and of what these refer to, so that the
    /// next lookups find them.
    fn register_references(self: &Arc<Self>, offer: &Arc<Offer>) {
        for path in &offer.info.references {
            if *path == offer.info.store_path {
                continue;
            }
            let (inner, path) = (self.clone(), path.clone());
            self.runtime.spawn(async move {
                if inner.offers.get(&path.hash()).is_some()
                    || !matches!(inner.store.paths().info(path.hash()), Ok(None))
                {
                    return;
                }
                let _permit = inner.background.acquire().await;
                match inner.offer(path.hash(), Some(&path)).await {
                    Ok(offer) => {
                        let registered = inner
                            .store
                            .paths()
                            .register(&[(registration(&offer), None)]);
                        if let Err(e) = registered {
                            tracing::warn!(%path, "not registered: {e}");
                        }
                        inner.register_references(&offer);
                    }
                    Err(e) => tracing::debug!(%path, "not registered: {e}"),
                }
            });
        }
    }
}

/// What a narinfo says of its path.
pub(super) fn registration(offer: &Offer) -> Registration {
    let info = &offer.info;
    Registration {
        path: info.store_path.clone(),
        nar_hash: info.nar_hash,
        nar_size: info.nar_size,
        references: info.references.clone(),
        deriver: info.deriver.clone(),
        signatures: info.signatures.iter().map(ToString::to_string).collect(),
        ca: info.ca,
    }
}
