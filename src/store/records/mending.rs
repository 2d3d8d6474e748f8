//! Opening a database of which tables cannot be read: they are taken out.
//!
//! A table of which a block is damaged cannot be merged, so that it would stay for ever, and one without
//! its end, or that is gone, keeps RocksDB from opening at all. What can still be read in the range of its
//! keys is written anew, the table is taken out of the manifest, and what it had deleted from older tables is
//! deleted again. What is lost is noted (`tables.rs`). A kill at any moment leaves the records as they were,
//! or the deletions to whoever collects next.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::backend::{Backend, BackendError, Batch, Durability, Lost, View};
use super::family::Family;
use super::gaps::{self, Gap};
use super::manifest::{self, Table};
use super::rocks::{OpenError, RocksDb, newest_manifest};
use super::second_copy;
use super::tables::{Damage, table_named};
use crate::store::directory::{LEAST_FREE, check_room};
use crate::store::error::{StoreError, failed};
use crate::store::format::Format;

/// Bytes of records that are written anew together.
const STEP: usize = 8 << 20;
/// Times that the database is tried to be opened: each attempt may meet another table.
const ATTEMPTS: usize = 1000;
/// Number of open files with which RocksDB opens every table at once.
const ALL_FILES: i32 = -1;

/// Opens the database in `dir`, as [`RocksDb::open`] does, without the tables that cannot be read.
pub(super) fn open(
    dir: &Path,
    format: Format,
    memory: usize,
    open_files: i32,
) -> Result<RocksDb, OpenError> {
    let before = newest_manifest(dir).ok();
    let mut database = open_readable(dir, format, memory, open_files)?;
    // However often it was opened meanwhile.
    database.follow(before);
    Ok(database)
}

fn open_readable(
    dir: &Path,
    format: Format,
    memory: usize,
    open_files: i32,
) -> Result<RocksDb, OpenError> {
    let open = || RocksDb::open(dir, format, memory, open_files);
    for _ in 0..ATTEMPTS {
        let damage = Damage::of(dir);
        if damage.has_unknown() {
            damage.know(unopenable(dir, format, memory));
        }
        let culprit = |e: &BackendError| {
            table_named(&e.to_string()).or_else(|| unopenable(dir, format, memory))
        };
        match take_out(dir, &damage, open, culprit) {
            Ok(true) => continue,
            Ok(false) => {}
            Err(e) => {
                tracing::warn!("what is damaged in the database stays: {e}");
                break;
            }
        }
        match open() {
            Err(OpenError::Database(e)) if e.is_corruption() => match culprit(&e) {
                Some(table) if damage.add(table, &e) => {}
                _ => return Err(OpenError::Database(e)),
            },
            opened => return opened,
        }
    }
    open()
}

/// What was in the range of a table.
struct Range {
    table: Table,
    family: Family,
    /// The keys that can be read.
    keys: HashSet<Vec<u8>>,
    lost: Vec<Lost>,
}

