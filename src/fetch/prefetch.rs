//! Closures and traces that are fetched before anything asks for them.
//!
//! Invariant: every path goes through the same flights as what programs wait for, so that each
//! is fetched once; and no more is begun than can soon be done, so that the order is kept.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::lazy::{Fetcher, Inner, Need, registration};
use super::{CopyFailure, FetchError, Progress};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::TemporaryRoots;

/// Narinfos that are asked for at once.
const ASKING: usize = 16;
/// Paths that are begun and not done: enough that a place that gets free is taken at once, while
/// others wait to be published together.
const BEGUN: usize = 64;
/// How often it is counted what has arrived.
const COUNT: Duration = Duration::from_millis(100);

/// What a prefetch found and did.
#[derive(Debug, Default)]
pub struct Prefetched {
    /// Paths that are here now: those that were wanted, and their closures if these were.
    pub paths: u64,
    /// Their NAR bytes.
    pub nar_bytes: u64,
    /// Of the paths, those that were not here before.
    pub fetched: u64,
    /// Bytes that the sources sent for them.
    pub fetched_bytes: u64,
    /// Paths that could not be had; the others are here.
    pub failures: Vec<CopyFailure>,
}

/// What is known of a path from the state or from a source.
struct Known {
    path: StorePath,
    references: Vec<StorePathHash>,
    nar_size: u64,
    here: bool,
}

/// A path that is on its way.
type Begun = (Known, Result<(), Arc<FetchError>>);

struct Run<'a> {
    inner: &'a Arc<Inner>,
    recursive: bool,
    progress: &'a Progress,
    names: HashMap<StorePathHash, StorePath>,
    unasked: VecDeque<StorePathHash>,
    seen: HashSet<StorePathHash>,
    /// What was seen is not collected meanwhile.
    kept: TemporaryRoots,
    asking: JoinSet<(StorePathHash, Result<Known, FetchError>)>,
    /// Asked for and not begun.
    ready: VecDeque<Known>,
    fetching: JoinSet<Begun>,
    flying: HashMap<StorePathHash, Arc<Progress>>,
    done: Prefetched,
}

impl Fetcher {
    /// The path with a hash (and a name, if one is given), from the state or the sources.
    ///
    /// # Errors
    /// There is none, or the sources cannot say.
    pub async fn resolve(
        &self,
        hash: StorePathHash,
        path: Option<&StorePath>,
    ) -> Result<StorePath, FetchError> {
        Ok(know(&self.0, hash, path).await?.path)
    }

    /// Makes paths local, with their closures if `recursive`, in their order; what programs wait
    /// for goes first. Paths that cannot be had are in the summary.
    ///
    /// # Errors
    /// It was stopped by `progress`.
    pub async fn prefetch(
        &self,
        wanted: Vec<(StorePathHash, Option<StorePath>)>,
        recursive: bool,
        progress: &Progress,
    ) -> Result<Prefetched, FetchError> {
        let run = Run {
            inner: &self.0,
            recursive,
            progress,
            unasked: wanted.iter().map(|(hash, _)| *hash).collect(),
            names: wanted
                .into_iter()
                .filter_map(|(hash, path)| Some((hash, path?)))
                .collect(),
            seen: HashSet::new(),
            kept: self.0.store.roots().temporary(),
            asking: JoinSet::new(),
            ready: VecDeque::new(),
            fetching: JoinSet::new(),
            flying: HashMap::new(),
            done: Prefetched::default(),
        };
        run.run().await
    }
}

