//! Who goes first: what a program waits for before what is fetched ahead.
//!
//! Invariants: what is urgent never waits for a place that something less urgent has; what is
//! fetched ahead stands still, for moments, while a program waits for something else that goes
//! on; and it becomes urgent as soon as a program waits for it too.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::sync;

/// NARs that are fetched at once for programs: so many may hang before those from other sources
/// have to wait.
const URGENT: usize = 16;
/// NARs that are fetched ahead at once: enough to hide the latency of a far server.
pub(super) const AHEAD: usize = 8;
/// Longest pause of a transfer ahead. Servers close idle connections, typically after a minute.
const STAND_STILL: Duration = Duration::from_secs(2);

/// The places for transfers.
#[derive(Debug)]
pub(super) struct Priorities {
    urgent: Semaphore,
    ahead: Semaphore,
    /// Places for what is fetched ahead.
    places: usize,
    /// Flights that a program waits for.
    pressing: Mutex<usize>,
    relief: Condvar,
    queued: AtomicUsize,
    /// Bytes that have come for flights that a program waits for.
    arrived: AtomicU64,
    /// Flights that a program has waited for so far.
    raised: AtomicU64,
    /// Longest pause of a transfer ahead.
    stand_still: Duration,
}

impl Priorities {
    /// So many places for what is fetched `ahead`.
    pub(super) fn new(ahead: usize) -> Arc<Self> {
        Self::with_pauses(ahead, STAND_STILL)
    }

    fn with_pauses(ahead: usize, stand_still: Duration) -> Arc<Self> {
        Arc::new(Self {
            urgent: Semaphore::new(URGENT),
            ahead: Semaphore::new(ahead),
            places: ahead,
            pressing: Mutex::new(0),
            relief: Condvar::new(),
            queued: AtomicUsize::new(0),
            arrived: AtomicU64::new(0),
            raised: AtomicU64::new(0),
            stand_still,
        })
    }

    /// Whether nothing is being transferred.
    pub(super) fn is_idle(&self) -> bool {
        self.urgent.available_permits() == URGENT
            && self.ahead.available_permits() == self.places
            && self.queued() == 0
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Bytes that have come for flights that a program waits for.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Changes with all that goes on for programs.
    fn motion(&self) -> u64 {
        self.arrived() + self.raised.load(Ordering::Relaxed)
    }

    fn pressing(&self) -> MutexGuard<'_, usize> {
        sync::lock(&self.pressing)
    }
}

/// How urgent a flight is; it can only become more so.
#[derive(Debug)]
pub(super) struct Urgency {
    priorities: Arc<Priorities>,
    raised: AtomicBool,
    notify: Notify,
    queued: AtomicBool,
    /// The motion of the priorities when this flight last stood still for nothing.
    in_vain: AtomicU64,
}

impl Urgency {
    pub(super) fn new(priorities: &Arc<Priorities>) -> Arc<Self> {
        Arc::new(Self {
            priorities: priorities.clone(),
            raised: AtomicBool::new(false),
            notify: Notify::new(),
            queued: AtomicBool::new(false),
            in_vain: AtomicU64::new(u64::MAX),
        })
    }

    /// A program waits from now on.
    pub(super) fn raise(&self) {
        if !self.raised.swap(true, Ordering::SeqCst) {
            *self.priorities.pressing() += 1;
            self.priorities.raised.fetch_add(1, Ordering::Relaxed);
            self.notify.notify_waiters();
            // It may be standing still itself.
            self.priorities.relief.notify_all();
        }
    }

