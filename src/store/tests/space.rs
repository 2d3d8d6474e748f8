//! What is dropped leaves the disk, whatever happened before.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::*;

const SIZE: usize = 700_000;

/// Bytes that chunks and their keys take on the disk.
fn on_disk(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("db")).unwrap();
    let files = files.filter_map(|f| {
        let f = f.ok()?;
        let name = f.file_name();
        let name = name.to_str()?;
        let counts = name.ends_with(".blob") || name.ends_with(".sst");
        // One that is not needed is deleted by another thread.
        counts.then(|| f.metadata().map_or(0, |m| m.len()))
    });
    files.sum()
}

/// What is promised of a state of which space was given back as somebody asked for.
fn assert_within_bound(store: &Store) {
    let stored = store.upkeep().stored_bytes().unwrap();
    let bound = stored + stored / 10 + (1 << 20);
    let mut taken = on_disk(store.dir());
    // Another thread deletes what is not needed.
    let deadline = Instant::now() + Duration::from_secs(10);
    while taken > bound && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
        taken = on_disk(store.dir());
    }
    assert!(taken <= bound, "{taken} bytes for {stored}");
}

fn reclaim(store: &Store) -> u64 {
    let stop = AtomicBool::new(false);
    store.upkeep().reclaim_after_collection(&stop).unwrap()
}

/// Publishes paths of which each has contents of its own and some of another one.
fn fill(store: &Store, seeds: std::ops::Range<u8>) {
    for seed in seeds {
        publish(store, &path(seed), &contents(seed));
    }
}

fn contents(seed: u8) -> Vec<u8> {
    let own = noise(u64::from(seed) * 2 + 1000, SIZE);
    [own, noise(u64::from(seed % 5) * 2, SIZE / 3)].concat()
}

fn keep(seeds: impl Iterator<Item = u8>) -> HashSet<StorePathHash> {
    seeds.map(|n| path(n).hash()).collect()
}

fn assert_kept(store: &Store, seeds: impl Iterator<Item = u8>) {
    store.contents.forget_chunks();
    for seed in seeds {
        assert!(dump(store, &path(seed)).unwrap() == contents(seed));
    }
    assert_sound(store);
}

fn blobs(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.join("db")).unwrap();
    let files = files.map(|f| f.unwrap().path());
    let mut blobs: Vec<_> = files
        .filter(|f| f.extension().is_some_and(|e| e == "blob"))
        .collect();
    blobs.sort();
    blobs
}

#[test]
fn what_is_left_after_many_rounds_takes_little_more_than_it_is_long() {
    let (_dir, store) = store();
    for round in 0..6u8 {
        // Of each file something stays, and something else each time.
        fill(&store, 0..40);
        evict(&store, 0, &keep((0..40).filter(|n| (n + round) % 4 == 0))).unwrap();
        reclaim(&store);
        assert_within_bound(&store);
    }
    assert_kept(&store, (0..40).filter(|n| (n + 5) % 4 == 0));
    // And without anything to move, nothing is claimed.
    assert_eq!(reclaim(&store), 0);
    evict(&store, 0, &HashSet::new()).unwrap();
    reclaim(&store);
    assert_within_bound(&store);
}

/// What a crash leaves of a state of four paths: its directory, its blob files, and what is in the first.
fn left_by_a_crash() -> (tempfile::TempDir, Vec<PathBuf>, Vec<u8>) {
    let (dir, store) = store();
    fill(&store, 0..4);
    let (copy, again) = crashed(&dir);
    drop(again);
    let there = blobs(copy.path());
    let whole = std::fs::read(&there[0]).unwrap();
    (copy, there, whole)
}

#[test]
fn what_a_killed_process_wrote_halfway_is_deleted_by_the_next() {
    let (copy, there, whole) = left_by_a_crash();
    let add = |number: u64, bytes: &[u8]| {
        let file = copy.path().join("db").join(format!("{number:06}.blob"));
        std::fs::write(&file, bytes).unwrap();
        file
    };
    // Without an end, of numbers before and after all that there are; and one with an end that was
    // never referred to.
    let halfway = &whole[..whole.len() / 2];
    let left = [
        add(1, halfway),
        add(2, b""),
        add(900_000, halfway),
        add(900_001, &whole),
    ];
    let again = open(copy.path()).unwrap();
    for file in left {
        assert!(!file.exists(), "{}", file.display());
    }
    assert_eq!(blobs(copy.path()), there);
    assert_kept(&again, 0..4);
}

