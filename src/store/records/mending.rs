//! Taking tables out that cannot be read.
//!
//! A table of which a block is damaged cannot be merged, so that it would stay for ever. Once all of it that
//! was lost has come again, and lies in newer tables, it goes: what can still be read in its range of keys is
//! written anew, the table is taken out of the manifest, and what it had deleted from older tables is deleted
//! again. A kill at any moment leaves the records as they were, or the deletions to whoever collects next.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::backend::{Backend, Batch, Durability, View};
use super::family::Family;
use super::gaps::{self, Gap};
use super::manifest::{self, Table};
use super::rocks::{FEW_FILES, OpenError, RocksDb};
use super::tables::{DamagedTables, number};
use super::{LEAST_FREE, failed};
use crate::store::directory::check_room;
use crate::store::error::StoreError;
use crate::store::format::Format;

/// Bytes of records that are written anew together.
const STEP: usize = 8 << 20;

/// What was in the range of a table.
struct Range {
    table: Table,
    family: Family,
    first: Vec<u8>,
    last: Vec<u8>,
    /// The keys that can be read.
    keys: HashSet<Vec<u8>>,
    gaps: Vec<Gap>,
}

/// Takes out of the database in `dir`, of the state in `state`, what is damaged and mended, if there is
/// something.
pub(super) fn take_out_mended(
    state: &Path,
    dir: &Path,
    format: Format,
    memory: usize,
) -> Result<(), StoreError> {
    if !DamagedTables::of(dir).are_mended() {
        return Ok(());
    }
    let open = || {
        RocksDb::open(dir, format, memory, FEW_FILES).map_err(|e| match e {
            OpenError::Database(e) => failed("what is damaged was taken out")(e),
            OpenError::Directory(source) => StoreError::Directory {
                dir: state.to_owned(),
                what: "what is damaged in its database cannot be taken out",
                source,
            },
        })
    };
    let database = open()?;
    let mut ranges = Vec::new();
    let files = database.mended_tables();
    for file in files.map_err(failed("its files were listed"))? {
        let of = Family::ALL
            .into_iter()
            .find(|f| f.name() == file.column_family_name);
        let (Some(family), Some(number)) = (of, number(&file.name)) else {
            continue;
        };
        let table = Table {
            number,
            level: u64::try_from(file.level).unwrap_or(0),
            family: file.column_family_name,
        };
        let range = Range {
            table,
            family,
            first: file.start_key.unwrap_or_default(),
            last: file.end_key.unwrap_or_default(),
            keys: HashSet::new(),
            gaps: Vec::new(),
        };
        ranges.push(range.write_anew(state, &database)?);
    }
    database
        .flush()
        .map_err(failed("records were written anew"))?;
    drop(database);
    let tables: Vec<_> = ranges.iter().map(|range| &range.table).collect();
    manifest::take_out(dir, &tables).map_err(|source| StoreError::Directory {
        dir: state.to_owned(),
        what: "what is damaged in its database cannot be taken out",
        source,
    })?;
    for table in &tables {
        // RocksDB deletes files only.
        let _ = fs::remove_dir(dir.join(format!("{:06}.sst", table.number)));
    }
    let database = open()?;
    for range in &ranges {
        range.delete_again(&database)?;
    }
    database.flush().map_err(failed("records were deleted"))?;
    database.forget_mended();
    tracing::info!(
        tables = ranges.len(),
        "what was damaged in the database was taken out"
    );
    Ok(())
}

impl Range {
    /// Writes anew what can be read.
    fn write_anew(mut self, state: &Path, database: &RocksDb) -> Result<Self, StoreError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        let write = |batch: &mut Batch, bytes: &mut usize| {
            check_room(state, LEAST_FREE, *bytes as u64 * 2)?;
            *bytes = 0;
            let written = database.write(std::mem::take(batch), Durability::Flush);
            written.map_err(failed("records were written anew"))
        };
        let (last, keys) = (&self.last, &mut self.keys);
        self.gaps = gaps::scan(database, self.family, &self.first, |key, record| {
            if key > last.as_slice() {
                return Ok(false);
            }
            keys.insert(key.to_vec());
            batch.put(self.family, key, record);
            bytes += key.len() + record.len();
            if bytes >= STEP {
                write(&mut batch, &mut bytes)?;
            }
            Ok(true)
        })?;
        write(&mut batch, &mut bytes)?;
        Ok(self)
    }

    /// Deletes what was not there before the table was taken out.
    fn delete_again(&self, database: &RocksDb) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        let scanned = database.scan(self.family, &self.first, &mut |key, _| {
            if key > self.last.as_slice() {
                return false;
            }
            if !self.keys.contains(key) && !self.gaps.iter().any(|gap| gap.contains(key)) {
                batch.delete(self.family, key);
            }
            true
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

            // What is elsewhere can be read and written, whatever is merged.
            let records = open(dir.path());
            assert_eq!(&*records.get(T, b"a").unwrap().unwrap(), b"first");
            assert!(records.get(T, b"b").is_err_and(|e| e.is_damage()));
            assert!(all(&records).unwrap_err().is_damage());
            records.merge(T, true).unwrap();
            write(&records, &[("f", Some("new"))]);
            drop(records);
            let records = open(dir.path());
            records.merge(T, true).unwrap();
            write(&records, &[("b", Some("again"))]);
            assert_eq!(&*records.get(T, b"b").unwrap().unwrap(), b"again");
            assert!(!records.refuses_writes() && !records.is_mended());
            records.set_mended();
            assert!(records.is_mended());
            drop(records);

            let records = open(dir.path());
            assert!(!records.is_mended() && !dir.path().join("damaged-tables").exists());
            let mut found = all(&records).unwrap();
            // Nothing says any more that it was deleted.
            found.retain(|record| record != "c=old");
            assert_eq!(found, ["a=first", "b=again", "e=last", "f=new", "x=1"]);
            records.merge(T, true).unwrap();
            assert!(!records.refuses_writes());
            assert!(tables(dir.path(), b"middle").is_empty());
        }
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
        records.set_mended();
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
