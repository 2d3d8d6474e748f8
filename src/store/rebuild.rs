//! Databases that cannot be opened any more, restored from the second copy or made anew of it.
//!
//! Invariants: one process owns the state throughout; nothing that a person might still want is deleted.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::directory::{Directory, Ownership, sync_names};
use super::error::StoreError;
use super::records::Records;
use super::restore::{Restored, restored};
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
    /// The copy that it was made of, if some of that was damaged.
    pub damaged_copy: Option<PathBuf>,
    /// Whether the contents of paths that can be read are still there.
    pub has_contents: bool,
    /// Paths that were added on this machine and whose contents are lost.
    pub lost: Vec<StorePath>,
}

/// Repairs the database of a state that cannot be opened with the second copy. `None` if it can be opened.
///
/// Where RocksDB itself opens it, all records that the copy has are restored, and contents stay. Else it is
/// moved aside, and a new one without contents is made. When this returns, that survives a power loss; a
/// crash leaves a database that cannot be opened, or none, and the copy.
///
/// # Errors
/// As [`Store::open`](super::Store::open). There is no second copy; files cannot be moved.
pub fn rebuild(dir: &Path, options: &StoreOptions) -> Result<Option<Rebuilt>, StoreError> {
    let open_files = descriptors::for_database(descriptors::raise()?);
    let memory = Parts::of(options.memory).database;
    let directory = Directory::open(dir, options.store_dir.as_ref(), false, None)?;
    let needs = || directory.needs().clone();
    let fail = |source| StoreError::Directory {
        dir: dir.to_owned(),
        what: "its database cannot be replaced",
        source,
    };
    // This process stays the owner throughout.
    let open = || {
        let lock = directory.ownership().descriptor();
        let lock = lock.try_clone_to_owned().map_err(fail)?;
        Store::open_owned(dir, options, Some(Ownership::from_descriptor(lock)))
    };
    match open() {
        Ok(_) => return Ok(None),
        Err(StoreError::Incomplete { has_copy: true, .. }) => {}
        Err(e) => return Err(e),
    }
    if let Ok(records) = Records::open(dir, needs(), memory, open_files)
        && let Ok(true) = records.lose_kept()
        && let Ok(Restored { lost, .. }) = restored(&records)
    {
        records.set_restored();
        drop(records);
        if open().is_ok() {
            return Ok(Some(Rebuilt {
                moved: None,
                damaged_copy: None,
                has_contents: true,
                lost,
            }));
        }
    }
    let draft = dir.join(DRAFT);
    if_there(fs::remove_dir_all(&draft)).map_err(fail)?;
    let records = Records::in_place_of_lost(dir, &draft, needs(), memory, open_files)?;
    let Restored { lost, is_whole } = restored(&records)?;
    let damaged_copy = match is_whole {
        true => None,
        false => records.keep_damaged_copy(&free_name(dir, "damaged-second-copy")),
    };
    records.set_restored();
    drop(records);
    let moved = free_name(dir, ASIDE);
    let is_moved = if_there(fs::rename(dir.join(DB), &moved)).map_err(fail)?;
    fs::rename(&draft, dir.join(DB)).map_err(fail)?;
    sync_names(dir).map_err(fail)?;
    Ok(Some(Rebuilt {
        moved: is_moved.then_some(moved),
        damaged_copy,
        has_contents: false,
        lost,
    }))
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
