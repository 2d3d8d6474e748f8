//! Profiles in the state.

use std::sync::Mutex;

use super::*;

/// A profile whose generations are pairs of a number and the seed of a path.
fn change(name: &str, current: u64, generations: &[(u64, u8)]) -> ProfileChange {
    let generation = |(number, seed): &(u64, u8)| (*number, path(*seed), 1000 + *number as i64);
    ProfileChange {
        name: name.to_owned(),
        current: Some(current),
        generations: generations.iter().map(generation).collect(),
    }
}

fn profile(store: &Store, name: &str) -> ProfileRecord {
    store.profiles().get(name).unwrap().unwrap()
}

/// Numbers, seeds of paths and link numbers.
fn links(store: &Store, name: &str) -> Vec<(u64, StorePath, u32)> {
    let generations = profile(store, name).generations.into_iter();
    generations.map(|g| (g.number, g.path, g.link)).collect()
}

fn all_directories(store: &Store) -> Vec<(String, ProfileDirectory)> {
    let table = store.profiles().table();
    let directories = table.directories.iter();
    directories.map(|(n, d)| (n.to_string(), *d)).collect()
}

fn directories(store: &Store) -> Vec<(String, u32)> {
    let directories = all_directories(store).into_iter();
    directories.map(|(name, d)| (name, d.id)).collect()
}

#[test]
fn generations_that_stay_keep_their_link_numbers_and_others_get_new_ones() {
    let (_dir, store) = store();
    let set = |current, generations: &[_]| {
        store
            .profiles()
            .change(|_| Ok(vec![change("p", current, generations)]))
            .unwrap();
        links(&store, "p")
    };
    assert_eq!(set(2, &[(2, 2), (1, 1)]).len(), 2);
    let first = links(&store, "p");
    assert_eq!(first[0].0, 1);
    assert_eq!(set(1, &[(1, 1), (2, 2)]), first);
    // Deleted, and the number given to something else, or to the same at another time.
    let gone = set(1, &[(1, 1)]);
    assert_eq!(gone, first[..1]);
    assert_eq!(set(2, &[(1, 1), (2, 3)])[1], (2, path(3), 3));
    let mut later = change("p", 2, &[(1, 1), (2, 3)]);
    later.generations[1].2 += 1;
    store.profiles().change(|_| Ok(vec![later])).unwrap();
    assert_eq!(links(&store, "p")[1], (2, path(3), 4));
    let record = profile(&store, "p");
    assert_eq!((record.current, record.next_link), (Some(2), 5));
    assert_eq!(record.generation(2).unwrap().created, 1003);
}

#[test]
fn a_current_generation_that_is_not_there_counts_as_none() {
    let (_dir, store) = store();
    store
        .profiles()
        .change(|_| Ok(vec![change("p", 7, &[(1, 1)])]))
        .unwrap();
    assert_eq!(profile(&store, "p").current, None);
    assert_eq!(profile(&store, "p").current_generation(), None);
}

#[test]
fn ids_are_never_given_again() {
    let (dir, store) = store();
    let make = |store: &Store, name| {
        store
            .profiles()
            .change(|_| Ok(vec![change(name, 1, &[(1, 1)])]))
            .unwrap();
        profile(store, name).id
    };
    let remove = |store: &Store, name| {
        store
            .profiles()
            .change(|_| Ok(vec![change(name, 1, &[])]))
            .unwrap();
        assert_eq!(store.profiles().get(name).unwrap(), None);
    };
    let first = make(&store, "a/b/p");
    let before = directories(&store);
    let names: Vec<_> = before.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["", "a", "a/b", "per-user"]);
    let highest = before.iter().map(|d| d.1).max().unwrap().max(first);
    remove(&store, "a/b/p");
    assert_eq!(
        directories(&store),
        [(String::new(), 0), ("per-user".into(), 1)]
    );
    drop(store);
    let store = open(dir.path()).unwrap();
    assert!(make(&store, "a/b/p") > highest);
    let after = directories(&store);
    assert!(after[1].1 > highest && after[2].1 > highest);
}

