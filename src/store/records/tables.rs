//! Tables of the database that cannot be read.
//!
//! RocksDB names the table in its errors. Those that it has named are in the file `damaged-tables` of the
//! state as well, one a line, so that the next owner leaves them alone from the beginning; behind a name is
//! `mended` once all that was in the table has been written anew as far as it can be. Invariant: a table that
//! is damaged takes part in no merge once it is known.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sync::lock;

/// The name of the file in the state.
const FILE: &str = "damaged-tables";
/// How the name of a table ends.
const TABLE: &str = ".sst";
/// What follows the name of one that is mended.
const MENDED: &str = " mended";

/// The tables that are known to be damaged.
pub(super) struct DamagedTables {
    file: PathBuf,
    /// Their numbers, and whether they are mended.
    all: Mutex<BTreeMap<u64, bool>>,
    are_there: AtomicBool,
}

impl DamagedTables {
    /// Those of the database in `dir` that the owner before has left.
    pub(super) fn of(dir: &Path) -> Self {
        let file = dir.with_file_name(FILE);
        let known = fs::read_to_string(&file).unwrap_or_default();
        let mut all = BTreeMap::new();
        for line in known.lines() {
            let (name, is_mended) = match line.strip_suffix(MENDED) {
                Some(name) => (name, true),
                None => (line, false),
            };
            all.extend(number(name).map(|number| (number, is_mended)));
        }
        Self {
            file,
            are_there: AtomicBool::new(!all.is_empty()),
            all: Mutex::new(all),
        }
    }

    pub(super) fn are_there(&self) -> bool {
        self.are_there.load(Ordering::Relaxed)
    }

    /// Whether a table with this name is one.
    pub(super) fn contains(&self, name: &str) -> bool {
        number(name).is_some_and(|number| lock(&self.all).contains_key(&number))
    }

    /// Whether a table with this name is damaged, and mended.
    pub(super) fn is_mended(&self, name: &str) -> bool {
        let all = lock(&self.all);
        number(name).is_some_and(|number| all.get(&number) == Some(&true))
    }

    /// Whether some of them are mended, so that the next owner can take them out.
    pub(super) fn are_mended(&self) -> bool {
        self.are_there() && lock(&self.all).values().any(|is_mended| *is_mended)
    }

    /// Notes that all that are known are mended.
    pub(super) fn set_mended(&self) {
        let mut all = lock(&self.all);
        let known: Vec<_> = all.keys().copied().collect();
        for table in known
            .into_iter()
            .filter(|table| all.insert(*table, true) != Some(true))
        {
            self.append(&format!("{table:06}{TABLE}{MENDED}\n"));
        }
    }

    /// Forgets those that are mended: they were taken out.
    pub(super) fn forget_mended(&self) {
        let mut all = lock(&self.all);
        all.retain(|_, is_mended| !*is_mended);
        // A file that stays names tables that are not there.
        let _ = fs::remove_file(&self.file);
        for table in all.keys() {
            self.append(&format!("{table:06}{TABLE}\n"));
        }
    }

    /// Notes the table that an error names; says whether it was not known.
    pub(super) fn note(&self, error: &str) -> bool {
        let words = error.split(|c: char| c.is_whitespace() || c == ':' || c == ',');
        let Some(table) = words.filter_map(number).next() else {
            return false;
        };
        let mut all = lock(&self.all);
        let is_new = !all.contains_key(&table);
        self.are_there.store(true, Ordering::Relaxed);
        if is_new {
            all.insert(table, false);
            tracing::error!("a table of the database is damaged: {error}");
            self.append(&format!("{table:06}{TABLE}\n"));
        }
        is_new
    }

    fn append(&self, line: &str) {
        let append = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).append(true).open(&self.file)?;
            file.write_all(line.as_bytes())
        };
        if let Err(e) = append() {
            tracing::warn!("{} cannot be written: {e}", self.file.display());
        }
    }
}

/// The number of the table with this name, or at this path.
pub(super) fn number(name: &str) -> Option<u64> {
    let name = name.rsplit('/').next()?;
    name.trim_end_matches('.').strip_suffix(TABLE)?.parse().ok()
}
