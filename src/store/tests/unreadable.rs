//! Path infos, ordinals and trees that cannot be read.

use super::*;

/// A state in memory with paths, each with the references to `needs` of its seed.
fn state(paths: &[(u8, &[u8])]) -> (TempDir, MemoryBackend, Store) {
    let disk = MemoryBackend::default();
    let (dir, store) = open_in_memory(disk.clone());
    for (seed, needs) in paths {
        let mut publication = kept(&store, &path(*seed), &[*seed; 3000]);
        publication.registration.references = needs.iter().map(|need| path(*need)).collect();
        store.paths().publish(&[publication]).unwrap();
    }
    (dir, disk, store)
}

fn damage_info(disk: &MemoryBackend, seed: u8) {
    disk.damage(Family::Paths, path(seed).hash().as_bytes());
}

fn damage_ordinal(disk: &MemoryBackend, ordinal: PathOrdinal) {
    disk.damage(Family::Ordinals, &ordinal.0.to_be_bytes());
}

fn ordinal(store: &Store, seed: u8) -> PathOrdinal {
    let info = store.paths().info(path(seed).hash()).unwrap();
    info.unwrap().ordinal
}

fn live(seeds: &[u8]) -> HashSet<StorePathHash> {
    seeds.iter().map(|seed| path(*seed).hash()).collect()
}

/// Registers a path as a source would say it.
fn register(store: &Store, seed: u8) {
    let registration = kept(store, &path(seed), &[seed; 3000]).registration;
    store.paths().register(&[(registration, None)]).unwrap();
}

fn gone(collected: &Collected) -> HashSet<StorePathHash> {
    collected.paths.iter().map(StorePath::hash).collect()
}

#[test]
fn a_path_whose_path_info_cannot_be_read_is_named_and_keeps_its_number_when_it_comes_again() {
    let (_dir, disk, store) = state(&[(1, &[]), (2, &[]), (3, &[])]);
    let number = ordinal(&store, 2);
    damage_info(&disk, 2);
    let error = store.paths().info(path(2).hash()).unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(error.to_string().contains("path-2"), "{error}");
    assert_eq!(store.paths().readable_info(path(2).hash()).unwrap(), None);
    assert_eq!(store.paths().name(path(2).hash()).unwrap(), Some(path(2)));
    assert_eq!(store.paths().unreadable_count(), 1);
    let found = store.paths().unreadable().unwrap();
    assert_eq!(found.paths.len(), 1);
    assert_eq!(found.paths[0].path, Some(path(2)));
    assert_eq!(found.paths[0].ordinal, Some(number));
    assert!(found.paths[0].was_here && found.unnamed.is_empty());
    // The others are listed, read and counted.
    assert_eq!(store.paths().all().unwrap().len(), 3);
    store.paths.forget_all();
    let statistics = store.upkeep().statistics().unwrap();
    assert_eq!((statistics.paths, statistics.unreadable_paths), (2, 1));
    dump(&store, &path(3)).unwrap();

    register(&store, 2);
    assert_eq!(ordinal(&store, 2), number);
    assert!(store.paths().unreadable().unwrap().is_empty());
    assert_eq!(store.paths().unreadable_count(), 0);
    published(&store, 2..3);
    assert_eq!(ordinal(&store, 2), number);
    assert_eq!(dump(&store, &path(2)).unwrap(), [2; 3000]);
}

#[test]
fn what_is_published_over_a_path_info_that_cannot_be_read_has_its_number() {
    let (_dir, disk, store) = state(&[(1, &[]), (2, &[])]);
    let number = ordinal(&store, 2);
    damage_info(&disk, 2);
    store.paths.forget_all();
    published(&store, 2..3);
    assert_eq!(ordinal(&store, 2), number);
    assert_eq!(dump(&store, &path(2)).unwrap(), [2; 3000]);
    assert_eq!(store.paths().all().unwrap(), [path(1), path(2)]);
}

#[test]
fn a_path_info_that_is_in_memory_is_written_again_with_all_that_is_known() {
    let (_dir, disk, store) = state(&[(1, &[])]);
    let before = store.paths().info(path(1).hash()).unwrap().unwrap();
    store.paths().load(before.ordinal).unwrap().unwrap();
    damage_info(&disk, 1);
    register(&store, 1);
    let after = store.paths().info(path(1).hash()).unwrap().unwrap();
    assert_eq!(after, before);
}

