//! What no source can bring back, kept a second time outside of the database.
//!
//! Profiles, views, pins, path infos, ordinals and what else [`is_kept`] names are also in a file of the
//! state: the records as they were when the file was made, and each change since. A database that is lost
//! is made anew from it.
//!
//! Invariants: a change is in the file before it is in the database, so that the file lacks nothing that
//! the database has. The database says how far it has come in the file ([`Position`]); what the file has
//! behind that was being written, or is what the database has lost, and is done when the state is opened.
//! A file that is not known to have followed is made anew from the database. A change that nothing else
//! could bring back survives a power loss in the file as well when it is done; others may be in the file
//! only some time after.

mod entry;
mod file;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::backend::{Backend, BackendError, Batch, Durability, Opening, View, Write};
use super::codec::{Reader, Writer};
use super::family::Family;
use crate::store::directory::{LEAST_FREE, check_room};
use crate::store::error::{StoreError, failed};
use crate::sync::lock;
use file::CopyFile;
pub(super) use file::path;

/// The key in `meta` of the position of the database.
const POSITION: &[u8] = b"second-copy";
/// The other key in `meta` that is not kept: numbers of chunks begin anew with the chunks.
const NEXT_CHUNK: &[u8] = b"next-chunk";
/// Bytes of records in one entry, where a file is made.
const ENTRY: usize = 64 << 10;
/// Bytes by which a file may grow before it is made anew, beyond its length when it was made.
const GROWTH: u64 = 4 << 20;
/// Bytes that may wait to be synced until the next batch that is: an opening reads them.
const UNSYNCED: u64 = 1 << 20;

/// Whether records of a family, or this one of them, are kept.
fn is_kept(family: Family, key: Option<&[u8]>) -> bool {
    match family {
        Family::Chunks | Family::Digests | Family::Trees | Family::Uses | Family::Reclaimed => {
            false
        }
        Family::Meta => key.is_none_or(|key| ![POSITION, NEXT_CHUNK].contains(&key)),
        Family::Paths
        | Family::Ordinals
        | Family::Roots
        | Family::Traces
        | Family::Profiles
        | Family::Views => true,
    }
}

/// Whether records of a family are kept.
pub(super) fn keeps_of(family: Family) -> bool {
    is_kept(family, None)
}

fn is_kept_write(write: &Write) -> bool {
    match write {
        Write::Put(family, key, _) | Write::Delete(family, key) => is_kept(*family, Some(key)),
        Write::Clear(family) => is_kept(*family, None),
    }
}

/// How far the database has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    /// In which file.
    edition: u64,
    length: u64,
    /// How much of that survives a power loss.
    synced: u64,
}

impl Position {
    /// No file has what the database has.
    const NOWHERE: Self = Self {
        edition: 0,
        length: 0,
        synced: 0,
    };

    fn of(file: &CopyFile) -> Self {
        Self {
            edition: file.edition,
            length: file.length,
            synced: file.synced,
        }
    }

    fn read(backend: &dyn Backend) -> Result<Option<Self>, BackendError> {
        let record = backend.get(Family::Meta, POSITION)?;
        Ok(record.and_then(|record| {
            let mut fields = Reader::new(&record);
            Some(Self {
                edition: fields.u64()?,
                length: fields.u64()?,
                synced: fields.u64()?,
            })
        }))
    }

    fn put(self, batch: &mut Batch) {
        let mut record = Writer::default();
        record.u64(self.edition);
        record.u64(self.length);
        record.u64(self.synced);
        batch.put(Family::Meta, POSITION, record.finish());
    }
}

/// What the file has and the database has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Missing {
    /// What was written last.
    Last,
    /// All, or nobody knows what.
    All,
}

/// The second copy.
pub(super) struct SecondCopy {
    state: PathBuf,
    opening: u64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// `None` until the first change, and where it could not be written.
    file: Option<CopyFile>,
    missing: Option<(Missing, u64)>,
    /// Whether this process tries no more to make one.
    gave_up: bool,
    /// Whether it was said that there is none, since there was one.
    is_told: bool,
}

/// What came of an attempt to make or read the file.
#[derive(Debug)]
enum CopyError {
    File(io::Error),
    Store(StoreError),
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<StoreError> for CopyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether a state has a second copy.
pub(super) fn is_there(state: &Path) -> bool {
    path(state).exists()
}

/// Has the database not know how far it has come, so that all of the copy is restored. When it returns, that
/// survives a power loss.
pub(super) fn forget_position(backend: &dyn Backend) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    batch.delete(Family::Meta, POSITION);
    let written = backend.write(batch, Durability::Power);
    written.map_err(failed("records were restored"))
}