#[test]
fn where_a_blob_file_is_damaged_none_is_taken_for_a_leftover() {
    let (copy, there, whole) = left_by_a_crash();
    std::fs::write(&there[0], &whole[..whole.len() - 1]).unwrap();
    let left = copy.path().join("db").join("000001.blob");
    std::fs::write(&left, b"").unwrap();
    let again = open(copy.path()).unwrap();
    assert!(left.exists() && there[0].exists());
    drop(again);
    std::fs::write(&there[0], &whole).unwrap();
    let again = open(copy.path()).unwrap();
    assert!(!left.exists());
    assert_kept(&again, 0..4);
}

#[test]
fn what_was_moved_when_the_process_was_killed_is_found_by_the_next() {
    let (dir, store) = store();
    fill(&store, 0..24);
    let kept = || (0..24).step_by(3);
    evict(&store, 0, &keep(kept())).unwrap();
    let numbers = || {
        let mut numbers = Vec::new();
        let each = |key: &[u8], _: &[u8]| {
            numbers.push(u64::from_be_bytes(key.try_into().unwrap()));
            Ok(true)
        };
        store.records.scan(Family::Chunks, &[], each).unwrap();
        numbers
    };
    for (n, number) in numbers().into_iter().enumerate() {
        store.contents.write_anew(number).unwrap();
        if n % 20 == 5 {
            // Once before and once after it is durable.
            for _ in 0..2 {
                let (_copy, again) = crashed(&dir);
                assert_kept(&again, kept());
                reclaim(&again);
                assert_within_bound(&again);
                assert_kept(&again, kept());
                store.contents().flush().unwrap();
            }
        }
    }
    reclaim(&store);
    assert_within_bound(&store);
    assert_kept(&store, kept());
}

#[test]
fn what_was_read_while_space_was_given_back_comes_back_the_next_time() {
    let (_dir, store) = store();
    fill(&store, 0..24);
    let reading = store.records.snapshot();
    evict(&store, 0, &keep((0..24).step_by(6))).unwrap();
    reclaim(&store);
    let files = store.records.blob_files().unwrap();
    let while_read: u64 = files.iter().map(|f| f.size).sum();
    assert!(while_read > 24 * SIZE as u64);
    drop(reading);
    assert!(reclaim(&store) > 10 * SIZE as u64);
    assert_within_bound(&store);
    assert_kept(&store, (0..24).step_by(6));
}

#[test]
fn what_an_earlier_version_thought_to_have_moved_comes_back() {
    let (_dir, store) = store();
    fill(&store, 0..24);
    let mut batch = Batch::default();
    let family = Family::Reclaimed;
    for bucket in 0u64..50 {
        batch.put(family, bucket.to_be_bytes(), [128, 0, 0, 0, 128, 0, 0, 0]);
    }
    store
        .records
        .write(batch, Durability::Power, "a test")
        .unwrap();
    evict(&store, 0, &keep((0..24).step_by(4))).unwrap();
    reclaim(&store);
    assert_within_bound(&store);
    assert!(
        store
            .records
            .first_key(Family::Reclaimed)
            .unwrap()
            .is_none()
    );
    assert_kept(&store, (0..24).step_by(4));
}

#[test]
fn a_damaged_chunk_keeps_its_file_and_nothing_else() {
    let (dir, store) = store();
    for seed in 0..24 {
        publish(&store, &path(seed), &contents(seed));
        // Each has a file of its own.
        store.records.flush().unwrap();
    }
    drop(store);
    // A byte of the contents of the second file.
    let file = &blobs(dir.path())[1];
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(file, &bytes).unwrap();
    let store = open(dir.path()).unwrap();
    evict(&store, 0, &keep(0..2)).unwrap();
    assert!(reclaim(&store) > 20 * SIZE as u64);
    wait_until(|| on_disk(dir.path()) < 4 * SIZE as u64);
    assert_eq!(reclaim(&store), 0);
    store.contents.forget_chunks();
    assert!(dump(&store, &path(0)).unwrap() == contents(0));
}

#[test]
fn an_empty_state_takes_no_room_for_what_may_come() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        memory: 1 << 30,
        create: true,
        store_dir: None,
    };
    let store = Store::open(dir.path(), &options).unwrap();
    publish(&store, &path(1), b"little");
    for file in std::fs::read_dir(dir.path().join("db")).unwrap() {
        use std::os::unix::fs::MetadataExt;
        let file = file.unwrap();
        // One that is not needed is deleted by another thread.
        let Ok(metadata) = file.metadata() else {
            continue;
        };
        // Blocks of a file system in memory may be of megabytes.
        let needed = metadata
            .len()
            .next_multiple_of(metadata.blksize().max(4096));
        let taken = metadata.blocks() * 512;
        let name = file.file_name();
        assert!(
            metadata.len() < 1 << 20 && taken < needed + (1 << 20),
            "{name:?}: {taken} bytes"
        );
    }
}
