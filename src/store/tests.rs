//! Publishing, finding and listing on a real database.

mod channels;
mod costs;
mod damaged;
mod dropped;
mod evicted;
mod formats;
mod in_use;
mod large;
mod lost;
mod parts;
mod profiles;
mod races;
mod removed;
mod roots;
mod shown;
mod space;
mod unreadable;
mod views;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::contents::{Located, TreeRecord};
use super::records::{Batch, Durability, Family};
use super::*;
use crate::chunk::{ChunkDigest, ChunkHash, ChunkRecord};
use crate::nix::hash::NarHash;
use crate::nix::nar::Writer;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::tree::{ChunkSink, Unpacker};

fn open(dir: &Path) -> Result<Store, StoreError> {
    let options = StoreOptions {
        memory: 32 << 20,
        create: true,
        store_dir: None,
    };
    Store::open(dir, &options)
}

/// Opens records in memory, in a directory of their own.
fn open_in_memory(disk: MemoryBackend) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        create: true,
        ..StoreOptions::default()
    };
    let store = Store::open_in_memory(dir.path(), &options, disk).unwrap();
    (dir, store)
}

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    (dir, store)
}

fn path(seed: u8) -> StorePath {
    StorePath::new(
        StorePathHash::from_bytes([seed; 20]),
        &format!("path-{seed}"),
    )
    .unwrap()
}

fn nar(contents: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.regular(false, contents.len() as u64).unwrap();
    writer.contents(contents).unwrap();
    writer.finish().unwrap()
}

/// Keeps the chunks of a file with these contents.
fn kept(store: &Store, path: &StorePath, contents: &[u8]) -> Publication {
    kept_nar(store, path, &nar(contents))
}

fn kept_nar(store: &Store, path: &StorePath, nar: &[u8]) -> Publication {
    let mut writer = store.contents().chunk_writer().unwrap();
    let unpacked = Unpacker::new(&mut writer, &[], &store.spool())
        .unpack(nar)
        .unwrap();
    Publication {
        registration: Registration {
            path: path.clone(),
            nar_hash: NarHash::of(nar),
            nar_size: nar.len() as u64,
            references: unpacked.references,
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            vouched: false,
        },
        origin: Origin::Fetched,
        tree: unpacked.tree,
        hold: writer.finish().unwrap(),
    }
}

fn published(store: &Store, seeds: std::ops::Range<u8>) {
    let all: Vec<_> = seeds.map(|s| kept(store, &path(s), &[s; 3000])).collect();
    store.paths().publish(&all).unwrap();
}

/// Removes what is not live, without looking for roots meanwhile.
fn collect(store: &Store, live: &HashSet<StorePathHash>, limit: Option<u64>) -> Collected {
    let collection = store.upkeep().begin_collection();
    let nothing = || Ok(HashSet::new());
    collection
        .remove(live, limit, &nothing, &mut |_| true)
        .unwrap()
}

/// Drops contents where nothing is in use.
fn evict(store: &Store, to: u64, keep: &HashSet<StorePathHash>) -> Result<Eviction, StoreError> {
    store.upkeep().evict(to, keep, &|| Ok(HashSet::new()), true)
}

/// Bytes that no codec makes smaller.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(next).collect()
}

/// Publishes a file with these contents, fetched.
fn publish(store: &Store, path: &StorePath, contents: &[u8]) {
    store
        .paths()
        .publish(&[kept(store, path, contents)])
        .unwrap();
}

fn publish_nar(store: &Store, path: &StorePath, nar: &[u8]) {
    store
        .paths()
        .publish(&[kept_nar(store, path, nar)])
        .unwrap();
}

fn is_dropped(store: &Store, path: &StorePath) -> bool {
    let info = store.paths().info(path.hash()).unwrap().unwrap();
    !store.paths().has_contents(&info).unwrap()
}

/// Waits until something is so that another thread brings about. Fails after a minute.
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The state as it would be found if the process had been killed now.
fn crashed(dir: &TempDir) -> (TempDir, Store) {
    // A file that a compaction deletes meanwhile belongs to the past.
    let copies = std::iter::repeat_with(|| copied(dir.path())).take(1000);
    let copy = copies.filter_map(Result::ok).next();
    let copy = copy.expect("the files of the database change all the time");
    let store = open(copy.path()).unwrap();
    (copy, store)
}

