//! The records of a state: keys and values in families, written in batches.
//!
//! Nothing here knows what a record means. Two backends keep records: RocksDB, and one in memory for
//! tests, which can lose what is not durable and fail at any write. One suite of tests holds both to the
//! same contract.

mod backend;
mod ballast;
mod blob_files;
mod codec;
mod family;
mod gaps;
#[cfg(test)]
mod memory;
mod rocks;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use backend::BackendError;
pub(super) use backend::{Batch, Durability, Record};
pub(super) use blob_files::{BlobFile, OVERHEAD};
pub(super) use codec::{Reader, Writer};
pub(super) use family::Family;
pub(super) use gaps::Gap;
#[cfg(test)]
pub(crate) use memory::{Loss, MemoryBackend};

use super::directory::{self, RESERVE, check_room, free};
use super::error::StoreError;
use super::format::Needs;
use crate::sync::lock;
use backend::{Backend, End, View};
use ballast::Ballast;
use gaps::failed;
use rocks::{OpenError, RocksDb};

/// Free bytes below which nothing is written, neither to the log nor to files: after one write that
/// finds no room RocksDB refuses all others until it is opened anew.
const LEAST_FREE: u64 = 16 << 20;
/// The same for what gives space back.
const LEAST_TO_GIVE_BACK: u64 = 1 << 20;

/// The records of a state.
pub(super) struct Records {
    backend: Box<dyn Backend>,
    /// The state directory.
    state: PathBuf,
    /// What a reader of the state has to know. Held while that changes.
    needs: Mutex<Needs>,
    ballast: Ballast,
    /// How many give space back just now.
    giving_back: AtomicUsize,
}

/// While it lives, less room is left free, and the ballast is room.
pub(super) struct GivingBack<'r>(&'r Records);

impl Drop for GivingBack<'_> {
    fn drop(&mut self) {
        self.0.giving_back.fetch_sub(1, Ordering::SeqCst);
        self.0.keep_ballast();
    }
}

/// The records at one moment.
pub(super) struct Snapshot<'r>(Box<dyn View + Send + Sync + 'r>);

impl Records {
    /// Opens or makes the database of the state in `state`, which has this format and features, with at
    /// most `memory` bytes for blocks and for what is not flushed yet, and at most `open_files` files.
    pub(super) fn open(
        state: &Path,
        needs: Needs,
        memory: usize,
        open_files: i32,
    ) -> Result<Self, StoreError> {
        let ballast = Ballast::of(state);
        // An opening writes what the log has to files.
        if free(state)? < LEAST_FREE {
            ballast.release();
        }
        match RocksDb::open(&state.join("db"), needs.format, memory, open_files) {
            Ok(rocks) => {
                let records = Self::over(state, needs, Box::new(rocks));
                records.keep_ballast();
                Ok(records)
            }
            Err(OpenError::Database(source)) if source.is_corruption() => {
                Err(StoreError::Incomplete {
                    dir: state.to_owned(),
                    source,
                })
            }
            Err(OpenError::Database(e)) => Err(failed("it was opened")(e)),
            Err(OpenError::Directory(source)) => Err(StoreError::Directory {
                dir: state.to_owned(),
                what: "what a killed process left behind in its database cannot be deleted",
                source,
            }),
        }
    }

    #[cfg(test)]
    pub(super) fn in_memory(state: &Path, needs: Needs, memory: MemoryBackend) -> Self {
        Self::over(state, needs, Box::new(memory))
    }

    fn over(state: &Path, needs: Needs, backend: Box<dyn Backend>) -> Self {
        Self {
            backend,
            state: state.to_owned(),
            needs: Mutex::new(needs),
            ballast: Ballast::of(state),
            giving_back: AtomicUsize::new(0),
        }
    }

