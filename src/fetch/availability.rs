//! Sources that may be away: a mount starts at once, and goes on with those that answer.
//!
//! Invariants: that no source has a path is said only when every one said so; a source that is
//! away holds up what another one has once, and is then asked last for a while; whoever waits for
//! a source that is being opened learns what that try gives.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::error::FetchError;
use super::options::FetchOptions;
use super::sources::{Asked, Offer, Source, Sources, Trust};
use crate::measure::Histogram;
use crate::nix::store_path::{StoreDir, StorePathHash};
use crate::substituter::{self, Options, SourceError, Substituter, TrafficSnapshot};
use crate::sync;

/// Time for which a source that did not answer is asked last.
const AWAY: Duration = Duration::from_secs(10);

/// A failure that several requests share, and when it came.
type Failed = (Instant, Arc<FetchError>);

struct Slot {
    url: String,
    /// As it may be shown.
    shown: String,
    /// Kept from one try to the next, with its counters and its wishes.
    substituter: OnceLock<Arc<dyn Substituter>>,
    source: OnceLock<Source>,
    /// Held by whoever opens it.
    failed: tokio::sync::Mutex<Option<Failed>>,
    /// Since when it has not answered.
    away: Mutex<Option<Instant>>,
}

impl Slot {
    fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            shown: substituter::redacted(url),
            substituter: OnceLock::new(),
            source: OnceLock::new(),
            failed: tokio::sync::Mutex::default(),
            away: Mutex::default(),
        }
    }

    fn is_away(&self) -> bool {
        let away = sync::lock(&self.away);
        away.is_some_and(|since| since.elapsed() < AWAY)
    }

    fn note<T>(&self, outcome: &Result<T, FetchError>) {
        let silent = |e: &FetchError| matches!(e, FetchError::Source(e) if e.is_transient());
        let failure = outcome.as_ref().err().filter(|e| silent(e));
        let mut away = sync::lock(&self.away);
        match (&*away, failure) {
            (None, Some(e)) => tracing::warn!(source = self.shown, "a source is away: {e}"),
            (Some(_), None) => tracing::info!(source = self.shown, "a source answers again"),
            _ => {}
        }
        *away = failure.map(|_| Instant::now());
    }

    fn report(&self) -> SourceReport {
        let source = self.source.get();
        let state = match source {
            _ if self.away.lock().is_ok_and(|away| away.is_some()) => SourceState::Away,
            Some(_) => SourceState::Answers,
            None => SourceState::NotAsked,
        };
        SourceReport {
            url: self.shown.clone(),
            state,
            priority: source.map(|s| s.priority),
            traffic: self.substituter.get().map(|s| s.traffic().snapshot()),
        }
    }
}

/// How a source is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceState {
    /// Nothing was needed of it so far.
    NotAsked,
    /// It answered the last question.
    Answers,
    /// It did not answer the last question; it is asked last for a while.
    Away,
}

/// A source, for whoever watches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    pub url: String,
    pub state: SourceState,
    /// The lower, the earlier it is asked; once it has said so.
    pub priority: Option<u32>,
    /// What went on so far.
    pub traffic: Option<TrafficSnapshot>,
}

/// The sources of a mount.
#[derive(Clone)]
pub(super) struct Slots {
    slots: Arc<[Slot]>,
    /// For one answer of one source.
    patience: Duration,
    open: Arc<Options>,
}

impl Slots {
    /// Sources that are asked for narinfos for at most the deadline of a lookup in all, if each
    /// has its share.
    pub(super) fn new(options: &FetchOptions) -> Self {
        Self::with(options.urls.iter().map(|url| Slot::new(url)), options)
    }

    /// Sources that have answered.
    pub(super) fn opened(sources: Sources, options: &FetchOptions) -> Self {
        let slots = sources.0.into_iter().map(|source| Slot {
            source: OnceLock::from(source.clone()),
            ..Slot::new(source.url())
        });
        Self::with(slots, options)
    }

    fn with(slots: impl Iterator<Item = Slot>, options: &FetchOptions) -> Self {
        let slots: Arc<[_]> = slots.collect();
        let shares = u32::try_from(slots.len()).unwrap_or(u32::MAX).max(1);
        Self {
            slots,
            patience: options.deadlines.lookup / shares,
            open: Arc::new(Options {
                // Half: who waits for a NAR that stopped coming sees a second try.
                stall: options.deadlines.contents / 2,
                netrc: options.netrc.clone(),
            }),
        }
    }

