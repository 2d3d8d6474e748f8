//! Completion of closure views in the background: fetches the path infos that are still unknown.
//!
//! Invariants: there is one task, and only while a view is incomplete; after a profile switch it
//! continues with what views lack by then; a source that is unreachable is retried soon, one that
//! does not have a path is retried rarely.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::command::{UnknownPath, chain};
use crate::engine::Engine;
use crate::fetch::{CopyFailure, Fetcher, Progress};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Store, StoreError};
use crate::sync;

/// Interval of the check whether missing path infos have become known by other means.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Back-off after the first failed attempt; it doubles after each further one …
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// … up to this after a source did not answer, so that views are complete soon after it is back,
const UNREACHABLE_BACKOFF: Duration = Duration::from_secs(4);
/// … and up to this if all sources answered that they do not have the path.
const ABSENT_BACKOFF: Duration = Duration::from_secs(60);

/// State of the completion task.
#[derive(Debug, Default)]
pub(super) struct Completion {
    state: Mutex<State>,
    /// Notifies the task that views have changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    is_running: bool,
    /// Whether views have changed since the task last looked at them.
    is_outdated: bool,
    /// Why paths are not known.
    reasons: HashMap<StorePathHash, String>,
}

impl Completion {
    /// Starts the task for the views of an engine, unless it is running.
    pub(super) fn begin(self: &Arc<Self>, engine: &Engine) {
        if !engine.store.views().may_be_incomplete() {
            return;
        }
        let runtime = match engine.runtime() {
            Ok(runtime) => runtime,
            Err(e) => return tracing::warn!("cannot complete closure views: {}", chain(&e)),
        };
        let mut state = self.state();
        state.is_outdated = true;
        if std::mem::replace(&mut state.is_running, true) {
            self.changed.notify_one();
            return;
        }
        let task = Task {
            completion: self.clone(),
            store: engine.store.clone(),
            fetcher: engine.fetcher().cloned(),
        };
        runtime.spawn(task.run());
    }

    /// Adds to unknown paths the reason why sources could not supply them.
    pub(super) fn explain(&self, paths: &mut [UnknownPath]) {
        let state = self.state();
        for unknown in paths {
            let name = unknown.path.rsplit('/').next().unwrap_or_default();
            if let Ok(path) = StorePath::parse_base_name(name.as_bytes()) {
                unknown.error = state.reasons.get(&path.hash()).cloned();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }

    /// Whether the task may end, since all views are complete and have not changed.
    fn may_end(&self) -> bool {
        let mut state = self.state();
        state.is_running = std::mem::take(&mut state.is_outdated);
        !state.is_running
    }

    /// Records the failures, and drops the reasons of paths that are known by now.
    fn note(&self, unknown: &[StorePath], failures: &[CopyFailure]) {
        let unknown: HashSet<_> = unknown.iter().map(StorePath::hash).collect();
        let mut state = self.state();
        state.reasons.retain(|hash, _| unknown.contains(hash));
        for failure in failures {
            let text = chain(&failure.error);
            let path = failure.path.as_ref().map(ToString::to_string);
            let path = path.unwrap_or_else(|| failure.hash.to_string());
            if state.reasons.get(&failure.hash) != Some(&text) {
                tracing::warn!(path, "closure views that need it are incomplete: {text}");
            }
            state.reasons.insert(failure.hash, text);
        }
    }
}

struct Task {
    completion: Arc<Completion>,
    store: Arc<Store>,
    fetcher: Option<Fetcher>,
}

impl Task {
    async fn run(self) {
        let mut pause = INITIAL_BACKOFF;
        let mut before = Vec::new();
        loop {
            let unknown = match self.complete().await {
                Ok(unknown) => unknown,
                Err(e) => {
                    tracing::warn!("cannot complete closure views: {}", chain(&e));
                    Vec::new()
                }
            };
            if unknown.is_empty() {
                self.completion.note(&unknown, &[]);
                if self.completion.may_end() {
                    return;
                }
                continue;
            }
            if unknown != before {
                pause = INITIAL_BACKOFF;
            }
            let Some(failures) = self.fetch_infos(&unknown).await else {
                continue;
            };
            self.completion.note(&unknown, &failures);
            before.clone_from(&unknown);
            if failures.is_empty() && self.fetcher.is_some() {
                continue;
            }
            let is_away = failures
                .iter()
                .any(|f| !f.error.is_absent() || f.error.is_out_of_reach());
            self.wait(&unknown, pause).await;
            pause = (pause * 2).min(if is_away {
                UNREACHABLE_BACKOFF
            } else {
                ABSENT_BACKOFF
            });
        }
    }

    /// Adds to the views the paths that have become known. This writes to the store and waits for
    /// the kernel.
    async fn complete(&self) -> Result<Vec<StorePath>, StoreError> {
        self.completion.state().is_outdated = false;
        let store = self.store.clone();
        let completing = tokio::task::spawn_blocking(move || store.views().complete());
        completing.await.unwrap_or_else(|_| Ok(Vec::new()))
    }

    /// Fetches the path infos of `unknown` and of their references. `None` if views have changed
    /// meanwhile and lack something else.
    async fn fetch_infos(&self, unknown: &[StorePath]) -> Option<Vec<CopyFailure>> {
        let Some(fetcher) = &self.fetcher else {
            return Some(Vec::new());
        };
        let wanted = unknown.iter().map(|p| (p.hash(), Some(p.clone())));
        let progress = Progress::default();
        let mut fetching = pin!(fetcher.register(wanted.collect(), true, &progress));
        loop {
            tokio::select! {
                result = &mut fetching => return Some(result.unwrap_or_default()),
                () = self.completion.changed.notified() => {
                    if self.has_changed(unknown).await {
                        return None;
                    }
                }
                () = sleep(POLL_INTERVAL) => {
                    // Large closures become visible step by step.
                    if self.any_became_known(unknown) {
                        self.complete().await.ok();
                    }
                }
            }
        }
    }

    /// Waits until the next attempt is due, a path info becomes known, or views change.
    async fn wait(&self, unknown: &[StorePath], pause: Duration) {
        let end = Instant::now() + pause;
        while Instant::now() < end && !self.any_became_known(unknown) {
            tokio::select! {
                () = sleep_until(end.min(Instant::now() + POLL_INTERVAL)) => {}
                () = self.completion.changed.notified() => {
                    if self.has_changed(unknown).await {
                        return;
                    }
                }
            }
        }
    }

    /// Whether views lack something else by now.
    async fn has_changed(&self, unknown: &[StorePath]) -> bool {
        self.complete().await.is_ok_and(|now| now != unknown)
    }

    fn any_became_known(&self, unknown: &[StorePath]) -> bool {
        let mut each = unknown.iter();
        each.any(|path| matches!(self.store.paths().info(path.hash()), Ok(Some(_))))
    }
}
