//! Copies closures: several NARs at once, published in groups, references first.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::plan::{Plan, Wanted, plan};
use super::receive::ReceiveError;
use super::sources::Offer;
use super::transfer::{Pace, Transfer};
use super::{Budget, FetchError, Progress, Sources, Trust};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{PathInfo, Publication, Store, StoreError};
use crate::sync;

/// A group is published when this many bytes of chunks wait for it: one flush then writes one
/// large file rather than one for each path.
const GROUP_BYTES: u64 = 24 << 20;
/// … or when this much time has passed, so that a mount shows what has arrived.
const GROUP_TIME: Duration = Duration::from_secs(2);

/// How to copy.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// With everything that the paths refer to.
    pub recursive: bool,
    /// NARs that are unpacked at once.
    pub jobs: usize,
    /// What keeps the state within its budget.
    pub budget: Option<Arc<Budget>>,
}

/// A path that could not be copied.
#[derive(Debug)]
pub struct CopyFailure {
    pub hash: StorePathHash,
    /// The path, where its name is known.
    pub path: Option<StorePath>,
    pub error: FetchError,
}

/// What a copy did.
#[derive(Debug, Default)]
pub struct CopySummary {
    /// Paths that are new.
    pub copied: u64,
    /// Paths that were there before.
    pub already: u64,
    /// NAR bytes of the new paths.
    pub nar_bytes: u64,
    /// Bytes that the sources sent for them.
    pub fetched_bytes: u64,
    /// What could not be copied; the rest was.
    pub failures: Vec<CopyFailure>,
}

/// Brings `wanted` into `store`. Blocks; `runtime` carries the network.
///
/// # Errors
/// What ends the whole copy: the state failed, the sources cannot be listed, or the user stopped
/// it. What was published until then stays. A path that fails is in the summary instead, and
/// the others go on.
pub fn copy(
    store: &Store,
    runtime: &Handle,
    sources: &Sources,
    trust: &Trust,
    wanted: &Wanted,
    options: CopyOptions,
    progress: &Arc<Progress>,
) -> Result<CopySummary, FetchError> {
    // What is here already, and what is published before what refers to it, must not be collected.
    let kept = store.roots().temporary();
    let recursive = options.recursive;
    let planned = plan((store, &kept), sources, trust, wanted, recursive, progress);
    let Plan {
        offers,
        failures,
        already,
    } = runtime.block_on(planned)?;
    let failed: HashSet<_> = failures.iter().map(|f| f.hash).collect();
    let copier = Copier {
        transfer: Transfer {
            store,
            runtime,
            sources,
            trust,
            progress,
            pace: Pace {
                budget: options.budget,
                ..Pace::default()
            },
        },
        recursive: options.recursive,
        offers: &offers,
        next: AtomicUsize::new(0),
        failed: Mutex::new(failed),
    };
    let mut publisher = Publisher {
        store,
        progress,
        waiting: HashMap::new(),
        group: Vec::new(),
        unpublished: match options.recursive {
            true => offers.iter().map(|o| o.info.store_path.hash()).collect(),
            // Nobody asked for whole closures, so no path waits for another.
            false => HashSet::new(),
        },
        last: Instant::now(),
        copied: 0,
        nar_bytes: 0,
    };
    let mut summary = CopySummary {
        already,
        failures,
        ..CopySummary::default()
    };
    let outcome = std::thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for _ in 0..options.jobs.max(1).min(offers.len()) {
            let (copier, sender) = (&copier, sender.clone());
            scope.spawn(move || copier.work(&sender));
        }
        drop(sender);
        let outcome = collect(&results, &mut publisher, &copier, &mut summary.failures);
        if outcome.is_err() {
            progress.stop.store(true, Ordering::Relaxed);
        }
        outcome
    });
    // What is whole is published even when the rest was stopped.
    let published = publisher.publish();
    summary.copied = publisher.copied;
    summary.nar_bytes = publisher.nar_bytes;
    summary.fetched_bytes = progress.fetched_bytes.load(Ordering::Relaxed);
    outcome?;
    published?;
    Ok(summary)
}

/// Fetches a registered path again, to replace those of its chunks that were found damaged. What
/// comes must be the NAR that is registered.
///
/// # Errors
/// No source has it, or the state failed.
pub fn repair(
    store: &Store,
    runtime: &Handle,
    sources: &Sources,
    trust: &Trust,
    info: &PathInfo,
) -> Result<(), FetchError> {
    let path = &info.registration.path;
    let offer = runtime.block_on(sources.offer(&path.into(), store.store_dir(), trust))?;
    let same = |o: &Offer| o.info.nar_hash == info.registration.nar_hash;
    let offer = offer.filter(same).ok_or_else(|| FetchError::Absent {
        path: path.to_string(),
        sources: sources.names(),
    })?;
    let progress = Arc::new(Progress::default());
    let transfer = Transfer {
        store,
        runtime,
        sources,
        trust,
        progress: &progress,
        pace: Pace::default(),
    };
    let publication = transfer.fetch(&offer)?;
    store.contents().flush()?;
    store.paths().restore_tree(&publication.tree)?;
    Ok(())
}

