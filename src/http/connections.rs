//! Limit of the number of connections, and which of them are closed for new ones.
//!
//! Invariant: the number of connections is bounded, and a connection that is waiting for a request,
//! however slowly that arrives, never keeps out a new one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::sync;

/// Time to wait for a connection that was asked to close before another one is asked.
const RETRY: Duration = Duration::from_millis(100);

/// The connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    most: u32,
    places: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// When the last connection ended.
    last: Mutex<Instant>,
}

/// Connections waiting for a request, longest first.
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

    /// Time since there was a connection.
    pub(super) fn idle(&self) -> Duration {
        if self.places.available_permits() < self.most as usize {
            return Duration::ZERO;
        }
        self.last().elapsed()
    }

    fn last(&self) -> MutexGuard<'_, Instant> {
        sync::lock(&self.last)
    }

    /// Waits until all connections have ended. No further ones may be admitted.
    pub(super) async fn all_ended(&self) {
        // The semaphore is never closed.
        let _ = self.places.acquire_many(self.most).await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        sync::lock(&self.waiting)
    }

    /// Marks a connection as waiting for a request.
    fn start_waiting(&self, close_request: &Arc<Notify>) -> Activity {
        let mut waiting = self.waiting();
        let turn = waiting.next;
        waiting.next += 1;
        waiting.by_turn.insert(turn, close_request.clone());
        Activity::Waiting(turn)
    }

    fn end_waiting(&self, before: Activity) {
        if let Activity::Waiting(turn) = before {
            self.waiting().by_turn.remove(&turn);
        }
    }

    /// Admits a connection; if there is no place, the one that has waited longest for a request is
    /// closed.
    pub(super) async fn admit(self: &Arc<Self>) -> Place {
        loop {
            if let Ok(permit) = self.places.clone().try_acquire_owned() {
                return Place::new(self.clone(), permit);
            }
            let longest = self.waiting().by_turn.pop_first();
            if let Some((_, close_request)) = longest {
                close_request.notify_one();
            }
            let free = tokio::time::timeout(RETRY, self.places.clone().acquire_owned());
            if let Ok(Ok(permit)) = free.await {
                return Place::new(self.clone(), permit);
            }
        }
    }
}

/// The place of a connection.
pub(super) struct Place {
    connections: Arc<Connections>,
    close_request: Arc<Notify>,
    activity: Mutex<Activity>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Waiting for a request, since this sequence number.
    Waiting(u64),
    Answering,
    /// The response is complete, and is being sent.
    Sending,
}

impl Place {
    fn new(connections: Arc<Connections>, permit: OwnedSemaphorePermit) -> Self {
        let close_request = Arc::default();
        Self {
            activity: Mutex::new(connections.start_waiting(&close_request)),
            connections,
            close_request,
            _permit: permit,
        }
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        sync::lock(&self.activity)
    }

    /// Marks the start of a request, which is being answered while the result lives.
    pub(super) fn answers(self: &Arc<Self>) -> Answering {
        let before = std::mem::replace(&mut *self.activity(), Activity::Answering);
        self.connections.end_waiting(before);
        Answering(self.clone())
    }

    /// Marks the response as sent.
    pub(super) fn has_sent(&self) {
        let mut activity = self.activity();
        if *activity == Activity::Sending {
            *activity = self.connections.start_waiting(&self.close_request);
        }
    }

    /// Whether no request has arrived since the last response was sent.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.activity(), Activity::Waiting(_))
    }

    /// Waits until the connection should be closed.
    pub(super) async fn close_requested(&self) {
        self.close_request.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let before = *self.activity();
        self.connections.end_waiting(before);
        *self.connections.last() = Instant::now();
    }
}

/// A request being answered.
pub(super) struct Answering(Arc<Place>);

impl Drop for Answering {
    fn drop(&mut self) {
        *self.0.activity() = Activity::Sending;
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
                places.push(Arc::new(connections.admit().await));
            }
            let answering = places[0].answers();
            let third = places.pop().unwrap();
            let second = places.pop().unwrap();
            // The second connection is asked next, since the first one is busy.
            let goes = async {
                second.close_requested().await;
                drop(second);
            };
            let (fourth, ()) = tokio::join!(connections.admit(), goes);
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
            let place = Arc::new(connections.admit().await);
            let answering = place.answers();
            let start_waiting = tokio::time::timeout(RETRY * 2, connections.admit());
            assert!(start_waiting.await.is_err());
            drop(answering);
            let start_waiting = tokio::time::timeout(RETRY * 2, connections.admit());
            assert!(start_waiting.await.is_err());
            place.has_sent();
            let goes = async {
                place.close_requested().await;
                drop(place);
            };
            tokio::join!(connections.admit(), goes);
        });
    }
}
