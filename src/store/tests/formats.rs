//! States of an older format.

use std::fs;

use rocksdb::{DB, Options};

use super::*;

/// Makes of a closed state what version 1 of the format would have been.
fn make_old(dir: &Path) {
    let db = dir.join("db");
    let families = DB::list_cf(&Options::default(), &db).unwrap();
    let mut db = DB::open_cf(&Options::default(), &db, families).unwrap();
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
        db.drop_cf(family).unwrap();
    }
    fs::write(dir.join("format"), "narfs-state 1\nstore-dir /nix/store\n").unwrap();
}

fn format(dir: &Path) -> String {
    fs::read_to_string(dir.join("format")).unwrap()
}

#[test]
fn a_state_of_format_1_is_upgraded_and_works() {
    let (dir, store) = store();
    let contents = noise(1, 300_000);
    let mut signed = kept(&store, &path(1), &contents);
    signed.registration.signatures.push("k-1:AAAA".into());
    store.paths().publish(&[signed]).unwrap();
    publish(&store, &path(2), &noise(3, 300_000));
    drop(store);
    make_old(dir.path());
    let store = open(dir.path()).unwrap();
    assert_eq!(format(dir.path()), "narfs-state 3\nstore-dir /nix/store\n");
    assert!(dump(&store, &path(1)).unwrap() == contents);
    let origin = |n| store.paths().info(path(n).hash()).unwrap().unwrap().origin;
    assert_eq!((origin(1), origin(2)), (Origin::Fetched, Origin::Added));
    assert_sound(&store);
    let evicted = evict(&store, 0, &HashSet::new()).unwrap();
    assert_eq!(evicted.paths, [path(1)]);
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
    drop(open(dir.path()).unwrap());
    assert!(format(dir.path()).starts_with("narfs-state 3\n"));
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
        "narfs-state 4\nstore-dir /nix/store\n",
    )
    .unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
}

#[test]
fn a_state_of_format_2_has_no_views_and_gets_some() {
    let (dir, store) = store();
    publish(&store, &path(1), b"contents");
    store.roots().pin(&[path(1)]).unwrap();
    drop(store);
    let db = dir.path().join("db");
    let families = DB::list_cf(&Options::default(), &db).unwrap();
    let mut old = DB::open_cf(&Options::default(), &db, families).unwrap();
    old.drop_cf("views").unwrap();
    drop(old);
    fs::write(
        dir.path().join("format"),
        "narfs-state 2\nstore-dir /nix/store\n",
    )
    .unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(format(dir.path()), "narfs-state 3\nstore-dir /nix/store\n");
    assert!(store.views().list().unwrap().is_empty());
    assert_eq!(dump(&store, &path(1)).unwrap(), b"contents");
    assert_eq!(store.roots().pins().unwrap().len(), 1);
    let name = ViewName::parse("v").unwrap();
    store.views().define(&name, &[path(1)], &[]).unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.views().list().unwrap().len(), 1);
}