    /// All of them, in the order in which they are asked as far as that is known.
    pub(super) fn report(&self) -> Vec<SourceReport> {
        let mut all: Vec<_> = self.slots.iter().map(Slot::report).collect();
        all.sort_by_key(|s| s.priority.unwrap_or(u32::MAX));
        all
    }

    /// From asking to the heads of the answers, by source; those that were asked.
    pub(super) fn latencies(&self) -> Vec<(String, Histogram)> {
        let asked = self.slots.iter().filter_map(|slot| {
            let substituter = slot.substituter.get()?;
            Some((slot.shown.clone(), substituter.traffic().latencies()))
        });
        asked.collect()
    }

    pub(super) fn urls(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().map(|s| s.shown.as_str())
    }

    /// Those that have answered so far.
    pub(super) fn answered(&self) -> Sources {
        Sources::of(
            self.slots
                .iter()
                .filter_map(|s| s.source.get().cloned())
                .collect(),
        )
    }

    /// The best usable offer of a path; `None` if every source said that it has none.
    pub(super) async fn offer(
        &self,
        hash: StorePathHash,
        store_dir: &StoreDir,
        trust: &Trust,
    ) -> Result<Option<Offer>, FetchError> {
        let all = 0..self.slots.len();
        let (away, there): (Vec<_>, Vec<_>) = all.partition(|at| self.slots[*at].is_away());
        let asked = Asked { hash, path: None };
        let mut failure = None;
        for group in [there, away] {
            let (sources, unopened) = self.sources(group, store_dir).await;
            failure = unopened.or(failure);
            for (at, source) in sources {
                let slot = &self.slots[at];
                let offer = source.offer(&asked, store_dir, trust);
                match self.within_patience(slot, offer).await {
                    Ok(None) => {}
                    Ok(found) => return Ok(found),
                    Err(e) => failure = Some(e),
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Those of `group` that answer, best first. If one does not, why.
    async fn sources(
        &self,
        group: Vec<usize>,
        store_dir: &StoreDir,
    ) -> (Vec<(usize, Source)>, Option<FetchError>) {
        let mut opening = JoinSet::new();
        for at in group {
            let (slots, store_dir) = (self.clone(), store_dir.clone());
            opening.spawn(async move { (at, slots.source(at, &store_dir).await) });
        }
        let (mut found, mut failure) = (Vec::new(), None);
        while let Some(opened) = opening.join_next().await {
            match opened {
                Ok((at, Ok(source))) => found.push((at, source)),
                Ok((_, Err(e))) => failure = Some(e),
                Err(_) => failure = Some(FetchError::Stopped),
            }
        }
        // Equal priorities keep the user's order.
        found.sort_by_key(|(at, source)| (source.priority, *at));
        (found, failure)
    }

    async fn source(&self, at: usize, store_dir: &StoreDir) -> Result<Source, FetchError> {
        let slot = &self.slots[at];
        let asked = Instant::now();
        if let Some(source) = slot.source.get() {
            return Ok(source.clone());
        }
        let mut failed = slot.failed.lock().await;
        if let Some(source) = slot.source.get() {
            return Ok(source.clone());
        }
        if let Some((when, error)) = &*failed
            && *when >= asked
        {
            return Err(error.clone().into());
        }
        let open = async {
            let substituter = match slot.substituter.get() {
                Some(substituter) => substituter.clone(),
                None => {
                    let opened = substituter::open(&slot.url, &self.open)?;
                    slot.substituter.get_or_init(|| opened).clone()
                }
            };
            Source::of(substituter, store_dir).await
        };
        match self.within_patience(slot, open).await {
            Ok(source) => Ok(slot.source.get_or_init(|| source).clone()),
            Err(error) => {
                let error = Arc::new(error);
                *failed = Some((Instant::now(), error.clone()));
                Err(error.into())
            }
        }
    }

    async fn within_patience<T>(
        &self,
        slot: &Slot,
        asking: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        let answer = tokio::time::timeout(self.patience, asking).await;
        let outcome = answer.unwrap_or_else(|late| {
            Err(FetchError::Source(SourceError::Unreachable {
                url: slot.shown.clone(),
                what: "no answer in time",
                source: late.into(),
            }))
        });
        slot.note(&outcome);
        outcome
    }
}
