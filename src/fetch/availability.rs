//! Sources that may be away: each is opened, asked and probed here, for a mount as for a command.
//!
//! Invariants: a source is opened in the background, once, and not anew because a question gives up; what is
//! known to be away holds up no question; one that is away is probed until it answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::{AwaySource, FetchError};
use super::health::{Health, State, Told};
use super::source::{Asked, Offer, Source, Trust, priority_parameter};
use crate::measure::Histogram;
use crate::nix::store_path::StoreDir;
use crate::substituter::{self, Options, SourceError, Substituter, TrafficSnapshot};

/// Time for a source to say what it is, with all tries; also for an answer to a copy, for which no program
/// waits.
const GENEROUS: Duration = Duration::from_secs(60);
/// Time for which a question waits for an optional source that is being opened: where it is out of reach,
/// nobody waits longer.
const OPTIONAL: Duration = Duration::from_secs(2);
/// Time for a source that did not answer a question to show that it is there.
const DOUBT: Duration = Duration::from_secs(1);
/// Time for the answer to a probe.
const PROBE: Duration = Duration::from_secs(15);
/// Time without an answer after which a question is late. A source that is merely far away answers sooner.
const LATE: Duration = Duration::from_secs(2);
/// Late questions of a source from which on it has no head start any more: the others are asked before it.
const SLOW: usize = 4;

/// How a source is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceState {
    /// Nothing was needed of it so far.
    NotAsked,
    /// It answers.
    Answers,
    /// It does not answer. It is probed in the background, and no question waits for it meanwhile.
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

/// What a question finds a source to be.
pub(super) enum Standing {
    Ready(Source),
    /// It is being opened or looked for, for so long already; no question waits longer than `wait`.
    Coming {
        since: Instant,
        wait: Duration,
        /// Whether it may be better than those that are there.
        is_new: bool,
    },
    Away(FetchError),
}

/// The place of one source, whether it has answered or not.
pub(super) struct Slot {
    url: String,
    /// As it may be shown.
    pub(super) shown: String,
    /// Whether it may be out of reach.
    pub(super) optional: bool,
    open: Arc<Options>,
    /// For one answer.
    patience: Duration,
    /// Kept from one try to the next, with its counters and its wishes.
    substituter: OnceLock<Arc<dyn Substituter>>,
    source: OnceLock<Source>,
    pub(super) health: Arc<Health>,
    /// Questions that are late.
    late: AtomicUsize,
}

impl Slot {
    /// A source of a mount, whose programs wait for so long.
    pub(super) fn of_mount(url: &str, open: &Arc<Options>, patience: Duration) -> Self {
        let optional = substituter::is_optional(url);
        let told = match optional {
            true => Told::LogOfOptional,
            false => Told::Log,
        };
        Self::new(url, optional, open, patience, told)
    }

    /// A source of a command, which says whether it is `optional`.
    pub(super) fn of_command(url: &str, optional: bool, open: &Arc<Options>) -> Self {
        Self::new(url, optional, open, GENEROUS, Told::Command)
    }

    fn new(url: &str, optional: bool, open: &Arc<Options>, patience: Duration, told: Told) -> Self {
        let shown = substituter::redacted(url);
        Self {
            url: url.to_owned(),
            health: Arc::new(Health::new(&shown, told)),
            shown,
            optional,
            open: open.clone(),
            patience,
            substituter: OnceLock::new(),
            source: OnceLock::new(),
            late: AtomicUsize::new(0),
        }
    }

    /// The lower, the earlier it is asked; as far as that is known.
    pub(super) fn priority(&self) -> Option<u32> {
        let said = self.source.get().map(|source| source.priority);
        said.or_else(|| priority_parameter(&self.url))
    }

    /// Whether it is so slow that others are asked before it.
    pub(super) fn is_slow(&self) -> bool {
        self.late.load(Ordering::Relaxed) >= SLOW
    }

    /// Whether what only this source has is absent after such a failure: it is optional, and does not answer,
    /// or something else does in its place.
    pub(super) fn is_out_of_reach(&self, error: &FetchError) -> bool {
        self.optional && error.is_out_of_the_way(&self.url)
    }

    /// Has it opened in the background, unless that was begun before.
    pub(super) fn begin(self: &Arc<Self>, store_dir: &StoreDir) {
        if let Some(turn) = self.health.open() {
            let looking = look_after(Arc::downgrade(self), store_dir.clone(), turn, GENEROUS);
            tokio::spawn(looking);
        }
    }

    /// What it is to a question that is asked now. It must have begun.
    pub(super) fn standing(&self) -> Standing {
        match (self.health.state(), self.source.get()) {
            (State::Answers, Some(source)) => Standing::Ready(source.clone()),
            (State::Away { since, error }, _) => Standing::Away(self.away(since, error)),
            (State::Doubted { since, error }, _) => match since.elapsed() < DOUBT {
                true => Standing::Coming {
                    since,
                    wait: DOUBT,
                    is_new: false,
                },
                false => Standing::Away(self.away(since, error)),
            },
            (State::Opening { since }, _) => {
                let wait = match self.optional {
                    true => self.patience.min(OPTIONAL),
                    false => self.patience,
                };
                if since.elapsed() < wait {
                    let is_new = true;
                    return Standing::Coming {
                        since,
                        wait,
                        is_new,
                    };
                }
                let error = self.late();
                self.health.log_away(&error);
                Standing::Away(self.away(since, Arc::new(error)))
            }
            (State::NotAsked | State::Answers, _) => Standing::Away(self.late()),
        }
    }

