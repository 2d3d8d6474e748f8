//! A database that has lost the list of its files gets another one, made of the files that are there.
//!
//! RocksDB knows its files by a manifest, and that by the file `CURRENT`. Where only `CURRENT` is lost, it is
//! written again. Without a whole manifest, RocksDB's own repair makes one of all tables that can be read, in
//! one level. It knows neither blob files nor the families of which there is no table yet, and would read the
//! log without these; so both are added to what it has made, and the log comes after that. Invariant: the
//! files of the damaged database stay as they are; the new one has links to them.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::backend::Backend;
use super::blob_files::blob_files;
use super::family::Family;
use super::manifest;
use super::mending;
use super::rocks::{OpenError, RocksDb, list_tables};
use crate::store::directory::{LEAST_FREE, check_room, sync_names};
use crate::store::error::StoreError;
use crate::store::format::Format;

/// Tables of a flush whose records are not in the log: of chunks and of their digests.
const UNLOGGED: usize = 2;

/// Where RocksDB's repair puts what it cannot read.
const UNREADABLE: &str = "lost";

/// The files of a kind in a directory, by their numbers; none if there is no directory.
fn numbered(dir: &Path, extension: &str) -> io::Result<BTreeMap<u64, PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let is_kind = path.extension().is_some_and(|e| e == extension);
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number.filter(|_| is_kind && path.is_file()) {
            files.insert(number, path);
        }
    }
    Ok(files)
}

/// Whether the manifest of the database in `dir` is cut off in a way that no power loss does. RocksDB syncs
/// what begins it, with all families, before it uses it; deletes a table only once a later one is in it; and
/// what it flushes is in the log until the tables are in it, but for chunks and digests ([`UNLOGGED`]). It
/// would open the database as it was some time, and delete all tables that have come since.
pub(super) fn is_cut(dir: &Path, format: Format) -> io::Result<bool> {
    let Ok(listed) = manifest::current(dir) else {
        return Ok(false);
    };
    let left = manifest::left_in(&listed);
    if left.is_whole || !listed.is_file() {
        return Ok(false);
    }
    let there = numbered(dir, "sst")?;
    let others = there.keys().filter(|number| !left.tables.contains(number));
    let others = others.count();
    let is_empty = |log: &PathBuf| fs::metadata(log).is_ok_and(|log| log.len() == 0);
    let lacks_log = others > UNLOGGED && numbered(dir, "log")?.values().all(is_empty);
    let lacks_table = left.tables.iter().any(|number| !there.contains_key(number));
    let is_named = |family: &Family| left.families.values().any(|name| name == family.name());
    let mut families = Family::ALL
        .into_iter()
        .filter(|family| family.since() <= format);
    let lacks_family = !families.all(|family| is_named(&family));
    Ok(others > 0 && (lacks_table || lacks_log || lacks_family))
}

/// Writes the file `CURRENT` of the database in `dir` again, if the newest manifest is whole and has all
/// tables that are there; else RocksDB would delete the others. `false` if nothing was written.
pub(super) fn write_current(dir: &Path) -> io::Result<bool> {
    if manifest::current(dir).is_ok_and(|named| named.is_file()) {
        return Ok(false);
    }
    let Some(newest) = manifest::newest(dir)? else {
        return Ok(false);
    };
    let Ok(listed) = manifest::tables_in(&newest) else {
        return Ok(false);
    };
    let listed: HashSet<_> = listed.iter().map(|table| table.number).collect();
    let there = numbered(dir, "sst")?;
    if listed.is_empty() || there.keys().any(|number| !listed.contains(number)) {
        return Ok(false);
    }
    manifest::set_current(dir, &newest)?;
    Ok(true)
}

/// The files of a damaged database that another one has.
#[derive(Default)]
pub(in crate::store) struct Taken(Vec<String>);

impl Taken {
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Deletes them where the damaged database lies now, so that they take no space there.
    pub(in crate::store) fn delete_in(&self, dir: &Path) {
        for name in &self.0 {
            let _ = fs::remove_file(dir.join(name));
        }
    }
}

/// Makes a database in `draft` of what can be read of the files in `dir`; nothing if there are none.
///
/// # Errors
/// The disk is nearly full, or files cannot be read or written.
pub(super) fn list_anew(
    dir: &Path,
    draft: &Path,
    format: Format,
    memory: usize,
    open_files: i32,
) -> Result<Option<(RocksDb, Taken)>, OpenError> {
    let tables = numbered(dir, "sst")?;
    let logs = numbered(dir, "log")?;
    if tables.is_empty() && logs.is_empty() {
        return Ok(None);
    }
    fs::create_dir_all(draft)?;
    let mut taken = Taken::default();
    for file in tables.values().chain(numbered(dir, "blob")?.values()) {
        let name = file.file_name().unwrap_or_default();
        fs::hard_link(file, draft.join(name))?;
        taken.0.push(name.to_string_lossy().into_owned());
    }
    list_tables(draft)?;
    let unreadable = draft.join(UNREADABLE);
    taken.0.retain(|name| !unreadable.join(name).exists());
    if unreadable.exists() {
        fs::remove_dir_all(&unreadable)?;
    }
    let listed = manifest::current(draft)?;
    let mut families = manifest::families_in(&listed)?;
    let known = families.len();
    families.extend(unlisted_families(dir, format, &families));
    let chunks = families
        .iter()
        .find(|(_, name)| **name == *Family::Chunks.name());
    let blobs = blob_files(draft)?.into_iter();
    let blobs: Vec<_> = blobs
        .filter_map(|file| file.contents().ok().flatten())
        .collect();
    let blobs = chunks.map(|(family, _)| (*family, blobs));
    tracing::debug!(known, families = families.len(), "a list of files was made");
    manifest::complete(&listed, &families, blobs.as_ref())?;
    for log in logs.values() {
        fs::copy(log, draft.join(log.file_name().unwrap_or_default()))?;
    }
    sync_names(draft)?;
    let database = mending::open(draft, format, memory, open_files)?;
    Ok(Some((database, taken)))
}

/// The numbers of the families that no table names: as what is left of the manifest says, or else, if all
/// that are known have theirs so, in the order in which a new database gets them.
fn unlisted_families(
    dir: &Path,
    format: Format,
    listed: &BTreeMap<u64, String>,
) -> BTreeMap<u64, String> {
    let left = manifest::newest(dir).ok().flatten();
    let mut found = left.map_or_else(BTreeMap::new, |left| manifest::left_in(&left).families);
    let of_new = Family::ALL.iter().filter(|family| family.since() <= format);
    let of_new = (1..).zip(of_new.map(|family| family.name().to_owned()));
    let of_new: BTreeMap<u64, String> = of_new.collect();
    let is_usual = |(number, name): (&u64, &String)| {
        *number == 0 || of_new.get(number).is_some_and(|usual| usual == name)
    };
    if format >= Format::Third && listed.iter().chain(&found).all(is_usual) {
        found.extend(of_new);
    }
    let names: HashSet<_> = listed.values().collect();
    found.retain(|number, name| !listed.contains_key(number) && !names.contains(name));
    found
}

/// Merges all tables of a database whose tables were listed in one level: what RocksDB finds first there is
/// the newest record only once they are merged.
pub(super) fn merge_all(state: &Path, database: &RocksDb) -> Result<(), StoreError> {
    let bytes = Family::ALL.into_iter();
    let bytes = bytes.filter_map(|family| database.table_bytes(family).ok());
    check_room(state, LEAST_FREE, bytes.sum())?;
    for family in Family::ALL {
        database.merge(family, true);
    }
    Ok(())
}
