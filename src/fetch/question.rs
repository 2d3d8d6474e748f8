//! A question to several sources: who is asked when, and whose offer is taken.
//!
//! Invariants: the sources are asked in the order of their priorities, the next one after the head start of
//! the one before, or as soon as that has none, has failed, or is away; a better source keeps its head start
//! even where a worse one has answered; a question that has lost goes on, so that its connection stays and
//! what comes of it is known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::availability::{Slot, Standing};
use super::error::FetchError;
use super::source::{Asked, Offer, Source, Trust};
use crate::nix::store_path::StoreDir;

/// Where a source is in the question.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// It is being opened or looked for; until then nobody goes before it who may be worse.
    Coming {
        until: Instant,
    },
    Ready,
    /// It has this head start.
    Asked {
        until: Instant,
    },
    /// It has answered, or cannot.
    Done,
}

#[derive(Debug)]
struct Runner {
    /// As far as that is known.
    priority: Option<u32>,
    /// It is asked after all others.
    is_slow: bool,
    stage: Stage,
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
enum Next {
    Ask(usize),
    /// Wait until something comes, at most until then.
    Wait(Option<Instant>),
    /// Nothing more can come that would be better.
    Decide,
}

/// The order of a question. It knows no clock and no network.
#[derive(Debug)]
struct Order {
    head_start: Duration,
    runners: Vec<Runner>,
    /// The source with the best offer so far.
    best: Option<usize>,
}

impl Order {
    /// Equal priorities keep the user's order.
    fn rank(&self, at: usize) -> (u32, usize) {
        (self.runners[at].priority.unwrap_or(u32::MAX), at)
    }

    fn next(&self, now: Instant) -> Next {
        let others = || self.runners.iter().enumerate();
        if let Some(best) = self.best {
            let better = others().filter_map(|(at, runner)| match runner.stage {
                Stage::Asked { until } if until > now && self.rank(at) < self.rank(best) => {
                    Some(until)
                }
                _ => None,
            });
            return better
                .max()
                .map_or(Next::Decide, |until| Next::Wait(Some(until)));
        }
        let ready = others().filter(|(_, runner)| runner.stage == Stage::Ready);
        let Some((at, first)) = ready.min_by_key(|(at, r)| (r.is_slow, self.rank(*at))) else {
            let is_over = others().all(|(_, runner)| runner.stage == Stage::Done);
            return if is_over {
                Next::Decide
            } else {
                Next::Wait(None)
            };
        };
        let before = others().filter_map(|(other, runner)| match runner.stage {
            Stage::Asked { until } => Some((other, runner, until)),
            Stage::Coming { until } => Some((other, runner, until)),
            Stage::Ready | Stage::Done => None,
        });
        if first.is_slow && before.clone().any(|(_, runner, _)| !runner.is_slow) {
            return Next::Wait(None);
        }
        let starts = before.filter(|(other, runner, until)| {
            let is_worse = runner.priority.is_some() && self.rank(*other) > self.rank(at);
            *until > now && !(is_worse && matches!(runner.stage, Stage::Coming { .. }))
        });
        match starts.map(|(_, _, until)| until).max() {
            Some(until) => Next::Wait(Some(until)),
            None => Next::Ask(at),
        }
    }

    fn asked(&mut self, at: usize, now: Instant) {
        let runner = &mut self.runners[at];
        let head_start = match runner.is_slow {
            true => Duration::ZERO,
            false => self.head_start,
        };
        let until = now + head_start;
        runner.stage = Stage::Asked { until };
    }

    fn offered(&mut self, at: usize) {
        self.runners[at].stage = Stage::Done;
        if self.best.is_none_or(|best| self.rank(at) < self.rank(best)) {
            self.best = Some(at);
        }
    }
}

/// What has come of a source.
enum Came {
    Settled(Result<Source, FetchError>),
    Said(Result<Option<Box<Offer>>, FetchError>),
}

/// See the module.
pub(super) struct Question<'q> {
    slots: &'q [Arc<Slot>],
    asked: &'q Asked,
    store_dir: &'q StoreDir,
    trust: &'q Trust,
    order: Order,
    /// Those that can be asked.
    ready: Vec<Option<Source>>,
    offer: Option<Box<Offer>>,
    /// Why sources could not say, by source.
    failures: Vec<(usize, FetchError)>,
    /// Optional sources that could not be asked.
    unreachable: Vec<String>,
    coming: JoinSet<(usize, Came)>,
}

