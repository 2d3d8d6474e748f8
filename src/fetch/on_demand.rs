//! Paths on demand: what a file system waits for.
//!
//! Invariants: a request never blocks its caller, who is called back within the deadline; the
//! transfer itself goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::error::FetchError;
use super::fetcher::{Fetcher, Inner};
use super::flights::{Need, Outcome};
use super::options::PrefetchPolicy;
use super::progress::Progress;
use super::requester::Requester;
use super::restore::restore;
use crate::nix::store_path::StorePath;
use crate::store::{Origin, PathInfo};
use crate::sync;

/// Looks at a deadline until it is over …
const LOOKS: u32 = 20;
/// … and the longest time between two looks, which are for whether the requester is alive, too.
const LOOK: Duration = Duration::from_millis(200);

impl Fetcher {
    /// Has `ready` called when `need` is met or cannot be, at the latest after the deadline, or
    /// when `requester` was killed. It is called where blocking is allowed. What was added here and cannot
    /// be read is restored from what is kept of it a second time; only then are the sources asked.
    pub fn request(
        &self,
        need: Need,
        requester: Requester,
        ready: impl FnOnce(Outcome) + Send + 'static,
    ) {
        self.0.misses.fetch_add(1, Ordering::Relaxed);
        let Some(added) = self.0.added(&need) else {
            return self.ask(need, requester, ready);
        };
        let fetcher = self.clone();
        let restoring = self.0.to.runtime.spawn_blocking(move || {
            match restore(&fetcher.0.to.store, &added) {
                Ok(true) => return ready(Ok(())),
                Ok(false) => {}
                Err(e) => {
                    let path = &added.registration.path;
                    tracing::warn!("{path} cannot be restored from what is kept of it: {e}");
                }
            }
            fetcher.ask(need, requester, ready);
        });
        drop(restoring);
    }

    /// The same from the sources alone.
    fn ask(&self, need: Need, requester: Requester, ready: impl FnOnce(Outcome) + Send + 'static) {
        let inner = self.0.clone();
        let runtime = &self.0.to.runtime;
        if let Some(error) = inner.failed_lately(&need) {
            drop(runtime.spawn_blocking(move || ready(Err(error))));
            return;
        }
        let waiting = inner.join(&need, true, None);
        if let (Need::Contents(path), PrefetchPolicy::Closure) = (&need, inner.prefetch) {
            self.follow(path);
        }
        let flight = waiting.0.clone();
        runtime.spawn(async move {
            let outcome = tokio::select! {
                outcome = inner.met(waiting, &need, true, None) => outcome,
                () = flight.shown() => Ok(()),
                error = give_up(&inner, &need, requester) => Err(error),
            };
            drop(tokio::task::spawn_blocking(move || ready(outcome)));
        });
    }

    /// Notes that paths were removed: if they come back, so do their closures.
    pub fn removed(&self, paths: &[StorePath]) {
        let mut followed = sync::lock(&self.0.followed);
        for path in paths {
            followed.remove(&path.hash());
        }
    }

    /// Notes that paths were forgotten: the sources are asked for them anew.
    pub fn forget(&self, paths: &[StorePath]) {
        self.removed(paths);
        for path in paths {
            self.0.offers.forget(path.hash());
        }
    }

    /// Fetches ahead what a path refers to, once.
    fn follow(&self, path: &StorePath) {
        let hash = path.hash();
        if !sync::lock(&self.0.followed).insert(hash) {
            return;
        }
        let (fetcher, path) = (self.clone(), path.clone());
        self.0.to.runtime.spawn(async move {
            let wanted = vec![(hash, Some(path.clone()))];
            let progress = Progress::default();
            match fetcher.prefetch(wanted, true, &progress).await {
                Ok(done) if done.failures.is_empty() => {
                    let paths = done.already + done.fetched;
                    tracing::info!(%path, paths, "its closure is here");
                }
                // The next request for its contents begins again.
                _ => {
                    sync::lock(&fetcher.0.followed).remove(&hash);
                }
            }
        });
    }
}

impl Inner {
    /// What is registered of a path whose contents are needed and were added on this machine, so that
    /// mostly no source has them.
    fn added(&self, need: &Need) -> Option<PathInfo> {
        let Need::Contents(path) = need else {
            return None;
        };
        let info = self.to.store.paths().readable_info(path.hash()).ok()?;
        info.filter(|info| info.origin == Origin::Added)
    }
}

/// Returns when the requester was killed, or its deadline is over; that of contents begins again
/// whenever something arrives.
async fn give_up(inner: &Arc<Inner>, need: &Need, requester: Requester) -> Arc<FetchError> {
    let patience = match need {
        Need::Root(_) => inner.deadlines.lookup,
        Need::Contents(_) => inner.deadlines.contents,
    };
    let (mut seen, mut since) = (0, Instant::now());
    while since.elapsed() < patience {
        tokio::time::sleep(LOOK.min(patience / LOOKS)).await;
        if requester.is_killed() {
            return Arc::new(FetchError::Killed);
        }
        let arrived = inner.to.flights.get(need).map(|flight| flight.arrived());
        if matches!(need, Need::Contents(_))
            && let Some(now) = arrived
            && now != seen
        {
            (seen, since) = (now, Instant::now());
        }
    }
    let path = need.path().clone();
    let error = Arc::new(FetchError::Patience { path, patience });
    inner.note_failure(need, &error);
    error
}