#[test]
fn numbers_that_cannot_be_read_are_known_from_path_infos() {
    let (_dir, disk, store) = state(&[(1, &[]), (2, &[]), (3, &[]), (4, &[])]);
    let number = ordinal(&store, 2);
    damage_ordinal(&disk, number);
    let all = [1, 2, 3, 4].map(path);
    assert_eq!(store.paths().all().unwrap(), all);
    assert_eq!(store.paths().count().unwrap(), 4);
    assert_eq!(store.paths().with_ordinal(number).unwrap(), Some(path(2)));
    // In parts as well: a listing ends at the damage for good.
    let mut listed = Vec::new();
    let mut from = PathOrdinal(0);
    while let [(ordinal, path, _)] = &store.paths().list(from, 1).unwrap()[..] {
        listed.push(path.clone());
        from = PathOrdinal(ordinal.0 + 1);
    }
    assert_eq!(listed, all);
    // A path info that cannot be read is found by a number that was written anew.
    damage_info(&disk, 2);
    let found = store.paths().unreadable().unwrap();
    assert_eq!(found.paths[0].ordinal, Some(number));
}

#[test]
fn a_collection_keeps_what_a_path_may_need_that_cannot_be_read() {
    // The root itself, or what it needs, cannot be read.
    for lost in [1, 2] {
        let (_dir, disk, store) = state(&[(3, &[]), (2, &[3]), (1, &[2]), (9, &[])]);
        damage_info(&disk, lost);
        let would = store.upkeep().collectable(&live(&[1])).unwrap();
        let collected = collect(&store, &live(&[1]), None);
        for collected in [would, collected] {
            assert_eq!(collected.unreadable, [path(lost).to_string()]);
            assert!(collected.paths.is_empty(), "{collected:?}");
        }
        assert_eq!(dump(&store, &path(9)).unwrap(), [9; 3000]);
        // It is known again what it needs.
        let mut again = kept(&store, &path(lost), &[lost; 3000]);
        again.registration.references = vec![path(lost + 1)];
        store.paths().publish(&[again]).unwrap();
        let collected = collect(&store, &live(&[1]), None);
        assert!(collected.unreadable.is_empty());
        assert_eq!(gone(&collected), live(&[9]));
        assert_sound(&store);
    }
}

#[test]
fn a_path_that_nothing_reaches_is_collected_though_it_cannot_be_read() {
    // What refers to it goes before it, and what it may refer to after it.
    let (_dir, disk, store) = state(&[(7, &[]), (8, &[7]), (9, &[8]), (1, &[])]);
    assert_eq!(store.paths().count().unwrap(), 4);
    damage_info(&disk, 8);
    let collected = collect(&store, &live(&[1]), None);
    assert!(collected.unreadable.is_empty());
    assert_eq!(store.paths().count().unwrap(), 1);
    assert_eq!(collected.paths, [path(9), path(7)]);
    assert_eq!(collected.registered, [path(8)]);
    assert_eq!(store.paths().info(path(8).hash()).unwrap(), None);
    assert_eq!(store.paths().all().unwrap(), [path(1)]);
    // Its contents go with the next one.
    collect(&store, &live(&[1]), None);
    let statistics = store.upkeep().statistics().unwrap();
    assert_eq!((statistics.trees, statistics.chunks), (1, 1));
}

#[test]
fn a_path_without_a_name_keeps_everything_until_it_is_given_up() {
    let (_dir, disk, store) = state(&[(1, &[]), (2, &[]), (3, &[])]);
    let number = ordinal(&store, 2);
    assert_eq!(store.paths().count().unwrap(), 3);
    damage_info(&disk, 2);
    damage_ordinal(&disk, number);
    let found = store.paths().unreadable().unwrap();
    assert_eq!((found.paths.len(), &*found.unnamed), (0, &[number][..]));
    assert_eq!(store.paths().all().unwrap(), [path(1), path(3)]);
    assert!(store.paths().with_ordinal(number).unwrap_err().is_damage());
    let collected = collect(&store, &live(&[1]), None);
    assert_eq!(collected.unreadable, [format!("path number {}", number.0)]);
    assert!(collected.paths.is_empty());
    store.paths().give_up_unnamed(&found.unnamed).unwrap();
    assert_eq!(store.paths().count().unwrap(), 2);
    assert!(store.paths().unreadable().unwrap().is_empty());
    assert_eq!(gone(&collect(&store, &live(&[1]), None)), live(&[3]));
    // Whoever looks for it by its name is not told that it is absent.
    assert!(store.paths().info(path(2).hash()).unwrap_err().is_damage());
    register(&store, 2);
    assert_ne!(ordinal(&store, 2), number);
}

