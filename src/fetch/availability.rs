//! Sources that may be away: a mount starts at once, and goes on with those that answer.
//!
//! Invariants: that no source has a path is said only when every one said so, or is optional and cannot
//! be reached; a source that is away holds up what another one has once, and is then asked last for a
//! while, an optional one only after it has answered in the background; whoever waits for a source that
//! is being opened learns what that try gives.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::error::FetchError;
use super::options::FetchOptions;
use super::sources::{Asked, OPTIONAL, Offer, Source, Sources, Trust};
use crate::measure::Histogram;
use crate::nix::store_path::{StoreDir, StorePathHash};
use crate::substituter::{self, Options, SourceError, Substituter, TrafficSnapshot};
use crate::sync;

/// Time for which a source that did not answer is asked last.
const AWAY: Duration = Duration::from_secs(10);
/// The same for an optional source, which is then asked in the background.
const OUT_OF_REACH: Duration = Duration::from_secs(5);
/// Time that a lookup gives an optional source that was away, from its being asked in the background on,
/// where no other source has the path. One that is back answers sooner; one that is not costs this once
/// in [`OUT_OF_REACH`].
const HEAD_START: Duration = Duration::from_millis(300);

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
    /// Whether it may be out of reach.
    optional: bool,
    /// The last look whether it is back, where it is optional.
    look: Mutex<Option<Look>>,
}

/// A look in the background whether a source is back.
#[derive(Clone)]
struct Look {
    since: Instant,
    /// `None` while it goes on.
    back: watch::Receiver<Option<bool>>,
}

/// What the sources say of a path.
pub(super) enum Answer {
    Offer(Box<Offer>),
    /// None has it, but for optional ones that cannot be reached.
    Nowhere {
        unreachable: Vec<String>,
    },
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
            optional: substituter::is_optional(url),
            look: Mutex::default(),
        }
    }

    /// Whether it is optional and did not answer the last question, however long ago.
    fn is_out_of_reach(&self) -> bool {
        self.optional && sync::lock(&self.away).is_some()
    }

    /// Whether a failure says that it is away.
    fn is_silent(&self, e: &FetchError) -> bool {
        e.is_transient() || self.optional && e.is_out_of_the_way(&self.url)
    }

    fn is_away(&self) -> bool {
        let away = sync::lock(&self.away);
        let while_away = match self.optional {
            true => OUT_OF_REACH,
            false => AWAY,
        };
        away.is_some_and(|since| since.elapsed() < while_away)
    }

    fn note<T>(&self, outcome: &Result<T, FetchError>) {
        let failure = outcome.as_ref().err().filter(|e| self.is_silent(e));
        let mut away = sync::lock(&self.away);
        match (&*away, failure) {
            (None, Some(e)) if self.optional => tracing::warn!(
                source = self.shown,
                "an optional source cannot be reached, and what only it has is not found: {e}"
            ),
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
            optional: self.optional,
            priority: source.map(|s| s.priority),
            traffic: self.substituter.get().map(|s| s.traffic().snapshot()),
        }
    }
}

impl Look {
    /// Whether the source has answered within the head start.
    async fn is_back(&self) -> bool {
        let mut back = self.back.clone();
        let rest = HEAD_START.saturating_sub(self.since.elapsed());
        let answer = back.wait_for(Option::is_some);
        let answer = tokio::time::timeout(rest, answer).await;
        answer.is_ok_and(|seen| seen.is_ok_and(|back| *back == Some(true)))
    }
}

/// A question to the sources, and what came of it so far.
struct Question<'q> {
    asked: Asked,
    store_dir: &'q StoreDir,
    trust: &'q Trust,
    /// Why a source could not say.
    failure: Option<FetchError>,
    /// Optional sources that could not be asked.
    unreachable: Vec<String>,
}

