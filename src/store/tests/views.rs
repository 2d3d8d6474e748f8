//! Closure views in the state.

use std::sync::Mutex;

use super::*;

fn name(text: &str) -> ViewName {
    ViewName::parse(text).unwrap()
}

/// Registers a path that refers to others, without contents.
fn register(store: &Store, path: &StorePath, references: &[StorePath]) {
    let registration = Registration {
        path: path.clone(),
        nar_hash: NarHash::of(b""),
        nar_size: 100,
        references: references.to_vec(),
        deriver: None,
        signatures: Vec::new(),
        ca: None,
        vouched: false,
    };
    store.paths().register(&[(registration, None)]).unwrap();
}

/// 1 refers to 2 and 3, 4 to 3 and 5, all registered; 6 refers to what is not.
fn with_paths() -> (TempDir, Store) {
    let (dir, store) = store();
    let on = |n: u8, others: &[u8]| {
        let others: Vec<_> = others.iter().map(|n| path(*n)).collect();
        register(&store, &path(n), &others);
    };
    on(1, &[2, 3]);
    on(4, &[3, 5]);
    on(6, &[7]);
    [2, 3, 5].iter().for_each(|n| on(*n, &[]));
    (dir, store)
}

fn view(store: &Store, name: &str) -> Arc<View> {
    store.views().table().named(name).unwrap().clone()
}

/// Places and seeds of the paths of a view.
fn shown(store: &Store, name: &str) -> Vec<(u32, u8)> {
    let members = store.views().members(&view(store, name)).unwrap();
    let each = members.from(1);
    each.map(|(place, hash)| (place, hash.as_bytes()[0]))
        .collect()
}

fn seeds(store: &Store, name: &str) -> Vec<u8> {
    let mut seeds: Vec<_> = shown(store, name).into_iter().map(|s| s.1).collect();
    seeds.sort_unstable();
    seeds
}

fn set_profile(store: &Store, current: u64, generations: &[(u64, u8)]) {
    let generation = |(number, seed): &(u64, u8)| (*number, path(*seed), 1000);
    let change = ProfileChange {
        name: "p".to_owned(),
        current: Some(current),
        generations: generations.iter().map(generation).collect(),
    };
    store.profiles().change(|_| Ok(vec![change])).unwrap();
}

#[test]
fn a_view_shows_closures_and_is_the_same_after_a_crash() {
    let (dir, store) = with_paths();
    store.views().define(&name("a"), &[path(1)], &[]).unwrap();
    store
        .views()
        .define(&name("b"), &[path(4), path(6)], &[])
        .unwrap();
    assert_eq!(seeds(&store, "a"), [1, 2, 3]);
    // What is only referred to belongs to it: it may come to be known.
    assert_eq!(seeds(&store, "b"), [3, 4, 5, 6, 7]);
    let (_copy, again) = crashed(&dir);
    for name in ["a", "b"] {
        assert_eq!(shown(&again, name), shown(&store, name));
        assert_eq!(view(&again, name).record, view(&store, name).record);
    }
    let roots: Vec<_> = again.views().roots().unwrap();
    let expected = [("a", 1), ("b", 4), ("b", 6)].map(|(v, n)| (v.to_owned(), path(n)));
    assert_eq!(roots, expected);
    let table = again.views().table();
    let record = &view(&again, "a").record;
    assert_eq!(&*table.with_id(record.id).unwrap().name, "a");
    assert_eq!(&*table.with_list(record.list).unwrap().name, "a");
    assert!(table.with_id(record.list).is_none() && table.with_list(record.id).is_none());
}

#[test]
fn a_path_keeps_its_place_while_a_view_changes_and_no_other_gets_it() {
    let (_dir, store) = with_paths();
    store.views().define(&name("v"), &[path(1)], &[]).unwrap();
    let (first, numbers) = (shown(&store, "v"), view(&store, "v").record.clone());
    store.views().define(&name("v"), &[path(4)], &[]).unwrap();
    let second = shown(&store, "v");
    assert_eq!(seeds(&store, "v"), [3, 4, 5]);
    let place = |all: &[(u32, u8)], seed| all.iter().find(|s| s.1 == seed).map(|s| s.0);
    assert_eq!(place(&second, 3), place(&first, 3));
    for seed in [4, 5] {
        assert!(place(&second, seed).unwrap() > 3);
    }
    let members = store.views().members(&view(&store, "v")).unwrap();
    for gone in [1, 2] {
        assert_eq!(members.place(path(gone).hash()), None);
        assert_eq!(members.path(place(&first, gone).unwrap()), None);
    }
    assert_eq!(members.path(0), None);
    assert_eq!(members.path(100), None);
    store.views().define(&name("v"), &[path(1)], &[]).unwrap();
    assert_eq!(shown(&store, "v"), first);
    let record = view(&store, "v").record.clone();
    assert_eq!((record.id, record.list), (numbers.id, numbers.list));
    assert_eq!(record.created, numbers.created);
}

