//! Contents that are dropped, and come back.

use super::*;

const SIZE: usize = 300_000;

fn none() -> HashSet<StorePathHash> {
    HashSet::new()
}

/// Paths from 1 on, each with contents of its own, last used in this order.
fn paths(store: &Store, count: u8) -> Vec<StorePath> {
    let paths: Vec<_> = (1..=count).map(path).collect();
    for (n, path) in paths.iter().enumerate() {
        publish(store, path, &noise(n as u64 * 2, SIZE));
        used(store, path, n as u64 + 1);
    }
    paths
}

/// Says that a path was used last at a time in the future, so that publication is before it.
fn used(store: &Store, path: &StorePath, at: u64) {
    let info = store.paths().info(path.hash()).unwrap().unwrap();
    store
        .paths
        .set_last_use(info.ordinal, 4_000_000_000_000 + at);
}

fn dropped(store: &Store, paths: &[StorePath]) -> Vec<bool> {
    paths.iter().map(|p| is_dropped(store, p)).collect()
}

#[test]
fn the_least_recently_used_contents_go_first() {
    let (_dir, store) = store();
    let paths = paths(&store, 4);
    used(&store, &paths[0], 10);
    let before = store.upkeep().stored_bytes().unwrap();
    let nothing = evict(&store, before, &none()).unwrap();
    assert_eq!(nothing, Eviction::default());
    let evicted = evict(&store, before - 400_000, &none()).unwrap();
    assert_eq!(evicted.paths, [paths[1].clone(), paths[2].clone()]);
    assert_eq!(
        before - store.upkeep().stored_bytes().unwrap(),
        evicted.bytes
    );
    assert_eq!(dropped(&store, &paths), [false, true, true, false]);
    assert_eq!(store.upkeep().statistics().unwrap().dropped_paths, 2);
    assert_sound(&store);
    // All the rest, and then there is nothing more.
    assert_eq!(evict(&store, 0, &none()).unwrap().paths.len(), 2);
    assert_eq!(evict(&store, 0, &none()).unwrap(), Eviction::default());
    assert_eq!(store.upkeep().statistics().unwrap().chunks, 0);
    assert_sound(&store);
}

#[test]
fn dropped_contents_are_no_damage_and_come_back() {
    let (_dir, store) = store();
    let paths = paths(&store, 2);
    let info = store.paths().info(path(1).hash()).unwrap().unwrap();
    let early = store.paths().load(info.ordinal).unwrap().unwrap();
    assert!(early.is_complete());
    evict(&store, 0, &none()).unwrap();
    store.contents.forget_chunks();
    // All but the contents is there.
    assert_eq!(store.paths().all().unwrap(), paths);
    assert_eq!(store.paths().info(path(1).hash()).unwrap().unwrap(), info);
    let late = store.paths().load(info.ordinal).unwrap().unwrap();
    assert!(!late.is_complete());
    assert_eq!(late.tree().stream_length(), SIZE as u64);
    let mut out = Vec::new();
    for loaded in [&early, &late] {
        let error = store
            .contents()
            .read(loaded.contents(), 0, 10, &mut out)
            .unwrap_err();
        let StoreError::Dropped { path: named } = &error else {
            panic!("{error}");
        };
        assert_eq!(*named, path(1));
        assert!(error.to_string().contains("to save space"), "{error}");
        assert_eq!(store.contents().find_damage(loaded.contents()), 0);
    }
    assert_eq!(store.contents.damaged_chunks(), 0);
    // New chunks of others take no number that was given.
    publish(&store, &path(9), &noise(99, SIZE));
    publish(&store, &path(1), &noise(0, SIZE));
    assert!(!is_dropped(&store, &path(1)));
    for loaded in [
        &early,
        &late,
        &store.paths().load(info.ordinal).unwrap().unwrap(),
    ] {
        out.clear();
        store
            .contents()
            .read(loaded.contents(), 0, SIZE as u64, &mut out)
            .unwrap();
        assert!(out == noise(0, SIZE));
    }
    assert_eq!(store.paths().info(path(1).hash()).unwrap().unwrap(), info);
    assert!(is_dropped(&store, &path(2)));
    assert_sound(&store);
}

