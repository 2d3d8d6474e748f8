//! Completes closure views in the background: asks for what they lack until it is known.
//!
//! Invariants: there is one task, and only as long as a view lacks something; whatever is switched
//! meanwhile, it asks for what views lack now; a source that is away is asked again soon, and one
//! that has not got a path seldom.

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

/// How often it is looked whether something has become known, by whomever.
const LOOK: Duration = Duration::from_millis(500);
/// How long sources are left alone after the first try in vain; twice as long after each …
const FIRST: Duration = Duration::from_secs(1);
/// … up to this where one did not answer, so that a view is whole soon after it is back,
const AWAY: Duration = Duration::from_secs(4);
/// … and up to this where all have said that they have not got it.
const ABSENT: Duration = Duration::from_secs(60);

/// What views lack, and who asks for it.
#[derive(Debug, Default)]
pub(super) struct Completion {
    state: Mutex<State>,
    /// Told to the task when views have changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whether there is the task.
    is_running: bool,
    /// Whether views have changed since it looked at them.
    is_behind: bool,
    /// Why paths are not known.
    reasons: HashMap<StorePathHash, String>,
}

impl Completion {
    /// Has the views of an engine completed, by its sources.
    pub(super) fn begin(self: &Arc<Self>, engine: &Engine) {
        let table = engine.store.views().table();
        if !table.views().any(|view| view.may_be_incomplete()) {
            return;
        }
        let runtime = match engine.runtime() {
            Ok(runtime) => runtime,
            Err(e) => return tracing::warn!("closure views stay as they are: {}", chain(&e)),
        };
        let mut state = self.state();
        state.is_behind = true;
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

    /// Says of paths that are not known why they are not, as far as sources were asked.
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

    /// Whether the task may end, since views lack nothing and have not changed.
    fn ends(&self) -> bool {
        let mut state = self.state();
        state.is_running = std::mem::take(&mut state.is_behind);
        !state.is_running
    }

    /// Notes why these are not known, and of what is `unknown` no more.
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
        let mut pause = FIRST;
        let mut before = Vec::new();
        loop {
            let unknown = match self.complete().await {
                Ok(unknown) => unknown,
                Err(e) => {
                    tracing::warn!("closure views stay as they are: {}", chain(&e));
                    Vec::new()
                }
            };
            if unknown.is_empty() {
                self.completion.note(&unknown, &[]);
                if self.completion.ends() {
                    return;
                }
                continue;
            }
            if unknown != before {
                pause = FIRST;
            }
            let Some(failures) = self.ask(&unknown).await else {
                continue;
            };
            self.completion.note(&unknown, &failures);
            before.clone_from(&unknown);
            if failures.is_empty() && self.fetcher.is_some() {
                continue;
            }
            let is_away = failures.iter().any(|f| !f.error.is_absent());
            self.wait(&unknown, pause).await;
            pause = (pause * 2).min(if is_away { AWAY } else { ABSENT });
        }
    }

    /// Has views show what is known. It writes and waits for the kernel.
    async fn complete(&self) -> Result<Vec<StorePath>, StoreError> {
        self.completion.state().is_behind = false;
        let store = self.store.clone();
        let completing = tokio::task::spawn_blocking(move || store.views().complete());
        completing.await.unwrap_or_else(|_| Ok(Vec::new()))
    }

    /// Asks the sources for paths and what these refer to. `None` if views have changed meanwhile
    /// and lack something else.
    async fn ask(&self, unknown: &[StorePath]) -> Option<Vec<CopyFailure>> {
        let Some(fetcher) = &self.fetcher else {
            return Some(Vec::new());
        };
        let wanted = unknown.iter().map(|p| (p.hash(), Some(p.clone())));
        let progress = Progress::default();
        let mut asking = pin!(fetcher.register(wanted.collect(), true, &progress));
        loop {
            tokio::select! {
                asked = &mut asking => return Some(asked.unwrap_or_default()),
                () = self.completion.changed.notified() => {
                    if self.lacks_another(unknown).await {
                        return None;
                    }
                }
                () = sleep(LOOK) => {
                    // What a large closure has of it is shown while the rest is asked for.
                    if self.is_news(unknown) {
                        self.complete().await.ok();
                    }
                }
            }
        }
    }

    /// Until it is time to ask again, or something is known, or views change.
    async fn wait(&self, unknown: &[StorePath], pause: Duration) {
        let end = Instant::now() + pause;
        while Instant::now() < end && !self.is_news(unknown) {
            tokio::select! {
                () = sleep_until(end.min(Instant::now() + LOOK)) => {}
                () = self.completion.changed.notified() => {
                    if self.lacks_another(unknown).await {
                        return;
                    }
                }
            }
        }
    }

    /// Whether views lack something else than this by now.
    async fn lacks_another(&self, unknown: &[StorePath]) -> bool {
        self.complete().await.is_ok_and(|now| now != unknown)
    }

    fn is_news(&self, unknown: &[StorePath]) -> bool {
        let mut each = unknown.iter();
        each.any(|path| matches!(self.store.paths().info(path.hash()), Ok(Some(_))))
    }
}