    /// The record of a key.
    pub(super) fn get(&self, family: Family, key: &[u8]) -> Result<Option<Record<'_>>, StoreError> {
        let found = self.backend.get(family, key);
        found.map_err(failed("a record was read"))
    }

    /// Visits the records of a family from a key on, until `visit` says `false`.
    pub(super) fn scan(
        &self,
        family: Family,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        scan(&*self.backend, family, from, visit)
    }

    /// The same, going on behind what cannot be read, or is damaged in the eyes of `visit`. Returns what
    /// was passed over.
    pub(super) fn scan_readable(
        &self,
        family: Family,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<Vec<Gap>, StoreError> {
        gaps::scan(&*self.backend, family, from, visit)
    }

    /// The first key of a family.
    pub(super) fn first_key(&self, family: Family) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.backend.end_key(family, End::First);
        key.map_err(failed("its first record was looked up"))
    }

    /// The last key of a family.
    pub(super) fn last_key(&self, family: Family) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.backend.end_key(family, End::Last);
        key.map_err(failed("its last record was looked up"))
    }

    /// Writes a batch, which survives what `durability` says when this returns. `what` says what was
    /// done, should it fail; nothing is written then. Raises the format of the state first, if the batch
    /// needs a newer one.
    pub(super) fn write(
        &self,
        batch: Batch,
        durability: Durability,
        what: &'static str,
    ) -> Result<(), StoreError> {
        // A batch that only a flush makes durable is written to memory.
        if durability != Durability::Flush {
            self.check_room()?;
        }
        self.raise(&batch.needs())?;
        let written = self.backend.write(batch, durability);
        written.map_err(failed(what))
    }

    /// Has the state have a format with its families, and features. The format file comes first, so that
    /// an older version never meets what it does not know.
    fn raise(&self, needed: &Needs) -> Result<(), StoreError> {
        let mut needs = lock(&self.needs);
        let raised = needs.and(needed);
        if *needs != raised {
            directory::raise(&self.state, &raised)?;
            let made = self.backend.make_families(raised.format);
            made.map_err(failed("it was upgraded"))?;
            *needs = raised;
        }
        Ok(())
    }

    /// Makes all batches durable that were written before.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.check_room()?;
        let flushed = self.backend.flush();
        flushed.map_err(failed("chunks were written to disk"))?;
        self.keep_ballast();
        Ok(())
    }

    /// The records as they are now, whatever is written later.
    pub(super) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot(self.backend.snapshot())
    }

    /// How many snapshots there are.
    pub(super) fn snapshots(&self) -> Result<u64, StoreError> {
        let snapshots = self.backend.snapshots();
        snapshots.map_err(failed("its files were measured"))
    }

    /// Bytes that can still be written before there is no room.
    pub(super) fn free_to_write(&self) -> Result<u64, StoreError> {
        let free = free(&self.state)?;
        Ok(free.saturating_sub(LEAST_FREE + self.unwritten()))
    }

    /// An error when the disk is nearly full for chunks, which are written without the log.
    pub(super) fn check_reserve(&self) -> Result<(), StoreError> {
        check_room(&self.state, RESERVE, self.unwritten())?;
        self.keep_ballast();
        Ok(())
    }

    /// Has what is written count as giving space back, for which the last bytes are, until the guard is
    /// dropped.
    pub(super) fn give_back(&self) -> GivingBack<'_> {
        self.giving_back.fetch_add(1, Ordering::SeqCst);
        GivingBack(self)
    }

    /// An error when there is no room for what is to be written.
    fn check_room(&self) -> Result<(), StoreError> {
        let checked = check_room(&self.state, LEAST_FREE, self.unwritten());
        if checked.is_ok() || self.giving_back.load(Ordering::SeqCst) == 0 {
            return checked;
        }
        let least = || check_room(&self.state, LEAST_TO_GIVE_BACK, self.unwritten());
        least().or_else(|full| match self.ballast.release() {
            true => least(),
            false => Err(full),
        })
    }

    fn keep_ballast(&self) {
        if self.giving_back.load(Ordering::SeqCst) == 0 {
            let chunks = self.backend.file_bytes(Family::Chunks);
            self.ballast.keep(&self.state, chunks.unwrap_or(0));
        }
    }

    /// Bytes of batches that are not in a file yet, the log apart.
    pub(super) fn unwritten(&self) -> u64 {
        self.backend.unwritten()
    }

    /// Whether an error in the background, such as a full disk, has the database refuse every write
    /// until it is opened anew.
    pub(super) fn refuses_writes(&self) -> bool {
        self.backend.refuses_writes()
    }

    /// Bytes of the files of a family.
    pub(super) fn file_bytes(&self, family: Family) -> Result<u64, StoreError> {
        let bytes = self.backend.file_bytes(family);
        bytes.map_err(failed("its files were measured"))
    }

    /// Records in the files of a family, with those that are deleted or replaced, but not merged with
    /// what deletes or replaces them.
    pub(super) fn file_records(&self, family: Family) -> Result<u64, StoreError> {
        let records = self.backend.file_records(family);
        records.map_err(failed("its files were measured"))
    }

    /// Merges the records of a family with what deletes or replaces them; with `all` also where nothing
    /// is newer.
    pub(super) fn merge(&self, family: Family, all: bool) -> Result<(), StoreError> {
        self.check_room()?;
        self.backend.merge(family, all);
        Ok(())
    }

    /// The files in which chunks are, in the order of their numbers.
    pub(super) fn blob_files(&self) -> Result<Vec<BlobFile>, StoreError> {
        let files = self.backend.blob_files();
        files.map_err(self.directory_error("its files cannot be listed"))
    }

    /// Names the state where its directory cannot be used.
    pub(super) fn directory_error(
        &self,
        what: &'static str,
    ) -> impl FnOnce(std::io::Error) -> StoreError + use<> {
        let dir = self.state.clone();
        move |source| StoreError::Directory { dir, what, source }
    }
}

impl Snapshot<'_> {
    /// Visits records, as [`Records::scan_readable`] does, without filling the cache with them.
    pub(super) fn scan_readable(
        &self,
        family: Family,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<Vec<Gap>, StoreError> {
        gaps::scan(&*self.0, family, from, visit)
    }
}

fn scan<V: View + ?Sized>(
    view: &V,
    family: Family,
    from: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    let scanned = view.scan(family, from, &mut |key, record| {
        visit(key, record).unwrap_or_else(|e| {
            outcome = Err(e);
            false
        })
    });
    outcome.and(scanned.map_err(failed("records were listed")))
}