    /// Waits until it has answered, or is known not to. It must have begun.
    pub(super) async fn settled(&self) -> Result<Source, FetchError> {
        loop {
            match self.standing() {
                Standing::Ready(source) => return Ok(source),
                Standing::Away(error) => return Err(error),
                Standing::Coming { since, wait, .. } => {
                    let rest = wait.saturating_sub(since.elapsed());
                    self.health.settled(rest).await;
                }
            }
        }
    }

    /// Asks it for a path.
    pub(super) async fn ask(
        self: Arc<Self>,
        source: Source,
        asked: &Asked,
        store_dir: &StoreDir,
        trust: &Trust,
    ) -> Result<Option<Offer>, FetchError> {
        let began = Instant::now();
        let asking = self.within(self.patience, source.offer(asked, store_dir, trust));
        let mut asking = std::pin::pin!(asking);
        let outcome = tokio::select! {
            outcome = &mut asking => outcome,
            () = tokio::time::sleep(LATE) => {
                let _late = Late::of(&self.late);
                asking.await
            }
        };
        let error = match outcome {
            Err(e) if e.is_transient() => Arc::new(e),
            said => {
                source.answered();
                return said;
            }
        };
        if let Some(turn) = self.health.silent(began, &error) {
            let looking = look_after(Arc::downgrade(&self), store_dir.clone(), turn, DOUBT);
            tokio::spawn(looking);
        }
        Err(error.into())
    }

    /// Opens it; one that is open already is asked whether it is there.
    async fn look(&self, store_dir: &StoreDir) -> Result<(), FetchError> {
        if let Some(source) = self.source.get() {
            return source.probe().await;
        }
        let substituter = match self.substituter.get() {
            Some(substituter) => substituter.clone(),
            None => {
                let opened = substituter::open(&self.url, &self.open)?;
                self.substituter.get_or_init(|| opened).clone()
            }
        };
        let source = Source::of(substituter, store_dir, self.optional, &self.health).await?;
        self.source.get_or_init(|| source);
        Ok(())
    }

    async fn within<T>(
        &self,
        patience: Duration,
        asking: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        let answer = tokio::time::timeout(patience, asking).await;
        answer.unwrap_or_else(|_| Err(self.late()))
    }

    /// The error that it has not answered in time.
    fn late(&self) -> FetchError {
        FetchError::Source(SourceError::Unreachable {
            url: self.shown.clone(),
            what: "no answer in time",
            source: std::io::ErrorKind::TimedOut.into(),
        })
    }

    fn away(&self, since: Instant, error: Arc<FetchError>) -> FetchError {
        FetchError::Away(vec![AwaySource {
            url: self.shown.clone(),
            since: since.elapsed(),
            error,
        }])
    }

    pub(super) fn report(&self) -> SourceReport {
        let traffic = self.substituter.get().map(|s| s.traffic().snapshot());
        let is_tried_again = traffic.as_ref().is_some_and(|t| t.retries > 0);
        let state = match self.health.state() {
            State::NotAsked => SourceState::NotAsked,
            State::Opening { since } if is_tried_again || since.elapsed() > OPTIONAL => {
                SourceState::Away
            }
            State::Opening { .. } => SourceState::NotAsked,
            State::Answers => SourceState::Answers,
            State::Doubted { .. } | State::Away { .. } => SourceState::Away,
        };
        SourceReport {
            url: self.shown.clone(),
            state,
            optional: self.optional,
            priority: self.source.get().map(|source| source.priority),
            traffic,
        }
    }

    /// From asking to the heads of the answers; `None` before it was asked.
    pub(super) fn latencies(&self) -> Option<(String, Histogram)> {
        let substituter = self.substituter.get()?;
        Some((self.shown.clone(), substituter.traffic().latencies()))
    }
}

/// A question that is late.
struct Late<'a>(&'a AtomicUsize);

impl<'a> Late<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Late<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens a source, or asks it whether it is there, until it answers; the first time with this `patience`.
async fn look_after(slot: Weak<Slot>, store_dir: StoreDir, turn: u64, mut patience: Duration) {
    // Nobody needs it any more when the slot is gone.
    while let Some(there) = slot.upgrade() {
        let looked = there.within(patience, there.look(&store_dir)).await;
        let health = there.health.clone();
        drop(there);
        let Err(error) = looked else {
            health.answered();
            return;
        };
        let Some(pause) = health.failed_probe(turn, &Arc::new(error)) else {
            return;
        };
        if !health.pause(turn, pause).await {
            return;
        }
        patience = PROBE;
    }
}