impl SecondCopy {
    /// The second copy of the state in `state`, whose database was opened. What is wrong with it is mended
    /// from the database.
    pub(super) fn open(state: &Path, backend: &dyn Backend, opening: Opening) -> Self {
        let copy = Self {
            state: state.to_owned(),
            opening: opening.now,
            kept: Mutex::default(),
        };
        if is_there(state) || Position::read(backend).is_ok_and(|p| p.is_some()) {
            let mut kept = lock(&copy.kept);
            match copy.compare(backend, opening) {
                Ok(Some(found)) => *kept = found,
                Ok(None) => copy.make_again(&mut kept, backend, "it does not follow the database"),
                Err(e) => copy.make_again(&mut kept, backend, &e.to_string()),
            }
        }
        copy
    }

    /// The second copy of a database that is new, in place of one that was lost.
    pub(super) fn of_lost(state: &Path, opening: Opening) -> Result<Self, StoreError> {
        let found = CopyFile::open_damaged(state).map_err(unusable(state))?;
        let kept = Kept {
            missing: Some((Missing::All, 0)),
            file: found,
            ..Kept::default()
        };
        Ok(Self {
            state: state.to_owned(),
            opening: opening.now,
            kept: Mutex::new(kept),
        })
    }

    /// The file, where it has followed the database until that was closed; `None` if it has not.
    fn compare(&self, backend: &dyn Backend, opening: Opening) -> io::Result<Option<Kept>> {
        let Some(mut file) = CopyFile::open(&self.state)? else {
            return Ok(None);
        };
        // Another program has written what it does not have.
        if file.opening != opening.before {
            return Ok(None);
        }
        let position = Position::read(backend).ok().flatten();
        if position == Some(Position::NOWHERE) {
            return Ok(None);
        }
        let position = position.filter(|p| p.edition == file.edition);
        let ignore = |_, _| io::Result::Ok(());
        let missing = match position {
            Some(position) if position.length > file.length => return Ok(None),
            Some(position) => {
                // A power loss may have left something else of what was not synced.
                let whole = file.visit(position.synced, ignore)?;
                if whole < position.length {
                    return Ok(None);
                }
                if whole < file.length {
                    file.cut(whole)?;
                }
                file.synced = position.synced;
                (whole > position.length).then_some((Missing::Last, position.length))
            }
            None if file.visit_all(|_| io::Result::Ok(()))? => Some((Missing::All, 0)),
            None => return Ok(None),
        };
        file.follow(self.opening)?;
        Ok(Some(Kept {
            file: Some(file),
            missing,
            ..Kept::default()
        }))
    }

    fn make_again(&self, kept: &mut Kept, backend: &dyn Backend, why: &str) {
        let path = path(&self.state);
        match self.make_alone(kept, backend) {
            Ok(()) => tracing::info!("made {} anew from the database: {why}", path.display()),
            Err(e) => self.give_up(kept, self.error(e)),
        }
    }

    /// Notes that there is no copy from now on.
    fn give_up(&self, kept: &mut Kept, error: StoreError) {
        // Another attempt would meet it again.
        kept.gave_up = error.is_damage();
        if !std::mem::replace(&mut kept.is_told, true) {
            tracing::warn!(
                "what no source can bring back is not kept a second time in {}: {error}",
                path(&self.state).display()
            );
        }
    }

    fn error(&self, error: CopyError) -> StoreError {
        match error {
            CopyError::File(e) => unusable(&self.state)(e),
            CopyError::Store(e) => e,
        }
    }

    /// Makes the file from the database, which learns of it.
    fn make_alone(&self, kept: &mut Kept, backend: &dyn Backend) -> Result<(), CopyError> {
        let file = self.make(backend)?;
        let mut batch = Batch::default();
        Position::of(&file).put(&mut batch);
        *kept = Kept {
            file: Some(file),
            ..Kept::default()
        };
        if let Err(e) = backend.write(batch, Durability::Process) {
            // It learns of it with the next batch.
            tracing::debug!("the second copy is ahead: {e}");
        }
        Ok(())
    }