impl<'q> Question<'q> {
    pub(super) fn new(
        slots: &'q [Arc<Slot>],
        head_start: Duration,
        asked: &'q Asked,
        store_dir: &'q StoreDir,
        trust: &'q Trust,
    ) -> Self {
        Self {
            slots,
            asked,
            store_dir,
            trust,
            order: Order {
                head_start,
                runners: Vec::with_capacity(slots.len()),
                best: None,
            },
            ready: vec![None; slots.len()],
            offer: None,
            failures: Vec::new(),
            unreachable: Vec::new(),
            coming: JoinSet::new(),
        }
    }

    /// The best usable offer.
    ///
    /// # Errors
    /// None has it, but for optional sources that are out of reach; or a source could not say.
    pub(super) async fn answer(mut self) -> Result<Offer, FetchError> {
        self.begin();
        loop {
            let until = match self.order.next(Instant::now()) {
                Next::Ask(at) => {
                    self.ask(at);
                    continue;
                }
                Next::Wait(until) => until,
                Next::Decide => break,
            };
            let pause = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(came) = self.coming.join_next() => match came {
                    Ok((at, came)) => self.note(at, came),
                    Err(_) => return Err(FetchError::Stopped),
                },
                () = pause => {}
            }
        }
        self.coming.detach_all();
        match self.offer.take() {
            Some(offer) => Ok(*offer),
            None => Err(self.failure()),
        }
    }

    fn begin(&mut self) {
        for (at, slot) in self.slots.iter().enumerate() {
            slot.begin(self.store_dir);
            let stage = match slot.standing() {
                Standing::Ready(source) => {
                    self.ready[at] = Some(source);
                    Stage::Ready
                }
                Standing::Away(error) => {
                    self.failed(at, error);
                    Stage::Done
                }
                Standing::Coming { since, is_new, .. } => {
                    let slot = slot.clone();
                    let settled = async move { (at, Came::Settled(slot.settled().await)) };
                    self.coming.spawn(settled);
                    let head_start = match is_new {
                        true => self.order.head_start,
                        false => Duration::ZERO,
                    };
                    let until = since + head_start;
                    Stage::Coming { until }
                }
            };
            self.order.runners.push(Runner {
                priority: slot.priority(),
                is_slow: slot.is_slow(),
                stage,
            });
        }
    }

    fn ask(&mut self, at: usize) {
        let Some(source) = self.ready[at].take() else {
            self.order.runners[at].stage = Stage::Done;
            return;
        };
        let (slot, asked) = (self.slots[at].clone(), self.asked.clone());
        let (store_dir, trust) = (self.store_dir.clone(), self.trust.clone());
        self.coming.spawn(async move {
            let said = slot.ask(source, &asked, &store_dir, &trust).await;
            (at, Came::Said(said.map(|offer| offer.map(Box::new))))
        });
        self.order.asked(at, Instant::now());
    }

    fn note(&mut self, at: usize, came: Came) {
        self.order.runners[at].stage = Stage::Done;
        match came {
            Came::Settled(Ok(source)) => {
                let runner = &mut self.order.runners[at];
                (runner.priority, runner.stage) = (Some(source.priority), Stage::Ready);
                self.ready[at] = Some(source);
            }
            Came::Said(Ok(Some(offer))) => {
                self.order.offered(at);
                if self.order.best == Some(at) {
                    self.offer = Some(offer);
                }
            }
            Came::Said(Ok(None)) => {}
            Came::Settled(Err(error)) | Came::Said(Err(error)) => self.failed(at, error),
        }
    }

    fn failed(&mut self, at: usize, error: FetchError) {
        let slot = &self.slots[at];
        if slot.is_out_of_reach(&error) {
            self.unreachable.push(slot.shown.clone());
        } else {
            self.failures.push((at, error));
        }
    }

    /// Why there is no offer. What a source said counts for more than that others are away.
    fn failure(mut self) -> FetchError {
        self.failures.sort_by_key(|(at, _)| *at);
        let (mut away, mut silent) = (Vec::new(), None);
        for (_, error) in self.failures {
            match error {
                FetchError::Away(sources) => away.extend(sources),
                error if error.is_transient() => silent = Some(error),
                error => return error,
            }
        }
        match silent {
            Some(error) => error,
            None if !away.is_empty() => FetchError::Away(away),
            None => {
                let urls = self.slots.iter().map(|slot| &*slot.shown);
                self.asked.nowhere(urls, self.unreachable)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_START: Duration = Duration::from_millis(200);

    fn order(runners: &[(Option<u32>, Stage)]) -> Order {
        let runners = runners.iter().map(|(priority, stage)| Runner {
            priority: *priority,
            is_slow: false,
            stage: *stage,
        });
        Order {
            head_start: HEAD_START,
            runners: runners.collect(),
            best: None,
        }
    }

    const READY: Stage = Stage::Ready;

    #[test]
    fn the_next_source_joins_after_the_head_start_of_the_one_before() {
        let start = Instant::now();
        let mut order = order(&[(Some(50), READY), (Some(30), READY), (Some(50), READY)]);
        assert_eq!(order.next(start), Next::Ask(1));
        order.asked(1, start);
        let second = start + HEAD_START;
        assert_eq!(order.next(start), Next::Wait(Some(second)));
        assert_eq!(order.next(second), Next::Ask(0));
        order.asked(0, second);
        let third = second + HEAD_START;
        assert_eq!(order.next(second), Next::Wait(Some(third)));
        assert_eq!(order.next(third), Next::Ask(2));
        order.asked(2, third);
        // All were asked.
        assert_eq!(order.next(third), Next::Wait(None));
    }

    #[test]
    fn the_next_source_joins_at_once_when_the_one_before_has_answered() {
        let start = Instant::now();
        let mut order = order(&[(Some(1), READY), (Some(2), READY), (Some(3), Stage::Done)]);
        order.asked(0, start);
        order.runners[0].stage = Stage::Done;
        assert_eq!(order.next(start), Next::Ask(1));
        order.asked(1, start);
        order.runners[1].stage = Stage::Done;
        assert_eq!(order.next(start), Next::Decide);
    }

    #[test]
    fn a_better_source_keeps_its_head_start_and_the_first_offer_wins_otherwise() {
        let start = Instant::now();
        let mut order = order(&[(Some(1), READY), (Some(2), READY)]);
        // The better one was opened later.
        order.asked(1, start);
        order.asked(0, start + HEAD_START / 2);
        order.offered(1);
        let until = start + HEAD_START / 2 + HEAD_START;
        assert_eq!(order.next(start + HEAD_START), Next::Wait(Some(until)));
        assert_eq!(order.next(until), Next::Decide);
        assert_eq!(order.best, Some(1));
        order.offered(0);
        assert_eq!(order.best, Some(0));
        assert_eq!(order.next(start + HEAD_START), Next::Decide);
    }

    #[test]
    fn nobody_goes_before_a_source_that_is_being_opened_unless_it_is_known_to_be_worse() {
        let start = Instant::now();
        let until = start + HEAD_START;
        let coming = Stage::Coming { until };
        let unknown = order(&[(Some(40), READY), (None, coming)]);
        assert_eq!(unknown.next(start), Next::Wait(Some(until)));
        assert_eq!(unknown.next(until), Next::Ask(0));
        let better = order(&[(Some(40), READY), (Some(30), coming)]);
        assert_eq!(better.next(start), Next::Wait(Some(until)));
        let worse = order(&[(Some(40), READY), (Some(50), coming)]);
        assert_eq!(worse.next(start), Next::Ask(0));
        // Absent is said only when it has said so, too.
        let last = order(&[(Some(40), Stage::Done), (None, coming)]);
        assert_eq!(last.next(until), Next::Wait(None));
    }

    #[test]
    fn a_source_that_lets_many_wait_is_asked_after_all_others_and_holds_up_nobody() {
        let start = Instant::now();
        let mut order = order(&[(Some(1), READY), (Some(2), READY)]);
        order.runners[0].is_slow = true;
        assert_eq!(order.next(start), Next::Ask(1));
        order.asked(1, start);
        assert_eq!(order.next(start + 9 * HEAD_START), Next::Wait(None));
        order.runners[1].stage = Stage::Done;
        assert_eq!(order.next(start), Next::Ask(0));
        order.asked(0, start);
        assert_eq!(order.next(start), Next::Wait(None));
    }
}
