//! Paths that are collected.

use super::*;
use crate::store::upkeep::Lengths;

fn with_references(store: &Store, seed: u8, references: &[u8]) {
    let mut publication = kept(store, &path(seed), &noise(u64::from(seed) * 2, 100_000));
    // The tree knows of none, so the path is registered but cannot be loaded: enough here.
    publication.registration.references = references.iter().map(|r| path(*r)).collect();
    store.paths().publish(&[publication]).unwrap();
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
    let before = store.upkeep().stored_bytes().unwrap();
    let expected = store.upkeep().collectable(&live).unwrap();
    assert_eq!(before, store.upkeep().stored_bytes().unwrap());
    let first = collect(&store, &live, Some(1));
    assert_eq!(first.paths.len(), 1);
    let rest = collect(&store, &live, None);
    assert_eq!(told.load(Ordering::Relaxed), 2);
    let gone = [first.paths, rest.paths].concat();
    assert_eq!(gone.len(), 5);
    let at = |n| gone.iter().position(|p| *p == path(n)).unwrap();
    assert!(at(5) < at(4) && at(4) < at(3));
    assert_eq!(
        before - store.upkeep().stored_bytes().unwrap(),
        first.bytes + rest.bytes
    );
    assert_eq!(first.bytes + rest.bytes, expected.bytes);
    let set = |paths: &[StorePath]| paths.iter().cloned().collect::<HashSet<_>>();
    assert_eq!(set(&gone), set(&expected.paths));
    assert_eq!(store.paths().all().unwrap(), [path(2), path(1)]);
    assert_eq!(store.paths().info(path(5).hash()).unwrap(), None);
    let left = Lengths::count(&store.records.snapshot()).unwrap();
    assert_eq!(
        (left.trees, left.total()),
        (2, store.upkeep().stored_bytes().unwrap())
    );
    assert_eq!(collect(&store, &live, None), Collected::default());
    // Their numbers are not given again.paths().
    publish(&store, &path(5), b"new");
    let info = store.paths().info(path(5).hash()).unwrap().unwrap();
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
    store.paths().load(PathOrdinal(1)).unwrap();
    let live = HashSet::from([path(2).hash()]);
    assert_eq!(collect(&store, &live, None).paths, [path(1)]);
    assert!(store.paths().load(PathOrdinal(1)).unwrap().is_none());
    assert!(dump(&store, &path(2)).unwrap() == contents);
    assert_sound(&store);
    let none = HashSet::new();
    assert_eq!(collect(&store, &none, None).paths, [path(2)]);
    let s = store.upkeep().statistics().unwrap();
    assert_eq!((s.paths, s.trees, s.unique_bytes), (0, 0, 300_000));
    store.paths().publish(&[in_flight]).unwrap();
    assert!(dump(&store, &path(3)).unwrap() == contents);
    assert_sound(&store);
    let (_copy, again) = crashed(&dir);
    assert!(dump(&again, &path(3)).unwrap() == contents);
    assert_eq!(again.paths().all().unwrap(), [path(3)]);
    assert_sound(&again);
    collect(&again, &none, None);
    assert_eq!(again.upkeep().stored_bytes().unwrap(), 0);
    assert_sound(&again);
}

#[test]
fn what_was_only_registered_is_collected_as_well() {
    let (_dir, store) = store();
    let publication = kept(&store, &path(1), b"x");
    store
        .paths()
        .register(&[(publication.registration.clone(), None)])
        .unwrap();
    assert_sound(&store);
    let collected = collect(&store, &HashSet::new(), None);
    assert_eq!(collected.paths, []);
    assert_eq!(collected.registered, [path(1)]);
    assert_eq!(store.paths().info(path(1).hash()).unwrap(), None);
    assert_eq!(
        store.upkeep().stored_bytes().unwrap(),
        store.upkeep().statistics().unwrap().stored_bytes
    );
}

#[test]
fn a_collection_leaves_what_commands_count_on_and_what_that_needs() {
    let (_dir, store) = store();
    // 3 → 2 → 1, 6 → 5, and 4, 7, 8 by themselves.
    let references = [
        (1, &[][..]),
        (2, &[1]),
        (3, &[2]),
        (4, &[]),
        (5, &[]),
        (6, &[5]),
    ];
    for (seed, references) in references {
        with_references(&store, seed, references);
    }
    for seed in [7, 8] {
        with_references(&store, seed, &[]);
    }
    let command = store.roots().temporary();
    command.add(path(2).hash());
    let collection = store.upkeep().begin_collection();
    // While roots are looked for: a command that counts on something and is done already, a pin
    // and a generation of what is here, and something that arrives and refers to what is here.
    let short = store.roots().temporary();
    short.add(path(4).hash());
    drop(short);
    store.roots().pin(&[path(6)]).unwrap();
    let change = ProfileChange {
        name: "p".into(),
        current: None,
        generations: vec![(1, path(7), 0)],
    };
    store.profiles().change(|_| Ok(vec![change])).unwrap();
    with_references(&store, 9, &[8]);
    let mut told = Vec::new();
    let none = HashSet::new();
    let mut tell = |path: &StorePath| {
        told.push(path.clone());
        true
    };
    let collected = collection
        .remove(&none, None, &|| Ok(HashSet::new()), &mut tell)
        .unwrap();
    assert_eq!(collected.paths, [path(3)]);
    assert_eq!(told, collected.paths);
    // Later ones know of nothing but what is counted on still.
    let left = collect(&store, &none, None).paths;
    assert_eq!(left.len(), 6);
    let hash = |n| path(n).hash();
    assert!(store.paths().info(hash(1)).unwrap().is_some());
    assert!(store.paths().info(hash(2)).unwrap().is_some());
    drop(command);
    assert_eq!(collect(&store, &none, None).paths, [path(2), path(1)]);
}

#[test]
fn the_derivation_of_a_live_path_is_live_where_it_is_there() {
    let (_dir, store) = store();
    let derivation = |seed| {
        let hash = StorePathHash::from_bytes([seed; 20]);
        StorePath::new(hash, "x.drv").unwrap()
    };
    for seed in [11, 12] {
        publish(&store, &derivation(seed), &[seed]);
    }
    let mut publication = kept(&store, &path(1), b"x");
    publication.registration.deriver = Some(derivation(11));
    store.paths().publish(&[publication]).unwrap();
    let live = HashSet::from([path(1).hash()]);
    assert_eq!(collect(&store, &live, None).paths, [derivation(12)]);
    // Nor does a derivation keep what was built from it, nor count as a referrer.
    let live = HashSet::from([derivation(11).hash()]);
    assert_eq!(collect(&store, &live, None).paths, [path(1)]);
}