impl Run<'_> {
    async fn run(mut self) -> Result<Prefetched, FetchError> {
        let mut tick = tokio::time::interval(COUNT);
        loop {
            if self.progress.stopped() {
                return Err(FetchError::Stopped);
            }
            self.ask();
            self.begin();
            if self.asking.is_empty() && self.fetching.is_empty() {
                self.count();
                return Ok(self.done);
            }
            tokio::select! {
                Some(asked) = self.asking.join_next() => match asked {
                    Ok((hash, known)) => self.know(hash, known),
                    Err(_) => return Err(FetchError::Stopped),
                },
                Some(begun) = self.fetching.join_next() => match begun {
                    Ok((known, outcome)) => self.arrive(known, outcome),
                    Err(_) => return Err(FetchError::Stopped),
                },
                _ = tick.tick() => self.count(),
            }
        }
    }

    fn ask(&mut self) {
        while self.asking.len() < ASKING {
            let Some(hash) = self.unasked.pop_front() else {
                return;
            };
            if self.seen.insert(hash) {
                self.kept.add(hash);
                let (inner, path) = (self.inner.clone(), self.names.get(&hash).cloned());
                self.asking
                    .spawn(async move { (hash, know(&inner, hash, path.as_ref()).await) });
            }
        }
    }

    fn know(&mut self, hash: StorePathHash, known: Result<Known, FetchError>) {
        self.progress.narinfos.fetch_add(1, Ordering::Relaxed);
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                let path = self.names.remove(&hash);
                self.done.failures.push(CopyFailure { hash, path, error });
                return;
            }
        };
        if self.recursive {
            self.unasked.extend(&known.references);
        }
        if known.here {
            self.done.paths += 1;
            self.done.nar_bytes += known.nar_size;
        } else {
            self.progress.paths.fetch_add(1, Ordering::Relaxed);
            let nar_bytes = &self.progress.nar_bytes;
            nar_bytes.fetch_add(known.nar_size, Ordering::Relaxed);
            self.ready.push_back(known);
        }
    }

    fn begin(&mut self) {
        while self.fetching.len() < BEGUN {
            let Some(known) = self.ready.pop_front() else {
                return;
            };
            let (sender, outcome) = oneshot::channel();
            let ready = Box::new(move |met| drop(sender.send(met)));
            let need = Need::Contents(known.path.clone());
            let (_, progress) = self.inner.join(need, false, ready);
            self.flying.insert(known.path.hash(), progress);
            self.fetching.spawn(async move {
                let stopped = || Err(Arc::new(FetchError::Stopped));
                (known, outcome.await.unwrap_or_else(|_| stopped()))
            });
        }
    }

    fn arrive(&mut self, known: Known, outcome: Result<(), Arc<FetchError>>) {
        let hash = known.path.hash();
        if let Some(flight) = self.flying.remove(&hash) {
            self.done.fetched_bytes += flight.fetched_bytes.load(Ordering::Relaxed);
        }
        self.progress.paths_done.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(()) => {
                self.done.paths += 1;
                self.done.fetched += 1;
                self.done.nar_bytes += known.nar_size;
            }
            Err(error) => self.done.failures.push(CopyFailure {
                hash,
                path: Some(known.path),
                error: error.into(),
            }),
        }
        self.count();
    }

    /// Adds up what has arrived, flights in the air included.
    fn count(&self) {
        let flying = |part: fn(&Progress) -> &AtomicU64| {
            let each = self.flying.values();
            each.map(|p| part(p).load(Ordering::Relaxed)).sum::<u64>()
        };
        let all = self.progress.nar_bytes.load(Ordering::Relaxed);
        let pending = |p: &Progress| {
            let done = p.nar_bytes_done.load(Ordering::Relaxed);
            p.nar_bytes.load(Ordering::Relaxed).saturating_sub(done)
        };
        // What is neither waiting nor still to come of what flies is done.
        let waiting: u64 = self.ready.iter().map(|k| k.nar_size).sum();
        let coming: u64 = self.flying.values().map(|p| pending(p)).sum();
        let done = all.saturating_sub(waiting + coming);
        self.progress.nar_bytes_done.store(done, Ordering::Relaxed);
        let fetched = self.done.fetched_bytes + flying(|p| &p.fetched_bytes);
        self.progress
            .fetched_bytes
            .store(fetched, Ordering::Relaxed);
    }
}

/// What is known of a path: here, or by the sources.
async fn know(
    inner: &Inner,
    hash: StorePathHash,
    path: Option<&StorePath>,
) -> Result<Known, FetchError> {
    if let Some(there) = inner.store.paths().info(hash)? {
        let here = inner.store.paths().has_contents(&there)?;
        let registered = there.registration;
        if path.is_some_and(|asked| *asked != registered.path) {
            return Err(FetchError::OtherName(registered.path));
        }
        if here {
            // Or it would be the first to go for what comes after it.
            inner.store.paths().touch(there.ordinal);
        }
        return Ok(Known {
            references: registered.references.iter().map(StorePath::hash).collect(),
            nar_size: registered.nar_size,
            path: registered.path,
            here,
        });
    }
    let offer = inner.offer(hash, path).await?;
    // So that what a pin keeps is known before it arrives: the closure is walked from its root.
    inner
        .store
        .paths()
        .register(&[(registration(&offer), None)])?;
    Ok(Known {
        path: offer.info.store_path.clone(),
        references: offer.info.references.iter().map(StorePath::hash).collect(),
        nar_size: offer.info.nar_size,
        here: false,
    })
}
