//! The size budget of a state: while something arrives, what was used longest ago goes.
//!
//! Invariant: what is stored is above the budget by no more than what is just arriving, or arrived
//! a moment ago, unless what must be kept is larger than the budget.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::rate_limit::RateLimit;
use crate::nix::store_path::StorePathHash;
use crate::store::{Eviction, Store, StoreError};
use crate::sync;

/// Names paths.
pub type Names = Box<dyn Fn() -> Result<HashSet<StorePathHash>, StoreError> + Send + Sync>;

/// What must not be dropped at this moment.
pub struct Keep {
    pub rooted: Names,
    pub in_use: Names,
}

/// Part of a budget that is freed at once (one in so many): finding out what may go costs a look at
/// every process.
const SLACK: u64 = 32;
/// Part of a budget (one in so many) above which freed space is given back to the disk before more
/// arrives: a fast network would fill the disk meanwhile.
const GARBAGE: u64 = 3;
/// Time after which space is looked for again that something else has left behind, such as a daemon
/// that was killed while it gave space back.
const LEFT_BEHIND: Duration = Duration::from_secs(60);
/// Pause after a search that freed too little, in multiples of the time that it took: what must be
/// kept may be larger than the budget for hours.
const REST: u32 = 10;

/// Keeps a state within its budget.
pub struct Budget {
    store: Arc<Store>,
    /// Bytes; `u64::MAX` is no budget.
    budget: u64,
    keep: Keep,
    /// Until when another search is not worth its time. Held by the one thread that searches.
    trimming: Mutex<Option<Instant>>,
    /// Whether freed space is just being given back to the disk.
    reclaiming: Arc<AtomicBool>,
    /// When that last began.
    reclaimed: Mutex<Option<Instant>>,
    evicted: AtomicU64,
    evicted_bytes: AtomicU64,
    complaint: RateLimit,
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Budget({})", self.budget)
    }
}

impl Budget {
    /// A budget of `budget` stored bytes for `store`; `None` is none.
    pub fn new(store: Arc<Store>, budget: Option<u64>, keep: Keep) -> Self {
        Self {
            store,
            budget: budget.unwrap_or(u64::MAX),
            keep,
            trimming: Mutex::default(),
            reclaiming: Arc::default(),
            reclaimed: Mutex::default(),
            evicted: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
            complaint: RateLimit::new(Duration::from_secs(60)),
        }
    }

    pub fn budget(&self) -> Option<u64> {
        (self.budget != u64::MAX).then_some(self.budget)
    }

    /// Paths whose contents were dropped so far.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Stored bytes that this freed.
    pub fn evicted_bytes(&self) -> u64 {
        self.evicted_bytes.load(Ordering::Relaxed)
    }

    /// Drops contents where the state is above its budget, for what is arriving. Blocks; costs next
    /// to nothing where it is not.
    pub(super) fn make_room(&self) {
        self.try_to(false);
    }

    /// The same, even shortly after it freed too little: what was arriving then, and could not be
    /// dropped, may be here by now. Gives space back that was left behind.
    pub fn settle(&self) {
        self.try_to(true);
        let last = sync::lock(&self.reclaimed);
        let is_due = last.is_none_or(|at| at.elapsed() >= LEFT_BEHIND);
        drop(last);
        if is_due
            && self.budget != u64::MAX
            && self.store.upkeep().is_worth_reclaiming().unwrap_or(false)
        {
            self.reclaim();
        }
    }

    fn try_to(&self, at_once: bool) {
        if let Err(e) = self.trim(at_once)
            && let Some(unsaid) = self.complaint.say()
        {
            tracing::warn!(unsaid, "no contents could be dropped for the budget: {e}");
        }
    }

