//! What publications and questions cost: waits for the disk, and records that are read.

use super::*;
use crate::chunk::AVERAGE;

/// Publishes a path with contents of its own. Returns how many batches were synced, and flushes made.
fn costs(store: &Store, disk: &MemoryBackend, n: u8, length: usize) -> (u64, u64) {
    let publication = kept(store, &path(n), &noise(u64::from(n) * 2, length));
    let before = disk.syncs();
    store.paths().publish(&[publication]).unwrap();
    let after = disk.syncs();
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn a_small_path_costs_one_sync_and_no_flush() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    for n in 1..100 {
        assert_eq!(costs(&store, &disk, n, 8000), (1, 0));
    }
    // Nor does one while something large arrives.
    let large = kept(&store, &path(200), &noise(3, 3 << 20));
    let unflushed = store.contents().unflushed();
    assert!(unflushed > 3 << 20);
    assert_eq!(costs(&store, &disk, 100, 8000), (1, 0));
    assert_eq!(store.contents().unflushed(), unflushed);
    // That one is written to a file.
    let before = disk.syncs();
    store.paths().publish(&[large]).unwrap();
    assert_eq!(disk.syncs(), (before.0 + 1, before.1 + 1));
    assert_eq!(store.contents().unflushed(), 0);
    // What shares a chunk with one that arrives has it, too, and is as durable.
    let first = kept(&store, &path(201), b"the same");
    let second = kept(&store, &path(202), b"the same");
    drop(first);
    let before = disk.syncs();
    store.paths().publish(&[second]).unwrap();
    assert_eq!(disk.syncs(), (before.0 + 1, before.1));
    drop(store);
    let (_dir, store) = open_in_memory(disk.after(Loss::Power));
    assert_sound(&store);
    for n in (1..=100).chain([200, 202]) {
        assert!(dump(&store, &path(n)).is_ok(), "{n}");
    }
}

#[test]
fn what_is_as_it_is_to_be_costs_no_sync() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    publish(&store, &path(1), b"contents");
    let (one, name) = ([path(1)], ViewName::parse("view").unwrap());
    let pin = || store.roots().pin(&one).unwrap();
    let define = |roots: &[StorePath]| store.views().define(&name, roots, &[]).unwrap();
    pin();
    define(&one);
    let before = disk.syncs();
    pin();
    define(&one);
    assert!(store.roots().unpin(&[path(2)]).unwrap().is_empty());
    assert_eq!(disk.syncs(), before);
    // What shows less than it could, or something else, is written.
    define(&[path(1), path(3)]);
    define(&[path(1), path(3)]);
    assert!(disk.syncs().0 >= before.0 + 2);
    assert_eq!(store.roots().pins().unwrap().len(), 1);
}

#[test]
fn a_damaged_chunk_that_comes_again_survives_a_power_loss() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    publish(&store, &path(1), b"contents");
    disk.damage_chunks();
    store.contents().forget_chunks();
    assert!(dump(&store, &path(1)).is_err());
    publish(&store, &path(1), b"contents");
    assert!(dump(&store, &path(1)).is_ok());
    drop(store);
    let (_dir, store) = open_in_memory(disk.after(Loss::Power));
    assert!(dump(&store, &path(1)).is_ok());
}

/// Asks twice for each chunk of a path in order, with an eighth of what memory holds decoded ahead. Returns
/// how many there are.
fn read_in_order(store: &Store, ordinal: u32, length: u64) -> u64 {
    let path = store.paths().serve(PathOrdinal(ordinal)).unwrap().unwrap();
    let chunks = path.chunks_in(0, length).unwrap();
    let load = |chunk| store.contents().load_ahead(path.contents(), chunk);
    let ahead = store.contents().chunk_capacity() as usize / 8 / AVERAGE;
    let mut loaded = 0;
    for chunk in chunks.clone() {
        let end = chunks.end.min(chunk + ahead);
        (loaded..end).for_each(load);
        loaded = end;
        load(chunk);
        load(chunk);
    }
    chunks.len() as u64
}

#[test]
fn what_is_decoded_ahead_is_in_memory_until_it_is_read() {
    let (_dir, store) = store();
    let length = 3 * store.contents().chunk_capacity();
    for n in 1..=2 {
        publish(&store, &path(n), &noise(u64::from(n) * 2, length as usize));
    }
    store.contents().forget_chunks();
    // For the second, memory is full of the first.
    let chunks = read_in_order(&store, 1, length) + read_in_order(&store, 2, length);
    let read = store.contents().cache_counts().chunk_misses;
    assert!(
        read >= chunks && read <= chunks + chunks / 20,
        "{read} of {chunks}"
    );
}

#[test]
fn how_many_paths_there_are_is_counted_once() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    published(&store, 0..50);
    assert_eq!(store.paths().count().unwrap(), 50);
    let counted = |store: &Store| {
        let before = disk.reads();
        let count = store.paths().count().unwrap();
        assert_eq!(disk.reads(), before);
        assert_eq!(count as usize, store.paths().all().unwrap().len());
        count
    };
    published(&store, 40..60);
    assert_eq!(counted(&store), 60);
    let registered = Registration {
        path: path(100),
        ..store
            .paths()
            .info(path(1).hash())
            .unwrap()
            .unwrap()
            .registration
    };
    store.paths().register(&[(registered, None)]).unwrap();
    assert_eq!(counted(&store), 60);
    published(&store, 100..101);
    assert_eq!(counted(&store), 61);
    collect(&store, &(0..30).map(|n| path(n).hash()).collect(), None);
    assert_eq!(counted(&store), 30);
    evict(&store, 0, &HashSet::new()).unwrap();
    assert_eq!(counted(&store), 30);
}