#[test]
fn a_tree_is_as_young_as_the_youngest_of_its_paths_and_comes_back_for_all() {
    let (_dir, store) = store();
    let paths = paths(&store, 3);
    let twin = path(11);
    publish(&store, &twin, &noise(0, SIZE));
    used(&store, &twin, 2);
    // Of 1 and its twin the younger use counts: 2 is older now.
    used(&store, &paths[1], 1);
    let before = store.upkeep().stored_bytes().unwrap();
    let evicted = evict(&store, before - 1, &none()).unwrap();
    assert_eq!(evicted.paths, [paths[1].clone()]);
    let mut evicted = evict(&store, before - SIZE as u64 - 10_000, &none()).unwrap();
    evicted.paths.sort();
    assert_eq!(evicted.paths, [paths[0].clone(), twin.clone()]);
    publish(&store, &twin, &noise(0, SIZE));
    assert!(!is_dropped(&store, &paths[0]));
    assert!(dump(&store, &paths[0]).unwrap() == noise(0, SIZE));
    assert_sound(&store);
}

#[test]
fn what_is_kept_or_was_added_stays_with_all_that_shares_its_tree() {
    let (_dir, store) = store();
    paths(&store, 4);
    publish(&store, &path(11), &noise(0, SIZE));
    let added = Publication {
        origin: Origin::Added,
        ..kept(&store, &path(12), &noise(2, SIZE))
    };
    store.paths().publish(&[added]).unwrap();
    let keep = HashSet::from([path(11).hash(), path(3).hash()]);
    let evicted = evict(&store, 0, &keep).unwrap();
    assert_eq!(evicted.paths, [path(4)]);
    let all = [1, 2, 3, 4, 11, 12].map(path);
    assert_eq!(
        dropped(&store, &all),
        [false, false, false, true, false, false]
    );
    let info = store.paths().info(path(12).hash()).unwrap().unwrap();
    assert_eq!(info.origin, Origin::Added);
    assert_sound(&store);
}

#[test]
fn chunks_that_a_complete_tree_names_stay() {
    let (_dir, store) = store();
    let shared = noise(5, 200_000);
    let with = |own: u64| [&shared[..], &noise(own, 200_000)].concat();
    publish(&store, &path(1), &with(10));
    publish(&store, &path(2), &with(20));
    // The whole of it is in the others.
    publish(&store, &path(3), &shared);
    let keep = HashSet::from([path(2).hash()]);
    let before = store.upkeep().statistics().unwrap();
    let evicted = evict(&store, 0, &keep).unwrap();
    assert!(evicted.paths.contains(&path(1)));
    let after = store.upkeep().statistics().unwrap();
    assert!(after.chunks < before.chunks && after.unique_bytes >= 400_000);
    store.contents.forget_chunks();
    assert!(dump(&store, &path(2)).unwrap() == with(20));
    assert_sound(&store);
    publish(&store, &path(1), &with(10));
    assert!(dump(&store, &path(1)).unwrap() == with(10));
    publish(&store, &path(3), &shared);
    assert_eq!(store.upkeep().statistics().unwrap().chunks, before.chunks);
    // Two that are dropped together leave nothing.
    evict(&store, 0, &none()).unwrap();
    assert_eq!(store.upkeep().statistics().unwrap().chunks, 0);
}

#[test]
fn nothing_is_dropped_that_would_free_no_chunk() {
    let (_dir, store) = store();
    let contents = noise(3, 200_000);
    publish(&store, &path(1), &contents);
    let mut executable = Writer::new(Vec::new());
    executable.regular(true, contents.len() as u64).unwrap();
    executable.contents(&contents).unwrap();
    let nar = executable.finish().unwrap();
    publish_nar(&store, &path(2), &nar);
    let trees = store.upkeep().statistics().unwrap();
    assert_eq!((trees.trees, trees.unique_bytes), (2, 200_000));
    let keep = HashSet::from([path(2).hash()]);
    assert_eq!(evict(&store, 0, &keep).unwrap(), Eviction::default());
    assert!(!is_dropped(&store, &path(1)));
}

