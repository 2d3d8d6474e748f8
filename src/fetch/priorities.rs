//! Who goes first: what a program waits for before what is fetched ahead, and no source before another.
//!
//! Invariants: what is urgent never waits for a place that something less urgent has, nor for one that
//! belongs to another source; a transfer that is too slow has no place that others wait for; what is
//! fetched ahead is not asked for, and stands still but for moments, while a program waits for something
//! else that goes on, and, of a guess, for a moment after that; of what could still come of it then, there
//! is little on a line that is not known to be fast; and it becomes urgent as soon as a program waits for
//! it too.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};

use super::options::PrefetchPolicy;
use crate::sync;

/// NARs that are fetched at once for programs from a source.
const URGENT: usize = 16;
/// NARs that are fetched ahead at once from a source: enough to hide the latency of a far server.
pub(super) const AHEAD: usize = 8;
/// Of these, NARs that are not small, as long as the source has not proved fast. Of each, a window may still
/// come when a program begins to wait for something else.
const LARGE_AHEAD: usize = 2;
/// Bytes of a NAR, as it is sent, up to which it is small: about a window.
const SMALL: u64 = 128 << 10;
/// Sources that have all these places, each; more of them share what so many have. Each transfer has a
/// connection and a thread.
const SOURCES: usize = 2;
/// Transfers of a source that go on without a place because they are slow, as a multiple of its urgent
/// places. Those beyond keep theirs, and hold up what this source has, and nothing else.
const SLOW: usize = 2;
/// Longest pause of a transfer ahead. Servers close idle connections, typically after a minute.
const STAND_STILL: Duration = Duration::from_secs(2);
/// Time without a program that waits, after which what is ahead goes on where it is a guess: a program that
/// starts asks for one path after the other, and of a closure it is mostly not the next one that is let
/// through in between. What a command or a trace names may be.
const QUIET: Duration = Duration::from_millis(200);
/// Bytes of a transfer that come within [`FAST_TIME`] from a source that is fast: 80 Mbit/s, with which all
/// that can be on its way ahead is here in a tenth of a second.
pub(super) const FAST_STEP: u64 = 1 << 20;
const FAST_TIME: Duration = Duration::from_millis(100);

/// The places for transfers.
#[derive(Debug)]
pub(super) struct Priorities {
    /// By the URL of the source.
    places: Mutex<HashMap<String, Arc<Places>>>,
    /// Places of each source for what programs wait for, and for what is fetched ahead.
    shares: (usize, usize),
    /// Of the latter, those for what is not small.
    large: usize,
    /// Places that are taken.
    taken: AtomicUsize,
    pressing: Mutex<Pressing>,
    relief: Condvar,
    queued: AtomicUsize,
    /// Bytes that have come for flights that a program waits for, but for slow ones.
    arrived: AtomicU64,
    /// Flights that a program has waited for so far.
    raised: AtomicU64,
    pauses: Pauses,
}

/// How long what is ahead stands still.
#[derive(Clone, Copy, Debug)]
struct Pauses {
    /// At most, at once.
    longest: Duration,
    /// After the last program has got what it waited for.
    quiet: Duration,
}

/// What programs wait for.
#[derive(Debug, Default)]
struct Pressing {
    flights: usize,
    /// From when on it is quiet, if nothing comes until then.
    quiet_from: Option<Instant>,
}

impl Pressing {
    /// How long nothing ahead goes on, if no other program begins to wait; `None` where it may.
    fn rest(&self) -> Option<Duration> {
        if self.flights > 0 {
            return Some(Duration::MAX);
        }
        let rest = self.quiet_from?.saturating_duration_since(Instant::now());
        (!rest.is_zero()).then_some(rest)
    }
}

/// The places of one source.
#[derive(Debug)]
struct Places {
    urgent: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    /// For what is not small; with those of `ahead`.
    large: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    /// Whether it has proved fast.
    is_fast: AtomicBool,
    /// Bytes that have come from it for flights that a program waits for.
    arrived: AtomicU64,
    /// Transfers that go on, slow ones too.
    transfers: AtomicUsize,
}

impl Priorities {
    /// Places for programs at each of so many sources, and for what is fetched ahead of them by a `policy`.
    pub(super) fn for_programs(sources: usize, policy: PrefetchPolicy) -> Arc<Self> {
        let quiet = match policy {
            PrefetchPolicy::Closure => QUIET,
            PrefetchPolicy::None => Duration::ZERO,
        };
        let longest = STAND_STILL;
        Self::new(AHEAD, LARGE_AHEAD, sources, Pauses { longest, quiet })
    }

    /// So many places for the `jobs` of a copy, at each of `sources` sources.
    pub(super) fn for_copy(jobs: usize, sources: usize) -> Arc<Self> {
        let pauses = Pauses {
            longest: STAND_STILL,
            quiet: Duration::ZERO,
        };
        Self::new(jobs, jobs, sources, pauses)
    }

