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
mod manifest;
#[cfg(test)]
mod memory;
mod mending;
mod rocks;
mod salvage;
mod second_copy;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
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
pub(super) use second_copy::Missing;

use super::directory::{self, LEAST_FREE, RESERVE, check_room, free};
use super::error::{StoreError, failed};
use super::format::Needs;
use crate::sync::lock;
use backend::{Backend, End, View, Write};
use ballast::Ballast;
use rocks::RocksDb;
use salvage::Taken;
use second_copy::{SecondCopy, scan_kept};

/// Free bytes below which nothing is written that gives space back; [`LEAST_FREE`] holds for the rest.
const LEAST_TO_GIVE_BACK: u64 = 1 << 20;
/// Writes of one batch of [`Restoring`].
const PART: usize = 4096;

/// The records of a state.
pub(super) struct Records {
    backend: Box<dyn Backend>,
    second_copy: SecondCopy,
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
        let has_copy = second_copy::is_there(state);
        let db = state.join("db");
        // RocksDB would make a new one, or go back to an older one.
        let opened = match has_copy && !db.join("CURRENT").exists() {
            true => Err(BackendError::missing("its file CURRENT is missing").into()),
            false if salvage::is_cut(&db, needs.format).unwrap_or(false) => {
                Err(BackendError::missing("its list of files is cut off").into())
            }
            false => mending::open(&db, needs.format, memory, open_files),
        };
        let rocks = opened.map_err(|e| e.of_state(state, has_copy))?;
        let is_unsettled = rocks.is_unsettled();
        if is_unsettled && has_copy {
            second_copy::forget_position(&rocks)?;
        }
        let copy = SecondCopy::open(state, &rocks, rocks.opening());
        if copy.missing() == Some(Missing::All) {
            // All comes again from the copy.
            rocks.set_mended();
        } else if is_unsettled {
            rocks.settle();
        }
        let records = Self::over(state, needs, Box::new(rocks), copy);
        records.keep_ballast();
        Ok(records)
    }

    /// Writes the file of the database anew that names its list of files, if that is all that is lost.
    pub(super) fn name_list(state: &Path) -> bool {
        let named = salvage::write_current(&state.join("db"));
        named.unwrap_or_else(|e| {
            tracing::warn!("its file CURRENT cannot be written: {e}");
            false
        })
    }

    /// Makes a new database in `dir` for the state in `state`, whose own cannot be opened: with what can be
    /// read of the files of that one, which are the second of what is returned. All that the second copy has
    /// is [missing](Self::visit_missing) before it.
    pub(super) fn in_place_of_lost(
        state: &Path,
        dir: &Path,
        needs: Needs,
        memory: usize,
        open_files: i32,
    ) -> Result<(Self, Taken), StoreError> {
        tables::forget(state);
        let format = needs.format;
        let lost = state.join("db");
        let saved = salvage::list_anew(&lost, dir, format, memory, open_files);
        let (rocks, taken) = match saved {
            Ok(Some((rocks, taken))) => {
                salvage::merge_all(state, &rocks)?;
                (rocks, taken)
            }
            Err(e) if e.is_for_want_of_room() => return Err(e.of_state(state, true)),
            nothing => {
                if let Err(e) = nothing {
                    let e = e.of_state(state, true);
                    tracing::warn!("nothing of the tables that are there can be saved: {e}");
                    let _ = std::fs::remove_dir_all(dir);
                }
                let opened = RocksDb::open(dir, format, memory, open_files);
                let rocks = opened.map_err(|e| e.of_state(state, true))?;
                (rocks, Taken::default())
            }
        };
        let copy = SecondCopy::of_lost(state, rocks.opening())?;
        Ok((Self::over(state, needs, Box::new(rocks), copy), taken))
    }

    #[cfg(test)]
    pub(super) fn in_memory(state: &Path, needs: Needs, memory: MemoryBackend) -> Self {
        let copy = SecondCopy::open(state, &memory, memory.opened());
        Self::over(state, needs, Box::new(memory), copy)
    }

    fn over(
        state: &Path,
        needs: Needs,
        backend: Box<dyn Backend>,
        second_copy: SecondCopy,
    ) -> Self {
        Self {
            backend,
            second_copy,
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
        if SecondCopy::keeps(&batch) {
            return self
                .second_copy
                .write(&*self.backend, batch, durability, what);
        }
        let written = self.backend.write(batch, durability);
        written.map_err(failed(what))
    }

    /// What the second copy has and the database has not; see [`second_copy`].
    pub(super) fn missing(&self) -> Option<Missing> {
        self.second_copy.missing()
    }

    /// Visits the batches that are missing, in their order. Returns whether all of them could be read.
    pub(super) fn visit_missing(
        &self,
        visit: impl FnMut(Batch) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        self.second_copy.visit_missing(visit)
    }

    /// The records of a family that the second copy has and that are meant; `None` if it is not whole.
    pub(super) fn copied(
        &self,
        family: Family,
        is_meant: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Option<HashMap<Vec<u8>, Vec<u8>>> {
        let mut found = HashMap::new();
        let visited = self.second_copy.visit_all(|batch| {
            for write in batch.writes {
                match write {
                    Write::Put(of, key, record) if of == family && is_meant(&key, &record) => {
                        found.insert(key, record);
                    }
                    Write::Put(of, key, _) | Write::Delete(of, key) if of == family => {
                        found.remove(&key);
                    }
                    Write::Clear(of) if of == family => found.clear(),
                    _ => {}
                }
            }
            Ok(())
        });
        matches!(visited, Ok(true)).then_some(found)
    }

    /// Has all be missing that the second copy has, and deletes last uses, whether these records can be read
    /// or not; `false` if the copy is damaged.
    pub(super) fn lose_kept(&self) -> Result<bool, StoreError> {
        if !self.second_copy.lose_all() {
            return Ok(false);
        }
        self.backend.set_mended();
        let kept = Family::ALL
            .into_iter()
            .filter(|f| second_copy::keeps_of(*f));
        let families: Vec<_> = kept.chain([Family::Uses]).collect();
        let emptied = self.backend.empty_families(&families);
        emptied.map(|()| true).map_err(failed("it was emptied"))
    }

    /// Whether there is a second copy.
    pub(super) fn has_second_copy(&self) -> bool {
        second_copy::is_there(&self.state)
    }

    /// Deletes all records of which there is a second copy.
    pub(super) fn delete_kept(&self) -> Result<(), StoreError> {
        let mut parts = Restoring::new(self);
        scan_kept(&*self.backend, |family, key, _| {
            let mut batch = Batch::default();
            batch.delete(family, key);
            parts.add(batch)
        })?;
        parts.end()
    }

    /// Keeps the second copy, which is damaged, under another name; `None` if that fails.
    pub(super) fn keep_damaged_copy(&self, name: &Path) -> Option<PathBuf> {
        let kept = std::fs::copy(second_copy::path(&self.state), name);
        kept.ok().map(|_| name.to_owned())
    }

    /// Notes that nothing is missing any more.
    pub(super) fn set_restored(&self) {
        self.second_copy.set_restored(&*self.backend);
    }

    /// Reads the whole second copy, and says what is wrong with it.
    pub(super) fn check_second_copy(&self) -> Option<StoreError> {
        self.second_copy.check(&*self.backend)
    }

    /// Makes the second copy anew.
    pub(super) fn renew_second_copy(&self) -> Result<(), StoreError> {
        self.second_copy.renew(&*self.backend)
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

    /// Says that what was lost with damaged tables has come again, or is known to be lost.
    pub(super) fn set_mended(&self) {
        self.backend.set_mended();
    }

    /// Whether the database has met damage that the next opening takes out.
    pub(super) fn has_new_damage(&self) -> bool {
        self.backend.has_new_damage()
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

/// What is written while something is missing: in several batches, and not to the second copy.
pub(super) struct Restoring<'r> {
    records: &'r Records,
    batch: Batch,
}

impl<'r> Restoring<'r> {
    pub(super) fn new(records: &'r Records) -> Self {
        let batch = Batch::default();
        Self { records, batch }
    }

    pub(super) fn add(&mut self, more: Batch) -> Result<(), StoreError> {
        self.batch.append(more);
        match self.batch.writes.len() {
            0..PART => Ok(()),
            _ => self.write(Durability::Process),
        }
    }

    fn write(&mut self, durability: Durability) -> Result<(), StoreError> {
        let batch = std::mem::take(&mut self.batch);
        self.records.raise(&batch.needs())?;
        let written = self.records.backend.write(batch, durability);
        written.map_err(failed("records were restored"))
    }

    /// Has all of it survive a power loss.
    pub(super) fn end(mut self) -> Result<(), StoreError> {
        self.write(Durability::Power)
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
    let mut is_at_end = true;
    let scanned = view.scan(family, from, &mut |key, record| {
        is_at_end = visit(key, record).unwrap_or_else(|e| {
            outcome = Err(e);
            false
        });
        is_at_end
    });
    outcome.and(scanned.map_err(failed("records were listed")))?;
    match view.lost(family).iter().find(|lost| *lost.last >= *from) {
        Some(_) if is_at_end => {
            let what = "some records were in a table that is damaged";
            Err(failed("records were listed")(BackendError::missing(what)))
        }
        _ => Ok(()),
    }
}