#[test]
fn paths_without_contents_are_always_complete() {
    let (_dir, store) = store();
    let mut link = Writer::new(Vec::new());
    link.symlink(b"elsewhere").unwrap();
    publish_nar(&store, &path(1), &link.finish().unwrap());
    publish(&store, &path(2), b"");
    assert_eq!(evict(&store, 0, &none()).unwrap(), Eviction::default());
    for n in [1, 2] {
        assert!(!is_dropped(&store, &path(n)));
        assert!(
            store
                .paths()
                .load(PathOrdinal(n.into()))
                .unwrap()
                .unwrap()
                .is_complete()
        );
    }
}

#[test]
fn chunks_of_an_ingest_in_flight_stay() {
    let (_dir, store) = store();
    publish(&store, &path(1), &noise(1, SIZE));
    // One reuses the chunks of the first, the other has new ones.
    let reused = kept(&store, &path(2), &noise(1, SIZE));
    let new = kept(&store, &path(3), &noise(7, SIZE));
    let failed = kept(&store, &path(4), &noise(9, SIZE));
    let evicted = evict(&store, 0, &none()).unwrap();
    assert_eq!(evicted.paths, [path(1)]);
    assert_eq!(
        store.upkeep().statistics().unwrap().unique_bytes,
        3 * SIZE as u64
    );
    store.paths().publish(&[reused, new]).unwrap();
    assert!(dump(&store, &path(1)).unwrap() == noise(1, SIZE));
    assert!(dump(&store, &path(2)).unwrap() == noise(1, SIZE));
    assert!(dump(&store, &path(3)).unwrap() == noise(7, SIZE));
    assert_sound(&store);
    // No tree names what was given up, and it goes before anything else.
    drop(failed);
    let now = store.upkeep().stored_bytes().unwrap();
    let evicted = evict(&store, now - SIZE as u64, &none()).unwrap();
    assert!(evicted.paths.is_empty());
    assert!(evicted.bytes > SIZE as u64);
    assert_sound(&store);
}

#[test]
fn what_a_crash_left_behind_goes_first() {
    let (dir, store) = store();
    publish(&store, &path(1), &noise(1, SIZE));
    let failed = kept(&store, &path(4), &noise(9, SIZE));
    store.contents().flush().unwrap();
    let (_copy, again) = crashed(&dir);
    drop((failed, store));
    assert_eq!(
        again.upkeep().statistics().unwrap().unique_bytes,
        2 * SIZE as u64
    );
    let stored = again.upkeep().stored_bytes().unwrap();
    assert!(evict(&again, stored - 1, &none()).unwrap().paths.is_empty());
    assert_eq!(
        again.upkeep().statistics().unwrap().unique_bytes,
        SIZE as u64
    );
    assert!(dump(&again, &path(1)).unwrap() == noise(1, SIZE));
}

#[test]
fn after_a_crash_a_path_is_complete_or_dropped() {
    let (dir, store) = store();
    let all = paths(&store, 3);
    let check = |expected: [bool; 3]| {
        let (_copy, again) = crashed(&dir);
        assert_sound(&again);
        assert_eq!(dropped(&again, &all), expected);
        for (n, path) in all.iter().enumerate() {
            match dump(&again, path) {
                Ok(bytes) => assert!(bytes == noise(n as u64 * 2, SIZE) && !expected[n]),
                Err(e) => assert!(matches!(e, StoreError::Dropped { .. }) && expected[n]),
            }
            publish(&again, path, &noise(n as u64 * 2, SIZE));
            assert!(dump(&again, path).unwrap() == noise(n as u64 * 2, SIZE));
        }
        assert_sound(&again);
    };
    check([false, false, false]);
    let two = store.upkeep().stored_bytes().unwrap() - SIZE as u64;
    evict(&store, two, &none()).unwrap();
    check([true, false, false]);
    store.contents().flush().unwrap();
    check([true, false, false]);
    // Chunks that were written and deleted without ever being flushed.
    drop(kept(&store, &path(9), &noise(77, SIZE)));
    evict(&store, two, &none()).unwrap();
    check([true, false, false]);
    let again = kept(&store, &path(1), &noise(0, SIZE));
    check([true, false, false]);
    store.paths().publish(&[again]).unwrap();
    check([false, false, false]);
    evict(&store, 0, &none()).unwrap();
    check([true, true, true]);
}