#[test]
fn numbers_are_never_given_again() {
    let (dir, store) = with_paths();
    store.views().define(&name("v"), &[path(1)], &[]).unwrap();
    let first = view(&store, "v").record.clone();
    assert!(store.views().remove("v").unwrap());
    assert!(!store.views().remove("v").unwrap());
    assert!(store.views().table().named("v").is_none());
    drop(store);
    let store = open(dir.path()).unwrap();
    assert!(store.views().table().named("v").is_none());
    store.views().define(&name("v"), &[path(1)], &[]).unwrap();
    let second = view(&store, "v").record.clone();
    let highest = first.id.max(first.list);
    assert!(second.id > highest && second.list > highest);
    assert_ne!(second.id, second.list);
}

#[test]
fn when_its_places_are_used_up_a_view_gets_new_ones() {
    let (_dir, store) = store();
    let many = |from: u32| -> Vec<_> {
        let hash = |n: u32| {
            let mut bytes = [7; 20];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            StorePathHash::from_bytes(bytes)
        };
        let all = (from..from + 40_000).map(|n| StorePath::new(hash(n), "x").unwrap());
        all.collect()
    };
    register(&store, &path(1), &many(0));
    register(&store, &path(2), &many(1 << 20));
    store.views().define(&name("v"), &[path(1)], &[]).unwrap();
    let first = view(&store, "v").record.clone();
    store.views().define(&name("v"), &[path(2)], &[]).unwrap();
    let second = view(&store, "v").record.clone();
    assert_eq!(second.id, first.id);
    assert!(second.list > first.list);
    assert!(store.views().table().with_list(first.list).is_none());
    assert_eq!(shown(&store, "v").len(), 40_001);
    let error = store.views().define(&name("v"), &[path(1), path(2)], &[]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("80002 paths"), "{error}");
    // Nothing has changed.
    assert_eq!(view(&store, "v").record, second);
    assert_eq!(shown(&store, "v").len(), 40_001);
}

#[test]
fn a_view_follows_a_profile() {
    let (dir, store) = with_paths();
    set_profile(&store, 1, &[(1, 1)]);
    let profiles = ["p".to_owned()];
    store
        .views()
        .define(&name("v"), &[path(5)], &profiles)
        .unwrap();
    store
        .views()
        .define(&name("other"), &[path(2)], &[])
        .unwrap();
    assert_eq!(seeds(&store, "v"), [1, 2, 3, 5]);
    let other = view(&store, "other");
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    store.observe(move |change| {
        if let Change::Views(changed) = change {
            seen.lock().unwrap().extend(changed.to_vec());
        }
    });
    set_profile(&store, 2, &[(1, 1), (2, 4)]);
    assert_eq!(seeds(&store, "v"), [3, 4, 5]);
    let (_copy, again) = crashed(&dir);
    assert_eq!(seeds(&again, "v"), [3, 4, 5]);
    let changed = told.lock().unwrap().pop().unwrap();
    assert_eq!((changed.name.as_str(), changed.came_or_went), ("v", false));
    let mut gone = changed.entries;
    gone.sort();
    assert_eq!(gone, [path(1).base_name(), path(2).base_name()]);
    assert!(told.lock().unwrap().is_empty());
    assert!(Arc::ptr_eq(&other, &view(&store, "other")));
    // A generation that is deleted, or made and not switched to, changes nothing.
    let before = view(&store, "v");
    set_profile(&store, 2, &[(2, 4)]);
    assert!(Arc::ptr_eq(&before, &view(&store, "v")));
    // Without the profile, what was named is left; and it may come back.
    set_profile(&store, 0, &[]);
    assert_eq!(seeds(&store, "v"), [5]);
    set_profile(&store, 1, &[(1, 1)]);
    assert_eq!(seeds(&store, "v"), [1, 2, 3, 5]);
}