/// Takes out the tables that are noted, and notes what is lost. Returns whether there is more to take out.
fn take_out(
    dir: &Path,
    damage: &Damage,
    open: impl Fn() -> Result<RocksDb, OpenError>,
    culprit: impl Fn(&BackendError) -> Option<u64>,
) -> Result<bool, StoreError> {
    let noted = damage.tables();
    if noted.is_empty() {
        return Ok(false);
    }
    let failed_in = |what| {
        let dir = dir.to_owned();
        move |source| StoreError::Directory { dir, what, source }
    };
    let there = manifest::tables(dir);
    let there = there.map_err(failed_in("the manifest of its database cannot be read"))?;
    let is_noted = |table: &Table| noted.contains(&table.number);
    let mut ranges: Vec<_> = there
        .into_iter()
        .filter(is_noted)
        .filter_map(Range::of)
        .collect();
    if ranges.is_empty() {
        damage.take_out(&noted, Vec::new());
        return Ok(false);
    }
    let mut done = noted.clone();
    match open() {
        Ok(database) => {
            for range in &mut ranges {
                range.write_anew(dir, &database)?;
            }
            let flushed = database.flush();
            flushed.map_err(failed("records were written anew"))?;
        }
        // It opens nothing with a table that it cannot open, so that this one goes unread.
        Err(OpenError::Database(e)) if e.is_corruption() => {
            let Some(table) = culprit(&e) else {
                return Ok(false);
            };
            damage.add(table, &e);
            done.retain(|number| *number == table);
            ranges.retain(|range| range.table.number == table);
            ranges.iter_mut().for_each(Range::lose);
            if ranges.is_empty() {
                return Ok(!noted.contains(&table));
            }
        }
        Err(_) => return Ok(false),
    }
    let lost = ranges.iter().flat_map(|range| range.lost.clone());
    let state = dir.parent().unwrap_or(dir);
    let has_copy = second_copy::is_there(state);
    let lost = lost.filter(|lost| lost.matters() || has_copy && second_copy::keeps_of(lost.family));
    damage.take_out(&done, lost.collect());
    let tables: Vec<_> = ranges.iter().map(|range| range.table.clone()).collect();
    let gone = manifest::take_out(dir, &tables);
    gone.map_err(failed_in("the manifest of its database cannot be written"))?;
    for table in &tables {
        tracing::warn!(
            table = table.number,
            family = table.family,
            "a table that is damaged was taken out of the database"
        );
        // RocksDB deletes files only.
        let _ = fs::remove_dir(dir.join(format!("{:06}.sst", table.number)));
    }
    if let Ok(database) = open() {
        for range in &ranges {
            range.delete_again(&database)?;
        }
        database.flush().map_err(failed("records were deleted"))?;
    }
    Ok(true)
}

/// A table with which RocksDB does not open the database in `dir`, where it does not say which it is.
fn unopenable(dir: &Path, format: Format, memory: usize) -> Option<u64> {
    let tables = manifest::tables(dir).ok()?;
    let fails_with = |some: &[Table]| {
        let others: Vec<_> = tables
            .iter()
            .filter(|t| !some.contains(t))
            .cloned()
            .collect();
        match copy_without(dir, &others) {
            Ok(copy) => matches!(
                RocksDb::open(&copy.path().join("db"), format, memory, ALL_FILES),
                Err(OpenError::Database(e)) if e.is_corruption()
            ),
            Err(e) => {
                tracing::warn!("what is damaged in the database cannot be looked for: {e}");
                false
            }
        }
    };
    let mut some = &tables[..];
    if fails_with(&[]) || !fails_with(some) {
        return None;
    }
    while some.len() > 1 {
        let (first, second) = some.split_at(some.len() / 2);
        some = if fails_with(first) { first } else { second };
    }
    some.first().map(|table| table.number)
}

/// A copy of the database in `dir` without some tables, logs and contents; the tables are links to those of
/// the database.
fn copy_without(dir: &Path, tables: &[Table]) -> io::Result<TempDir> {
    let copy = TempDir::with_prefix_in("db-", dir.parent().unwrap_or(dir))?;
    let to = copy.path().join("db");
    fs::create_dir(&to)?;
    for entry in fs::read_dir(dir)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let is_table = entry.extension().is_some_and(|e| e == "sst");
        let text = name.to_string_lossy();
        match () {
            () if is_table && entry.is_file() => fs::hard_link(&entry, to.join(&name))?,
            () if text == "CURRENT" || text.starts_with("MANIFEST-") => {
                fs::copy(&entry, to.join(&name))?;
            }
            () => {}
        }
    }
    manifest::take_out(&to, tables)?;
    Ok(copy)
}

impl Range {
    fn of(table: Table) -> Option<Self> {
        let family = Family::ALL.into_iter().find(|f| f.name() == table.family)?;
        Some(Self {
            table,
            family,
            keys: HashSet::new(),
            lost: Vec::new(),
        })
    }

    /// Takes all of it for lost.
    fn lose(&mut self) {
        self.lost = vec![Lost {
            family: self.family,
            first: self.table.first.clone(),
            last: self.table.last.clone(),
        }];
    }

