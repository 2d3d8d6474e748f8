//! What is known to be damaged in the database.
//!
//! RocksDB names a table in the errors that it causes. It is noted in the file `damaged-tables` of the
//! state, so that the next opening takes it out (`mending.rs`), with a line `table NUMBER`; where RocksDB
//! refuses to write and names no table, there is a line `unknown`. What could not be read of a table is noted
//! then, where nothing else would tell that it was there: a line `lost FAMILY FIRST LAST`, with keys in
//! hexadecimal, and `unsettled` until the second copy was asked for it.
//!
//! Invariants: a table that is noted takes part in no merge, since RocksDB refuses every write after it has
//! met what it cannot merge; and the key of a record that may be lost is never taken for one that was never
//! there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use data_encoding::HEXLOWER;

use super::backend::{BackendError, Lost};
use super::family::Family;
use crate::sync::lock;

/// The name of the file in the state.
const FILE: &str = "damaged-tables";

#[derive(Default)]
struct Known {
    tables: BTreeSet<u64>,
    /// Whether there is a table that is not named.
    has_unknown: bool,
    lost: Vec<Lost>,
    /// Whether something else may bring back what is lost.
    is_unsettled: bool,
}

impl Known {
    fn is_something(&self) -> bool {
        self.has_unknown || !self.tables.is_empty() || !self.lost.is_empty()
    }
}

/// What is known to be damaged.
pub(super) struct Damage {
    file: PathBuf,
    known: Mutex<Known>,
    /// Whether something is known at all, for readers.
    is_there: AtomicBool,
    /// Whether a table was noted since the database was opened.
    is_new: AtomicBool,
}