    /// Makes the file from the database, which learns of it with the next batch.
    fn make(&self, backend: &dyn Backend) -> Result<CopyFile, CopyError> {
        let bytes = Family::ALL.into_iter().filter(|f| keeps_of(*f));
        let bytes = bytes.filter_map(|f| backend.file_bytes(f).ok()).sum();
        check_room(&self.state, LEAST_FREE, bytes)?;
        CopyFile::make(&self.state, self.opening, |sink| {
            let (mut writes, mut bytes) = (Vec::new(), 0);
            scan_kept(
                &*backend.snapshot(),
                |family, key, record| -> Result<_, CopyError> {
                    writes.push(Write::Put(family, key.to_vec(), record.to_vec()));
                    bytes += key.len() + record.len();
                    if bytes >= ENTRY {
                        sink(&writes)?;
                        (writes, bytes) = (Vec::new(), 0);
                    }
                    Ok(())
                },
            )?;
            Ok::<_, CopyError>(sink(&writes)?)
        })
    }

    /// Whether the copy keeps something of a batch.
    pub(super) fn keeps(batch: &Batch) -> bool {
        batch.writes.iter().any(is_kept_write)
    }

    /// Writes a batch of which the copy keeps something: first to the file, then to the database. One batch
    /// after the other.
    pub(super) fn write(
        &self,
        backend: &dyn Backend,
        mut batch: Batch,
        durability: Durability,
        what: &'static str,
    ) -> Result<(), StoreError> {
        let has_promised = durability == Durability::Power && batch.is_irreplaceable();
        let mut kept = lock(&self.kept);
        let ready = self.have_file(&mut kept, backend);
        let before = kept.file.as_ref().map(|file| file.length);
        let added = ready.and_then(|()| match &mut kept.file {
            Some(file) => {
                let writes = batch.writes.iter().filter(|w| is_kept_write(w));
                file.append(writes).map_err(CopyError::File)
            }
            None => Ok(()),
        });
        if let Err(e) = added {
            kept.file = None;
            let e = self.error(e);
            // Damage of the database keeps nobody from changing what can be read.
            if has_promised && !e.is_damage() {
                return Err(e);
            }
            self.give_up(&mut kept, e);
        }
        match &kept.file {
            Some(file) => Position::of(file).put(&mut batch),
            None => Position::NOWHERE.put(&mut batch),
        }
        let is_behind = |file: &CopyFile| file.length - file.synced > UNSYNCED;
        let sync = durability == Durability::Power
            && (has_promised || kept.file.as_ref().is_some_and(is_behind));
        let syncing = kept.file.as_ref().filter(|_| sync);
        let (written, synced) = beside(syncing, || backend.write(batch, durability));
        if let Some(file) = &mut kept.file {
            match (&written, sync, synced) {
                (Err(_), ..) if before.is_some_and(|before| file.cut(before).is_ok()) => {}
                (Err(_), ..) => kept.file = None,
                (Ok(()), false, _) => {}
                (Ok(()), true, Ok(())) => file.set_synced(),
                // What is in the database is done; another file may keep it.
                (Ok(()), true, Err(e)) => {
                    kept.file = None;
                    self.make_again(&mut kept, backend, &e.to_string());
                }
            }
        }
        written.map_err(failed(what))
    }

    /// Sees to it that there is a file, and that it is not much longer than what it keeps.
    fn have_file(&self, kept: &mut Kept, backend: &dyn Backend) -> Result<(), CopyError> {
        let is_long = |file: &CopyFile| file.length > 2 * file.made + GROWTH;
        match &mut kept.file {
            Some(file) if !is_long(file) => Ok(()),
            Some(file) => {
                match self.make(backend) {
                    Ok(made) => kept.file = Some(made),
                    Err(e) => {
                        // It can still grow.
                        file.made = file.length;
                        tracing::debug!("the second copy stays long: {}", self.error(e));
                    }
                }
                Ok(())
            }
            None if kept.gave_up => Ok(()),
            None => {
                *kept = Kept {
                    file: Some(self.make(backend)?),
                    ..Kept::default()
                };
                Ok(())
            }
        }
    }

    /// Has all of it be missing; `false` if it is damaged.
    pub(super) fn lose_all(&self) -> bool {
        let lose_all = || -> io::Result<Option<CopyFile>> {
            let Some(mut file) = CopyFile::open(&self.state)? else {
                return Ok(None);
            };
            if !file.visit_all(|_| io::Result::Ok(()))? {
                return Ok(None);
            }
            // A crash from here on leaves the file as what the database lacks.
            file.follow(self.opening)?;
            Ok(Some(file))
        };
        let file = lose_all().ok().flatten();
        let is_whole = file.is_some();
        if is_whole {
            *lock(&self.kept) = Kept {
                file,
                missing: Some((Missing::All, 0)),
                ..Kept::default()
            };
        }
        is_whole
    }

    /// What the database lacks.
    pub(super) fn missing(&self) -> Option<Missing> {
        lock(&self.kept).missing.map(|(missing, _)| missing)
    }