    /// Writes anew what can be read.
    fn write_anew(&mut self, dir: &Path, database: &RocksDb) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        let write = |batch: &mut Batch, bytes: &mut usize| {
            check_room(dir, LEAST_FREE, *bytes as u64 * 2)?;
            *bytes = 0;
            let written = database.write(std::mem::take(batch), Durability::Flush);
            written.map_err(failed("records were written anew"))
        };
        let (first, last) = (&self.table.first, &self.table.last);
        let gaps = gaps::scan(database, self.family, first, |key, record| {
            if key > last.as_slice() {
                return Ok(false);
            }
            self.keys.insert(key.to_vec());
            batch.put(self.family, key, record);
            bytes += key.len() + record.len();
            if bytes >= STEP {
                write(&mut batch, &mut bytes)?;
            }
            Ok(true)
        })?;
        write(&mut batch, &mut bytes)?;
        let within = |gap: Gap| Lost {
            family: self.family,
            first: gap.from.max(first.clone()),
            last: gap
                .to
                .map_or_else(|| last.clone(), |to| to.min(last.clone())),
        };
        let lost = gaps.into_iter().map(within);
        self.lost = lost.filter(|lost| lost.first <= lost.last).collect();
        Ok(())
    }

    /// Deletes what was not there before the table was taken out.
    fn delete_again(&self, database: &RocksDb) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        let is_lost = |key: &[u8]| {
            let mut lost = self.lost.iter();
            lost.any(|lost| *key >= *lost.first && *key <= *lost.last)
        };
        let scanned = database.scan(self.family, &self.table.first, &mut |key, _| {
            let is_within = key <= self.table.last.as_slice();
            if is_within && !self.keys.contains(key) && !is_lost(key) {
                batch.delete(self.family, key);
            }
            is_within
        });
        scanned.map_err(failed("records were listed"))?;
        let written = database.write(batch, Durability::Process);
        written.map_err(failed("records were deleted"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::Records;
    use super::*;
    use crate::store::format::Format;

    const T: Family = Family::Digests;

    fn open(dir: &Path) -> Records {
        Records::open(dir, Format::Third.into(), 32 << 20, 64).unwrap()
    }

    fn write(records: &Records, writes: &[(&str, Option<&str>)]) {
        let mut batch = Batch::default();
        for (key, record) in writes {
            match record {
                Some(record) => batch.put(T, *key, *record),
                None => batch.delete(T, *key),
            }
        }
        records.write(batch, Durability::Process, "a test").unwrap();
        records.flush().unwrap();
    }

    fn all(records: &Records) -> Result<Vec<String>, StoreError> {
        let mut all = Vec::new();
        records.scan(T, &[], |key, record| {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            all.push(format!("{}={}", text(key), text(record)));
            Ok(true)
        })?;
        Ok(all)
    }

    /// The tables that have some bytes.
    fn tables(dir: &Path, bytes: &[u8]) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir.join("db")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let has = |path: &PathBuf| {
            path.extension().is_some_and(|e| e == "sst")
                && fs::read(path)
                    .unwrap()
                    .windows(bytes.len())
                    .any(|w| w == bytes)
        };
        paths.filter(has).collect()
    }

    #[test]
    fn a_damaged_table_goes_once_it_is_mended_and_nothing_else_changes() {
        type Harm = fn(&Path);
        let flip: Harm = |table| {
            let mut bytes = fs::read(table).unwrap();
            let at = bytes.windows(6).position(|w| w == b"middle").unwrap();
            bytes[at] ^= 1;
            fs::write(table, bytes).unwrap();
        };
        let cut: Harm = |table| fs::write(table, &fs::read(table).unwrap()[..100]).unwrap();
        let remove: Harm = |table| fs::remove_file(table).unwrap();
        let replace: Harm = |table| {
            fs::remove_file(table).unwrap();
            fs::create_dir(table).unwrap();
        };
        for harm in [flip, cut, remove, replace] {
            let dir = tempfile::tempdir().unwrap();
            let records = open(dir.path());
            write(
                &records,
                &[("a", Some("first")), ("c", Some("old")), ("x", Some("1"))],
            );
            write(
                &records,
                &[("b", Some("middle")), ("c", None), ("d", Some("2"))],
            );
            write(&records, &[("e", Some("last"))]);
            drop(records);
            let [table] = &tables(dir.path(), b"middle")[..] else {
                panic!("not one table");
            };
            harm(table);

            // What is elsewhere is there, whatever is merged.
            let records = open(dir.path());
            assert_eq!(&*records.get(T, b"a").unwrap().unwrap(), b"first");
            let is_there = |key| matches!(records.get(T, key), Ok(Some(_)));
            assert!(!is_there(b"b"));
            records.merge(T, true).unwrap();
            write(&records, &[("f", Some("new"))]);
            assert!(!records.refuses_writes());
            drop(records);

            // What was met by the one before is taken out.
            let records = open(dir.path());
            let mut found = all(&records).unwrap();
            // Nothing says any more that it was deleted.
            found.retain(|record| record != "c=old");
            assert_eq!(found, ["a=first", "e=last", "f=new", "x=1"]);
            write(&records, &[("b", Some("again"))]);
            records.merge(T, true).unwrap();
            assert!(!records.refuses_writes() && !records.has_new_damage());
            assert_eq!(&*records.get(T, b"b").unwrap().unwrap(), b"again");
            assert!(tables(dir.path(), b"middle").is_empty());
            assert!(!dir.path().join("damaged-tables").exists());
        }
    }

    #[test]
    fn what_may_be_lost_is_damage_until_it_is_mended() {
        const P: Family = Family::Paths;
        let dir = tempfile::tempdir().unwrap();
        let records = open(dir.path());
        let put = |keys: &[&str]| {
            let mut batch = Batch::default();
            for key in keys {
                batch.put(P, *key, *key);
            }
            records.write(batch, Durability::Process, "a test").unwrap();
            records.flush().unwrap();
        };
        put(&["a", "z"]);
        let before = tables(dir.path(), b"rocksdb");
        put(&["d", "m"]);
        drop(records);
        // Nothing brings it back.
        fs::remove_file(second_copy::path(dir.path())).unwrap();
        for table in tables(dir.path(), b"rocksdb") {
            if !before.contains(&table) {
                fs::remove_file(table).unwrap();
            }
        }
        let list = |records: &Records| records.scan(P, &[], |_, _| Ok(true));
        for _ in 0..2 {
            let records = open(dir.path());
            for key in ["d", "e", "m"] {
                assert!(records.get(P, key.as_bytes()).is_err_and(|e| e.is_damage()));
            }
            for key in ["b", "n"] {
                assert!(records.get(P, key.as_bytes()).unwrap().is_none());
            }
            assert!(records.get(P, b"a").unwrap().is_some());
            assert!(list(&records).is_err_and(|e| e.is_damage()));
            let mut found = Vec::new();
            let gaps = records.scan_readable(P, &[], |key, _| {
                found.push(key.to_vec());
                Ok(true)
            });
            let gaps = gaps.unwrap();
            assert!(found == [b"a", b"z"] && gaps.iter().any(|gap| gap.contains(b"d")));
        }
        let records = open(dir.path());
        records.set_mended();
        assert!(records.get(P, b"d").unwrap().is_none());
        list(&records).unwrap();
        drop(records);
        list(&open(dir.path())).unwrap();
    }

    #[test]
    fn what_is_readable_of_a_mended_table_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let records = open(dir.path());
        // More than one block.
        let keys: Vec<_> = (0..2000).map(|n| format!("{n:05}")).collect();
        let first: Vec<_> = keys.iter().map(|k| (k.as_str(), Some("old"))).collect();
        write(&records, &first);
        let second = keys.iter().enumerate().map(|(n, k)| match n % 3 {
            0 => (k.as_str(), None),
            _ => (k.as_str(), Some("newer")),
        });
        write(&records, &second.collect::<Vec<_>>());
        let before = all(&records).unwrap();
        drop(records);
        let [table] = &tables(dir.path(), b"newer")[..] else {
            panic!("not one table");
        };
        let mut bytes = fs::read(table).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        fs::write(table, bytes).unwrap();

        let records = open(dir.path());
        assert!(all(&records).unwrap_err().is_damage());
        assert!(records.has_new_damage());
        drop(records);
        let records = open(dir.path());
        let after = all(&records).unwrap();
        let changed: Vec<_> = after.iter().filter(|r| !before.contains(r)).collect();
        let lost = before.iter().filter(|r| !after.contains(r)).count();
        // One block of 4 KiB has some 300 records here.
        assert!((1..600).contains(&lost), "{lost} are lost");
        assert!(changed.iter().all(|r| r.ends_with("=old")), "{changed:?}");
        assert!(changed.len() < 800, "{}", changed.len());
    }
}