    /// Whether it goes by these priorities.
    pub(super) fn is_of(&self, priorities: &Arc<Priorities>) -> bool {
        Arc::ptr_eq(&self.priorities, priorities)
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Returns when a program waits.
    pub(super) async fn raised(&self) {
        loop {
            let notified = self.notify.notified();
            let mut notified = std::pin::pin!(notified);
            // Before the look, so that nothing is missed between.
            notified.as_mut().enable();
            if self.is_raised() {
                return;
            }
            notified.await;
        }
    }

    /// Whether nothing else is on its way that could be waited for.
    pub(super) fn is_alone(&self) -> bool {
        self.priorities.is_idle()
    }

    /// Notes that so many bytes have come.
    pub(super) fn note_arrived(&self, bytes: u64) {
        if self.is_raised() {
            self.priorities.arrived.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// What has arrived for others that a program waits for, as long as this waits for a place;
    /// else `None`.
    pub(super) fn arrived_before(&self) -> Option<u64> {
        let queued = self.queued.load(Ordering::Relaxed);
        queued.then(|| self.priorities.arrived())
    }

    /// Waits for a place to transfer something.
    pub(super) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        let priorities = &self.priorities;
        priorities.queued.fetch_add(1, Ordering::Relaxed);
        self.queued.store(true, Ordering::Relaxed);
        let entered = tokio::select! {
            biased;
            () = self.raised() => priorities.urgent.acquire().await,
            permit = priorities.ahead.acquire() => permit,
        };
        self.queued.store(false, Ordering::Relaxed);
        priorities.queued.fetch_sub(1, Ordering::Relaxed);
        // The semaphores are never closed; and without a permit there would only be more at once.
        entered.ok()
    }

    /// Stands still while a program waits for something else. Blocks; but what a program waits for
    /// needs nothing of what this gives up when nothing comes of it, as from a source that hangs.
    pub(super) fn give_way(&self) {
        let before = self.priorities.motion();
        if self.is_raised() || self.in_vain.load(Ordering::Relaxed) == before {
            return;
        }
        let until = Instant::now() + self.priorities.stand_still;
        let mut pressing = self.priorities.pressing();
        while *pressing > 0 && !self.is_raised() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if self.priorities.motion() == before {
                    self.in_vain.store(before, Ordering::Relaxed);
                }
                return;
            }
            let waited = self.priorities.relief.wait_timeout(pressing, left);
            (pressing, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Urgency {
    fn drop(&mut self) {
        if self.is_raised() {
            *self.priorities.pressing() -= 1;
            self.priorities.relief.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(task: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.unwrap().block_on(task)
    }

    #[test]
    fn what_is_urgent_does_not_wait_for_what_is_fetched_ahead() {
        block_on(async {
            let priorities = Priorities::new(AHEAD);
            let ahead: Vec<_> = (0..AHEAD).map(|_| Urgency::new(&priorities)).collect();
            let mut held = Vec::new();
            for one in &ahead {
                held.push(one.enter().await.unwrap());
            }
            let late = Urgency::new(&priorities);
            let mut entering = Box::pin(late.enter());
            let moment = Duration::from_millis(20);
            assert!(tokio::time::timeout(moment, &mut entering).await.is_err());
            assert_eq!(priorities.queued(), 1);
            // A program begins to wait for it.
            late.raise();
            assert!(entering.await.is_some());
            assert_eq!(priorities.queued(), 0);
        });
    }

    #[test]
    fn what_is_fetched_ahead_stands_still_until_no_program_waits() {
        let priorities = Priorities::with_pauses(AHEAD, Duration::from_secs(600));
        let (ahead, urgent) = (Urgency::new(&priorities), Urgency::new(&priorities));
        ahead.give_way();
        urgent.raise();
        urgent.raise();
        let waiting = std::thread::spawn({
            let ahead = ahead.clone();
            move || {
                ahead.give_way();
                Instant::now()
            }
        });
        std::thread::sleep(Duration::from_millis(100));
        let relieved = Instant::now();
        drop(urgent);
        assert!(waiting.join().unwrap() >= relieved);
        // Not at all once a program waits for this one.
        let urgent = Urgency::new(&priorities);
        urgent.raise();
        ahead.raise();
        ahead.give_way();
        drop((urgent, ahead));
        assert_eq!(*priorities.pressing(), 0);
    }

    #[test]
    fn what_is_fetched_ahead_stands_still_for_a_while_once_for_each_motion() {
        const STAND_STILL: Duration = Duration::from_millis(50);
        let priorities = Priorities::with_pauses(AHEAD, STAND_STILL);
        let (ahead, urgent) = (Urgency::new(&priorities), Urgency::new(&priorities));
        urgent.raise();
        for _ in 0..3 {
            let began = Instant::now();
            ahead.give_way();
            assert!(began.elapsed() >= STAND_STILL);
            // Not again for what hangs: the motion is noted.
            assert_eq!(ahead.in_vain.load(Ordering::Relaxed), priorities.motion());
            for _ in 0..1000 {
                ahead.give_way();
            }
            assert!(began.elapsed() < STAND_STILL * 500);
            // But as soon as it goes on.
            urgent.note_arrived(1);
        }
        drop((urgent, ahead));
        assert_eq!(*priorities.pressing(), 0);
    }
}