    /// Visits what the database lacks, in its order. Returns whether all of the file could be read.
    pub(super) fn visit_missing(
        &self,
        mut visit: impl FnMut(Batch) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        let kept = lock(&self.kept);
        let Some(file) = &kept.file else {
            return Ok(false);
        };
        let mut visit = |writes| visit(Batch::of(writes)).map_err(CopyError::Store);
        let visited = match kept.missing {
            None => Ok(true),
            Some((Missing::All, _)) => file.visit_all(visit),
            Some((Missing::Last, from)) => {
                file.visit(from, |_, writes| visit(writes)).map(|_| true)
            }
        };
        visited.map_err(|e| self.error(e))
    }

    /// Visits all that the file has, in its order. Returns whether there is a file, and all of it could be
    /// read.
    pub(super) fn visit_all(
        &self,
        mut visit: impl FnMut(Batch) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        let kept = lock(&self.kept);
        let Some(file) = &kept.file else {
            return Ok(false);
        };
        let visited = file.visit_all(|writes| visit(Batch::of(writes)).map_err(CopyError::Store));
        visited.map_err(|e| self.error(e))
    }

    /// Notes that the database lacks nothing any more.
    pub(super) fn set_restored(&self, backend: &dyn Backend) {
        let mut kept = lock(&self.kept);
        *kept = Kept::default();
        self.make_again(
            &mut kept,
            backend,
            "what the database had lost was restored from it",
        );
    }

    /// Makes the file anew from the database.
    pub(super) fn renew(&self, backend: &dyn Backend) -> Result<(), StoreError> {
        let mut kept = lock(&self.kept);
        self.make_alone(&mut kept, backend)
            .map_err(|e| self.error(e))
    }

    /// Reads the whole file, and says what is wrong with it; `None` if nothing is, or there is none yet.
    pub(super) fn check(&self, backend: &dyn Backend) -> Option<StoreError> {
        loop {
            let (ours, follows) = {
                let kept = lock(&self.kept);
                let ours = kept.file.as_ref().map(Position::of);
                let is_nowhere = Position::read(backend).ok().flatten() == Some(Position::NOWHERE);
                (ours, ours.is_some() || !is_nowhere && !kept.gave_up)
            };
            let found = match ours {
                Some(ours) => has_whole(&self.state, ours),
                None => Ok(!is_there(&self.state)),
            };
            // Another one may have taken its place meanwhile.
            let now = lock(&self.kept).file.as_ref().map(|file| file.edition);
            if now == ours.map(|ours| ours.edition) {
                return match found {
                    Ok(true) if follows => None,
                    Ok(_) => Some(StoreError::SecondCopy),
                    Err(e) => Some(unusable(&self.state)(e)),
                };
            }
        }
    }
}

/// Writes, and has a file survive a power loss meanwhile: two syncs at once take little more than one.
fn beside(
    file: Option<&CopyFile>,
    write: impl FnOnce() -> Result<(), BackendError>,
) -> (Result<(), BackendError>, io::Result<()>) {
    let Some(file) = file else {
        return (write(), Ok(()));
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("narfs-copy".into());
        let syncing = thread.spawn_scoped(scope, || file.sync());
        let written = write();
        let synced = match syncing {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => file.sync(),
        };
        (written, synced)
    })
}

/// Whether the file of a state is the one of a position, and whole up to there.
fn has_whole(state: &Path, position: Position) -> io::Result<bool> {
    let Some(mut there) = CopyFile::open(state)? else {
        return Ok(false);
    };
    if there.edition != position.edition || there.length < position.length {
        return Ok(false);
    }
    // More may be added meanwhile.
    there.length = position.length;
    there.visit_all(|_| Ok(()))
}

/// Visits all records that are kept.
pub(super) fn scan_kept<V: View + ?Sized, E: From<StoreError>>(
    view: &V,
    mut visit: impl FnMut(Family, &[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for family in Family::ALL.into_iter().filter(|f| keeps_of(*f)) {
        let mut visited = Ok(());
        let scanned = view.scan(family, &[], &mut |key, record| {
            if is_kept(family, Some(key)) {
                visited = visit(family, key, record);
            }
            visited.is_ok()
        });
        scanned.map_err(failed("records were copied"))?;
        visited?;
    }
    Ok(())
}

/// Names the state whose second copy cannot be used.
fn unusable(state: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let dir = state.to_owned();
    move |source| StoreError::Directory {
        dir,
        what: "its file \"second-copy\" cannot be read or written",
        source,
    }
}