#[test]
fn everything_is_the_same_after_a_crash() {
    let (dir, store) = store();
    let names = ["system", "per-user/ann/profile", "per-user/bob/profile"];
    let changes = names.map(|name| change(name, 2, &[(1, 1), (2, 2)]));
    store.profiles().change(|_| Ok(changes.to_vec())).unwrap();
    store
        .profiles()
        .change(|_| Ok(vec![change("system", 1, &[(1, 1), (2, 2)])]))
        .unwrap();
    let seen = |store: &Store| (store.profiles().list().unwrap(), all_directories(store));
    let (_copy, again) = crashed(&dir);
    assert_eq!(seen(&again), seen(&store));
    let sorted: Vec<_> = seen(&store).0.into_iter().map(|(name, _)| name).collect();
    assert_eq!(sorted, [names[1], names[2], names[0]]);
    let roots = again.profiles().roots().unwrap();
    assert_eq!(roots, [path(1), path(2)]);
    let table = again.profiles().table();
    let ann = table.directory("per-user/ann").unwrap();
    let inside: Vec<_> = table.members("per-user/ann", 0).collect();
    assert_eq!(inside[0].1.name(), names[1]);
    assert_eq!(table.member(ann.id).unwrap().name(), "per-user/ann");
    assert_eq!(table.parent("per-user/ann").unwrap().id, 1);
    assert!(ann.created > 1_600_000_000 && ann.changed == ann.created);
}

#[test]
fn a_change_that_cannot_be_whole_does_nothing() {
    let (_dir, store) = store();
    store
        .profiles()
        .change(|_| Ok(vec![change("a/p", 1, &[(1, 1)])]))
        .unwrap();
    let before = (store.profiles().list().unwrap(), all_directories(&store));
    for bad in ["a", "a/p/q", "per-user"] {
        let changes = [change("fine", 1, &[(1, 1)]), change(bad, 1, &[(1, 1)])];
        let error = store
            .profiles()
            .change(|_| Ok(changes.to_vec()))
            .unwrap_err();
        assert!(
            matches!(error, StoreError::ProfileIsDirectory(_)),
            "{error}"
        );
    }
    let after = (store.profiles().list().unwrap(), all_directories(&store));
    assert_eq!(after, before);
    // In the other's place, in one change, it can be.
    let swap = [change("a/p", 1, &[]), change("a", 1, &[(1, 1)])];
    store.profiles().change(|_| Ok(swap.to_vec())).unwrap();
    assert_eq!(
        directories(&store),
        [(String::new(), 0), ("per-user".into(), 1)]
    );
}

#[test]
fn observers_learn_what_changed_when_it_can_be_seen() {
    let (_dir, store) = store();
    let store = Arc::new(store);
    let told = Arc::new(Mutex::new(Vec::new()));
    let (log, seen) = (told.clone(), Arc::downgrade(&store));
    store.observe(move |change| {
        let Change::Profiles(changed) = change else {
            return;
        };
        let store = seen.upgrade().unwrap();
        for p in &changed.profiles {
            let now = store.profiles().table().profile(&p.name).cloned();
            assert_eq!(now, p.after);
        }
        log.lock().unwrap().push(ProfilesChanged::clone(changed));
    });
    store
        .profiles()
        .change(|_| Ok(vec![change("d/e/p", 1, &[(1, 1)])]))
        .unwrap();
    store
        .profiles()
        .change(|_| Ok(vec![change("d/e/p", 1, &[(1, 1)])]))
        .unwrap();
    store
        .profiles()
        .change(|_| Ok(vec![change("d/e/p", 1, &[(1, 1), (2, 2)])]))
        .unwrap();
    store
        .profiles()
        .change(|_| Ok(vec![change("d/e/p", 1, &[])]))
        .unwrap();
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 3, "what changes nothing is not told");
    let names = |at: usize| -> Vec<_> { told[at].directories.iter().map(|d| &*d.name).collect() };
    assert_eq!(names(0), ["d/e", "d"]);
    assert_eq!(told[0].directories[1].parent.id, ProfileDirectory::ROOT);
    assert_eq!(told[0].directories[0].parent.id, told[0].directories[1].id);
    let [d_e, d] = [0, 1].map(|at| told[0].directories[at].id);
    let parent = told[0].profiles[0].parent;
    assert_eq!((parent.id, parent.above), (d_e, Some(d)));
    assert!(names(1).is_empty());
    assert_eq!(told[1].profiles[0].before, told[0].profiles[0].after);
    assert_eq!(told[2].profiles[0].after, None);
    assert_eq!(told[2].directories, told[0].directories);
    assert_eq!(told[2].profiles[0].parent, told[0].profiles[0].parent);
}

#[test]
fn a_damaged_profile_does_not_look_absent() {
    let (dir, store) = store();
    let changes = ["good", "bad"].map(|name| change(name, 1, &[(1, 1)]));
    store.profiles().change(|_| Ok(changes.to_vec())).unwrap();
    let mut batch = Batch::default();
    let family = Family::Profiles;
    batch.put(family, b"\x01bad", [1; 5]);
    store
        .records
        .write(batch, Durability::Power, "damaged")
        .unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    assert!(store.profiles().get("good").unwrap().is_some());
    assert!(store.profiles().get("bad").is_err());
    assert!(store.profiles().list().is_err());
    assert!(store.profiles().roots().is_err());
    assert!(
        store
            .profiles()
            .change(|_| Ok(vec![change("bad", 1, &[(1, 1)])]))
            .is_err()
    );
    // Taking it away mends the state.
    store
        .profiles()
        .change(|_| Ok(vec![change("bad", 1, &[])]))
        .unwrap();
    assert_eq!(store.profiles().list().unwrap().len(), 1);
    drop(store);
    assert_eq!(
        open(dir.path()).unwrap().profiles().list().unwrap().len(),
        1
    );
}