impl Damage {
    /// What the owner before has left of the database in `dir`.
    pub(super) fn of(dir: &Path) -> Self {
        let file = dir.with_file_name(FILE);
        let text = fs::read_to_string(&file).unwrap_or_else(|e| {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!("{} cannot be read: {e}", file.display());
            }
            String::new()
        });
        let mut known = Known::default();
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["table", number] => known.tables.extend(number.parse::<u64>()),
                ["lost", family, first, last] => known.lost.extend(lost(family, first, last)),
                ["unknown"] => known.has_unknown = true,
                ["unsettled"] => known.is_unsettled = true,
                _ => {}
            }
        }
        Self {
            file,
            is_there: AtomicBool::new(known.is_something()),
            known: Mutex::new(known),
            is_new: AtomicBool::new(false),
        }
    }

    /// What is known, unless it is nothing.
    fn known(&self) -> Option<MutexGuard<'_, Known>> {
        let is_there = self.is_there.load(Ordering::Relaxed);
        is_there.then(|| lock(&self.known))
    }

    /// The tables that are to be taken out.
    pub(super) fn tables(&self) -> BTreeSet<u64> {
        let known = self.known();
        known.map_or_else(BTreeSet::new, |known| known.tables.clone())
    }

    /// Whether a table was noted since the database was opened.
    pub(super) fn has_new_table(&self) -> bool {
        self.is_new.load(Ordering::Relaxed)
    }

    /// The keys of a family of which some may be lost.
    pub(super) fn lost(&self, family: Family) -> Vec<Lost> {
        let lost = |known: MutexGuard<'_, Known>| {
            let of_family = known.lost.iter().filter(|lost| lost.family == family);
            of_family.cloned().collect()
        };
        self.known().map_or_else(Vec::new, lost)
    }

    /// Whether something may be lost that nothing else was asked for.
    pub(super) fn is_unsettled(&self) -> bool {
        self.known().is_some_and(|known| known.is_unsettled)
    }

    /// Notes that nothing else brings back what is lost. What is copied from now on lacks it.
    pub(super) fn settle(&self) {
        if let Some(mut known) = self.known() {
            known.is_unsettled = false;
            self.write(&known);
        }
    }

    /// Whether the record of a key that is not there may be lost.
    pub(super) fn is_lost(&self, family: Family, key: &[u8]) -> bool {
        let contains = |lost: &Lost| lost.contains(family, key);
        self.known()
            .is_some_and(|known| known.lost.iter().any(contains))
    }

    /// Whether a table is to be looked for.
    pub(super) fn has_unknown(&self) -> bool {
        self.known().is_some_and(|known| known.has_unknown)
    }

    /// Notes what a search for a table has found.
    pub(super) fn know(&self, found: Option<u64>) {
        let mut known = lock(&self.known);
        known.has_unknown = false;
        known.tables.extend(found);
        self.write(&known);
    }

    /// Notes the table that an error names; says whether it was not known.
    pub(super) fn note(&self, error: &BackendError) -> bool {
        table_named(&error.to_string()).is_some_and(|table| self.add(table, error))
    }

    /// Notes that there is a table which an error does not name, and that it has RocksDB refuse to write.
    pub(super) fn note_refusal(&self, error: &BackendError) {
        let mut known = lock(&self.known);
        if table_named(&error.to_string()).is_none() && !known.has_unknown {
            known.has_unknown = true;
            self.is_new.store(true, Ordering::Relaxed);
            self.write(&known);
        }
    }

    /// Notes a table for an error; says whether it was not known.
    pub(super) fn add(&self, table: u64, error: &BackendError) -> bool {
        let mut known = lock(&self.known);
        if !known.tables.insert(table) {
            return false;
        }
        tracing::error!(table, "a table of the database is damaged: {error}");
        self.is_new.store(true, Ordering::Relaxed);
        self.write(&known);
        true
    }

    /// Notes that tables are taken out, and what was lost with them.
    pub(super) fn take_out(&self, tables: &BTreeSet<u64>, lost: Vec<Lost>) {
        let mut known = lock(&self.known);
        known.tables.retain(|table| !tables.contains(table));
        for lost in lost {
            if !known.lost.contains(&lost) {
                known.lost.push(lost);
                known.is_unsettled = true;
            }
        }
        self.write(&known);
    }

    /// Notes that nothing is lost any more, or that it is known to be.
    pub(super) fn set_mended(&self) {
        if let Some(mut known) = self.known() {
            known.lost.clear();
            known.is_unsettled = false;
            self.write(&known);
        }
    }

    fn write(&self, known: &Known) {
        let is_there = known.is_something();
        self.is_there.store(is_there, Ordering::Relaxed);
        let mut text = String::new();
        if known.has_unknown {
            text += "unknown\n";
        }
        if known.is_unsettled {
            text += "unsettled\n";
        }
        for table in &known.tables {
            text += &format!("table {table}\n");
        }
        for lost in &known.lost {
            let [first, last] = [&lost.first, &lost.last].map(|key| HEXLOWER.encode(key));
            text += &format!("lost {} {first} {last}\n", lost.family.name());
        }
        let replace = || -> io::Result<()> {
            if !is_there {
                return match fs::remove_file(&self.file) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                    _ => Ok(()),
                };
            }
            let new = self.file.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.file)
        };
        if let Err(e) = replace() {
            tracing::warn!("{} cannot be written: {e}", self.file.display());
        }
    }
}

/// Forgets what is known to be damaged in the database of a state, which gets another one.
pub(super) fn forget(state: &Path) {
    let _ = fs::remove_file(state.join(FILE));
}

fn lost(family: &str, first: &str, last: &str) -> Option<Lost> {
    let key = |text: &str| HEXLOWER.decode(text.as_bytes()).ok();
    Some(Lost {
        family: Family::ALL.into_iter().find(|f| f.name() == family)?,
        first: key(first)?,
        last: key(last)?,
    })
}

/// The number of the table that an error names.
pub(super) fn table_named(error: &str) -> Option<u64> {
    let mut words = error.split(|c: char| c.is_whitespace() || c == ':' || c == ',');
    words.find_map(number)
}

/// The number of the table at this path.
pub(super) fn number(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next()?;
    name.trim_end_matches('.')
        .strip_suffix(".sst")?
        .parse()
        .ok()
}