#[test]
fn contents_that_come_back_are_durable_before_their_tree_names_them() {
    let contents = noise(1, SIZE);
    for write in 0..2 {
        let disk = MemoryBackend::default();
        let (_dir, store) = open_in_memory(disk.clone());
        publish(&store, &path(1), &contents);
        evict(&store, 0, &none()).unwrap();
        let again = kept(&store, &path(1), &contents);
        disk.fail_from(Some(write));
        store.paths().restore_tree(&again.tree).unwrap_err();
        for loss in [Loss::Process, Loss::Power] {
            assert_sound(&open_in_memory(disk.after(loss)).1);
        }
        disk.fail_from(None);
        store.paths().restore_tree(&again.tree).unwrap();
        for loss in [Loss::Process, Loss::Power] {
            let (_dir, store) = open_in_memory(disk.after(loss));
            assert!(dump(&store, &path(1)).unwrap() == contents);
        }
    }
}

#[test]
fn numbers_are_not_given_again_after_a_restart() {
    let (dir, store) = store();
    publish(&store, &path(1), &noise(1, SIZE));
    let next = store.contents.next_chunk();
    evict(&store, 0, &none()).unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.contents.next_chunk(), next);
}

#[test]
fn the_order_of_use_survives_a_restart() {
    let (dir, store) = store();
    let paths = paths(&store, 3);
    used(&store, &paths[0], 100);
    drop(store);
    let store = open(dir.path()).unwrap();
    used(&store, &paths[1], 200);
    store.paths().save_uses().unwrap();
    let (_copy, again) = crashed(&dir);
    let to = again.upkeep().stored_bytes().unwrap();
    let evicted = evict(&again, to - SIZE as u64 - 10_000, &none()).unwrap();
    assert_eq!(evicted.paths, [paths[2].clone(), paths[0].clone()]);
    // The other two were used in what was the future.
    store.paths().touch(PathOrdinal(3));
    let evicted = evict(&store, to - 1, &none()).unwrap();
    assert_eq!(evicted.paths, [paths[2].clone()]);
}

#[test]
fn another_tree_of_the_same_nar_does_as_well() {
    let (_dir, store) = store();
    publish(&store, &path(1), &noise(1, SIZE));
    let info = store.paths().info(path(1).hash()).unwrap().unwrap();
    store.paths().load(info.ordinal).unwrap();
    // As another version might cut it: the same file in one NAR, other chunks.
    let mut other = kept(&store, &path(1), &noise(3, SIZE));
    other.registration.nar_hash = info.registration.nar_hash;
    store.paths().publish(std::slice::from_ref(&other)).unwrap();
    assert_eq!(store.paths().info(path(1).hash()).unwrap().unwrap(), info);
    evict(&store, 0, &none()).unwrap();
    // Not with another NAR.
    let third = kept(&store, &path(1), &noise(5, SIZE));
    store.paths().publish(&[third]).unwrap();
    assert!(is_dropped(&store, &path(1)));
    store.paths().publish(std::slice::from_ref(&other)).unwrap();
    assert!(!is_dropped(&store, &path(1)));
    let loaded = store.paths().load(info.ordinal).unwrap().unwrap();
    assert_eq!(loaded.tree_digest(), other.tree.digest());
    assert!(dump(&store, &path(1)).unwrap() == noise(3, SIZE));
    assert_sound(&store);
}

#[test]
fn space_of_dropped_contents_leaves_the_disk() {
    let (dir, store) = store();
    let count = 24u8;
    let size = 2_000_000;
    for n in 0..count {
        publish(&store, &path(n), &noise(u64::from(n) * 2, size));
    }
    let on_disk = || -> u64 {
        let files = std::fs::read_dir(dir.path().join("db")).unwrap();
        let files = files.filter_map(|f| f.ok()?.metadata().ok());
        files.map(|m| m.len()).sum()
    };
    let keep: HashSet<_> = (0..count).step_by(3).map(|n| path(n).hash()).collect();
    evict(&store, 0, &keep).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    assert!(store.upkeep().reclaimable_bytes().unwrap() > 30_000_000);
    assert!(store.upkeep().reclaim(&stop).unwrap() > 30_000_000);
    wait_until(|| on_disk() < 20_000_000);
    assert_eq!(store.upkeep().reclaim(&stop).unwrap(), 0);
    store.contents.forget_chunks();
    for n in (0..count).step_by(3) {
        assert!(dump(&store, &path(n)).unwrap() == noise(u64::from(n) * 2, size));
    }
    assert_sound(&store);
}
