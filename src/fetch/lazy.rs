//! Paths on demand: what a file system waits for is fetched once, however many ask.
//!
//! Invariants: nobody who asks is blocked (whoever asks is called back); whoever waits hears
//! within its deadline, while the transfer itself goes on; a source that cannot be reached is
//! never taken for one that has not got the path.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::availability::Slots;
use super::sources::Offer;
use super::transfer::Transfer;
use super::{FetchError, Progress, Snapshot, Trust};
use crate::nix::listing::{Listing, Node};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Contents, Registration, RootKind, Store};

/// What a request waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// That it is registered, and known what its root is.
    Root(StorePath),
    /// Its tree and contents.
    Contents(StorePath),
}

impl Need {
    fn path(&self) -> &StorePath {
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

/// Called once, with how it went; never on a thread that may not block.
type Ready = Box<dyn FnOnce(Result<(), Arc<FetchError>>) + Send>;

/// Narinfos that are kept in memory, so that contents need not ask for them again.
const OFFERS: usize = 1 << 14;
/// Paths that are remembered as absent.
const ABSENT: usize = 1 << 16;
/// Narinfos of a closure that are asked for at once in the background.
const BACKGROUND: usize = 8;
/// How often a waiter's deadline is looked at, as a part of it.
const LOOKS: u32 = 20;
/// NARs that are fetched at once: as many may hang before those of other sources wait for them.
const TRANSFERS: usize = 16;
/// How long a failure answers whoever asks for the same. The kernel lets processes that look up
/// one name ask one after the other: each would wait for the whole deadline in its turn.
const FAILED: Duration = Duration::from_millis(500);
/// Failures that are remembered.
const FAILURES: usize = 1 << 10;

/// Everyone who waits for the same need.
struct Flight {
    waiters: HashMap<u64, Ready>,
    progress: Arc<Progress>,
}

struct Inner {
    store: Arc<Store>,
    runtime: Handle,
    slots: Slots,
    trust: Trust,
    deadlines: Deadlines,
    flights: Mutex<HashMap<Need, Flight>>,
    next_waiter: AtomicU64,
    failed: Cache<Need, (Instant, Arc<FetchError>)>,
    offers: Cache<StorePathHash, Arc<Offer>>,
    absent: Cache<StorePathHash, Instant>,
    transfers: Semaphore,
    background: Semaphore,
    /// Bytes that the transfers took that have ended.
    fetched: AtomicU64,
}

/// Fetches what a file system asks for.
#[derive(Clone)]
pub struct Fetcher(Arc<Inner>);

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.slots.urls()).finish()
    }
}

impl Fetcher {
    /// A fetcher from `urls` into `store`. No source is asked before something is needed.
    pub fn new(
        store: Arc<Store>,
        runtime: Handle,
        urls: &[String],
        trust: Trust,
        deadlines: Deadlines,
    ) -> Self {
        // Half: who waits for a NAR that stopped coming sees a second try.
        let slots = Slots::new(urls, deadlines.lookup, deadlines.contents / 2);
        Self(Arc::new(Inner {
            store,
            runtime,
            slots,
            trust,
            deadlines,
            flights: Mutex::default(),
            next_waiter: AtomicU64::new(0),
            failed: Cache::new(FAILURES),
            offers: Cache::new(OFFERS),
            absent: Cache::new(ABSENT),
            transfers: Semaphore::new(TRANSFERS),
            background: Semaphore::new(BACKGROUND),
            fetched: AtomicU64::new(0),
        }))
    }

    /// Bytes that the sources sent for NARs so far, as far as their transfers have ended.
    pub fn fetched_bytes(&self) -> u64 {
        self.0.fetched.load(Ordering::Relaxed)
    }

    /// The transfers that run now.
    pub fn running(&self) -> Vec<Snapshot> {
        let flights = self.0.flights();
        flights.values().map(|f| f.progress.snapshot()).collect()
    }

    /// Has `ready` called when `need` is met or cannot be, at the latest after the deadline.
    pub fn request(
        &self,
        need: Need,
        ready: impl FnOnce(Result<(), Arc<FetchError>>) + Send + 'static,
    ) {
        let inner = &self.0;
        if let Some((when, error)) = inner.failed.get(&need)
            && when.elapsed() < FAILED
        {
            return answer(&inner.runtime, Box::new(ready), Err(error));
        }
        let waiter = inner.next_waiter.fetch_add(1, Ordering::Relaxed);
        let mut flights = inner.flights();
        let mut start = false;
        let flight = flights.entry(need.clone()).or_insert_with(|| {
            start = true;
            Flight {
                waiters: HashMap::new(),
                progress: Arc::new(Progress::default()),
            }
        });
        flight.waiters.insert(waiter, Box::new(ready));
        let progress = flight.progress.clone();
        drop(flights);
        let watched = (inner.clone(), need.clone(), progress.clone());
        inner
            .runtime
            .spawn(watch(watched.0, watched.1, waiter, watched.2));
        if start {
            let inner = inner.clone();
            self.0.runtime.spawn(async move {
                let outcome = inner.meet(&need, &progress).await.map_err(Arc::new);
                if let Err(e) = &outcome
                    && !matches!(**e, FetchError::Absent { .. })
                {
                    tracing::warn!(path = %need.path(), "not fetched: {e}");
                }
                if let Err(e) = &outcome {
                    inner
                        .failed
                        .insert(need.clone(), (Instant::now(), e.clone()));
                }
                let flight = inner.flights().remove(&need);
                for (_, ready) in flight.into_iter().flat_map(|f| f.waiters) {
                    answer(&inner.runtime, ready, outcome.clone());
                }
            });
        }
    }
}