    fn new(ahead: usize, large: usize, sources: usize, pauses: Pauses) -> Arc<Self> {
        let share = |all: usize| (SOURCES * all / sources.max(1)).clamp(1, all);
        let shares = (share(URGENT), share(ahead));
        Arc::new(Self {
            places: Mutex::default(),
            shares,
            large: large.min(shares.1),
            taken: AtomicUsize::new(0),
            pressing: Mutex::default(),
            relief: Condvar::new(),
            queued: AtomicUsize::new(0),
            arrived: AtomicU64::new(0),
            raised: AtomicU64::new(0),
            pauses,
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

    fn pressing(&self) -> MutexGuard<'_, Pressing> {
        sync::lock(&self.pressing)
    }

    fn places(&self, source: &str) -> Arc<Places> {
        let mut all = sync::lock(&self.places);
        let (urgent, ahead) = self.shares;
        let new = || {
            Arc::new(Places {
                urgent: Arc::new(Semaphore::new(urgent)),
                ahead: Arc::new(Semaphore::new(ahead)),
                large: Arc::new(Semaphore::new(self.large)),
                is_fast: AtomicBool::new(false),
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
    held: Mutex<(Permits, bool)>,
}

/// The second one is for what is not small.
type Permits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Place {
    fn new(priorities: &Arc<Priorities>, places: Arc<Places>, held: Permits) -> Self {
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
            *held = ((slow, None), true);
            self.priorities.taken.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Notes how long [`FAST_STEP`] bytes took, which decides how much is fetched ahead at once.
    pub(super) fn note_step(&self, took: Duration) {
        if took <= FAST_TIME && !self.places.is_fast.swap(true, Ordering::Relaxed) {
            let more = self.priorities.shares.1 - self.priorities.large;
            self.places.large.add_permits(more);
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
            self.priorities.pressing().flights += 1;
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

    /// Waits for a place to transfer so many `bytes` from a source.
    pub(super) async fn enter(&self, source: &str, bytes: u64) -> Place {
        let priorities = &self.priorities;
        let places = priorities.places(source);
        let _queued = Queued::new(self, &places);
        let ahead = async {
            let large = match bytes > SMALL {
                true => Some(places.large.clone().acquire_owned().await?),
                false => None,
            };
            Ok::<Permits, AcquireError>((places.ahead.clone().acquire_owned().await?, large))
        };
        let entered = tokio::select! {
            biased;
            () = self.raised() => {
                let urgent = places.urgent.clone().acquire_owned();
                urgent.await.map(|urgent| (urgent, None))
            }
            permits = ahead => permits,
        };
        match entered {
            Ok(permits) => Place::new(priorities, places, permits),
            // The semaphores are never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether it is to stand still: a program waits for something else, or has until a moment ago. But what
    /// a program waits for needs nothing of what this gives up when nothing comes of it, as from a source
    /// that hangs; and for what comes from other sources, which may be slow by themselves, it stands still
    /// half of the time.
    pub(super) fn is_in_the_way(&self) -> bool {
        let is_free = sync::lock(&self.free).is_some_and(|until| Instant::now() < until);
        let is_in_vain = self.in_vain.load(Ordering::Relaxed) == self.priorities.motion();
        !self.is_raised() && !is_free && !is_in_vain && self.priorities.pressing().rest().is_some()
    }

    /// Stands still with its `place` while it is in the way, but not longer than a connection stays open.
    /// Blocks; `true` if it did.
    pub(super) fn give_way(&self, place: &Place) -> bool {
        if !self.is_in_the_way() {
            return false;
        }
        let before = self.priorities.motion();
        let own = || place.places.arrived.load(Ordering::Relaxed);
        let own_before = own();
        let until = Instant::now() + self.priorities.pauses.longest;
        let mut pressing = self.priorities.pressing();
        while let Some(rest) = pressing.rest()
            && !self.is_raised()
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if self.priorities.motion() == before {
                    self.in_vain.store(before, Ordering::Relaxed);
                } else if own() == own_before {
                    let until = Instant::now() + self.priorities.pauses.longest;
                    *sync::lock(&self.free) = Some(until);
                }
                break;
            }
            let waited = self
                .priorities
                .relief
                .wait_timeout(pressing, left.min(rest));
            (pressing, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

impl Drop for Urgency {
    fn drop(&mut self) {
        if self.is_raised() {
            let mut pressing = self.priorities.pressing();
            pressing.flights -= 1;
            pressing.quiet_from = Some(Instant::now() + self.priorities.pauses.quiet);
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

    /// Which take no time after a program has got what it waited for.
    fn with_pauses(sources: usize, longest: Duration) -> Arc<Priorities> {
        let quiet = Duration::ZERO;
        Priorities::new(AHEAD, LARGE_AHEAD, sources, Pauses { longest, quiet })
    }

    #[test]
    fn what_is_urgent_does_not_wait_for_what_is_fetched_ahead() {
        block_on(async {
            let priorities = Priorities::for_programs(1, PrefetchPolicy::None);
            let ahead: Vec<_> = (0..AHEAD).map(|_| Urgency::new(&priorities)).collect();
            let mut held = Vec::new();
            for one in &ahead {
                held.push(one.enter("a", 1).await);
            }
            let late = Urgency::new(&priorities);
            let mut entering = Box::pin(late.enter("a", 1));
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
        let priorities = with_pauses(1, Duration::from_secs(600));
        let (ahead, urgent) = (Urgency::new(&priorities), Urgency::new(&priorities));
        let place = block_on(ahead.enter("a", 1));
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
        ahead.give_way(&block_on(ahead.enter("a", 1)));
        drop((urgent, ahead));
        assert_eq!(priorities.pressing().flights, 0);
    }

    #[test]
    fn what_is_fetched_ahead_stands_still_for_a_while_once_for_each_motion() {
        const STAND_STILL: Duration = Duration::from_millis(50);
        let priorities = with_pauses(1, STAND_STILL);
        let (ahead, urgent) = (Urgency::new(&priorities), Urgency::new(&priorities));
        urgent.raise();
        let place = block_on(urgent.enter("a", 1));
        let own = block_on(ahead.enter("a", 1));
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
        assert_eq!(priorities.pressing().flights, 0);
    }

    #[test]
    fn for_another_source_it_stands_still_half_of_the_time() {
        const STAND_STILL: Duration = Duration::from_millis(300);
        let priorities = with_pauses(2, STAND_STILL);
        let (ahead, urgent) = (Urgency::new(&priorities), Urgency::new(&priorities));
        urgent.raise();
        let place = Arc::new(block_on(urgent.enter("slow", 1)));
        let own = block_on(ahead.enter("good", 1));
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

    #[test]
    fn what_is_fetched_ahead_is_in_the_way_until_it_has_been_quiet_for_a_moment() {
        let hours = Duration::from_secs(7200);
        for (quiet, is_over) in [(hours, false), (Duration::ZERO, true)] {
            let pauses = Pauses {
                longest: hours,
                quiet,
            };
            let priorities = Priorities::new(AHEAD, LARGE_AHEAD, 1, pauses);
            let (ahead, urgent) = (Urgency::new(&priorities), Urgency::new(&priorities));
            assert!(!ahead.is_in_the_way());
            urgent.raise();
            assert!(ahead.is_in_the_way() && !urgent.is_in_the_way());
            drop(urgent);
            assert_eq!(ahead.is_in_the_way(), !is_over);
            // A program waits for it itself.
            ahead.raise();
            assert!(!ahead.is_in_the_way());
        }
    }

    #[test]
    fn only_two_large_nars_are_fetched_ahead_until_a_source_has_proved_fast() {
        block_on(async {
            let priorities = Priorities::for_programs(1, PrefetchPolicy::None);
            let all: Vec<_> = (0..=AHEAD).map(|_| Urgency::new(&priorities)).collect();
            let moment = Duration::from_millis(20);
            let enter = async |urgency: &Urgency, bytes| {
                let entering = urgency.enter("a", bytes);
                tokio::time::timeout(moment, entering).await.ok()
            };
            let mut held = Vec::new();
            for urgency in &all[..LARGE_AHEAD] {
                held.push(enter(urgency, SMALL + 1).await.unwrap());
            }
            let next = &all[LARGE_AHEAD];
            assert!(enter(next, SMALL + 1).await.is_none());
            // Small ones go on, and what a program waits for.
            drop(enter(next, SMALL).await.unwrap());
            let urgent = Urgency::new(&priorities);
            urgent.raise();
            drop(enter(&urgent, SMALL + 1).await.unwrap());
            held[0].note_step(FAST_TIME * 2);
            assert!(enter(next, SMALL + 1).await.is_none());
            held[0].note_step(FAST_TIME);
            held[0].note_step(FAST_TIME);
            for urgency in &all[LARGE_AHEAD..AHEAD] {
                held.push(enter(urgency, SMALL + 1).await.unwrap());
            }
            assert!(enter(&all[AHEAD], SMALL + 1).await.is_none());
            // A copy has all its places for what is large.
            let jobs = Priorities::for_copy(3, 1);
            let jobs = [(); 3].map(|()| Urgency::new(&jobs));
            for urgency in &jobs {
                held.push(enter(urgency, SMALL + 1).await.unwrap());
            }
        });
    }

    /// Whether a place at a source is free for what a program waits for.
    async fn is_free(urgency: &Urgency, source: &str) -> Option<Place> {
        let moment = Duration::from_millis(20);
        tokio::time::timeout(moment, urgency.enter(source, 1))
            .await
            .ok()
    }

    #[test]
    fn no_source_takes_the_places_of_another_however_many_there_are() {
        for sources in [1, 2, 3, 8, 100] {
            block_on(async {
                let priorities = Priorities::for_programs(sources, PrefetchPolicy::None);
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
            let priorities = Priorities::for_programs(1, PrefetchPolicy::None);
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
