//! Chunks whose records were found missing or damaged, and were not replaced since.
//!
//! They are in the file `damaged-chunks` of the state as well, so that the next owner does not reuse them:
//! a line `damaged DIGEST` for each that was found, and a line `replaced DIGEST` for each that came again.
//! Invariant: the file is advice. What it misses is found again by whoever reads it, and what it names
//! wrongly is written once more than it must be.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::chunk::ChunkDigest;
use crate::nix::store_path::StorePathHash;
use crate::sync::lock;

/// The name of the file in the state.
const FILE: &str = "damaged-chunks";

/// How many chunks of the state in `dir` its owner knows to be damaged.
pub fn damaged_chunks(dir: &Path) -> u64 {
    DamagedChunks::open(dir).count() as u64
}

/// That a tree has no damaged chunk, as far as those go that were known when it was looked at.
#[derive(Debug, Default)]
pub(super) struct Soundness {
    /// How many were known then.
    added: AtomicU64,
}

/// The chunks of a state that cannot be read.
pub(super) struct DamagedChunks {
    file: PathBuf,
    all: Mutex<HashSet<ChunkDigest>>,
    /// Their number, for readers: mostly there is none.
    count: AtomicUsize,
    /// How many were added so far.
    added: AtomicU64,
    /// Those that were met when a path was read.
    met: Mutex<HashMap<StorePathHash, HashSet<ChunkDigest>>>,
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
            added: AtomicU64::new(found.len() as u64),
            all: Mutex::new(found),
            met: Mutex::default(),
        }
    }

    /// Notes that a chunk of a path cannot be read. Returns how many of the path these are, when that is to
    /// be said: with the first, the tenth, the hundredth of them.
    pub(super) fn meet(&self, path: StorePathHash, digest: ChunkDigest) -> Option<usize> {
        let mut met = lock(&self.met);
        let of_path = met.entry(path).or_default();
        let is_new = of_path.insert(digest);
        let count = of_path.len();
        (is_new && 10_usize.pow(count.ilog10()) == count).then_some(count)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn contains(&self, digest: &ChunkDigest) -> bool {
        self.count() > 0 && lock(&self.all).contains(digest)
    }

    /// Whether one is among the chunks of a tree, which `any` goes through: only if one was added since
    /// the last time.
    pub(super) fn is_among<E>(
        &self,
        soundness: &Soundness,
        any: impl FnOnce(&dyn Fn(&ChunkDigest) -> bool) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let added = self.added.load(Ordering::Acquire);
        if self.count() == 0 || soundness.added.load(Ordering::Relaxed) == added {
            return Ok(false);
        }
        let is_damaged = any(&|digest| self.contains(digest))?;
        if !is_damaged {
            soundness.added.store(added, Ordering::Relaxed);
        }
        Ok(is_damaged)
    }

    pub(super) fn add(&self, digest: ChunkDigest) {
        let mut all = lock(&self.all);
        if all.insert(digest) {
            self.note(&format!("damaged {digest}\n"));
            self.added.fetch_add(1, Ordering::Release);
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
                lock(&self.met).clear();
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
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_damage_of_a_path_is_said_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let damaged = DamagedChunks::open(dir.path());
        let [one, other] = [1, 2].map(|seed| StorePathHash::from_bytes([seed; 20]));
        let digest = |n: usize| ChunkDigest::of(&n.to_le_bytes());
        let said: Vec<_> = (0..150)
            .filter_map(|n| damaged.meet(one, digest(n)))
            .collect();
        assert_eq!(said, [1, 10, 100]);
        assert_eq!(damaged.meet(one, digest(7)), None);
        assert_eq!(damaged.meet(other, digest(7)), Some(1));
    }

    #[test]
    fn a_tree_without_damage_is_looked_at_once_for_each_damaged_chunk() {
        let dir = tempfile::tempdir().unwrap();
        let damaged = DamagedChunks::open(dir.path());
        let [own, other, late] = [1, 2, 3].map(|n| ChunkDigest::of(&[n]));
        let (soundness, looks) = (Soundness::default(), Cell::new(0));
        let is_among = || {
            let any = |is_damaged: &dyn Fn(&ChunkDigest) -> bool| {
                looks.set(looks.get() + 1);
                Ok::<_, ()>(is_damaged(&own))
            };
            damaged.is_among(&soundness, any).unwrap()
        };
        assert!(!is_among());
        for (seen, chunk) in (1..).zip([other, late]) {
            damaged.add(chunk);
            assert!((0..3).all(|_| !is_among()));
            assert_eq!(looks.get(), seen);
        }
        damaged.add(own);
        assert!(is_among() && is_among());
        damaged.remove(&own);
        assert!((0..3).all(|_| !is_among()));
        assert_eq!(looks.get(), 5);
        // As the next owner does, which knows them from the file.
        let damaged = DamagedChunks::open(dir.path());
        let soundness = Soundness::default();
        let is_other = |is_damaged: &dyn Fn(&ChunkDigest) -> bool| Ok::<_, ()>(is_damaged(&other));
        assert!(damaged.is_among(&soundness, is_other).unwrap());
    }

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