#[test]
fn a_path_that_only_another_one_names_is_forgotten() {
    let (_dir, disk, store) = state(&[(2, &[]), (1, &[2]), (3, &[])]);
    let number = ordinal(&store, 2);
    damage_info(&disk, 2);
    damage_ordinal(&disk, number);
    let found = store.paths().unreadable().unwrap();
    assert_eq!(found.paths[0].path, Some(path(2)));
    assert_eq!(
        (found.paths[0].ordinal, &*found.unnamed),
        (None, &[number][..])
    );
    store.paths().give_up_unnamed(&found.unnamed).unwrap();
    let collected = collect(&store, &live(&[1]), None);
    assert_eq!(collected.unreadable, [path(2).to_string()]);
    let collection = store.upkeep().begin_collection();
    let nothing = || Ok(HashSet::new());
    let forgotten = collection.forget(&[path(2).hash()], &nothing).unwrap();
    assert_eq!(forgotten.registered, [path(2)]);
    assert!(store.paths().unreadable().unwrap().is_empty());
    assert_eq!(gone(&collect(&store, &live(&[1]), None)), live(&[3]));
}

#[test]
fn chunks_of_a_tree_that_cannot_be_read_stay_unless_they_can_be_fetched_again() {
    for (origin, stays) in [(Origin::Added, true), (Origin::Fetched, false)] {
        let disk = MemoryBackend::default();
        let (_dir, store) = open_in_memory(disk.clone());
        let contents = noise(1, 3000);
        let mut only = kept(&store, &path(1), &contents);
        only.origin = origin;
        store.paths().publish(&[only]).unwrap();
        // Another tree with the same chunk.
        let mut writer = Writer::new(Vec::new());
        writer.regular(true, contents.len() as u64).unwrap();
        writer.contents(&contents).unwrap();
        publish_nar(&store, &path(2), &writer.finish().unwrap());
        let tree = store.paths().info(path(1).hash()).unwrap().unwrap().tree();
        disk.damage(Family::Trees, &tree.unwrap().0);
        store.contents.forget_all();
        evict(&store, 0, &HashSet::new()).unwrap();
        let chunk = store.contents.locate(&ChunkDigest::of(&contents)).unwrap();
        assert_eq!(chunk.is_some(), stays, "{origin:?}");
        collect(&store, &live(&[1]), None);
        let chunk = store.contents.locate(&ChunkDigest::of(&contents)).unwrap();
        assert_eq!(chunk.is_some(), stays, "{origin:?}");
    }
}

#[test]
fn contents_stay_that_an_added_path_shares_whose_path_info_cannot_be_read() {
    for (origin, has_copy, stays) in [
        (Origin::Added, true, true),
        (Origin::Fetched, true, false),
        // Nothing says what it was.
        (Origin::Fetched, false, true),
    ] {
        let disk = MemoryBackend::default();
        let (dir, store) = open_in_memory(disk.clone());
        let contents = noise(1, 3000);
        let mut own = kept(&store, &path(1), &contents);
        own.origin = origin;
        store.paths().publish(&[own]).unwrap();
        publish(&store, &path(2), &contents);
        publish(&store, &path(3), &noise(3, 3000));
        damage_info(&disk, 1);
        store.paths.forget_all();
        if !has_copy {
            std::fs::write(dir.path().join("second-copy"), "").unwrap();
        }
        evict(&store, 0, &HashSet::new()).unwrap();
        store.contents.forget_all();
        let what = format!("{origin:?}, {has_copy}");
        assert_eq!(dump(&store, &path(2)).is_ok(), stays, "{what}");
        assert_eq!(dump(&store, &path(3)).is_ok(), !has_copy, "{what}");
    }
}

