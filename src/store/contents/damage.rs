//! Chunks whose records were found missing or damaged, and were not replaced since.
//!
//! They are in the file `damaged-chunks` of the state as well, so that the next owner does not reuse them:
//! a line `damaged DIGEST` for each that was found, and a line `replaced DIGEST` for each that came again.
//! Invariant: the file is advice. What it misses is found again by whoever reads it, and what it names
//! wrongly is written once more than it must be.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::chunk::ChunkDigest;
use crate::sync::lock;

/// The name of the file in the state.
const FILE: &str = "damaged-chunks";

/// The chunks of a state that cannot be read.
pub(super) struct DamagedChunks {
    file: PathBuf,
    all: Mutex<HashSet<ChunkDigest>>,
    /// Their number, for readers: mostly there is none.
    count: AtomicUsize,
}

impl DamagedChunks {
    /// Those that the owner before has left.
    pub(super) fn open(state: &Path) -> Self {
        let file = state.join(FILE);
        let all = fs::read_to_string(&file).unwrap_or_else(|e| {
            if e.kind() != ErrorKind::NotFound {
                tracing::warn!("{} cannot be read: {e}", file.display());
            }
            String::new()
        });
        let mut found = HashSet::new();
        for (what, digest) in all.lines().filter_map(|line| line.split_once(' ')) {
            let Some(digest) = ChunkDigest::parse(digest) else {
                continue;
            };
            match what {
                "damaged" => found.insert(digest),
                "replaced" => found.remove(&digest),
                _ => false,
            };
        }
        Self {
            file,
            count: AtomicUsize::new(found.len()),
            all: Mutex::new(found),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn contains(&self, digest: &ChunkDigest) -> bool {
        self.count() > 0 && lock(&self.all).contains(digest)
    }

    pub(super) fn add(&self, digest: ChunkDigest) {
        let mut all = lock(&self.all);
        if all.insert(digest) {
            self.note(&format!("damaged {digest}\n"));
        }
        self.count.store(all.len(), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, digest: &ChunkDigest) {
        if self.count() == 0 {
            return;
        }
        let mut all = lock(&self.all);
        if all.remove(digest) {
            self.note(&format!("replaced {digest}\n"));
            if all.is_empty() {
                // If it stays, it says that all of them were replaced.
                let _ = fs::remove_file(&self.file);
            }
        }
        self.count.store(all.len(), Ordering::Relaxed);
    }

    fn note(&self, line: &str) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_owner_knows_what_was_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let open = || DamagedChunks::open(dir.path());
        let [one, other] = [b"1", b"2"].map(|bytes| ChunkDigest::of(bytes));
        let first = open();
        assert!(!first.contains(&one) && first.count() == 0);
        first.add(one);
        first.add(one);
        first.add(other);
        first.remove(&one);
        let second = open();
        assert!(second.contains(&other) && !second.contains(&one));
        assert_eq!(second.count(), 1);
        second.remove(&other);
        assert_eq!(open().count(), 0);
        assert!(!dir.path().join(FILE).exists());
        // A line that a kill has cut short names nothing.
        fs::write(dir.path().join(FILE), format!("damaged {one}\ndamaged 12")).unwrap();
        let third = open();
        assert!(third.contains(&one) && third.count() == 1);
    }
}