#[test]
fn a_view_shows_what_becomes_known_and_says_what_is_not() {
    let (dir, store) = with_paths();
    set_profile(&store, 1, &[(1, 6)]);
    let profiles = ["p".to_owned()];
    store.views().define(&name("v"), &[], &profiles).unwrap();
    store
        .views()
        .define(&name("whole"), &[path(1)], &[])
        .unwrap();
    let whole = view(&store, "whole");
    assert_eq!(store.views().complete().unwrap(), [path(7)]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    store.observe(move |change| {
        if let Change::Views(changed) = change {
            seen.lock().unwrap().extend(changed.to_vec());
        }
    });
    // Nothing is new.
    assert_eq!(store.views().complete().unwrap(), [path(7)]);
    assert!(told.lock().unwrap().is_empty());
    // What it refers to comes with it.
    register(&store, &path(7), &[path(8), path(2)]);
    assert_eq!(store.views().complete().unwrap(), [path(8)]);
    assert_eq!(seeds(&store, "v"), [2, 6, 7, 8]);
    assert_eq!(told.lock().unwrap().pop().unwrap().name, "v");
    let (_copy, again) = crashed(&dir);
    assert_eq!(seeds(&again, "v"), [2, 6, 7, 8]);
    // That the last one is known by its name is news for listings, though no path is added.
    register(&store, &path(8), &[]);
    assert_eq!(store.views().complete().unwrap(), []);
    assert_eq!(told.lock().unwrap().pop().unwrap().name, "v");
    assert_eq!(store.views().complete().unwrap(), []);
    assert!(told.lock().unwrap().is_empty());
    assert!(Arc::ptr_eq(&whole, &view(&store, "whole")));
    // Another daemon looks at all of them once.
    assert_eq!(again.views().complete().unwrap(), [path(8)]);
    assert!(view(&again, "v").may_be_incomplete());
    assert!(!view(&again, "whole").may_be_incomplete());
}

#[test]
fn what_the_kernel_was_not_told_is_known_after_a_crash() {
    let (dir, store) = with_paths();
    store.views().define(&name("v"), &[path(1)], &[]).unwrap();
    store.views().define(&name("w"), &[path(1)], &[]).unwrap();
    store.views().define(&name("v"), &[path(4)], &[]).unwrap();
    store.views().remove("w").unwrap();
    // Nobody observes.
    let (_copy, again) = crashed(&dir);
    let untold = again.views().untold().unwrap();
    let entries = |name: &str| {
        let found = untold.iter().find(|c| c.name == name).unwrap();
        assert!(found.came_or_went);
        let mut entries = found.entries.clone();
        entries.sort();
        entries
    };
    assert_eq!(entries("v"), [path(1).base_name(), path(2).base_name()]);
    assert_eq!(entries("w"), [1, 2, 3].map(|n| path(n).base_name()));
    again.views().told(&untold);
    assert_eq!(again.views().untold().unwrap(), []);
    again.observe(|_| {});
    again.views().define(&name("v"), &[path(1)], &[]).unwrap();
    assert_eq!(again.views().untold().unwrap(), []);
}

#[test]
fn a_view_that_was_made_as_a_volume_is_one_while_it_is_there() {
    let (dir, store) = with_paths();
    let is_volume = |store: &Store| view(store, "v").record.is_volume;
    set_profile(&store, 1, &[(1, 1)]);
    let profiles = ["p".to_owned()];
    let made = store.views().make_volume(&name("v"), &[path(5)], &profiles);
    assert!(made.unwrap().is_none() && is_volume(&store));
    assert_eq!(seeds(&store, "v"), [1, 2, 3, 5]);
    let (_copy, again) = crashed(&dir);
    assert!(is_volume(&again));
    // Whatever becomes of it.
    set_profile(&store, 2, &[(2, 4)]);
    assert!(is_volume(&store));
    store.views().define(&name("v"), &[path(2)], &[]).unwrap();
    let before = view(&store, "v");
    let there = store
        .views()
        .make_volume(&name("v"), &[path(1)], &[])
        .unwrap();
    assert!(Arc::ptr_eq(&there.unwrap(), &before));
    assert_eq!(view(&store, "v").record, before.record);
    let (_copy, again) = crashed(&dir);
    assert!(is_volume(&again));
    assert!(store.views().remove_volume("v").unwrap());
    assert!(!store.views().remove_volume("v").unwrap());
    // Another one of its name is not it.
    store.views().define(&name("v"), &[path(2)], &[]).unwrap();
    let (_copy, again) = crashed(&dir);
    assert!(!is_volume(&store) && !is_volume(&again));
    assert!(!store.views().remove_volume("v").unwrap());
    let there = store
        .views()
        .make_volume(&name("v"), &[path(2)], &[])
        .unwrap();
    assert!(there.is_some() && !is_volume(&store));
}

#[test]
fn what_a_version_without_volumes_leaves_of_one_is_of_no_other_view() {
    let (dir, store) = with_paths();
    store
        .views()
        .make_volume(&name("v"), &[path(1)], &[])
        .unwrap();
    let record = store.records.get(Family::Views, b"\x01v").unwrap();
    // It reads the record as any other.
    assert_eq!(record.unwrap()[0], 1);
    let mut batch = Batch::default();
    batch.delete(Family::Views, b"\x01v");
    store
        .records
        .write(batch, Durability::Power, "removed")
        .unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    store.views().define(&name("v"), &[path(1)], &[]).unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    assert!(!view(&store, "v").record.is_volume);
    assert!(
        store
            .views()
            .untold()
            .unwrap()
            .iter()
            .all(|c| c.name == "v")
    );
}

#[test]
fn a_damaged_view_is_not_absent_and_can_be_removed() {
    let (dir, store) = with_paths();
    for text in ["v", "w"] {
        store.views().define(&name(text), &[path(1)], &[]).unwrap();
    }
    let mut batch = Batch::default();
    batch.put(Family::Views, b"\x01v", b"\x09");
    store
        .records
        .write(batch, Durability::Power, "damaged")
        .unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    assert!(store.views().roots().is_err());
    let error = store.views().list().unwrap_err().to_string();
    assert!(error.contains("\"v\""), "{error}");
    assert_eq!(seeds(&store, "w"), [1, 2, 3]);
    assert!(store.views().remove("v").unwrap());
    assert_eq!(store.views().list().unwrap().len(), 1);
    // A list that is lost is no empty one.
    let list = view(&store, "w").record.list;
    let key = [&[2], &list.to_be_bytes()[..]].concat();
    let mut batch = Batch::default();
    batch.delete(Family::Views, key);
    store
        .records
        .write(batch, Durability::Power, "lost")
        .unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    assert!(store.views().members(&view(&store, "w")).is_err());
    assert!(store.views().remove("w").unwrap());
}

#[test]
fn names_are_plain() {
    let long = "a".repeat(128);
    for good in ["a", "A9", "web.1", "x+-._=@", &long] {
        assert_eq!(ViewName::parse(good).unwrap().as_str(), good);
    }
    let longer = "a".repeat(129);
    for bad in [
        "", ".", "..", "a/b", "/", "../x", ".a", "-a", "a b", "a\n", "a\0", "\u{e9}", &longer,
    ] {
        assert!(ViewName::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn views_have_as_many_numbers_as_inode_numbers_have_room_for() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    // Each view takes one, and its list another.
    let last = (1u32 << 21) - 1;
    let mut batch = Batch::default();
    batch.put(Family::Meta, b"next-view", (last - 1).to_le_bytes());
    store
        .records
        .write(batch, Durability::Power, "a test")
        .unwrap();
    drop(store);
    let (_dir, store) = open_in_memory(disk);
    register(&store, &path(1), &[]);
    let define = |view| store.views().define(&name(view), &[path(1)], &[]);
    define("a").unwrap();
    let record = view(&store, "a").record.clone();
    assert_eq!(record.id.max(record.list), last);
    assert!(matches!(define("b"), Err(StoreError::TooManyViews)));
    assert!(store.views().table().named("b").is_none());
    assert_eq!(seeds(&store, "a"), [1]);
}

#[test]
fn a_view_has_as_many_paths_as_inode_numbers_have_room_for() {
    let (_dir, store) = open_in_memory(MemoryBackend::default());
    let others: Vec<_> = (0..ViewMembers::MAX as u32)
        .map(|n| {
            let mut hash = [9; 20];
            hash[..4].copy_from_slice(&n.to_le_bytes());
            StorePath::new(StorePathHash::from_bytes(hash), "x").unwrap()
        })
        .collect();
    register(&store, &path(1), &others[1..]);
    register(&store, &path(2), &others);
    let define = |view, root| store.views().define(&name(view), &[path(root)], &[]);
    define("a", 1).unwrap();
    let members = store.views().members(&view(&store, "a")).unwrap();
    assert_eq!(members.from(1).count(), ViewMembers::MAX);
    assert!(members.place(others[1].hash()).is_some());
    let error = define("b", 2).unwrap_err();
    assert!(
        matches!(&error, StoreError::TooLargeView { paths, .. } if *paths == ViewMembers::MAX + 1),
        "{error}"
    );
    assert!(store.views().table().named("b").is_none());
}