#[test]
fn a_state_opens_though_it_cannot_be_read_what_is_next() {
    let (_dir, disk, store) = state(&[(1, &[]), (2, &[])]);
    let before = ordinal(&store, 2);
    collect(&store, &live(&[1]), None);
    drop(store);
    for key in [&b"next-ordinal"[..], b"next-chunk", b"changed"] {
        disk.damage(Family::Meta, key);
    }
    let (_dir, store) = open_in_memory(disk.after(Loss::Process));
    store.paths().changed().unwrap();
    published(&store, 3..4);
    assert!(ordinal(&store, 3) > before);
    assert_eq!(dump(&store, &path(1)).unwrap(), [1; 3000]);
    assert_eq!(dump(&store, &path(3)).unwrap(), [3; 3000]);
}

#[test]
fn a_path_is_forgotten_whatever_refers_to_it_unless_it_is_in_use() {
    let (_dir, disk, store) = state(&[(1, &[]), (2, &[1]), (3, &[]), (4, &[])]);
    damage_info(&disk, 3);
    let forget = |seeds: &[u8], in_use: &[u8]| {
        let hashes: Vec<_> = seeds.iter().map(|seed| path(*seed).hash()).collect();
        let used = live(in_use);
        let collection = store.upkeep().begin_collection();
        collection.forget(&hashes, &|| Ok(used.clone())).unwrap()
    };
    let forgotten = forget(&[1, 3], &[]);
    assert_eq!(forgotten.paths, [path(1)]);
    assert_eq!(forgotten.registered, [path(3)]);
    assert!(forgotten.bytes > 0);
    assert_eq!(store.paths().all().unwrap(), [path(2), path(4)]);
    assert!(store.paths().unreadable().unwrap().is_empty());
    assert_eq!(dump(&store, &path(4)).unwrap(), [4; 3000]);
    collect(&store, &live(&[2, 4]), None);
    assert_sound(&store);
}

/// Flips a bit in the first block of each table of a family of the closed state.
fn flip_first_block(dir: &Path, family: &str) {
    let mut flipped = 0;
    for entry in std::fs::read_dir(dir.join("db")).unwrap() {
        let file = entry.unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        // So the properties of a table say whose it is.
        let named = format!("name{family}").into_bytes();
        let is_of_it = bytes.windows(named.len()).any(|w| w == named);
        if is_of_it && file.extension().is_some_and(|e| e == "sst") {
            bytes[40] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped > 0, "no table of {family}");
}

#[test]
fn flipped_bytes_of_tables_are_gone_around_and_mended() {
    let (dir, store) = store();
    published(&store, 1..200);
    store.records.flush().unwrap();
    let all = store.paths().all().unwrap().len();
    drop(store);
    flip_first_block(dir.path(), "paths");
    flip_first_block(dir.path(), "ordinals");

    let store = open(dir.path()).unwrap();
    let found = store.paths().unreadable().unwrap();
    let named = found
        .paths
        .iter()
        .filter(|lost| lost.path.is_some())
        .count();
    // Those whose numbers cannot be read either have no names.
    let unnamed = found.unnamed.len();
    assert!((10..190).contains(&(named + unnamed)), "{found:?}");
    assert_eq!(store.paths().all().unwrap().len(), all - unnamed);
    let statistics = store.upkeep().statistics().unwrap();
    assert_eq!(
        statistics.paths + statistics.unreadable_paths,
        (all - unnamed) as u64
    );
    let collectable = store.upkeep().collectable(&live(&[1])).unwrap();
    assert!(collectable.paths.is_empty(), "{collectable:?}");
    assert!(!collectable.unreadable.is_empty());
    drop(store);

    let store = open(dir.path()).unwrap();
    published(&store, 1..200);
    for seed in 1..200 {
        assert_eq!(dump(&store, &path(seed)).unwrap(), [seed; 3000], "{seed}");
    }
    let left = store.paths().unreadable().unwrap();
    assert!(left.paths.is_empty(), "{left:?}");
    store.paths().give_up_unnamed(&left.unnamed).unwrap();
    assert_eq!(store.paths().all().unwrap().len(), all);
    drop(store);

    let store = open(dir.path()).unwrap();
    assert!(store.paths().unreadable().unwrap().is_empty());
    let collectable = store.upkeep().collectable(&live(&[1])).unwrap();
    assert_eq!(collectable.unreadable, Vec::<String>::new());
    assert_eq!(collectable.paths.len(), all - 1);
}
