//! Who goes first: what a program waits for before what is fetched ahead, and no source before another.
//!
//! Invariants: what is urgent never waits for a place that something less urgent has, nor for one that
//! belongs to another source; a transfer that is too slow has no place that others wait for; what is
//! fetched ahead stands still, for moments, while a program waits for something else that goes
//! on; and it becomes urgent as soon as a program waits for it too.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::sync;

/// NARs that are fetched at once for programs from a source.
const URGENT: usize = 16;
/// NARs that are fetched ahead at once from a source: enough to hide the latency of a far server.
pub(super) const AHEAD: usize = 8;
/// Sources that have all these places, each; more of them share what so many have. Each transfer has a
/// connection and a thread.
const SOURCES: usize = 2;
/// Transfers of a source that go on without a place because they are slow, as a multiple of its urgent
/// places. Those beyond keep theirs, and hold up what this source has, and nothing else.
const SLOW: usize = 2;
/// Longest pause of a transfer ahead. Servers close idle connections, typically after a minute.
const STAND_STILL: Duration = Duration::from_secs(2);

/// The places for transfers.
#[derive(Debug)]
pub(super) struct Priorities {
    /// By the URL of the source.
    places: Mutex<HashMap<String, Arc<Places>>>,
    /// Places of each source for what programs wait for, and for what is fetched ahead.
    shares: (usize, usize),
    /// Places that are taken.
    taken: AtomicUsize,
    /// Flights that a program waits for.
    pressing: Mutex<usize>,
    relief: Condvar,
    queued: AtomicUsize,
    /// Bytes that have come for flights that a program waits for, but for slow ones.
    arrived: AtomicU64,
    /// Flights that a program has waited for so far.
    raised: AtomicU64,
    /// Longest pause of a transfer ahead.
    stand_still: Duration,
}

/// The places of one source.
#[derive(Debug)]
struct Places {
    urgent: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    /// Bytes that have come from it for flights that a program waits for.
    arrived: AtomicU64,
    /// Transfers that go on, slow ones too.
    transfers: AtomicUsize,
}

impl Priorities {
    /// So many places for what is fetched `ahead` from each of `sources` sources.
    pub(super) fn new(ahead: usize, sources: usize) -> Arc<Self> {
        Self::with_pauses(ahead, sources, STAND_STILL)
    }

    fn with_pauses(ahead: usize, sources: usize, stand_still: Duration) -> Arc<Self> {
        let share = |all: usize| (SOURCES * all / sources.max(1)).clamp(1, all);
        Arc::new(Self {
            places: Mutex::default(),
            shares: (share(URGENT), share(ahead)),
            taken: AtomicUsize::new(0),
            pressing: Mutex::new(0),
            relief: Condvar::new(),
            queued: AtomicUsize::new(0),
            arrived: AtomicU64::new(0),
            raised: AtomicU64::new(0),
            stand_still,
        })
    }

    /// Whether nothing is being transferred, but for what is slow.
    pub(super) fn is_idle(&self) -> bool {
        self.taken.load(Ordering::SeqCst) == 0 && self.queued() == 0
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::SeqCst)
    }

    /// Changes with all that goes on for programs.
    fn motion(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed) + self.raised.load(Ordering::Relaxed)
    }

    fn pressing(&self) -> MutexGuard<'_, usize> {
        sync::lock(&self.pressing)
    }

    fn places(&self, source: &str) -> Arc<Places> {
        let mut all = sync::lock(&self.places);
        let (urgent, ahead) = self.shares;
        let new = || {
            Arc::new(Places {
                urgent: Arc::new(Semaphore::new(urgent)),
                ahead: Arc::new(Semaphore::new(ahead)),
                slow: Arc::new(Semaphore::new(urgent * SLOW)),
                arrived: AtomicU64::new(0),
                transfers: AtomicUsize::new(0),
            })
        };
        all.entry(source.to_owned()).or_insert_with(new).clone()
    }
}

/// A place for a transfer from one source, which is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    priorities: Arc<Priorities>,
    places: Arc<Places>,
    /// With whether it is one among the slow.
    held: Mutex<(OwnedSemaphorePermit, bool)>,
}

impl Place {
    fn new(priorities: &Arc<Priorities>, places: Arc<Places>, held: OwnedSemaphorePermit) -> Self {
        priorities.taken.fetch_add(1, Ordering::SeqCst);
        places.transfers.fetch_add(1, Ordering::Relaxed);
        Self {
            priorities: priorities.clone(),
            places,
            held: Mutex::new((held, false)),
        }
    }