fn copied(dir: &Path) -> std::io::Result<TempDir> {
    let copy = tempfile::tempdir()?;
    std::fs::copy(dir.join("format"), copy.path().join("format"))?;
    std::fs::create_dir(copy.path().join("db"))?;
    let names = || -> std::io::Result<Vec<_>> {
        let entries = std::fs::read_dir(dir.join("db"))?;
        let mut names: Vec<_> = entries
            .map(|e| Ok(e?.file_name()))
            .collect::<Result<_, std::io::Error>>()?;
        names.sort();
        Ok(names)
    };
    let before = names()?;
    for name in &before {
        std::fs::copy(dir.join("db").join(name), copy.path().join("db").join(name))?;
    }
    match names()? == before {
        true => Ok(copy),
        false => Err(std::io::Error::other("it changed meanwhile")),
    }
}

/// What must hold whenever nobody writes: sizes are right, each chunk that is there has its digest, and
/// complete trees name such chunks.
fn assert_sound(store: &Store) {
    let s = store.upkeep().statistics().unwrap();
    assert_eq!(store.upkeep().stored_bytes().unwrap(), s.stored_bytes);
    assert_eq!(store.upkeep.chunk_bytes().unwrap(), s.chunk_bytes);
    let mut numbers = HashSet::new();
    let each = |digest: &[u8], value: &[u8]| {
        let Located {
            number,
            raw_length,
            stored_length,
        } = Located::decode(value).unwrap();
        assert!(numbers.insert(number), "two digests name chunk {number}");
        let record = store.records.get(Family::Chunks, &number.to_be_bytes())?;
        let record = record.unwrap_or_else(|| panic!("chunk {number} is gone, its digest is not"));
        assert_eq!(record.len(), stored_length as usize, "chunk {number}");
        let digest = ChunkDigest(digest.try_into().unwrap());
        let chunk = ChunkRecord::parse(&record).unwrap().decode(&digest);
        let chunk = chunk.unwrap();
        assert_eq!(chunk.len(), raw_length as usize, "chunk {number}");
        assert_eq!(ChunkDigest::of(&chunk), digest, "chunk {number}");
        Ok(true)
    };
    store.records.scan(Family::Digests, &[], each).unwrap();
    let mut there = HashSet::new();
    let each = |key: &[u8], _: &[u8]| {
        there.insert(u64::from_be_bytes(key.try_into().unwrap()));
        Ok(true)
    };
    store.records.scan(Family::Chunks, &[], each).unwrap();
    assert_eq!(numbers, there, "a chunk has no digest");
    let each = |_: &[u8], value: &[u8]| {
        let mut named = TreeRecord::parse(value).unwrap().numbers();
        assert!(
            named.all(|n| there.contains(&n)),
            "a chunk of a tree is gone"
        );
        Ok(true)
    };
    store.records.scan(Family::Trees, &[], each).unwrap();
}

fn dump(store: &Store, path: &StorePath) -> Result<Vec<u8>, StoreError> {
    let info = store.paths().info(path.hash())?.unwrap();
    let loaded = store.paths().load_info(info)?.unwrap();
    let mut out = Vec::new();
    store.contents().read(
        loaded.contents(),
        0,
        loaded.tree().stream_length(),
        &mut out,
    )?;
    Ok(out)
}

fn listed(store: &Store, from: u32, limit: usize) -> Vec<(u32, StorePath)> {
    let listed = store.paths().list(PathOrdinal(from), limit).unwrap();
    listed.into_iter().map(|(o, p, _)| (o.0, p)).collect()
}