/// Takes results until the last worker is done.
fn collect(
    results: &mpsc::Receiver<(usize, Result<Publication, FetchError>)>,
    publisher: &mut Publisher<'_>,
    copier: &Copier<'_>,
    failures: &mut Vec<CopyFailure>,
) -> Result<(), FetchError> {
    for (index, result) in results {
        let path = copier.offers[index].info.store_path.clone();
        match result {
            Ok(publication) => publisher.take(publication)?,
            Err(FetchError::Store(e)) => return Err(e.into()),
            Err(FetchError::Stopped) => return Err(FetchError::Stopped),
            Err(FetchError::Receive { error, .. }) if error.is_ours() => {
                return Err(own(*error));
            }
            Err(error) => {
                copier.fail(path.hash());
                failures.push(CopyFailure {
                    hash: path.hash(),
                    path: Some(path),
                    error,
                });
            }
        }
    }
    failures.extend(copier.explain(publisher.abandon()));
    Ok(())
}

/// The state's own failure out of that of a NAR.
fn own(error: ReceiveError) -> FetchError {
    use crate::tree::UnpackError;
    match error {
        ReceiveError::Unpack(UnpackError::Sink(e)) => e.into(),
        other => FetchError::Receive {
            url: "the state".into(),
            error: Box::new(other),
        },
    }
}

/// What the workers share.
struct Copier<'a> {
    transfer: Transfer<'a>,
    recursive: bool,
    offers: &'a [Offer],
    next: AtomicUsize,
    failed: Mutex<HashSet<StorePathHash>>,
}

impl Copier<'_> {
    fn work(&self, results: &mpsc::Sender<(usize, Result<Publication, FetchError>)>) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(offer) = self.offers.get(index) else {
                return;
            };
            let result = if self.transfer.progress.stopped() {
                Err(FetchError::Stopped)
            } else if let Some(missing) = self.missing_reference(offer) {
                Err(FetchError::Reference(missing))
            } else {
                self.transfer.fetch(offer)
            };
            if let Err(e) = &result {
                tracing::debug!(path = %offer.info.store_path, "{e}");
            }
            if result.is_err() {
                // Before the result is looked at: what refers to it need not be fetched any more.
                self.fail(offer.info.store_path.hash());
            }
            let stopped = self.transfer.progress.stopped();
            if results.send((index, result)).is_err() || stopped {
                return;
            }
        }
    }

    fn fail(&self, hash: StorePathHash) {
        let mut failed = sync::lock(&self.failed);
        failed.insert(hash);
    }

    /// A reference of an offered path that could not be copied.
    fn missing_reference(&self, offer: &Offer) -> Option<StorePath> {
        if !self.recursive {
            return None;
        }
        let failed = sync::lock(&self.failed);
        let mut references = offer.info.references.iter();
        references.find(|r| failed.contains(&r.hash())).cloned()
    }

    /// Why paths that were fetched cannot be published: a reference failed, or they refer to each
    /// other.
    fn explain(&self, mut abandoned: HashSet<StorePathHash>) -> Vec<CopyFailure> {
        let mut failures = Vec::new();
        let mut explain = |offer: &Offer, error| {
            failures.push(CopyFailure {
                hash: offer.info.store_path.hash(),
                path: Some(offer.info.store_path.clone()),
                error,
            });
        };
        // Until nothing more follows: in a circle no order of the offers is that of references.
        let mut more = true;
        while std::mem::take(&mut more) {
            for offer in self.offers {
                let hash = offer.info.store_path.hash();
                if abandoned.contains(&hash)
                    && let Some(missing) = self.missing_reference(offer)
                {
                    more = abandoned.remove(&hash);
                    self.fail(hash);
                    explain(offer, FetchError::Reference(missing));
                }
            }
        }
        for offer in self.offers {
            let path = &offer.info.store_path;
            let mut references = offer.info.references.iter();
            if abandoned.contains(&path.hash())
                && let Some(other) =
                    references.find(|r| *r != path && abandoned.contains(&r.hash()))
            {
                explain(offer, FetchError::Circle(other.clone()));
            }
        }
        failures
    }
}

/// Publishes what is whole, in groups, each path after its references.
struct Publisher<'a> {
    store: &'a Store,
    progress: &'a Progress,
    /// Unpacked paths whose references are not in the group or published yet.
    waiting: HashMap<StorePathHash, Publication>,
    group: Vec<Publication>,
    /// Planned paths that are neither published nor in the group, and that others wait for.
    unpublished: HashSet<StorePathHash>,
    last: Instant,
    copied: u64,
    nar_bytes: u64,
}

impl Publisher<'_> {
    fn take(&mut self, publication: Publication) -> Result<(), StoreError> {
        let hash = publication.registration.path.hash();
        self.waiting.insert(hash, publication);
        // Work comes in the order of references, so that few ever wait.
        loop {
            let ready = self.waiting.iter().find_map(|(hash, p)| {
                let mut references = p.registration.references.iter();
                references
                    .all(|r| r.hash() == *hash || !self.unpublished.contains(&r.hash()))
                    .then_some(*hash)
            });
            let Some(ready) = ready else { break };
            self.unpublished.remove(&ready);
            self.group.extend(self.waiting.remove(&ready));
        }
        if self.store.contents().unflushed() >= GROUP_BYTES || self.last.elapsed() >= GROUP_TIME {
            self.publish()?;
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), StoreError> {
        self.store.paths().publish(&self.group)?;
        for p in self.group.drain(..) {
            self.copied += 1;
            self.nar_bytes += p.registration.nar_size;
            self.progress.paths_done.fetch_add(1, Ordering::Relaxed);
        }
        self.last = Instant::now();
        Ok(())
    }

    /// What never became ready: its references failed, or refer to each other.
    fn abandon(&mut self) -> HashSet<StorePathHash> {
        self.waiting.drain().map(|(hash, _)| hash).collect()
    }
}
