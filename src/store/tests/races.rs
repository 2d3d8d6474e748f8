//! Readers, ingests, evictions and collections at the same time.

use std::sync::atomic::{AtomicBool, AtomicU64};

use super::*;
use crate::store::upkeep::Worth;

const PATHS_IN_PLAY: u64 = 12;
const SIZE: usize = 250_000;

/// Half of it is common to two neighbours, and every fourth path is the same as the one before.
fn contents(n: u64) -> Vec<u8> {
    let own = if n % 4 == 3 { n - 1 } else { n };
    [noise(1000 + own / 2, SIZE / 2), noise(own * 2, SIZE / 2)].concat()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % n
    }
}

/// What the threads share.
struct Arena {
    store: Store,
    expected: Vec<Vec<u8>>,
    stop: AtomicBool,
    read: AtomicU64,
    dropped: AtomicU64,
    removals: AtomicU64,
}

/// Ends the contention if its thread panics.
struct Contender<'a>(&'a Arena);

impl Drop for Contender<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Arena {
    fn is_open(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn ingest(&self, mut random: Random) {
        let _contender = Contender(self);
        let mut one = || {
            let n = random.below(PATHS_IN_PLAY);
            kept(&self.store, &path(n as u8), &self.expected[n as usize])
        };
        // Some fail, some come in groups.
        for turn in 0.. {
            match turn % 4 {
                _ if !self.is_open() => return,
                0 => drop(one()),
                1 => self.store.paths().publish(&[one(), one()]).unwrap(),
                _ => self.store.paths().publish(&[one()]).unwrap(),
            }
        }
    }

    fn read(&self, mut random: Random) {
        let _contender = Contender(self);
        let store = &self.store;
        let mut held: Option<(usize, LoadedPath)> = None;
        while self.is_open() {
            let n = random.below(PATHS_IN_PLAY);
            let Some(info) = store.paths().info(path(n as u8).hash()).unwrap() else {
                continue;
            };
            store.paths().touch(info.ordinal);
            // Often one that was loaded long ago.
            if held.is_none() || random.below(8) == 0 {
                match store.paths().load(info.ordinal) {
                    Ok(loaded) => held = loaded.map(|l| (n as usize, l)),
                    // Its tree was collected in between.
                    Err(e) => assert!(matches!(e, StoreError::Damaged { .. }), "{e}"),
                }
            }
            if random.below(3) == 0 {
                store.contents.forget_chunks();
            }
            let Some((n, loaded)) = &held else { continue };
            let at = random.below(SIZE as u64 - 1000);
            let mut out = Vec::new();
            match store.contents().read(loaded.contents(), at, 1000, &mut out) {
                Ok(()) => {
                    assert!(out == self.expected[*n][at as usize..][..1000]);
                    self.read.fetch_add(1, Ordering::Relaxed);
                }
                Err(StoreError::Dropped { .. }) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn remove(&self, removal: impl Fn(&Store, &mut Random)) {
        let _contender = Contender(self);
        let mut random = Random(3);
        while self.is_open() {
            removal(&self.store, &mut random);
            self.removals.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(random.below(5)));
        }
    }

    /// Whether enough of everything has happened.
    fn is_over(&self) -> bool {
        let counts = [
            (&self.read, 1000),
            (&self.dropped, 50),
            (&self.removals, 50),
        ];
        let mut counts = counts.into_iter();
        counts.all(|(count, enough)| count.load(Ordering::Relaxed) >= enough)
    }

    fn reclaim(&self) {
        let _contender = Contender(self);
        let (least, part) = (1, 8);
        let worth = Worth { least, part };
        while self.is_open() {
            self.store.upkeep.reclaim_worth(worth, &self.stop).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Has threads work on one state until enough has happened.
fn contend(removal: impl Fn(&Store, &mut Random) + Send) {
    let (dir, store) = store();
    let arena = Arena {
        store,
        expected: (0..PATHS_IN_PLAY).map(contents).collect(),
        stop: AtomicBool::new(false),
        read: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
        removals: AtomicU64::new(0),
    };
    let store = &arena.store;
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let arena = &arena;
            scope.spawn(move || arena.ingest(Random(77 + thread)));
            scope.spawn(move || arena.read(Random(99 + thread)));
        }
        scope.spawn(|| arena.remove(removal));
        scope.spawn(|| arena.reclaim());
        let deadline = Instant::now() + Duration::from_secs(300);
        while arena.is_open() && !arena.is_over() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            store.upkeep().stored_bytes().unwrap();
        }
        arena.stop.store(true, Ordering::Relaxed);
    });
    assert!(arena.is_over());
    assert_eq!(store.contents.damaged_chunks(), 0);
    assert_sound(store);
    let (_copy, again) = crashed(&dir);
    assert_sound(&again);
    for (n, expected) in arena.expected.iter().enumerate() {
        publish(store, &path(n as u8), expected);
    }
    store.contents.forget_chunks();
    for (n, expected) in arena.expected.iter().enumerate() {
        assert!(dump(store, &path(n as u8)).unwrap() == *expected);
    }
    // Nothing is held any more, and nothing is left behind.
    evict(store, 0, &HashSet::new()).unwrap();
    assert_eq!(store.upkeep().statistics().unwrap().chunks, 0);
    assert_sound(store);
}

#[test]
fn evictions_never_take_what_readers_and_ingests_need() {
    contend(|store, random| {
        let keep = HashSet::from([path(random.below(PATHS_IN_PLAY) as u8).hash()]);
        let to = random.below(PATHS_IN_PLAY * SIZE as u64);
        evict(store, to, &keep).unwrap();
    });
}

#[test]
fn collections_never_take_what_readers_and_ingests_need() {
    contend(|store, random| {
        let live = |n| (random.below(2) == 0).then(|| path(n as u8).hash());
        let live: HashSet<_> = (0..PATHS_IN_PLAY).filter_map(live).collect();
        collect(store, &live, None);
    });
}
