//! The state directory: its format file and its lock.
//!
//! Invariant: while a [`Directory`] lives, no other process has the state open.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::format::{Feature, Format, Needs};
use crate::nix::store_path::StoreDir;

/// The file that the owner locks, with its number and command.
const LOCK: &str = "lock";
/// The format file until it is whole.
const FORMAT_DRAFT: &str = ".format";
/// Longest command in the lock file, in characters: enough to recognise it.
const COMMAND: usize = 200;

/// Begins each line of a file of format 4 that names a feature.
const FEATURE: &str = "feature ";

/// Directory of temporary files in the state, which is emptied when the state is opened.
pub(super) const SPOOL: &str = "tmp";

/// Bytes that stay free on the state's disk. RocksDB needs room to write its memory tables and
/// its log when the disk fills up; a database that cannot do that needs repair by hand.
pub const RESERVE: u64 = 96 << 20;

/// Free bytes below which nothing is written, neither to the log nor to files: after one write that
/// finds no room RocksDB refuses all others until it is opened anew.
pub(super) const LEAST_FREE: u64 = 16 << 20;

/// The lock of a state, locked: a process that holds its descriptor, or a copy of it, owns the state.
#[derive(Debug)]
pub struct Ownership(File);

impl Ownership {
    /// What another process handed over.
    pub fn from_descriptor(lock: OwnedFd) -> Self {
        Self(File::from(lock))
    }

    /// For another process, so that the state stays owned when this one ends.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A state directory that this process owns.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    store_dir: StoreDir,
    /// When it was opened.
    needs: Needs,
    ownership: Ownership,
}