/// Calls back where blocking is allowed.
fn answer(runtime: &Handle, ready: Ready, outcome: Result<(), Arc<FetchError>>) {
    drop(runtime.spawn_blocking(move || ready(outcome)));
}

/// Gives up one waiter when its time is over. Contents that keep arriving are waited for.
async fn watch(inner: Arc<Inner>, need: Need, waiter: u64, progress: Arc<Progress>) {
    let patience = match need {
        Need::Root(_) => inner.deadlines.lookup,
        Need::Contents(_) => inner.deadlines.contents,
    };
    let arrived = || progress.furthest.load(Ordering::Relaxed);
    let mut seen = arrived();
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(patience / LOOKS).await;
        let now = arrived();
        if matches!(need, Need::Contents(_)) && now != seen {
            (seen, since) = (now, Instant::now());
        }
        let mut flights = inner.flights();
        let Some(flight) = flights.get_mut(&need) else {
            return;
        };
        if !flight.waiters.contains_key(&waiter) {
            return;
        }
        if since.elapsed() < patience {
            continue;
        }
        let ready = flight.waiters.remove(&waiter);
        drop(flights);
        let path = need.path().clone();
        let error = Arc::new(FetchError::Patience { path, patience });
        tracing::warn!("{error}");
        inner.failed.insert(need, (Instant::now(), error.clone()));
        if let Some(ready) = ready {
            answer(&inner.runtime, ready, Err(error));
        }
        return;
    }
}

impl Inner {
    fn flights(&self) -> MutexGuard<'_, HashMap<Need, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn meet(
        self: &Arc<Self>,
        need: &Need,
        progress: &Arc<Progress>,
    ) -> Result<(), FetchError> {
        let path = need.path();
        let there = self.store.path_info(path.hash())?;
        match (need, there.map(|i| i.contents)) {
            (_, Some(Contents::Local(_)))
            | (Need::Root(_), Some(Contents::Absent(Some(RootKind::Directory)))) => return Ok(()),
            _ => {}
        }
        let offer = self.offer(path).await?;
        if matches!(need, Need::Root(_)) {
            self.register_references(&offer);
            // Only the kind of the root is believed of a listing, and only of a directory: the
            // size of a file or a target would have to be right.
            if self.says_directory(&offer).await {
                let registration = registration(&offer);
                let kind = Some(RootKind::Directory);
                return Ok(self.store.register(&[(registration, kind)])?);
            }
        }
        let transferred = self.transfer(offer, progress.clone()).await;
        if transferred.is_err() {
            // The next try may find the narinfo mended as well.
            self.offers.remove(&path.hash());
        }
        transferred
    }

    /// The best offer of a path; asked for once, however many want it.
    async fn offer(&self, path: &StorePath) -> Result<Arc<Offer>, FetchError> {
        let hash = path.hash();
        let ask = async {
            // Looked at here: whoever waited for another one's question has its answer.
            let absent = self.absent.get(&hash);
            if absent.is_some_and(|since| since.elapsed() < self.deadlines.absent) {
                return Err(self.nowhere(path));
            }
            let offer = self.slots.offer(hash, self.store.store_dir(), &self.trust);
            if let Some(offer) = offer.await? {
                return Ok(Arc::new(offer));
            }
            self.absent.insert(hash, Instant::now());
            Err(self.nowhere(path))
        };
        let offer = self.offers.get_or_insert_async(&hash, ask).await?;
        if offer.info.store_path != *path {
            // The hash is another path's, so that there is none of this name.
            return Err(self.nowhere(path));
        }
        Ok(offer)
    }

    fn nowhere(&self, path: &StorePath) -> FetchError {
        let urls: Vec<_> = self.slots.urls().collect();
        FetchError::Absent {
            path: path.to_string(),
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
        progress: Arc<Progress>,
    ) -> Result<(), FetchError> {
        // The semaphore is never closed; and without a permit there would only be more at once.
        let _permit = self.transfers.acquire().await;
        let sources = self.slots.answered();
        let inner = self.clone();
        let transfer = move || {
            let transfer = Transfer {
                store: &inner.store,
                runtime: &inner.runtime,
                sources: &sources,
                trust: &inner.trust,
                progress: &progress,
            };
            let fetched = transfer.fetch(&offer);
            let sent = progress.fetched_bytes.load(Ordering::Relaxed);
            inner.fetched.fetch_add(sent, Ordering::Relaxed);
            Ok(inner.store.publish(&[fetched?])?)
        };
        match self.runtime.spawn_blocking(transfer).await {
            Ok(outcome) => outcome,
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
                    || !matches!(inner.store.path_info(path.hash()), Ok(None))
                {
                    return;
                }
                let _permit = inner.background.acquire().await;
                match inner.offer(&path).await {
                    Ok(offer) => {
                        let registered = inner.store.register(&[(registration(&offer), None)]);
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

fn registration(offer: &Offer) -> Registration {
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
