//! Databases that cannot be opened any more, restored from the second copy or made anew of it.
//!
//! Invariants: one process owns the state throughout; nothing that a person might still want is deleted.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::contents::note_next_chunk;
use super::directory::{Directory, Ownership, sync_names};
use super::error::StoreError;
use super::records::Records;
use super::restore::{Restored, resettled, restored};
use super::{Parts, Store, StoreOptions, descriptors};
use crate::nix::store_path::StorePath;

/// The database of a state, its next one until that is whole, and where the one before is moved to.
const DB: &str = "db";
const DRAFT: &str = "db-new";
const ASIDE: &str = "damaged-db";

/// A database that could not be opened, and now can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// What was left of the one before.
    pub moved: Option<PathBuf>,
    /// Whether it was made of the second copy.
    pub has_copied: bool,
    /// The copy that it was made of, if some of that was damaged.
    pub damaged_copy: Option<PathBuf>,
    /// Whether the contents of paths that can be read are still there.
    pub has_contents: bool,
    /// Paths that were added on this machine and whose contents are lost.
    pub lost: Vec<StorePath>,
}

impl Rebuilt {
    /// One that was not moved, and has lost these paths, if it was restored from the copy.
    fn in_place(lost: Option<Vec<StorePath>>) -> Self {
        Self {
            moved: None,
            has_copied: lost.is_some(),
            damaged_copy: None,
            has_contents: true,
            lost: lost.unwrap_or_default(),
        }
    }
}

/// Opens a state whose database may have to be repaired first: with what is left of its files, and with the
/// second copy. `None` beside it if it could be opened.
///
/// Where RocksDB itself opens it, all records that the copy has are restored, and contents stay. Else a new
/// one is made of the files that can be read, and the old one is moved aside. When this returns, that
/// survives a power loss; a crash leaves a database that cannot be opened, or none, and the copy.
///
/// # Errors
/// As [`Store::open`]. There is neither a second copy nor a table; files cannot be moved.
pub fn open_repaired(
    dir: &Path,
    options: &StoreOptions,
) -> Result<(Store, Option<Rebuilt>), StoreError> {
    let directory = Directory::open(dir, options.store_dir.as_ref(), false, None)?;
    // This process stays the owner throughout.
    let open = || {
        let lock = directory.ownership().descriptor();
        let lock = lock.try_clone_to_owned().map_err(cannot(dir))?;
        Store::open_owned(dir, options, Some(Ownership::from_descriptor(lock)))
    };
    let incomplete = match open() {
        Err(e @ StoreError::Incomplete { .. }) => e,
        opened => return Ok((opened?, None)),
    };
    if Records::name_list(dir)
        && let Ok(store) = open()
    {
        return Ok((store, Some(Rebuilt::in_place(None))));
    }
    if let Some(lost) = restored_in_place(dir, &directory, options)?
        && let Ok(store) = open()
    {
        return Ok((store, Some(Rebuilt::in_place(Some(lost)))));
    }
    match replaced(dir, &directory, options)? {
        Some(rebuilt) => Ok((open()?, Some(rebuilt))),
        None => Err(incomplete),
    }
}

/// Restores a database that RocksDB opens. Returns the paths that were added here and whose contents are
/// lost; `None` if it does not, or if the second copy is not whole.
fn restored_in_place(
    dir: &Path,
    directory: &Directory,
    options: &StoreOptions,
) -> Result<Option<Vec<StorePath>>, StoreError> {
    let (memory, open_files) = bounds(options)?;
    if let Ok(records) = Records::open(dir, directory.needs().clone(), memory, open_files)
        && let Ok(true) = records.lose_kept()
        && let Ok(Restored { lost, .. }) = restored(&records)
        && let Ok(()) = note_next_chunk(&records)
    {
        records.set_restored();
        return Ok(Some(lost));
    }
    Ok(None)
}

/// Makes a database in place of one that RocksDB does not open; `None` if there is nothing to make it of.
fn replaced(
    dir: &Path,
    directory: &Directory,
    options: &StoreOptions,
) -> Result<Option<Rebuilt>, StoreError> {
    let (memory, open_files) = bounds(options)?;
    let fail = || cannot(dir);
    let draft = dir.join(DRAFT);
    if_there(fs::remove_dir_all(&draft)).map_err(fail())?;
    let needs = directory.needs().clone();
    let (records, taken) = Records::in_place_of_lost(dir, &draft, needs, memory, open_files)?;
    let has_contents = !taken.is_empty();
    let has_copy = records.has_second_copy();
    if !has_contents && !has_copy {
        drop(records);
        if_there(fs::remove_dir_all(&draft)).map_err(fail())?;
        return Ok(None);
    }
    let Restored { lost, is_whole } = match has_contents && !records.lose_kept()? {
        true => resettled(&records)?,
        false => restored(&records)?,
    };
    let damaged_copy = match is_whole || !has_copy {
        true => None,
        false => records.keep_damaged_copy(&free_name(dir, "damaged-second-copy")),
    };
    note_next_chunk(&records)?;
    records.set_restored();
    drop(records);
    let moved = free_name(dir, ASIDE);
    let is_moved = if_there(fs::rename(dir.join(DB), &moved)).map_err(fail())?;
    fs::rename(&draft, dir.join(DB)).map_err(fail())?;
    sync_names(dir).map_err(fail())?;
    taken.delete_in(&moved);
    Ok(Some(Rebuilt {
        moved: is_moved.then_some(moved),
        has_copied: has_copy && (is_whole || !has_contents),
        damaged_copy,
        has_contents,
        lost,
    }))
}

/// Bytes of memory and open files for the database.
fn bounds(options: &StoreOptions) -> Result<(usize, i32), StoreError> {
    let open_files = descriptors::for_database(descriptors::raise()?);
    Ok((Parts::of(options.memory).database, open_files))
}

fn cannot(dir: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let dir = dir.to_owned();
    move |source| StoreError::Directory {
        dir,
        what: "its database cannot be replaced",
        source,
    }
}

/// Whether there was something with which this could be done.
fn if_there(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        done => done.map(|()| true),
    }
}

/// A name in a directory that nothing has.
fn free_name(dir: &Path, name: &str) -> PathBuf {
    let numbered = (2..).map(|n| dir.join(format!("{name}-{n}")));
    let mut names = std::iter::once(dir.join(name)).chain(numbered);
    let free = names.find(|name| fs::symlink_metadata(name).is_err());
    free.unwrap_or_else(|| dir.join(name))
}