impl Directory {
    /// Takes possession of `path`, making it if `create`. With `ownership` it is in the hands of
    /// this process already.
    pub(super) fn open(
        path: &Path,
        wanted: Option<&StoreDir>,
        create: bool,
        ownership: Option<Ownership>,
    ) -> Result<Self, StoreError> {
        let fail = |what| {
            move |source| StoreError::Directory {
                dir: path.to_owned(),
                what,
                source,
            }
        };
        let is_new = !path.exists() || !is_made(path)?;
        if is_new {
            if !create {
                return Err(StoreError::Absent(path.to_owned()));
            }
            make_directory(path).map_err(fail("it cannot be made"))?;
        } else {
            // What is not ours is left as it is, without a lock of ours.
            read_format(path, wanted)?;
        }
        let lock = take_lock(path, ownership)?;
        // Who had the lock before may have made the state meanwhile.
        if is_new && !path.join("format").exists() {
            let store_dir = wanted.cloned().unwrap_or_default();
            write_format(path, &Format::NEW.into(), &store_dir)
                .map_err(fail("it cannot be written"))?;
        }
        let (store_dir, needs) = read_format(path, wanted)?;
        let tmp = path.join(SPOOL);
        if tmp.exists() {
            fs::remove_dir_all(&tmp).map_err(fail("tmp/ cannot be emptied"))?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&tmp)
            .map_err(fail("tmp/ cannot be made"))?;
        Ok(Self {
            path: path.to_owned(),
            store_dir,
            needs,
            ownership: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    pub(super) fn needs(&self) -> &Needs {
        &self.needs
    }

    pub(super) fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// An error when the disk is nearly full. `waiting` bytes are in memory and will need room.
    pub(super) fn check_room(&self, waiting: u64) -> Result<(), StoreError> {
        check_room(&self.path, RESERVE, waiting)
    }
}

/// Bytes that are free for the state in `dir`.
pub(super) fn free(dir: &Path) -> Result<u64, StoreError> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| StoreError::Directory {
        dir: dir.to_owned(),
        what: "its free space cannot be told",
        source: e.into(),
    })?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// An error when less than `reserve` and `waiting` bytes are free for the state in `dir`.
pub(super) fn check_room(dir: &Path, reserve: u64, waiting: u64) -> Result<(), StoreError> {
    let free = free(dir)?;
    if free < reserve.saturating_add(waiting) {
        let dir = dir.to_owned();
        return Err(StoreError::Full { dir, free, reserve });
    }
    Ok(())
}

/// What a state directory is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The store directory of its paths.
    pub store_dir: StoreDir,
    /// Whether it is of an older format, which older versions can open as well.
    pub is_older: bool,
}

/// Looks at a state directory, without a lock and without changing anything.
///
/// # Errors
/// It is absent, foreign, of a newer format, for another store directory than `wanted`, or cannot
/// be read.
pub fn inspect(dir: &Path, wanted: Option<&StoreDir>) -> Result<Inspected, StoreError> {
    if !dir.exists() {
        return Err(StoreError::Absent(dir.to_owned()));
    }
    if !is_made(dir)? {
        return Err(StoreError::Absent(dir.to_owned()));
    }
    let (store_dir, needs) = read_format(dir, wanted)?;
    Ok(Inspected {
        store_dir,
        is_older: needs.format < Format::NEW,
    })
}

/// Whether there is a format file in a directory; an error if it is a foreign one.
fn is_made(dir: &Path) -> Result<bool, StoreError> {
    let format = dir.join("format");
    let entries = fs::read_dir(dir).map_err(|source| StoreError::Directory {
        dir: dir.to_owned(),
        what: "it cannot be read",
        source,
    })?;
    if format.exists() {
        return Ok(true);
    }
    let mut names = entries.map(|entry| Some(entry.ok()?.file_name()));
    let is_foreign = names.any(|name| !name.is_some_and(|n| may_precede_format(&n)));
    // Another process may have made the state between these looks.
    match is_foreign && !format.exists() {
        true => Err(StoreError::Foreign(dir.to_owned())),
        false => Ok(format.exists()),
    }
}

/// Whether this may lie in a directory that is to become a state: mkfs makes the one, and the
/// others are there while a process makes the state, or if it was killed at it.
fn may_precede_format(name: &OsStr) -> bool {
    name == "lost+found" || name == LOCK || name == FORMAT_DRAFT
}

/// Makes a directory, and those above it, unless it is there. It survives a power loss, even if a process
/// that made it was killed before it could say so.
pub(crate) fn make_directory(dir: &Path) -> io::Result<()> {
    let parent = match dir.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    if !parent.exists() {
        make_directory(parent)?;
    }
    match fs::DirBuilder::new().mode(0o755).create(dir) {
        Err(e) if !dir.is_dir() => return Err(e),
        _ => {}
    }
    sync_names(parent)
}

/// Makes the names in a directory survive a power loss, unless this process may not read it or its file
/// system does not sync directories.
pub(crate) fn sync_names(dir: &Path) -> io::Result<()> {
    match File::open(dir).and_then(|dir| dir.sync_all()) {
        Err(e) if [ErrorKind::PermissionDenied, ErrorKind::InvalidInput].contains(&e.kind()) => {
            Ok(())
        }
        synced => synced,
    }
}

/// Has the format file say that a state needs a newer format, or features. It is written before the first
/// record that an older version does not know, so that such a version never meets one.
pub(super) fn raise(dir: &Path, needs: &Needs) -> Result<(), StoreError> {
    let (store_dir, _) = read_format(dir, None)?;
    write_format(dir, needs, &store_dir).map_err(|source| StoreError::Directory {
        dir: dir.to_owned(),
        what: "it cannot be upgraded",
        source,
    })
}

fn write_format(dir: &Path, needs: &Needs, store_dir: &StoreDir) -> io::Result<()> {
    let temporary = dir.join(FORMAT_DRAFT);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&temporary)?;
    write!(file, "{}\nstore-dir {store_dir}\n", needs.format.line())?;
    for feature in &needs.features {
        writeln!(file, "{FEATURE}{}", feature.name())?;
    }
    file.sync_all()?;
    fs::rename(&temporary, dir.join("format"))?;
    File::open(dir)?.sync_all()
}

