//! What one eviction after the other costs.

use super::*;

/// A path of many, with contents of its own.
fn numbered(n: u32) -> StorePath {
    let mut hash = [7; 20];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    StorePath::new(StorePathHash::from_bytes(hash), "numbered").unwrap()
}

/// Publishes paths, a thousand bytes each, used in this order.
fn arrive(store: &Store, numbers: std::ops::Range<u32>) {
    let each = numbers.clone();
    let each = each.map(|n| kept(store, &numbered(n), &noise(u64::from(n) * 2, 1000)));
    let all: Vec<_> = each.collect();
    store.paths().publish(&all).unwrap();
    numbers.for_each(|n| used(store, n, u64::from(n)));
}

/// Says that a path was used last at a time in the future, so that publication is before it.
fn used(store: &Store, n: u32, at: u64) {
    let info = store.paths().info(numbered(n).hash()).unwrap().unwrap();
    store
        .paths
        .set_last_use(info.ordinal, 4_000_000_000_000 + at);
}

/// Evicts so many bytes, which are less than one path has. Returns what went, and how many records were
/// read.
fn evict_some(store: &Store, disk: &MemoryBackend, bytes: u64) -> (Vec<StorePath>, u64) {
    let to = store.upkeep().stored_bytes().unwrap() - bytes;
    let before = disk.reads();
    let evicted = evict(store, to, &HashSet::new()).unwrap();
    assert!(store.upkeep().stored_bytes().unwrap() <= to);
    (evicted.paths, disk.reads() - before)
}

#[test]
fn one_eviction_after_the_other_does_not_look_at_all_paths() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    arrive(&store, 0..600);
    let (first, looked) = evict_some(&store, &disk, 500);
    assert_eq!(first, [numbered(0)]);
    assert!(looked > 600);
    let (mut used_since, mut used_last) = (0, Vec::new());
    for n in 1..100 {
        arrive(&store, 599 + n..600 + n);
        // One that is used meanwhile is not the oldest any more.
        let oldest = n + used_since;
        if n % 10 == 0 {
            used(&store, oldest, 10_000 + u64::from(n));
            used_since += 1;
            used_last.push(numbered(oldest));
        }
        let (gone, reads) = evict_some(&store, &disk, 500);
        assert_eq!(gone, [numbered(n + used_since)]);
        assert!(reads < 60, "{reads} records were read for eviction {n}");
        assert_sound(&store);
    }
    // Those that came since are found as well, each once.
    let rest = evict(&store, 0, &HashSet::new()).unwrap().paths;
    assert_eq!(rest.len(), 600 + 99 - 100);
    assert_eq!(rest[rest.len() - used_last.len()..], used_last);
    assert_eq!(store.upkeep().statistics().unwrap().chunks, 0);
    assert_sound(&store);
}

#[test]
fn what_is_kept_later_stays_and_what_is_no_longer_kept_goes_at_last() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    arrive(&store, 0..20);
    let hash = |n| numbered(n).hash();
    let evict = |bytes, keep: &HashSet<StorePathHash>| {
        let to = store.upkeep().stored_bytes().unwrap().saturating_sub(bytes);
        super::evict(&store, to, keep).unwrap().paths
    };
    // Kept from the beginning.
    let keep = HashSet::from([hash(0)]);
    assert_eq!(evict(500, &keep), [numbered(1)]);
    // Kept since, and a published one that is there already is younger now.
    let keep = HashSet::from([hash(0), hash(2)]);
    arrive(&store, 3..4);
    used(&store, 3, 100);
    assert_eq!(evict(500, &keep), [numbered(4)]);
    // A removal of paths in between takes others away.
    let live = (0..10).map(hash).collect();
    assert_eq!(collect(&store, &live, None).paths.len(), 10);
    assert_eq!(evict(500, &keep), [numbered(5)]);
    let mut rest = evict(u64::MAX, &HashSet::new());
    rest.sort();
    let mut left = [0, 2, 3, 6, 7, 8, 9].map(numbered);
    left.sort();
    assert_eq!(rest, left);
    assert_eq!(store.upkeep().statistics().unwrap().chunks, 0);
    assert_sound(&store);
}