impl Question<'_> {
    fn failed(&mut self, slot: &Slot, error: FetchError) {
        if slot.optional && slot.is_silent(&error) {
            self.unreachable.push(slot.shown.clone());
        } else {
            self.failure = Some(error);
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
    /// Whether it may be away: what only it has is absent then.
    #[serde(default)]
    pub optional: bool,
    /// The lower, the earlier it is asked; once it has said so.
    pub priority: Option<u32>,
    /// What went on so far.
    pub traffic: Option<TrafficSnapshot>,
}

/// The sources of a mount.
#[derive(Clone)]
pub(super) struct Slots {
    slots: Arc<[Slot]>,
    /// Optional sources that could not be opened, and are not among the slots.
    unreachable: Arc<[String]>,
    /// For one answer of one source.
    patience: Duration,
    open: Arc<Options>,
}

impl Slots {
    /// Sources that are asked for narinfos for at most the deadline of a lookup in all, if each
    /// has its share.
    pub(super) fn new(options: &FetchOptions) -> Self {
        let slots = options.urls.iter().map(|url| Slot::new(url));
        Self::with(slots, Vec::new(), options)
    }

    /// Sources that have answered.
    pub(super) fn opened(sources: Sources, options: &FetchOptions) -> Self {
        let slots = sources.all.into_iter().map(|source| Slot {
            source: OnceLock::from(source.clone()),
            optional: source.optional,
            ..Slot::new(source.url())
        });
        Self::with(slots, sources.unreachable, options)
    }

    fn with(
        slots: impl Iterator<Item = Slot>,
        unreachable: Vec<String>,
        options: &FetchOptions,
    ) -> Self {
        let slots: Arc<[_]> = slots.collect();
        let shares = u32::try_from(slots.len()).unwrap_or(u32::MAX).max(1);
        Self {
            slots,
            unreachable: unreachable.into(),
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
        let answered = self.slots.iter().filter_map(|s| s.source.get().cloned());
        Sources::of(answered.collect(), self.unreachable.to_vec())
    }

    /// The best usable offer of a path, or that every source said that it has none. Optional sources
    /// that are away hold up nobody who gets an offer of another one.
    pub(super) async fn offer(
        &self,
        hash: StorePathHash,
        store_dir: &StoreDir,
        trust: &Trust,
    ) -> Result<Answer, FetchError> {
        let all = 0..self.slots.len();
        let (out, rest): (Vec<_>, Vec<_>) = all.partition(|at| self.slots[*at].is_out_of_reach());
        let (away, there): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|at| self.slots[*at].is_away());
        let looks: Vec<_> = out.iter().map(|at| self.look(*at, store_dir)).collect();
        let mut question = Question {
            asked: Asked { hash, path: None },
            store_dir,
            trust,
            failure: None,
            unreachable: Vec::new(),
        };
        for group in [there, away] {
            if let Some(found) = self.ask(group, &mut question).await {
                return Ok(Answer::Offer(found));
            }
        }
        let mut back = Vec::new();
        for (at, look) in out.into_iter().zip(looks) {
            let is_back = match look {
                Some(look) => look.is_back().await,
                None => false,
            };
            match is_back {
                true => back.push(at),
                false => question.unreachable.push(self.slots[at].shown.clone()),
            }
        }
        if let Some(found) = self.ask(back, &mut question).await {
            return Ok(Answer::Offer(found));
        }
        let unreachable = question.unreachable;
        let nowhere = Answer::Nowhere { unreachable };
        question.failure.map_or(Ok(nowhere), Err)
    }

    /// Asks the sources of a group, best first.
    async fn ask(&self, group: Vec<usize>, question: &mut Question<'_>) -> Option<Box<Offer>> {
        for (at, source) in self.sources(group, question).await {
            let slot = &self.slots[at];
            let offer = source.offer(&question.asked, question.store_dir, question.trust);
            match self.within(self.patience, slot, offer).await {
                Ok(None) => {}
                Ok(Some(found)) => return Some(Box::new(found)),
                Err(e) => question.failed(slot, e),
            }
        }
        None
    }

    /// Those of `group` that answer, best first.
    async fn sources(
        &self,
        group: Vec<usize>,
        question: &mut Question<'_>,
    ) -> Vec<(usize, Source)> {
        let mut opening = JoinSet::new();
        for at in group {
            let (slots, store_dir) = (self.clone(), question.store_dir.clone());
            opening.spawn(async move { (at, slots.source(at, &store_dir).await) });
        }
        let mut found = Vec::new();
        while let Some(opened) = opening.join_next().await {
            match opened {
                Ok((at, Ok(source))) => found.push((at, source)),
                Ok((at, Err(e))) => question.failed(&self.slots[at], e),
                Err(_) => question.failure = Some(FetchError::Stopped),
            }
        }
        // Equal priorities keep the user's order.
        found.sort_by_key(|(at, source)| (source.priority, *at));
        found
    }

    /// Looks in the background whether a source is back that is out of reach, unless that was tried a
    /// moment ago.
    fn look(&self, at: usize, store_dir: &StoreDir) -> Option<Look> {
        let slot = &self.slots[at];
        let mut last = sync::lock(&slot.look);
        if let Some(look) = &*last
            && look.back.borrow().is_none()
            && look.back.has_changed().is_ok()
        {
            return Some(look.clone());
        }
        if slot.is_away() {
            return None;
        }
        let (looked, back) = watch::channel(None);
        let (slots, store_dir) = (self.clone(), store_dir.clone());
        tokio::spawn(async move {
            let slot = &slots.slots[at];
            let answer = match slot.source.get() {
                Some(source) => {
                    let answer = async { Ok(source.substituter.cache_info().await?) };
                    slots.within(OPTIONAL, slot, answer).await.map(drop)
                }
                None => slots.source(at, &store_dir).await.map(drop),
            };
            looked.send_replace(Some(answer.is_ok()));
        });
        let since = Instant::now();
        Some(last.insert(Look { since, back }).clone())
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
        let patience = match slot.optional {
            true => self.patience.min(OPTIONAL),
            false => self.patience,
        };
        match self.within(patience, slot, open).await {
            Ok(source) => Ok(slot.source.get_or_init(|| source).clone()),
            Err(error) => {
                let error = Arc::new(error);
                *failed = Some((Instant::now(), error.clone()));
                Err(error.into())
            }
        }
    }

    async fn within<T>(
        &self,
        patience: Duration,
        slot: &Slot,
        asking: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        let answer = tokio::time::timeout(patience, asking).await;
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