#[test]
fn changes_that_are_planned_on_what_is_there_lose_nothing_of_each_other() {
    let (_dir, store) = store();
    let add = |seed: u8| {
        store.profiles().change(|now| {
            let there = now.profile("p");
            let there = there.into_iter().flat_map(|p| &p.generations);
            let mut generations: Vec<_> = there
                .map(|g| (g.number, g.path.clone(), g.created))
                .collect();
            let number = generations.len() as u64 + 1;
            generations.push((number, path(seed), 1000));
            Ok(vec![ProfileChange {
                name: "p".into(),
                current: Some(number),
                generations,
            }])
        })
    };
    std::thread::scope(|scope| {
        for first in [10, 20, 30, 40] {
            scope.spawn(move || (first..first + 10).for_each(|seed| add(seed).unwrap()));
        }
    });
    let record = profile(&store, "p");
    let numbers: Vec<_> = record.generations.iter().map(|g| g.number).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
    assert_eq!(record.current, Some(40));
    let targets: HashSet<_> = record.generations.iter().map(|g| &g.path).collect();
    assert_eq!(targets.len(), 40);
}

#[test]
fn a_plan_that_fails_or_plans_nothing_changes_nothing() {
    let (_dir, store) = store();
    let failed = store
        .profiles()
        .change(|_| Err(StoreError::TooManyProfiles));
    assert!(matches!(failed, Err(StoreError::TooManyProfiles)));
    store.profiles().change(|_| Ok(Vec::new())).unwrap();
    assert!(store.profiles().list().unwrap().is_empty());
    // The lock is free again.
    let changes = [change("p", 1, &[(1, 1)])];
    store.profiles().change(|_| Ok(changes.to_vec())).unwrap();
    assert_eq!(profile(&store, "p").current, Some(1));
}

/// A state whose record of a key is another one.
fn with_record(
    family: Family,
    key: &[u8],
    change: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> (TempDir, Store) {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    let changes = [change_of("p")];
    store.profiles().change(|_| Ok(changes.to_vec())).unwrap();
    let record = store.records.get(family, key).unwrap().unwrap().to_vec();
    let mut batch = Batch::default();
    batch.put(family, key, change(record));
    store
        .records
        .write(batch, Durability::Power, "a test")
        .unwrap();
    open_in_memory(disk)
}

fn change_of(name: &str) -> ProfileChange {
    change(name, 1, &[(1, 1)])
}

#[test]
fn profiles_and_directories_have_as_many_ids_as_inode_numbers_have_room_for() {
    let last = (1u32 << 28) - 1;
    let (_dir, store) = with_record(Family::Meta, b"next-profile", |_| {
        last.to_le_bytes().to_vec()
    });
    let set = |name| store.profiles().change(|_| Ok(vec![change_of(name)]));
    // A directory and a profile.
    assert!(matches!(set("d/q"), Err(StoreError::TooManyProfiles)));
    assert_eq!(store.profiles().list().unwrap().len(), 1);
    set("q").unwrap();
    assert_eq!(profile(&store, "q").id, last);
    assert!(matches!(set("r"), Err(StoreError::TooManyProfiles)));
    assert_eq!(store.profiles().list().unwrap().len(), 2);
    set("p").unwrap();
}

#[test]
fn a_profile_has_as_many_generations_as_inode_numbers_have_room_for() {
    let last = GenerationRecord::MAX_LINK;
    let (_dir, store) = with_record(Family::Profiles, b"\x01p", |mut record| {
        // After the version and the id.
        record[5..9].copy_from_slice(&last.to_le_bytes());
        record
    });
    let set = |generations: &[(u64, u8)]| {
        let change = change("p", 1, generations);
        store.profiles().change(|_| Ok(vec![change]))
    };
    set(&[(1, 1), (2, 2)]).unwrap();
    let before = profile(&store, "p");
    assert_eq!(before.generation(2).unwrap().link, last);
    let error = set(&[(1, 1), (2, 2), (3, 3)]).unwrap_err();
    assert!(
        matches!(&error, StoreError::TooManyGenerations(name) if name == "p"),
        "{error}"
    );
    assert_eq!(profile(&store, "p"), before);
    // Those that are there can be switched and deleted.
    set(&[(1, 1)]).unwrap();
}
