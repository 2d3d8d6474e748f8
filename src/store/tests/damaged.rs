//! Records that are damaged or missing.

use super::*;

/// Puts `value` where `family` has its first record.
fn overwrite(store: &Store, family: Family, value: &[u8]) {
    let mut key = Vec::new();
    let first = |k: &[u8], _: &[u8]| {
        key.extend_from_slice(k);
        Ok(false)
    };
    store.records.scan(family, &[], first).unwrap();
    let mut batch = Batch::default();
    batch.put(family, key, value);
    store
        .records
        .write(batch, Durability::Power, "a test")
        .unwrap();
}

fn first_record(store: &Store, family: Family) -> Vec<u8> {
    let mut record = Vec::new();
    let first = |_: &[u8], v: &[u8]| {
        record.extend_from_slice(v);
        Ok(false)
    };
    store.records.scan(family, &[], first).unwrap();
    record
}

/// Publishes a program with these contents: another tree than that of a file.
fn publish_program(store: &Store, path: &StorePath, contents: &[u8]) {
    let mut writer = Writer::new(Vec::new());
    writer.regular(true, contents.len() as u64).unwrap();
    writer.contents(contents).unwrap();
    publish_nar(store, path, &writer.finish().unwrap());
}

/// A record with every kind of damage.
fn damaged(good: &[u8]) -> Vec<Vec<u8>> {
    let mut bad = vec![Vec::new(), vec![0; good.len()], vec![0xff; good.len()]];
    bad.push([good, &[0]].concat());
    for n in [1, 2, 3, 4, 8, 9, 17, good.len() / 2, good.len() - 1] {
        bad.push(good[..n.min(good.len() - 1)].to_vec());
    }
    for at in 0..good.len().min(60) {
        let mut flipped = good.to_vec();
        flipped[at] ^= 0x41;
        bad.push(flipped);
    }
    bad
}

#[test]
fn damaged_records_are_errors_and_no_panics() {
    for family in [
        Family::Paths,
        Family::Trees,
        Family::Chunks,
        Family::Ordinals,
    ] {
        let (_dir, store) = store();
        published(&store, 1..2);
        let good = first_record(&store, family);
        for record in damaged(&good) {
            overwrite(&store, family, &record);
            // Nothing of it is in the caches of a new owner.
            store.contents.forget_all();
            store.paths.forget_all();
            let read = || -> Result<Vec<u8>, StoreError> {
                let _ = store.upkeep().statistics();
                store.paths().all()?;
                let loaded = store.paths().load(PathOrdinal(1))?;
                drop(loaded);
                dump(&store, &path(1))
            };
            // An error, or the right bytes: never others.
            match read() {
                Ok(bytes) => assert_eq!(bytes, [1; 3000], "{family:?} {record:?}"),
                Err(e) => assert!(!e.to_string().is_empty()),
            }
        }
    }
}

#[test]
fn a_damaged_digest_record_gives_no_other_bytes_and_is_replaced_or_removed() {
    let contents = [noise(1, 3000), noise(3, 3000)];
    let state = || {
        let (dir, store) = open_in_memory(MemoryBackend::default());
        publish(&store, &path(1), &contents[0]);
        publish(&store, &path(2), &contents[1]);
        (dir, store)
    };
    let keys = contents.each_ref().map(|c| ChunkDigest::of(c));
    let record = |store: &Store, key: ChunkDigest| {
        let record = store.records.get(Family::Digests, &key.0).unwrap();
        record.unwrap().to_vec()
    };
    let (_dir, store) = state();
    let mut bad = damaged(&record(&store, keys[0]));
    // That of the other chunk.
    bad.push(record(&store, keys[1]));
    let keep = HashSet::from([path(2).hash()]);
    for record in bad {
        let (_dir, store) = state();
        let damage = || {
            let mut batch = Batch::default();
            batch.put(Family::Digests, keys[0].0, &*record);
            let written = store.records.write(batch, Durability::Power, "a test");
            written.unwrap();
        };
        damage();
        store.upkeep().statistics().unwrap();
        if record.len() == 16 {
            // It names a chunk: of others no byte is read.
            publish_program(&store, &path(3), &contents[0]);
            store.contents.forget_chunks();
            match dump(&store, &path(3)) {
                Ok(bytes) => assert!(bytes == contents[0], "{record:?}"),
                Err(e) => assert!(matches!(e, StoreError::Chunk { .. }), "{e}"),
            }
            evict(&store, 0, &keep).unwrap();
        } else {
            // The chunk is not found, and comes anew.
            assert_eq!(store.contents.locate(&keys[0]).unwrap(), None);
            evict(&store, 0, &keep).unwrap();
            assert!(is_dropped(&store, &path(1)));
            let left = store.records.get(Family::Digests, &keys[0].0).unwrap();
            assert!(left.is_none());
            damage();
            publish_program(&store, &path(3), &contents[0]);
            store.contents.forget_chunks();
            assert!(dump(&store, &path(3)).unwrap() == contents[0], "{record:?}");
            assert!(store.contents.locate(&keys[0]).unwrap().is_some());
        }
        let other = dump(&store, &path(2)).unwrap_or_else(|e| panic!("{record:?}: {e}"));
        assert!(other == contents[1], "{record:?}");
    }
}

