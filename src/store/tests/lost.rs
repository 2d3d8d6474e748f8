//! Databases that are lost, whole or from a moment on.

use std::fs;

use super::*;

/// What no source can bring back, as readers see it.
fn look(store: &Store) -> Vec<String> {
    let mut seen = Vec::new();
    for pin in store.roots().pins().unwrap() {
        seen.push(format!("{pin:?}"));
    }
    for (name, record) in store.profiles().list().unwrap() {
        seen.push(format!("{name} {record:?}"));
    }
    for (name, paths) in store.traces().list().unwrap() {
        seen.push(format!("{name} {paths:?}"));
    }
    let table = store.views().table();
    seen.push(format!("{:?}", table.named("view").map(|v| &v.record)));
    for seed in 1..=6 {
        // What is here of it is another matter.
        let info = store.paths().info(path(seed).hash()).unwrap();
        seen.push(format!(
            "{:?}",
            info.map(|i| (i.ordinal, i.origin, i.registration))
        ));
    }
    seen
}

/// Paths that the changes publish; their chunks are there.
fn prepared(store: &Store) -> Vec<Publication> {
    let origins = [Origin::Fetched, Origin::Added, Origin::Added];
    let each = (1..).zip(origins).map(|(seed, origin)| {
        let mut publication = kept(store, &path(seed), &[seed; 3000]);
        publication.origin = origin;
        publication.registration.vouched = origin == Origin::Added;
        publication
    });
    each.collect()
}

type Change<'p> = Box<dyn Fn(&Store) -> Result<(), StoreError> + 'p>;

/// Changes, each of which is done when it returns.
fn changes(paths: &[Publication]) -> Vec<Change<'_>> {
    let switch = |current| ProfileChange {
        name: "x".to_owned(),
        current: Some(current),
        generations: vec![(1, path(1), 1000), (2, path(2), 1001)],
    };
    let switched = move |current| {
        move |store: &Store| {
            let changes = vec![switch(current)];
            store.profiles().change(|_| Ok(changes)).map(drop)
        }
    };
    let view = || ViewName::parse("view").unwrap();
    vec![
        Box::new(|store| store.paths().publish(&paths[..1])),
        Box::new(|store| store.paths().publish(&paths[1..2])),
        Box::new(switched(1)),
        Box::new(|store| store.roots().pin(&[path(2), path(3)])),
        Box::new(switched(2)),
        Box::new(move |store| store.views().define(&view(), &[path(1)], &[]).map(drop)),
        Box::new(|store| store.traces().put("job", &[path(1), path(2)])),
        Box::new(|store| store.roots().unpin(&[path(3)]).map(drop)),
        Box::new(|store| store.paths().publish(&paths[2..])),
        Box::new(switched(1)),
    ]
}

fn change_all(store: &Store) {
    let paths = prepared(store);
    changes(&paths)
        .iter()
        .for_each(|change| change(store).unwrap());
}

/// What the next process finds in a copy of a state.
fn next(dir: &Path, disk: MemoryBackend) -> (TempDir, Store) {
    let next = tempfile::tempdir().unwrap();
    for file in ["format", "second-copy"] {
        let _ = fs::copy(dir.join(file), next.path().join(file));
    }
    let options = StoreOptions {
        create: true,
        ..StoreOptions::default()
    };
    let store = Store::open_in_memory(next.path(), &options, disk).unwrap();
    (next, store)
}

#[test]
fn what_a_change_has_done_is_there_when_the_database_is_lost_at_any_write() {
    for write in 0..40 {
        let disk = MemoryBackend::default();
        let (dir, store) = open_in_memory(disk.clone());
        let paths = prepared(&store);
        disk.fail_from(Some(write));
        let outcomes = changes(&paths).into_iter().map(|change| change(&store));
        let failed = outcomes.filter(Result::is_err).count();
        let seen = look(&store);
        for loss in [Loss::Process, Loss::Power, Loss::All] {
            let (_next, store) = next(dir.path(), disk.after(loss));
            assert_eq!(look(&store), seen, "write {write}, {loss:?}");
            assert!(store.upkeep().check_second_copy().is_none());
            assert_sound(&store);
            // All of it goes on.
            change_all(&store);
            assert_eq!(dump(&store, &path(2)).unwrap(), [2; 3000]);
        }
        if failed == 0 {
            return;
        }
    }
    panic!("there are more writes");
}

#[test]
fn changes_that_the_database_has_lost_are_done_again() {
    let disk = MemoryBackend::default();
    let (dir, store) = open_in_memory(disk.clone());
    let mut moments = Vec::new();
    let paths = prepared(&store);
    for change in changes(&paths) {
        change(&store).unwrap();
        moments.push(disk.after(Loss::Process));
    }
    let seen = look(&store);
    for moment in moments {
        let (_next, store) = next(dir.path(), moment);
        assert_eq!(look(&store), seen);
        assert_sound(&store);
    }
}

#[test]
fn small_contents_that_were_added_are_kept_until_the_path_is_collected() {
    let disk = MemoryBackend::default();
    let (dir, store) = open_in_memory(disk.clone());
    change_all(&store);
    let (_next, lost) = next(dir.path(), disk.after(Loss::All));
    assert!(!lost.paths().all().unwrap().contains(&path(2)));
    let nar = lost
        .paths()
        .small_contents(path(2).hash())
        .unwrap()
        .unwrap();
    let info = lost.paths().info(path(2).hash()).unwrap().unwrap();
    assert_eq!(NarHash::of(&nar), info.registration.nar_hash);
    assert_eq!(lost.paths().small_contents(path(1).hash()).unwrap(), None);
    collect(&store, &HashSet::new(), None);
    assert!(store.paths().with_small_contents().unwrap().is_empty());
}

#[test]
fn a_path_that_comes_back_has_the_number_that_it_had() {
    let disk = MemoryBackend::default();
    let (dir, store) = open_in_memory(disk.clone());
    published(&store, 1..5);
    let ordinal = |store: &Store, seed| {
        let info = store.paths().info(path(seed).hash()).unwrap();
        info.unwrap().ordinal
    };
    let before: Vec<_> = (1..5).map(|seed| ordinal(&store, seed)).collect();
    let (_next, lost) = next(dir.path(), disk.after(Loss::All));
    published(&lost, 1..6);
    let after: Vec<_> = (1..5).map(|seed| ordinal(&lost, seed)).collect();
    assert_eq!(after, before);
    // Numbers that may have been given since are left out.
    assert!(ordinal(&lost, 5).0 > before[3].0 + 60_000);
}