/// The store directory of a state, and what a reader has to know.
fn read_format(dir: &Path, wanted: Option<&StoreDir>) -> Result<(StoreDir, Needs), StoreError> {
    let text = fs::read_to_string(dir.join("format")).map_err(|source| StoreError::Directory {
        dir: dir.to_owned(),
        what: "its file \"format\" cannot be read",
        source,
    })?;
    let mut lines = text.lines();
    let found = lines.next().unwrap_or_default();
    let Some(format) = Format::parse(found) else {
        return Err(if Format::is_named(found) {
            StoreError::Newer {
                dir: dir.to_owned(),
                found: found.to_owned(),
            }
        } else {
            StoreError::Foreign(dir.to_owned())
        });
    };
    let store_dir = lines
        .next()
        .and_then(|l| l.strip_prefix("store-dir "))
        .and_then(|d| StoreDir::parse(d).ok())
        .ok_or_else(|| StoreError::Damaged {
            what: format!("{}/format has no store-dir", dir.display()),
        })?;
    let mut needs = Needs::from(format);
    if format == Format::Listed {
        needs.features = features(dir, lines)?;
    }
    match wanted {
        Some(wanted) if *wanted != store_dir => Err(StoreError::OtherStoreDir {
            dir: dir.to_owned(),
            found: store_dir.to_string(),
            wanted: wanted.to_string(),
        }),
        _ => Ok((store_dir, needs)),
    }
}

/// The features, one a line; an error names those that this version does not know.
fn features<'l>(
    dir: &Path,
    lines: impl Iterator<Item = &'l str>,
) -> Result<BTreeSet<Feature>, StoreError> {
    let (mut features, mut unknown) = (BTreeSet::new(), Vec::new());
    for line in lines {
        let name = line.strip_prefix(FEATURE).unwrap_or(line);
        match Feature::named(name) {
            Some(feature) => drop(features.insert(feature)),
            None => unknown.push(name),
        }
    }
    match unknown[..] {
        [] => Ok(features),
        _ => Err(StoreError::UnknownFeatures {
            dir: dir.to_owned(),
            features: unknown.join(", "),
        }),
    }
}

/// Locks the state, or goes on with `ownership` if that is of this very state.
fn take_lock(dir: &Path, ownership: Option<Ownership>) -> Result<Ownership, StoreError> {
    let fail = |source| StoreError::Directory {
        dir: dir.to_owned(),
        what: "its lock cannot be taken",
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(LOCK))
        .map_err(fail)?;
    // A user who can open it can hold the lock, and so keep all others from the state.
    let owners_alone = std::fs::Permissions::from_mode(0o600);
    file.set_permissions(owners_alone).map_err(fail)?;
    let same = |other: &Ownership| {
        let [ours, others] = [&file, &other.0].map(|f| f.metadata().map(|m| (m.dev(), m.ino())));
        matches!((ours, others), (Ok(ours), Ok(others)) if ours == others)
    };
    if let Some(ownership) = ownership.filter(same) {
        file = ownership.0;
        file.rewind().map_err(fail)?;
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The text only serves the message.
            let _ = file.read_to_string(&mut owner);
            let owner = owner.trim().to_owned();
            let dir = dir.to_owned();
            let process = owner.split(' ').next().and_then(|p| p.parse::<u32>().ok());
            let is_gone = |p: u32| !Path::new(&format!("/proc/{p}")).exists();
            return Err(if process.is_some_and(is_gone) {
                StoreError::Waiting { dir, owner }
            } else {
                StoreError::Owned { dir, owner }
            });
        }
        Err(TryLockError::Error(e)) => return Err(fail(e)),
    }
    let arguments = std::env::args_os();
    let command: Vec<_> = arguments.map(|a| a.display().to_string()).collect();
    let command: String = command.join(" ").chars().take(COMMAND).collect();
    file.set_len(0).map_err(fail)?;
    writeln!(file, "{} ({command})", std::process::id()).map_err(fail)?;
    Ok(Ownership(file))
}