#[test]
fn publishing_again_changes_nothing() {
    let (_dir, store) = store();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    store.observe(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let first = kept(&store, &path(1), b"first");
    store.paths().publish(&[first]).unwrap();
    let info = store.paths().info(path(1).hash()).unwrap().unwrap();
    let changed = store.paths().changed().unwrap();
    // Even with other contents: what is published stays what it is.
    let other = kept(&store, &path(1), b"other");
    store.paths().publish(&[other]).unwrap();
    store.paths().publish(&[]).unwrap();
    assert_eq!(store.paths().info(path(1).hash()).unwrap().unwrap(), info);
    assert_eq!(store.paths().changed().unwrap(), changed);
    assert_eq!(dump(&store, &path(1)).unwrap(), b"first");
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn a_batch_with_known_paths_adds_the_others_once() {
    let (_dir, store) = store();
    published(&store, 2..3);
    let batch = [1, 2, 3, 1].map(|s| kept(&store, &path(s), &[s; 10]));
    store.paths().publish(&batch).unwrap();
    let expected = [(1, path(2)), (2, path(1)), (3, path(3))];
    assert_eq!(listed(&store, 0, 10), expected);
    assert_eq!(dump(&store, &path(2)).unwrap(), [2; 3000]);
    assert_eq!(dump(&store, &path(1)).unwrap(), [1; 10]);
}

#[test]
fn ordinals_ascend_over_restarts_and_are_never_given_again() {
    let dir = tempfile::tempdir().unwrap();
    published(&open(dir.path()).unwrap(), 1..4);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.paths().all().unwrap(), [path(1), path(2), path(3)]);
    // As a collection will: the last one goes.
    let mut batch = Batch::default();
    batch.delete(Family::Ordinals, 3u32.to_be_bytes());
    batch.delete(Family::Paths, path(3).hash().as_bytes());
    store
        .records
        .write(batch, Durability::Power, "a test")
        .unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    published(&store, 3..5);
    let ordinals: Vec<_> = listed(&store, 0, 10).into_iter().map(|(o, _)| o).collect();
    assert_eq!(ordinals, [1, 2, 4, 5]);
    assert_eq!(store.paths().with_ordinal(PathOrdinal(3)).unwrap(), None);
    assert!(store.paths().load(PathOrdinal(3)).unwrap().is_none());
}

#[test]
fn too_many_paths_are_refused_whole() {
    let (dir, store) = store();
    let mut batch = Batch::default();
    let last = PathOrdinal::MAX.to_le_bytes();
    batch.put(Family::Meta, b"next-ordinal", last);
    store
        .records
        .write(batch, Durability::Power, "a test")
        .unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    let two = [1, 2].map(|s| kept(&store, &path(s), b"x"));
    let error = store.paths().publish(&two).unwrap_err();
    assert!(matches!(error, StoreError::TooManyPaths(_)), "{error}");
    assert!(store.paths().all().unwrap().is_empty());
    published(&store, 1..2);
    assert_eq!(listed(&store, 0, 10), [(PathOrdinal::MAX, path(1))]);
}

#[test]
fn listings_go_on_where_they_stopped() {
    let (_dir, store) = store();
    published(&store, 1..11);
    let mut seen = Vec::new();
    let mut from = 0;
    loop {
        let page = listed(&store, from, 3);
        let Some((last, _)) = page.last() else { break };
        from = last + 1;
        assert!(page.len() <= 3);
        seen.extend(page.into_iter().map(|(_, p)| p));
        // What is published meanwhile comes at the end, and moves nothing.
        if seen.len() == 6 {
            published(&store, 11..12);
        }
    }
    assert_eq!(seen, (1..12).map(path).collect::<Vec<_>>());
    assert!(listed(&store, 100, 3).is_empty());
    assert!(listed(&store, 1, 0).is_empty());
    assert_eq!(store.paths().info(path(99).hash()).unwrap(), None);
}

#[test]
fn paths_with_the_same_contents_share_tree_and_chunks() {
    let (_dir, store) = store();
    let contents = noise(1, 600_000);
    for seed in [1, 2] {
        let publication = kept(&store, &path(seed), &contents);
        store.paths().publish(&[publication]).unwrap();
    }
    let s = store.upkeep().statistics().unwrap();
    assert_eq!((s.paths, s.trees, s.files), (2, 1, 2));
    assert_eq!(s.unique_bytes, 600_000);
    let loaded = [1, 2].map(|o| store.paths().load(PathOrdinal(o)).unwrap().unwrap());
    let each = store.upkeep().path_statistics(&loaded).unwrap();
    assert!(
        each.iter()
            .all(|p| p.sharing_tree == 2 && p.unique_bytes == 600_000)
    );
    assert_eq!(dump(&store, &path(2)).unwrap(), contents);
}

#[test]
fn a_chunk_that_two_threads_bring_is_written_once() {
    let (_dir, store) = store();
    let chunks: Vec<_> = (0..50).map(|n| noise(2 * n, 20_000)).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut writer = store.contents().chunk_writer().unwrap();
                for chunk in &chunks {
                    writer.put(ChunkHash::of(chunk), chunk).unwrap();
                }
                // The last ones may still be compressed by others.
                writer.finish().unwrap();
            });
        }
    });
    let s = store.upkeep().statistics().unwrap();
    assert_eq!((s.chunks, s.unique_bytes), (50, 50 * 20_000));
    assert_eq!(
        store.records.last_key(Family::Chunks).unwrap().unwrap(),
        49u64.to_be_bytes()
    );
    // Numbers go on after a restart.
    store.contents().flush().unwrap();
    assert_eq!(store.contents().unflushed(), 0);
}