#[test]
fn the_record_of_another_tree_is_damaged() {
    let (_dir, store) = store();
    published(&store, 1..3);
    let record = first_record(&store, Family::Trees);
    let mut batch = Batch::default();
    for seed in 1..3 {
        let info = store.paths().info(path(seed).hash()).unwrap().unwrap();
        batch.put(Family::Trees, info.tree().unwrap().0, &*record);
    }
    store
        .records
        .write(batch, Durability::Power, "a test")
        .unwrap();
    store.contents.forget_all();
    let read = [1, 2].map(|seed| dump(&store, &path(seed)));
    let damaged = read
        .iter()
        .filter(|r| matches!(r, Err(StoreError::Damaged { .. })));
    assert_eq!(damaged.count(), 1, "{read:?}");
}

#[test]
fn a_path_with_fewer_references_than_its_tree_is_damaged() {
    let (_dir, store) = store();
    let contents = [&[0; 100][..], path(9).hash().to_string().as_bytes()].concat();
    let mut writer = store.contents().chunk_writer().unwrap();
    let unpacked = Unpacker::new(&mut writer, &[path(9)], &store.spool())
        .unpack(&nar(&contents)[..])
        .unwrap();
    let mut publication = kept(&store, &path(1), &contents);
    publication.tree = unpacked.tree;
    store.paths().publish(&[publication]).unwrap();
    let error = dump(&store, &path(1)).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn a_tree_with_numbers_of_some_of_its_chunks_is_damaged() {
    let (_dir, store) = store();
    publish(&store, &path(1), &noise(1, 600_000));
    let mut record = first_record(&store, Family::Trees);
    // As `format.md` says: codec, length, count of chunks, and a number for each.
    record[5] -= 1;
    record.drain(9..17);
    assert!(TreeRecord::parse(&record).unwrap().numbers().len() > 0);
    overwrite(&store, Family::Trees, &record);
    store.contents.forget_all();
    let error = dump(&store, &path(1)).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn a_chunk_that_is_in_memory_is_dumped_from_the_disk() {
    let (_dir, store) = store();
    published(&store, 1..2);
    let loaded = store.paths().load(PathOrdinal(1)).unwrap().unwrap();
    let mut out = Vec::new();
    let mut read = || store.contents().read(loaded.contents(), 0, 3000, &mut out);
    read().unwrap();
    overwrite(&store, Family::Chunks, b"nonsense");
    read().unwrap();
    let dumped = store.contents().dump(loaded.contents(), 0, std::io::sink());
    assert!(dumped.is_err());
}

#[test]
fn a_path_goes_without_the_digest_of_a_chunk_that_another_path_brought_anew() {
    let (_dir, store) = store();
    let contents = noise(1, 3000);
    publish(&store, &path(1), &contents);
    let mut batch = Batch::default();
    batch.delete(Family::Digests, ChunkDigest::of(&contents).0);
    store
        .records
        .write(batch, Durability::Power, "a test")
        .unwrap();
    publish_program(&store, &path(2), &contents);
    collect(&store, &HashSet::from([path(2).hash()]), None);
    let digest = ChunkDigest::of(&contents);
    assert!(store.contents.locate(&digest).unwrap().is_some());
    dump(&store, &path(2)).unwrap();
}

#[test]
fn a_damaged_chunk_is_named_and_the_next_ingest_mends_it() {
    let (_dir, store) = store();
    let contents = [1; 3000];
    published(&store, 1..2);
    overwrite(&store, Family::Chunks, b"nonsense");
    store.contents.forget_chunks();
    let error = dump(&store, &path(1)).unwrap_err();
    let StoreError::Chunk {
        path: named,
        digest,
        what,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (named, *digest, *what),
        (&path(1), ChunkDigest::of(&contents), "damaged")
    );
    assert!(error.to_string().contains(&digest.to_string()));
    kept(&store, &path(1), &contents);
    assert_eq!(dump(&store, &path(1)).unwrap(), contents);
    assert_eq!(store.upkeep().statistics().unwrap().chunks, 1);
}

#[test]
fn a_missing_chunk_is_named_and_the_next_ingest_brings_it_back() {
    let (_dir, store) = store();
    published(&store, 1..2);
    let mut batch = Batch::default();
    batch.delete(Family::Chunks, 0u64.to_be_bytes());
    store
        .records
        .write(batch, Durability::Power, "a test")
        .unwrap();
    store.contents.forget_chunks();
    let error = dump(&store, &path(1)).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Chunk {
                what: "missing",
                ..
            }
        ),
        "{error}"
    );
    kept(&store, &path(1), &[1; 3000]);
    assert_eq!(dump(&store, &path(1)).unwrap(), [1; 3000]);
}
