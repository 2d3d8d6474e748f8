//! How many connections there are, and which of them make way.
//!
//! Invariant: there are at most so many, and one that waits for a request, however slowly that
//! comes, never keeps out a new one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::sync;

/// So long is waited for one that was asked to make way before another one is.
const AGAIN: Duration = Duration::from_millis(100);

/// The connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    most: u32,
    places: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// When the last one ended.
    last: Mutex<Instant>,
}

/// Connections that wait for a request, in the order in which they began to.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_turn: BTreeMap<u64, Arc<Notify>>,
}

impl Connections {
    pub(super) fn new(most: u32) -> Arc<Self> {
        Arc::new(Self {
            most,
            places: Arc::new(Semaphore::new(most as usize)),
            waiting: Mutex::default(),
            last: Mutex::new(Instant::now()),
        })
    }

    /// For how long there has been none.
    pub(super) fn idle(&self) -> Duration {
        if self.places.available_permits() < self.most as usize {
            return Duration::ZERO;
        }
        self.last().elapsed()
    }

    fn last(&self) -> MutexGuard<'_, Instant> {
        sync::lock(&self.last)
    }

    /// Waits until all connections have ended. No more may be let in.
    pub(super) async fn all_ended(&self) {
        // The semaphore is never closed.
        let _ = self.places.acquire_many(self.most).await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        sync::lock(&self.waiting)
    }

    /// A connection waits from now on.
    fn waits(&self, makes_way: &Arc<Notify>) -> Doing {
        let mut waiting = self.waiting();
        let turn = waiting.next;
        waiting.next += 1;
        waiting.by_turn.insert(turn, makes_way.clone());
        Doing::Waiting(turn)
    }

    fn waits_no_longer(&self, before: Doing) {
        if let Doing::Waiting(turn) = before {
            self.waiting().by_turn.remove(&turn);
        }
    }

    /// A place for one more; who has waited longest for a request makes way.
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
        loop {
            if let Ok(permit) = self.places.clone().try_acquire_owned() {
                return Place::new(self.clone(), permit);
            }
            let longest = self.waiting().by_turn.pop_first();
            if let Some((_, makes_way)) = longest {
                makes_way.notify_one();
            }
            let free = tokio::time::timeout(AGAIN, self.places.clone().acquire_owned());
            if let Ok(Ok(permit)) = free.await {
                return Place::new(self.clone(), permit);
            }
        }
    }
}

/// A connection among others.
pub(super) struct Place {
    connections: Arc<Connections>,
    makes_way: Arc<Notify>,
    doing: Mutex<Doing>,
    _permit: OwnedSemaphorePermit,
}

/// What a connection does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// It waits for a request, since this turn.
    Waiting(u64),
    /// A request is being answered.
    Answering,
    /// The answer is made, and is being sent.
    Sending,
}

impl Place {
    fn new(connections: Arc<Connections>, permit: OwnedSemaphorePermit) -> Self {
        let makes_way = Arc::default();
        Self {
            doing: Mutex::new(connections.waits(&makes_way)),
            connections,
            makes_way,
            _permit: permit,
        }
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        sync::lock(&self.doing)
    }

    /// A request has come; it is being answered while the result lives.
    pub(super) fn answers(self: &Arc<Self>) -> Answering {
        let before = std::mem::replace(&mut *self.doing(), Doing::Answering);
        self.connections.waits_no_longer(before);
        Answering(self.clone())
    }

    /// All that was to be sent is.
    pub(super) fn has_sent(&self) {
        let mut doing = self.doing();
        if *doing == Doing::Sending {
            *doing = self.connections.waits(&self.makes_way);
        }
    }

    /// Whether no request has come since the last answer was sent.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.doing(), Doing::Waiting(_))
    }

    /// Waits until it must make way.
    pub(super) async fn must_go(&self) {
        self.makes_way.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let before = *self.doing();
        self.connections.waits_no_longer(before);
        *self.connections.last() = Instant::now();
    }
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Place>);

impl Drop for Answering {
    fn drop(&mut self) {
        *self.0.doing() = Doing::Sending;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap()
    }

    #[test]
    fn who_has_waited_longest_makes_way_and_who_answers_does_not() {
        runtime().block_on(async {
            let connections = Connections::new(3);
            let mut places = Vec::new();
            for _ in 0..3 {
                places.push(Arc::new(connections.enter().await));
            }
            let answering = places[0].answers();
            let third = places.pop().unwrap();
            let second = places.pop().unwrap();
            // The second one's turn comes, since the first one is busy.
            let goes = async {
                second.must_go().await;
                drop(second);
            };
            let (fourth, ()) = tokio::join!(connections.enter(), goes);
            assert!(third.is_waiting() && fourth.is_waiting());
            drop(answering);
            assert!(!places[0].is_waiting());
            places[0].has_sent();
            assert!(places[0].is_waiting());
        });
    }

    #[test]
    fn while_all_are_busy_a_new_one_waits() {
        runtime().block_on(async {
            let connections = Connections::new(1);
            let place = Arc::new(connections.enter().await);
            let answering = place.answers();
            let waits = tokio::time::timeout(AGAIN * 2, connections.enter());
            assert!(waits.await.is_err());
            drop(answering);
            let waits = tokio::time::timeout(AGAIN * 2, connections.enter());
            assert!(waits.await.is_err());
            place.has_sent();
            let goes = async {
                place.must_go().await;
                drop(place);
            };
            tokio::join!(connections.enter(), goes);
        });
    }
}