#[test]
fn what_was_not_published_leaves_no_trace_that_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    drop(kept(&store, &path(1), &noise(1, 300_000)));
    assert!(store.paths().all().unwrap().is_empty());
    assert_eq!(store.paths().info(path(1).hash()).unwrap(), None);
    drop(store);
    // Whatever of the chunks is there is whole, and is used.
    let store = open(dir.path()).unwrap();
    let publication = kept(&store, &path(1), &noise(1, 300_000));
    store.paths().publish(&[publication]).unwrap();
    assert_eq!(store.upkeep().statistics().unwrap().unique_bytes, 300_000);
    assert_eq!(dump(&store, &path(1)).unwrap(), noise(1, 300_000));
}

#[test]
fn a_second_owner_is_told_who_the_first_is() {
    let (dir, store) = store();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains(&format!("owned by process {} (", std::process::id())),
        "{error}"
    );
    drop(store);
    open(dir.path()).unwrap();
}

#[test]
fn what_belongs_together_is_written_in_one_batch() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    let one = |what: &str, change: &dyn Fn()| {
        disk.fail_from(None);
        change();
        assert_eq!(disk.writes(), 1, "{what}");
    };
    one("a chunk", &|| drop(kept(&store, &path(1), &[1; 100])));
    let registration = kept(&store, &path(1), &[1; 100]).registration;
    one("a path", &|| {
        let registration = (registration.clone(), None);
        store.paths().register(&[registration]).unwrap();
    });
    let both = [path(1), path(2)];
    one("pins", &|| store.roots().pin(&both).unwrap());
    one("pins that go", &|| {
        store.roots().unpin(&both).unwrap();
    });
    one("a view", &|| {
        let name = ViewName::parse("view").unwrap();
        store.views().define(&name, &both, &[]).unwrap();
    });
}

#[test]
fn numbers_of_registered_paths_are_given_to_nothing_else_after_a_power_loss() {
    let disk = MemoryBackend::default();
    let ordinal_of = |store: &Store, seed| {
        let publication = kept(store, &path(seed), &[seed; 100]);
        let registration = (publication.registration, None);
        store.paths().register(&[registration]).unwrap();
        let info = store.paths().info(path(seed).hash()).unwrap();
        info.unwrap().ordinal
    };
    let told = ordinal_of(&open_in_memory(disk.clone()).1, 1);
    let (_dir, store) = open_in_memory(disk.after(Loss::Power));
    assert_ne!(ordinal_of(&store, 2), told);
}

#[test]
fn nobody_but_the_owner_can_hold_the_lock_of_a_state() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, store) = store();
    drop(store);
    let lock = dir.path().join("lock");
    let mode = || std::fs::metadata(&lock).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    // As older versions made it.
    std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(dir.path()).unwrap());
    assert_eq!(mode(), 0o600);
}
