//! The contract of [`Records`], for each backend.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::store::format::Format;

/// Runs a test over each backend.
fn each(test: fn(&Records)) {
    let dir = tempfile::tempdir().unwrap();
    eprintln!("RocksDB");
    test(&Records::open(dir.path(), Format::Third.into(), 32 << 20, 64).unwrap());
    eprintln!("memory");
    test(&Records::in_memory(
        dir.path(),
        Format::Third.into(),
        MemoryBackend::default(),
    ));
}

fn batch(writes: &[(Family, &str, Option<&str>)]) -> Batch {
    let mut batch = Batch::default();
    for (family, key, record) in writes {
        match record {
            Some(record) => batch.put(*family, *key, *record),
            None => batch.delete(*family, *key),
        }
    }
    batch
}

fn all(records: &Records, family: Family, from: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    records
        .scan(family, from.as_bytes(), |key, record| {
            all.push((text(key), text(record)));
            Ok(true)
        })
        .unwrap();
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn get(records: &Records, family: Family, key: &str) -> Option<String> {
    let found = records.get(family, key.as_bytes()).unwrap();
    found.map(|record| text(&record))
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

const T: Family = Family::Trees;
const M: Family = Family::Meta;

#[test]
fn records_are_found_by_their_keys_in_their_family() {
    each(|records| {
        let written = batch(&[(T, "b", Some("2")), (T, "a", Some("1")), (M, "a", Some(""))]);
        records.write(written, Durability::Power, "a test").unwrap();
        assert_eq!(get(records, T, "a").as_deref(), Some("1"));
        assert_eq!(get(records, M, "a").as_deref(), Some(""));
        assert_eq!(get(records, M, "b"), None);
        assert_eq!(get(records, T, ""), None);
        assert_eq!(all(records, T, ""), pairs(&[("a", "1"), ("b", "2")]));
        assert_eq!(all(records, Family::Views, ""), []);
    });
}

#[test]
fn the_writes_of_a_batch_are_done_in_their_order() {
    each(|records| {
        let durabilities = [Durability::Flush, Durability::Process, Durability::Power];
        for durability in durabilities {
            let written = batch(&[
                (T, "a", Some("1")),
                (T, "a", Some("2")),
                (T, "b", Some("1")),
                (T, "b", None),
                (T, "c", None),
                (T, "c", Some("1")),
            ]);
            records.write(written, durability, "a test").unwrap();
            assert_eq!(all(records, T, ""), pairs(&[("a", "2"), ("c", "1")]));
        }
        let mut written = batch(&[(M, "a", Some("1"))]);
        written.clear(T);
        written.put(T, "b", "1");
        records.write(written, Durability::Power, "a test").unwrap();
        assert_eq!(all(records, T, ""), pairs(&[("b", "1")]));
        assert_eq!(get(records, M, "a").as_deref(), Some("1"));
    });
}

#[test]
fn a_scan_goes_from_a_key_on_until_it_is_ended() {
    each(|records| {
        let written = batch(&[
            (T, "a", Some("1")),
            (T, "b", Some("2")),
            (T, "ba", Some("3")),
            (T, "c", Some("4")),
            (Family::Views, "a", Some("5")),
        ]);
        records
            .write(written, Durability::Process, "a test")
            .unwrap();
        let from_b = pairs(&[("b", "2"), ("ba", "3"), ("c", "4")]);
        assert_eq!(all(records, T, "b"), from_b);
        assert_eq!(all(records, T, "d"), []);
        let mut seen = 0;
        let ended = records.scan(T, b"", |_, _| {
            seen += 1;
            Ok(seen < 2)
        });
        ended.unwrap();
        assert_eq!(seen, 2);
        let failed = records.scan(T, b"", |_, _| {
            Err(StoreError::Damaged {
                what: "a test".into(),
            })
        });
        assert!(matches!(failed, Err(StoreError::Damaged { .. })));
        assert_eq!(records.first_key(T).unwrap().as_deref(), Some(&b"a"[..]));
        assert_eq!(records.last_key(T).unwrap().as_deref(), Some(&b"c"[..]));
        assert_eq!(records.last_key(Family::Uses).unwrap(), None);
    });
}

#[test]
fn a_snapshot_stays_as_it_is() {
    each(|records| {
        let put = |value| batch(&[(T, "a", Some(value))]);
        records
            .write(put("1"), Durability::Flush, "a test")
            .unwrap();
        assert_eq!(records.snapshots().unwrap(), 0);
        let snapshot = records.snapshot();
        assert_eq!(records.snapshots().unwrap(), 1);
        records
            .write(put("2"), Durability::Power, "a test")
            .unwrap();
        records.flush().unwrap();
        let mut seen = Vec::new();
        let scanned = snapshot.scan_readable(T, b"", |_, record| {
            seen.push(text(record));
            Ok(true)
        });
        assert!(scanned.unwrap().is_empty());
        assert_eq!(seen, ["1"]);
        assert_eq!(get(records, T, "a").as_deref(), Some("2"));
        drop(snapshot);
        assert_eq!(records.snapshots().unwrap(), 0);
    });
}

#[test]
fn a_merge_changes_nothing_that_is_read() {
    each(|records| {
        for round in 0..3 {
            let value = round.to_string();
            let written = batch(&[
                (T, "a", Some(&value)),
                (T, &value, Some("1")),
                (T, "b", None),
            ]);
            records.write(written, Durability::Flush, "a test").unwrap();
            records.flush().unwrap();
        }
        let before = all(records, T, "");
        records.merge(T, true).unwrap();
        assert_eq!(all(records, T, ""), before);
        assert_eq!(records.file_records(T).unwrap(), 4);
        assert!(records.file_bytes(T).unwrap() > 0);
    });
}

#[test]
fn a_family_that_the_format_lacks_is_empty_until_a_record_raises_the_format() {
    let views = Family::Views;
    for is_in_memory in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let format = dir.path().join("format");
        let is_of = |number| {
            let text = std::fs::read_to_string(&format).unwrap();
            assert_eq!(
                text,
                format!("narfs-state {number}\nstore-dir /nix/store\n")
            );
        };
        let open = |format: Format| match is_in_memory {
            false => Records::open(dir.path(), format.into(), 32 << 20, 64).unwrap(),
            true => Records::in_memory(dir.path(), format.into(), MemoryBackend::default()),
        };
        let records = open(Format::First);
        let write = |writes: &[_]| records.write(batch(writes), Durability::Power, "a test");
        assert_eq!(all(&records, views, ""), []);
        assert_eq!(get(&records, views, "a"), None);
        assert_eq!(records.last_key(views).unwrap(), None);
        let nothing = |_: &[u8], _: &[u8]| panic!("it is empty");
        let scanned = records.snapshot().scan_readable(views, b"", nothing);
        assert!(scanned.unwrap().is_empty());
        assert_eq!(records.file_bytes(views).unwrap(), 0);
        assert_eq!(records.file_records(views).unwrap(), 0);
        records.merge(views, true).unwrap();
        records.flush().unwrap();
        // The format is raised first, and nothing is written if that fails.
        write(&[(T, "a", Some("1"))]).unwrap_err();
        assert_eq!(get(&records, T, "a"), None);
        std::fs::write(&format, "narfs-state 1\nstore-dir /nix/store\n").unwrap();
        write(&[]).unwrap();
        is_of(1);
        write(&[(views, "a", None), (T, "a", Some("1"))]).unwrap();
        is_of(2);
        let mut cleared = Batch::default();
        cleared.clear(views);
        let durability = Durability::Power;
        records.write(cleared, durability, "a test").unwrap();
        write(&[(Family::Roots, "a", Some("1"))]).unwrap();
        is_of(2);
        write(&[(views, "a", Some("1"))]).unwrap();
        is_of(3);
        assert_eq!(all(&records, views, ""), pairs(&[("a", "1")]));
        drop(records);
        if !is_in_memory {
            let records = open(Format::Third);
            assert_eq!(get(&records, views, "a").as_deref(), Some("1"));
        }
    }
}

/// Writes batches of each durability, the first of them flushed.
fn write_each(records: &Records) {
    let put = |key, durability| {
        let written = batch(&[(T, key, Some("1"))]);
        records.write(written, durability, "a test").unwrap();
    };
    put("flushed", Durability::Flush);
    records.flush().unwrap();
    put("a", Durability::Power);
    put("b", Durability::Process);
    put("c", Durability::Power);
    put("d", Durability::Process);
    put("e", Durability::Flush);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_batch_survives_what_its_durability_says() {
    let keys = |records: &Records| {
        let all = all(records, T, "").into_iter();
        all.map(|(key, _)| key).collect::<Vec<_>>()
    };
    let (dir, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rocks = Records::open(dir.path(), Format::Third.into(), 32 << 20, 64).unwrap();
    write_each(&rocks);
    // What the files have now is what they would have if this process were killed.
    copy(&dir.path().join("db"), &after.path().join("db"));
    let killed = Records::open(after.path(), Format::Third.into(), 32 << 20, 64).unwrap();
    assert_eq!(keys(&killed), ["a", "b", "c", "d", "flushed"]);

    let disk = MemoryBackend::default();
    write_each(&Records::in_memory(
        dir.path(),
        Format::Third.into(),
        disk.clone(),
    ));
    let after = |loss| {
        keys(&Records::in_memory(
            dir.path(),
            Format::Third.into(),
            disk.after(loss),
        ))
    };
    assert_eq!(after(Loss::Process), ["a", "b", "c", "d", "flushed"]);
    assert_eq!(after(Loss::Power), ["a", "b", "c", "flushed"]);
}

#[test]
fn a_write_that_fails_writes_nothing_and_neither_does_one_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryBackend::default();
    let records = Records::in_memory(dir.path(), Format::Third.into(), disk.clone());
    let write = |key| records.write(batch(&[(T, key, Some("1"))]), Durability::Power, "a test");
    disk.fail_from(Some(1));
    write("a").unwrap();
    let error = write("b").unwrap_err();
    assert!(matches!(error, StoreError::Database { .. }), "{error}");
    records.flush().unwrap_err();
    write("c").unwrap_err();
    assert_eq!(disk.writes(), 4);
    assert_eq!(all(&records, T, ""), pairs(&[("a", "1")]));
    disk.fail_from(None);
    write("c").unwrap();
    assert_eq!(disk.writes(), 1);
}

/// A key like a hash.
fn hashed(number: u32) -> Vec<u8> {
    let digest = crate::chunk::ChunkDigest::of(&number.to_be_bytes());
    digest.0[..20].to_vec()
}

/// Flips a bit of `content` in the table of the closed database that has it.
fn flip(state: &Path, content: &[u8]) {
    for entry in std::fs::read_dir(state.join("db")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(content.len()).position(|w| w == content);
        if let Some(at) = found.filter(|_| path.extension().is_some_and(|e| e == "sst")) {
            bytes[at] ^= 1;
            return std::fs::write(&path, bytes).unwrap();
        }
    }
    panic!("the content is in no table");
}

/// What of these keys a listing visits; all others have to be in a gap.
fn visited(records: &Records, keys: &[Vec<u8>]) -> BTreeSet<Vec<u8>> {
    let mut visited = BTreeSet::new();
    let gaps = records.scan_readable(T, &[], |key, _| {
        assert!(visited.insert(key.to_vec()), "{key:?} twice");
        Ok(true)
    });
    let gaps = gaps.unwrap();
    for key in keys.iter().filter(|key| !visited.contains(*key)) {
        assert!(gaps.iter().any(|gap| gap.contains(key)), "{key:?} {gaps:?}");
    }
    visited
}

#[test]
fn a_listing_goes_on_behind_blocks_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Records::open(dir.path(), Format::Third.into(), 32 << 20, 64).unwrap();
    let records = open();
    let keys: Vec<_> = (0..2000).map(hashed).collect();
    let mut written = Batch::default();
    for (number, key) in keys.iter().enumerate() {
        written.put(T, &key[..], format!("{number:0100}"));
    }
    records.write(written, Durability::Power, "a test").unwrap();
    records.flush().unwrap();
    assert_eq!(visited(&records, &keys).len(), keys.len());
    drop(records);
    // Of the first key, of the last, and two more.
    let mut sorted = keys.clone();
    sorted.sort();
    let damaged = [&sorted[0], &sorted[700], &sorted[1500], &sorted[1999]];
    for key in damaged {
        let number = keys.iter().position(|k| k == key).unwrap();
        flip(dir.path(), format!("{number:0100}").as_bytes());
    }
    let records = open();
    let readable = visited(&records, &keys);
    // A block has some thirty of them.
    assert!((1800..1990).contains(&readable.len()), "{}", readable.len());
    let strict = records.scan(T, &[], |_, _| Ok(true)).unwrap_err();
    assert!(strict.is_damage(), "{strict}");
    for key in damaged {
        assert!(!readable.contains(key));
        assert!(records.get(T, key).err().unwrap().is_damage());
        let mut again = Batch::default();
        again.put(T, &key[..], "again");
        records.write(again, Durability::Power, "a test").unwrap();
        assert_eq!(&*records.get(T, key).unwrap().unwrap(), b"again");
    }
    // What ends a listing on purpose ends it.
    let mut seen = 0;
    let ended = records.scan_readable(T, &sorted[800], |_, _| {
        seen += 1;
        Ok(seen < 3)
    });
    assert!(ended.unwrap().is_empty() && seen == 3);
}

#[test]
fn records_that_are_damaged_in_the_eyes_of_the_visitor_or_in_memory_are_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryBackend::default();
    let records = Records::in_memory(dir.path(), Format::Third.into(), disk.clone());
    let keys: Vec<_> = (0..20).map(hashed).collect();
    let mut written = Batch::default();
    keys.iter().for_each(|key| written.put(T, &key[..], "1"));
    records.write(written, Durability::Power, "a test").unwrap();
    disk.damage(T, &keys[3]);
    let readable = visited(&records, &keys);
    assert_eq!(readable.len(), 19);
    assert!(records.get(T, &keys[3]).is_err());
    let gaps = records.scan_readable(T, &[], |key, _| match key == keys[5] {
        true => Err(StoreError::Damaged {
            what: "a test".into(),
        }),
        false => Ok(true),
    });
    let gaps = gaps.unwrap();
    let is_gap = |key: &Vec<u8>| gaps.iter().any(|gap| gap.contains(key));
    let passed_over: Vec<_> = keys.iter().filter(|key| is_gap(key)).collect();
    assert_eq!(passed_over, [&keys[3], &keys[5]]);
    let failed = records.scan_readable(T, &[], |_, _| Err(StoreError::TooManyViews));
    assert!(matches!(failed, Err(StoreError::TooManyViews)));
}
