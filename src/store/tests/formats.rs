//! States of an older format.

use std::fs;

use rocksdb::{DB, Options};

use super::*;

/// Makes of a closed state what version 1 of the format would have been.
fn make_old(dir: &Path) {
    let db = dir.join("db");
    let families = families(dir);
    let mut db = DB::open_cf(&Options::default(), &db, &families).unwrap();
    let paths = db.cf_handle("paths").unwrap();
    let records: Vec<_> = db
        .iterator_cf(paths, rocksdb::IteratorMode::Start)
        .map(Result::unwrap)
        .collect();
    for (key, record) in records {
        if record[0] == 1 {
            continue;
        }
        let mut old = record.to_vec();
        old[0] = 1;
        old.remove(1 + 4 + 32 + 8 + 8);
        db.put_cf(db.cf_handle("paths").unwrap(), key, old).unwrap();
    }
    for family in ["uses", "roots", "traces", "reclaimed", "profiles", "views"] {
        if families.iter().any(|f| f == family) {
            db.drop_cf(family).unwrap();
        }
    }
    fs::write(dir.join("format"), "narfs-state 1\nstore-dir /nix/store\n").unwrap();
}

/// Makes of a closed state without views what version 2 of the format would have been.
fn make_format_2(dir: &Path) {
    let db = dir.join("db");
    let mut old = DB::open_cf(&Options::default(), &db, families(dir)).unwrap();
    old.drop_cf("views").unwrap();
    drop(old);
    fs::write(dir.join("format"), "narfs-state 2\nstore-dir /nix/store\n").unwrap();
}

fn families(dir: &Path) -> Vec<String> {
    DB::list_cf(&Options::default(), dir.join("db")).unwrap()
}

fn format(dir: &Path) -> String {
    fs::read_to_string(dir.join("format")).unwrap()
}

#[test]
fn a_state_of_format_1_is_upgraded_by_its_first_change_and_works() {
    let (dir, store) = store();
    let contents = noise(1, 300_000);
    let mut signed = kept(&store, &path(1), &contents);
    signed.registration.signatures.push("k-1:AAAA".into());
    signed.registration.vouched = true;
    store.paths().publish(&[signed]).unwrap();
    publish(&store, &path(2), &noise(3, 300_000));
    drop(store);
    make_old(dir.path());
    let before = families(dir.path());
    let store = open(dir.path()).unwrap();
    assert!(dump(&store, &path(1)).unwrap() == contents);
    assert!(store.roots().pins().unwrap().is_empty() && store.traces().list().unwrap().is_empty());
    let origin = |n| store.paths().info(path(n).hash()).unwrap().unwrap().origin;
    assert_eq!((origin(1), origin(2)), (Origin::Fetched, Origin::Added));
    assert_sound(&store);
    // The version that wrote it can go on until something is written.
    drop(store);
    assert_eq!(format(dir.path()), "narfs-state 1\nstore-dir /nix/store\n");
    assert_eq!(families(dir.path()), before);
    let store = open(dir.path()).unwrap();
    let evicted = evict(&store, 0, &HashSet::new()).unwrap();
    assert_eq!(evicted.paths, [path(1)]);
    assert_eq!(format(dir.path()), "narfs-state 2\nstore-dir /nix/store\n");
    publish(&store, &path(1), &contents);
    assert!(dump(&store, &path(1)).unwrap() == contents);
    store.roots().pin(&[path(1)]).unwrap();
    assert_sound(&store);
}

#[test]
fn a_crash_in_the_upgrade_is_harmless() {
    let (dir, store) = store();
    publish(&store, &path(1), b"contents");
    drop(store);
    make_old(dir.path());
    // Before the format file is replaced.
    fs::write(dir.path().join(".format"), "narfs-st").unwrap();
    open(dir.path()).unwrap().roots().pin(&[path(1)]).unwrap();
    assert!(format(dir.path()).starts_with("narfs-state 2\n"));
    // After it, before the database has its new families.
    make_old(dir.path());
    fs::write(
        dir.path().join("format"),
        "narfs-state 3\nstore-dir /nix/store\n",
    )
    .unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(dump(&store, &path(1)).unwrap(), b"contents");
    store.roots().pin(&[path(1)]).unwrap();
    drop(store);
    // The families, but not the format file.
    fs::write(
        dir.path().join("format"),
        "narfs-state 1\nstore-dir /nix/store\n",
    )
    .unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(store.roots().pins().unwrap().len(), 1);
    drop(store);
    // What comes after is not for this version.
    fs::write(
        dir.path().join("format"),
        "narfs-state 5\nstore-dir /nix/store\n",
    )
    .unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
}

#[test]
fn features_that_are_not_known_are_refused_by_their_names() {
    let (dir, store) = store();
    publish(&store, &path(1), b"contents");
    drop(store);
    let listed = "narfs-state 4\nstore-dir /nix/store\n";
    for (features, named) in [
        ("feature deltas\n", "deltas"),
        ("feature deltas\nfeature x\n", "deltas, x"),
        ("something\n", "something"),
    ] {
        let text = format!("{listed}{features}");
        fs::write(dir.path().join("format"), &text).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, StoreError::UnknownFeatures { features, .. } if features == named)
        );
        let said = error.to_string();
        assert!(said.contains(&dir.path().display().to_string()), "{said}");
        assert!(said.contains("newer narfs"), "{said}");
        assert_eq!(format(dir.path()), text);
    }
    fs::write(dir.path().join("format"), listed).unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(dump(&store, &path(1)).unwrap(), b"contents");
    let name = ViewName::parse("v").unwrap();
    store.views().define(&name, &[path(1)], &[]).unwrap();
    assert_eq!(format(dir.path()), listed);
}

#[test]
fn a_state_of_format_2_has_no_views_and_gets_some() {
    let (dir, store) = store();
    publish(&store, &path(1), b"contents");
    store.roots().pin(&[path(1)]).unwrap();
    drop(store);
    make_format_2(dir.path());
    let store = open(dir.path()).unwrap();
    assert!(store.views().list().unwrap().is_empty());
    assert_eq!(dump(&store, &path(1)).unwrap(), b"contents");
    assert_eq!(store.roots().pins().unwrap().len(), 1);
    // Whatever else is written, the version before knows.
    publish(&store, &path(2), b"more");
    store.contents().flush().unwrap();
    store.roots().unpin(&[path(1)]).unwrap();
    drop(store);
    assert_eq!(format(dir.path()), "narfs-state 2\nstore-dir /nix/store\n");
    assert!(!families(dir.path()).contains(&"views".to_owned()));
    let store = open(dir.path()).unwrap();
    let name = ViewName::parse("v").unwrap();
    store.views().define(&name, &[path(1)], &[]).unwrap();
    assert_eq!(format(dir.path()), "narfs-state 3\nstore-dir /nix/store\n");
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.views().list().unwrap().len(), 1);
}
