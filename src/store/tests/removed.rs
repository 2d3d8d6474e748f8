//! Paths that are collected.

use super::*;

fn with_references(store: &Store, seed: u8, references: &[u8]) {
    let mut publication = kept(store, &path(seed), &noise(u64::from(seed) * 2, 100_000));
    // The tree knows of none, so the path is registered but cannot be loaded: enough here.
    publication.registration.references = references.iter().map(|r| path(*r)).collect();
    store.publish(&[publication]).unwrap();
}

#[test]
fn what_is_not_live_goes_whole_and_referrers_before_references() {
    let (_dir, store) = store();
    let told = Arc::new(AtomicUsize::new(0));
    // 5 → 4 → 3 → 2 ← 1, and 6 ↔ 7.
    for (seed, references) in [
        (2, &[][..]),
        (1, &[2]),
        (3, &[2]),
        (4, &[3]),
        (5, &[4, 5]),
        (6, &[7]),
        (7, &[6]),
    ] {
        with_references(&store, seed, references);
    }
    let count = told.clone();
    store.observe(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let live = HashSet::from([path(1).hash()]);
    let before = store.stored_bytes().unwrap();
    let first = store.collect(&live, Some(1)).unwrap();
    assert_eq!(first.paths.len(), 1);
    let rest = store.collect(&live, None).unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 2);
    let gone = [first.paths, rest.paths].concat();
    assert_eq!(gone.len(), 5);
    let at = |n| gone.iter().position(|p| *p == path(n)).unwrap();
    assert!(at(5) < at(4) && at(4) < at(3));
    assert_eq!(
        before - store.stored_bytes().unwrap(),
        first.bytes + rest.bytes
    );
    assert_eq!(store.all_paths().unwrap(), [path(2), path(1)]);
    assert_eq!(store.path_info(path(5).hash()).unwrap(), None);
    let left = size::Lengths::count(&store.database.snapshot()).unwrap();
    assert_eq!(
        (left.trees, left.total()),
        (2, store.stored_bytes().unwrap())
    );
    assert_eq!(store.collect(&live, None).unwrap(), Collected::default());
    // Their numbers are not given again.
    publish(&store, &path(5), b"new");
    let info = store.path_info(path(5).hash()).unwrap().unwrap();
    assert_eq!(info.ordinal, PathOrdinal(8));
}

#[test]
fn trees_and_chunks_go_with_their_last_path() {
    let (dir, store) = store();
    let contents = noise(2, 300_000);
    for n in [1, 2] {
        publish(&store, &path(n), &contents);
    }
    let in_flight = kept(&store, &path(3), &contents);
    store.load(PathOrdinal(1)).unwrap();
    let live = HashSet::from([path(2).hash()]);
    assert_eq!(store.collect(&live, None).unwrap().paths, [path(1)]);
    assert!(store.load(PathOrdinal(1)).unwrap().is_none());
    assert!(dump(&store, &path(2)).unwrap() == contents);
    assert_sound(&store);
    let none = HashSet::new();
    assert_eq!(store.collect(&none, None).unwrap().paths, [path(2)]);
    let s = store.statistics().unwrap();
    assert_eq!((s.paths, s.trees, s.unique_bytes), (0, 0, 300_000));
    store.publish(&[in_flight]).unwrap();
    assert!(dump(&store, &path(3)).unwrap() == contents);
    assert_sound(&store);
    let (_copy, again) = crashed(&dir);
    assert!(dump(&again, &path(3)).unwrap() == contents);
    assert_eq!(again.all_paths().unwrap(), [path(3)]);
    assert_sound(&again);
    again.collect(&none, None).unwrap();
    assert_eq!(again.stored_bytes().unwrap(), 0);
    assert_sound(&again);
}

#[test]
fn what_was_only_registered_is_collected_as_well() {
    let (_dir, store) = store();
    let publication = kept(&store, &path(1), b"x");
    store
        .register(&[(publication.registration.clone(), None)])
        .unwrap();
    assert_sound(&store);
    assert_eq!(
        store.collect(&HashSet::new(), None).unwrap().paths,
        [path(1)]
    );
    assert_eq!(store.path_info(path(1).hash()).unwrap(), None);
    assert_eq!(
        store.stored_bytes().unwrap(),
        store.statistics().unwrap().stored_bytes
    );
}