    fn trim(&self, at_once: bool) -> Result<(), StoreError> {
        if self.budget == u64::MAX || self.store.upkeep().stored_bytes()? <= self.budget {
            return Ok(());
        }
        let mut rest = sync::lock(&self.trimming);
        let began = Instant::now();
        let is_resting = rest.is_some_and(|until| began < until) && !at_once;
        if is_resting || self.store.upkeep().stored_bytes()? <= self.budget {
            return Ok(());
        }
        // The fetch waits for this, so this must not wait for fetches.
        let lower = self.budget - self.budget / SLACK;
        if self.drop_to(lower, false)?.bytes > 0 {
            if self.store.upkeep().reclaimable_bytes()? > self.budget / GARBAGE {
                self.store.upkeep().reclaim(&AtomicBool::new(false))?;
            } else {
                self.reclaim();
            }
        }
        let stored = self.store.upkeep().stored_bytes()?;
        let now = Instant::now();
        *rest = (stored > self.budget).then(|| now + (now - began) * REST);
        if stored > self.budget
            && let Some(unsaid) = self.complaint.say()
        {
            tracing::warn!(
                stored,
                budget = self.budget,
                unsaid,
                "the state is above its budget, and what else it holds is pinned, in use, just \
                 arriving or was added here"
            );
        }
        Ok(())
    }

    /// Drops contents, least recently used first, until the state stores at most `to` bytes or
    /// nothing more can go. The space that it gives back is the database's until
    /// `reclaim` of the store.
    ///
    /// # Errors
    /// The database failed, or it cannot be told what programs use.
    pub fn evict(&self, to: u64) -> Result<Eviction, StoreError> {
        self.drop_to(to, true)
    }

    fn drop_to(&self, to: u64, patient: bool) -> Result<Eviction, StoreError> {
        let mut keep = (self.keep.rooted)()?;
        if patient {
            keep.extend((self.keep.in_use)()?);
        }
        let eviction = self
            .store
            .upkeep()
            .evict(to, &keep, &self.keep.in_use, patient)?;
        let paths = eviction.paths.len() as u64;
        self.evicted.fetch_add(paths, Ordering::Relaxed);
        let bytes = &self.evicted_bytes;
        bytes.fetch_add(eviction.bytes, Ordering::Relaxed);
        for path in &eviction.paths {
            tracing::info!(%path, "contents dropped");
        }
        Ok(eviction)
    }

    /// Gives freed space back to the disk, on a thread of its own.
    fn reclaim(&self) {
        if self.reclaiming.swap(true, Ordering::SeqCst) {
            return;
        }
        *sync::lock(&self.reclaimed) = Some(Instant::now());
        let (store, reclaiming) = (self.store.clone(), self.reclaiming.clone());
        let work = move || {
            if let Err(e) = store.upkeep().reclaim(&AtomicBool::new(false)) {
                tracing::warn!("the space of dropped contents was not given back: {e}");
            }
            reclaiming.store(false, Ordering::SeqCst);
        };
        if let Err(e) = sync::spawn("narfs-reclaim", work) {
            tracing::warn!("no thread to give back space: {e}");
            self.reclaiming.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    #[test]
    fn where_nothing_can_be_dropped_it_is_not_looked_again_all_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            memory: 32 << 20,
            create: true,
            store_dir: None,
        };
        let store = Arc::new(Store::open(&dir.path().join("state"), &options).unwrap());
        std::fs::write(dir.path().join("added"), "x").unwrap();
        crate::fetch::add(&store, &dir.path().join("added"), "added").unwrap();
        let looks = Arc::new(AtomicU64::new(0));
        let keep = {
            let looks = looks.clone();
            move || {
                looks.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
                Ok(HashSet::new())
            }
        };
        let keep = Keep {
            rooted: Box::new(keep),
            in_use: Box::new(|| Ok(HashSet::new())),
        };
        let room = Budget::new(store, Some(1), keep);
        let began = Instant::now();
        room.make_room();
        let until = sync::lock(&room.trimming).unwrap();
        assert!(until >= began + Duration::from_millis(50) * (1 + REST));
        let rest_until = |until| *sync::lock(&room.trimming) = Some(until);
        rest_until(Instant::now() + Duration::from_secs(600));
        for _ in 0..1000 {
            room.make_room();
        }
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        rest_until(Instant::now());
        room.make_room();
        assert_eq!(looks.load(Ordering::Relaxed), 2);
        room.settle();
        assert_eq!(looks.load(Ordering::Relaxed), 3);
    }
}