#[test]
fn chunks_that_came_to_be_shared_between_two_evictions_stay() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    arrive(&store, 0..20);
    evict_some(&store, &disk, 500);
    // A path with the contents of the next one to go, and more: it has that chunk, too.
    let mut contents = noise(2, 1000);
    let chunks = || store.upkeep().statistics().unwrap().chunks;
    let before = chunks();
    let same = kept(&store, &path(200), &contents);
    store.paths().publish(&[same]).unwrap();
    assert_eq!(chunks(), before);
    evict_some(&store, &disk, 500);
    assert_sound(&store);
    contents.push(1);
    let other = kept(&store, &path(201), &contents);
    store.paths().publish(&[other]).unwrap();
    for _ in 0..10 {
        evict_some(&store, &disk, 500);
        assert_sound(&store);
    }
}

#[test]
fn damage_is_gone_around_also_where_it_comes_between_two_evictions() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    arrive(&store, 0..20);
    let tree = |n| {
        let info = store.paths().info(numbered(n).hash()).unwrap().unwrap();
        info.tree().unwrap()
    };
    let (of_tree, of_other) = (tree(3), tree(15));
    assert_eq!(evict_some(&store, &disk, 500).0, [numbered(0)]);
    // What was listed before is not asked again, but for its tree.
    disk.damage(Family::Paths, numbered(2).hash().as_bytes());
    disk.damage(Family::Trees, &of_tree.0);
    store.paths.forget_all();
    store.contents().forget_all();
    let gone: Vec<_> = (0..4)
        .flat_map(|_| evict_some(&store, &disk, 500).0)
        .collect();
    assert_eq!(gone, [1, 2, 4, 5].map(numbered));
    // What is listed anew leaves out what cannot be read. Its chunks may be here only.
    collect(&store, &(0..20).map(|n| numbered(n).hash()).collect(), None);
    disk.damage(Family::Trees, &of_other.0);
    store.contents().forget_all();
    let before = store.upkeep().stored_bytes().unwrap();
    evict(&store, 0, &HashSet::new()).unwrap();
    assert_eq!(store.upkeep().stored_bytes().unwrap(), before);
    assert_eq!(store.paths().count().unwrap(), 20);
    // The path comes again, and the trees with it.
    store
        .paths()
        .publish(&[kept(&store, &numbered(2), &noise(4, 1000))])
        .unwrap();
    for n in [3, 15] {
        store
            .paths()
            .restore_tree(&kept(&store, &numbered(n), &noise(u64::from(n) * 2, 1000)).tree)
            .unwrap();
    }
    assert_eq!(store.paths().count().unwrap(), 20);
    let rest = evict(&store, 0, &HashSet::new()).unwrap().paths;
    assert_eq!(rest.len(), 16);
    assert_eq!(store.upkeep().statistics().unwrap().chunks, 0);
}

#[test]
fn small_paths_go_after_all_others_and_then_in_their_order() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    arrive(&store, 0..200);
    let large: Vec<_> = (0..4).map(|n| path(210 + n)).collect();
    for (n, path) in (1..).zip(&large) {
        publish(&store, path, &noise(n * 2 + 1000, 100_000));
    }
    // The small ones were used before, but one of usual size frees what all of them do.
    let (gone, _) = evict_some(&store, &disk, 50_000);
    assert_eq!(gone.len(), 1);
    assert!(large.contains(&gone[0]));
    let (gone, _) = evict_some(&store, &disk, 300_500);
    assert_eq!(gone.len(), 4);
    assert_eq!(gone[3], numbered(0));
    assert_sound(&store);
}
