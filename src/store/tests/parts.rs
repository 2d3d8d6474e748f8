//! Chunks that are read in part.

use super::*;

/// Publishes a file that zstd shrinks, whose first chunk has 256 KiB: its contents, and the digest of that.
fn published_chunk(store: &Store) -> (Vec<u8>, ChunkDigest) {
    let line = |line: u32| {
        let says = line.wrapping_mul(2_654_435_761) >> 12;
        format!("line {line} says {says:x} and nothing else\n").into_bytes()
    };
    let contents: Vec<u8> = (0..12_000).flat_map(line).collect();
    publish(store, &path(1), &contents);
    let loaded = store.paths().load(PathOrdinal(1)).unwrap().unwrap();
    let first = loaded.tree().chunks().next().unwrap();
    assert_eq!(first.length, 1 << 18);
    (contents, first.digest)
}

/// Bytes of the file at path 1, as a mount reads them.
fn read(store: &Store, offset: u64, length: u64, reads_on: bool) -> Result<Vec<u8>, StoreError> {
    let path = store.paths().serve(PathOrdinal(1))?.unwrap();
    let mut out = Vec::new();
    let part = (offset, length);
    store
        .contents()
        .serve(path.contents(), part, reads_on, &mut out)?;
    Ok(out)
}

fn in_memory(store: &Store) -> u64 {
    store.contents().cache_counts().chunk_bytes
}

/// Changes a byte of the record of a chunk, counted from its end.
fn damage(store: &Store, digest: ChunkDigest, from_end: usize) {
    let key = store
        .contents
        .locate(&digest)
        .unwrap()
        .unwrap()
        .number
        .to_be_bytes();
    let mut record = store
        .records
        .get(Family::Chunks, &key)
        .unwrap()
        .unwrap()
        .to_vec();
    let at = record.len() - from_end;
    record[at] ^= 0x10;
    let mut batch = Batch::default();
    batch.put(Family::Chunks, key, record);
    store
        .records
        .write(batch, Durability::Power, "a test")
        .unwrap();
    store.contents.forget_chunks();
}

#[test]
fn a_reader_of_a_part_has_no_more_decoded_than_it_needs_and_one_that_reads_on_has_all() {
    let (_dir, store) = store();
    let (contents, _) = published_chunk(&store);
    store.contents.forget_chunks();
    assert_eq!(
        read(&store, 40_000, 10, false).unwrap(),
        contents[40_000..40_010]
    );
    let first = in_memory(&store);
    assert!(first < 70_000, "{first}");
    // What is there is decoded once.
    let misses = store.contents().cache_counts().chunk_misses;
    assert_eq!(read(&store, 9, 50_000, false).unwrap(), contents[9..50_009]);
    assert_eq!(store.contents().cache_counts().chunk_misses, misses);
    assert_eq!(in_memory(&store), first);
    // Who comes back for more of the same frame has all of it, and nothing twice.
    assert_eq!(
        read(&store, 70_000, 10, false).unwrap(),
        contents[70_000..70_010]
    );
    let second = in_memory(&store);
    assert!(second > first && second < 140_000, "{second}");
    assert_eq!(
        read(&store, 70_000, 10, true).unwrap(),
        contents[70_000..70_010]
    );
    let all = in_memory(&store);
    assert!(all > 1 << 18 && all < (1 << 18) + 1000, "{all}");
    assert_eq!(read(&store, 1000, 10, false).unwrap(), contents[1000..1010]);
    assert_eq!(in_memory(&store), all);
}

#[test]
fn any_part_has_its_bytes_whatever_of_the_chunk_is_in_memory() {
    let (_dir, store) = store();
    let contents: Vec<_> = [noise(5, 200_000), vec![7; 500_000], noise(9, 400_000)].concat();
    publish(&store, &path(1), &contents);
    let mut random = 1u64;
    let mut below = |limit: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % limit
    };
    for round in 0..600 {
        if round % 20 == 0 {
            store.contents.forget_chunks();
        }
        let offset = below(contents.len());
        let length = 1 + below([10, 5000, 140_000, 400_000][round % 4]);
        let part = read(&store, offset as u64, length as u64, round % 7 == 0).unwrap();
        let end = contents.len().min(offset + length);
        assert!(part == contents[offset..end], "{offset}, {length}");
        assert!(in_memory(&store) <= store.contents().chunk_capacity());
    }
}

#[test]
fn damage_of_a_part_is_found_by_who_reads_it_and_by_who_verifies_all() {
    let (_dir, store) = store();
    let (contents, digest) = published_chunk(&store);
    damage(&store, digest, 3);
    // The beginning can still be read.
    assert_eq!(read(&store, 10, 10, false).unwrap(), contents[10..20]);
    assert_eq!(store.contents().damaged_chunks(), 0);
    let end_of_chunk = (1 << 18) - 20;
    let error = read(&store, end_of_chunk, 10, false).unwrap_err();
    assert!(
        matches!(&error, StoreError::Chunk { digest: of, what: "damaged", .. } if *of == digest),
        "{error}"
    );
    assert_eq!(store.contents().damaged_chunks(), 1);
    assert!(dump(&store, &path(1)).is_err());
    kept(&store, &path(1), &contents);
    assert_eq!(store.contents().damaged_chunks(), 0);
    assert!(dump(&store, &path(1)).unwrap() == contents);
    store.contents.forget_chunks();
    assert_eq!(read(&store, end_of_chunk, 10, false).unwrap().len(), 10);
    // Of the table each part needs all.
    let key = store.contents.locate(&digest).unwrap().unwrap();
    damage(&store, digest, key.stored_length as usize - 30);
    assert!(read(&store, 10, 10, false).is_err());
    let loaded = store.paths().load(PathOrdinal(1)).unwrap().unwrap();
    assert_eq!(store.contents().find_damage(loaded.contents()), 1);
}

#[test]
fn a_state_says_that_it_has_chunks_in_frames_once_it_has_one() {
    let (dir, store) = store();
    let format = || std::fs::read_to_string(dir.path().join("format")).unwrap();
    let before = "narfs-state 3\nstore-dir /nix/store\n";
    publish(&store, &path(2), &noise(2, 30_000));
    assert_eq!(format(), before);
    publish(&store, &path(1), &[7; 100_000]);
    let listed = "narfs-state 4\nstore-dir /nix/store\nfeature frames\n";
    assert_eq!(format(), listed);
    store.contents().flush().unwrap();
    drop(store);
    // A chunk that is moved, or goes through the log, needs it as well.
    std::fs::write(dir.path().join("format"), before).unwrap();
    let store = open(dir.path()).unwrap();
    assert!(dump(&store, &path(1)).unwrap() == [7; 100_000]);
    assert_eq!(format(), before);
    let tree = store.paths().load(PathOrdinal(2)).unwrap().unwrap();
    let digest = tree.tree().chunks().next().unwrap().digest;
    let number = store.contents.locate(&digest).unwrap().unwrap().number;
    store.contents.write_anew(number).unwrap();
    assert_eq!(format(), listed);
    assert_eq!(read(&store, 1, 2, false).unwrap(), noise(2, 30_000)[1..3]);
}