    /// Has others of this source begin, while this transfer goes on among the slow ones, as far as there
    /// are not too many of them.
    pub(super) fn leave(&self) {
        let mut held = sync::lock(&self.held);
        if !held.1
            && let Ok(slow) = self.places.slow.clone().try_acquire_owned()
        {
            *held = (slow, true);
            self.priorities.taken.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// How many transfers there are from this source.
    pub(super) fn transfers(&self) -> usize {
        self.places.transfers.load(Ordering::Relaxed)
    }

    /// Notes that so many bytes have come for a program.
    pub(super) fn note_arrived(&self, bytes: u64) {
        self.places.arrived.fetch_add(bytes, Ordering::Relaxed);
        // What is slow has nothing stand still.
        if !sync::lock(&self.held).1 {
            let arrived = &self.priorities.arrived;
            arrived.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.transfers.fetch_sub(1, Ordering::Relaxed);
        if !sync::lock(&self.held).1 {
            self.priorities.taken.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A turn that is waited for.
struct Queued<'u>(&'u Urgency);

impl<'u> Queued<'u> {
    fn new(urgency: &'u Urgency, at: &Arc<Places>) -> Self {
        urgency.priorities.queued.fetch_add(1, Ordering::SeqCst);
        *sync::lock(&urgency.queued) = Some(at.clone());
        Self(urgency)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        *sync::lock(&self.0.queued) = None;
        self.0.priorities.queued.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How urgent a flight is; it can only become more so.
#[derive(Debug)]
pub(super) struct Urgency {
    priorities: Arc<Priorities>,
    raised: AtomicBool,
    notify: Notify,
    /// Where it waits for a place.
    queued: Mutex<Option<Arc<Places>>>,
    /// The motion of the priorities when this flight last stood still for nothing.
    in_vain: AtomicU64,
    /// Until when it goes on, having stood still for other sources.
    free: Mutex<Option<Instant>>,
}

impl Urgency {
    pub(super) fn new(priorities: &Arc<Priorities>) -> Arc<Self> {
        Arc::new(Self {
            priorities: priorities.clone(),
            raised: AtomicBool::new(false),
            notify: Notify::new(),
            queued: Mutex::default(),
            in_vain: AtomicU64::new(u64::MAX),
            free: Mutex::default(),
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

    /// What has arrived from the source at which this waits for a place for others that a program waits
    /// for; 0 if it waits for none.
    pub(super) fn arrived_before(&self) -> u64 {
        let queued = sync::lock(&self.queued);
        let arrived = |at: &Arc<Places>| at.arrived.load(Ordering::Relaxed);
        queued.as_ref().map_or(0, arrived)
    }

    /// Waits for a place to transfer something from a source.
    pub(super) async fn enter(&self, source: &str) -> Place {
        let priorities = &self.priorities;
        let places = priorities.places(source);
        let _queued = Queued::new(self, &places);
        let (urgent, ahead) = (places.urgent.clone(), places.ahead.clone());
        let entered = tokio::select! {
            biased;
            () = self.raised() => urgent.acquire_owned().await,
            permit = ahead.acquire_owned() => permit,
        };
        match entered {
            Ok(permit) => Place::new(priorities, places, permit),
            // The semaphores are never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Stands still with its `place` while a program waits for something else. Blocks; but what a program
    /// waits for needs nothing of what this gives up when nothing comes of it, as from a source that hangs;
    /// and for what comes from other sources, which may be slow by themselves, it stands still half of the
    /// time.
    pub(super) fn give_way(&self, place: &Place) {
        let before = self.priorities.motion();
        let own = || place.places.arrived.load(Ordering::Relaxed);
        let own_before = own();
        let is_free = sync::lock(&self.free).is_some_and(|until| Instant::now() < until);
        if self.is_raised() || is_free || self.in_vain.load(Ordering::Relaxed) == before {
            return;
        }
        let until = Instant::now() + self.priorities.stand_still;
        let mut pressing = self.priorities.pressing();
        while *pressing > 0 && !self.is_raised() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if self.priorities.motion() == before {
                    self.in_vain.store(before, Ordering::Relaxed);
                } else if own() == own_before {
                    let until = Instant::now() + self.priorities.stand_still;
                    *sync::lock(&self.free) = Some(until);
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
            let priorities = Priorities::new(AHEAD, 1);
            let ahead: Vec<_> = (0..AHEAD).map(|_| Urgency::new(&priorities)).collect();
            let mut held = Vec::new();
            for one in &ahead {
                held.push(one.enter("a").await);
            }
            let late = Urgency::new(&priorities);
            let mut entering = Box::pin(late.enter("a"));
            let moment = Duration::from_millis(20);
            assert!(tokio::time::timeout(moment, &mut entering).await.is_err());
            assert_eq!(priorities.queued(), 1);
            // A program begins to wait for it.
            late.raise();
            entering.await;
            assert_eq!(priorities.queued(), 0);
        });
    }

    #[test]
    fn what_is_fetched_ahead_stands_still_until_no_program_waits() {
        let priorities = Priorities::with_pauses(AHEAD, 1, Duration::from_secs(600));
        let (ahead, urgent) = (Urgency::new(&priorities), Urgency::new(&priorities));
        let place = block_on(ahead.enter("a"));
        ahead.give_way(&place);
        urgent.raise();
        urgent.raise();
        let waiting = std::thread::spawn({
            let ahead = ahead.clone();
            move || {
                ahead.give_way(&place);
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
        ahead.give_way(&block_on(ahead.enter("a")));
        drop((urgent, ahead));
        assert_eq!(*priorities.pressing(), 0);
    }

    #[test]
    fn what_is_fetched_ahead_stands_still_for_a_while_once_for_each_motion() {
        const STAND_STILL: Duration = Duration::from_millis(50);
        let priorities = Priorities::with_pauses(AHEAD, 1, STAND_STILL);
        let (ahead, urgent) = (Urgency::new(&priorities), Urgency::new(&priorities));
        urgent.raise();
        let place = block_on(urgent.enter("a"));
        let own = block_on(ahead.enter("a"));
        for _ in 0..3 {
            let began = Instant::now();
            ahead.give_way(&own);
            assert!(began.elapsed() >= STAND_STILL);
            // Not again for what hangs: the motion is noted.
            assert_eq!(ahead.in_vain.load(Ordering::Relaxed), priorities.motion());
            for _ in 0..1000 {
                ahead.give_way(&own);
            }
            assert!(began.elapsed() < STAND_STILL * 500);
            // But as soon as it goes on.
            place.note_arrived(1);
        }
        drop((place, own));
        drop((urgent, ahead));
        assert_eq!(*priorities.pressing(), 0);
    }

    #[test]
    fn for_another_source_it_stands_still_half_of_the_time() {
        const STAND_STILL: Duration = Duration::from_millis(300);
        let priorities = Priorities::with_pauses(AHEAD, 2, STAND_STILL);
        let (ahead, urgent) = (Urgency::new(&priorities), Urgency::new(&priorities));
        urgent.raise();
        let place = Arc::new(block_on(urgent.enter("slow")));
        let own = block_on(ahead.enter("good"));
        // Something comes all the time.
        let is_over = Arc::new(AtomicBool::new(false));
        let trickle = std::thread::spawn({
            let is_over = is_over.clone();
            move || {
                while !is_over.load(Ordering::Relaxed) {
                    place.note_arrived(1);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let began = Instant::now();
        ahead.give_way(&own);
        assert!(began.elapsed() >= STAND_STILL);
        let free = sync::lock(&ahead.free).unwrap();
        assert!(free >= began + STAND_STILL * 2);
        *sync::lock(&ahead.free) = Some(Instant::now() + Duration::from_secs(600));
        for _ in 0..1000 {
            ahead.give_way(&own);
        }
        assert!(began.elapsed() < STAND_STILL * 500);
        // And then again.
        *sync::lock(&ahead.free) = Some(Instant::now());
        let began = Instant::now();
        ahead.give_way(&own);
        assert!(began.elapsed() >= STAND_STILL);
        is_over.store(true, Ordering::Relaxed);
        trickle.join().unwrap();
    }

    /// Whether a place at a source is free for what a program waits for.
    async fn is_free(urgency: &Urgency, source: &str) -> Option<Place> {
        let moment = Duration::from_millis(20);
        tokio::time::timeout(moment, urgency.enter(source))
            .await
            .ok()
    }

    #[test]
    fn no_source_takes_the_places_of_another_however_many_there_are() {
        for sources in [1, 2, 3, 8, 100] {
            block_on(async {
                let priorities = Priorities::new(AHEAD, sources);
                let urgency = Urgency::new(&priorities);
                urgency.raise();
                let mut all = Vec::new();
                for source in 0..sources {
                    let source = source.to_string();
                    let before = all.len();
                    while all.len() < before + URGENT
                        && let Some(place) = is_free(&urgency, &source).await
                    {
                        all.push(place);
                    }
                    assert!(all.len() > before, "{source} of {sources}");
                }
                assert!(all.len() <= (SOURCES * URGENT).max(sources));
                assert!(!priorities.is_idle());
                drop(all);
                assert!(priorities.is_idle());
            });
        }
    }

    #[test]
    fn what_is_slow_leaves_its_place_within_bounds() {
        block_on(async {
            let priorities = Priorities::new(AHEAD, 1);
            let urgency = Urgency::new(&priorities);
            urgency.raise();
            let mut all = Vec::new();
            while let Some(place) = is_free(&urgency, "slow").await {
                place.leave();
                place.leave();
                all.push(place);
            }
            assert_eq!(all.len(), URGENT * SLOW + URGENT);
            assert_eq!(all[0].transfers(), all.len());
            // It has nothing stand still.
            let before = priorities.motion();
            all[0].note_arrived(1);
            assert_eq!(priorities.motion(), before);
            // Who waits for a turn sees that something goes on.
            let (late, seen) = (Urgency::new(&priorities), priorities.places("slow"));
            assert_eq!(late.arrived_before(), 0);
            let queued = Queued::new(&late, &seen);
            assert_eq!(late.arrived_before(), 1);
            drop(queued);
            all.truncate(URGENT * SLOW);
            assert!(priorities.is_idle());
            assert!(is_free(&urgency, "slow").await.is_some());
        });
    }
}
