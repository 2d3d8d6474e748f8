//! Temporary files that programs create beside the links of a profile while they change it: lock
//! files, links about to be renamed, and the directory of a user without a profile.
//!
//! Invariant: all of it is in memory, limited in number and size, and removed after it was not used
//! for [`MAX_AGE`]. A removed file stays until it is closed, and for a while if it is not open: the kernel
//! may have looked it up, and be about to open it. A number is never reused.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::fs::attributes::{Attributes, DIRECTORY_SIZE, Kind};
use crate::fs::{FsError, Inode};

/// Limit of their number; a program creates two or three at a time.
const MAX_FILES: usize = 1024;
/// Limit of the length of a file, in bytes. Nix writes one byte into a lock file.
const MAX_LENGTH: usize = 4096;
/// Limit of the number of removed files that stay though they are not open.
const MAX_REMOVED: usize = 64;
/// Age after which something that is neither open nor used was left behind by a program that was
/// killed.
const MAX_AGE: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Directory,
    File(Vec<u8>),
    Link(Vec<u8>),
}

/// The full name of a directory of profiles, and a name in it.
pub(super) type Name = (String, Vec<u8>);

/// A temporary file, link or directory.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) content: Content,
    /// `None` after the removal of an open file.
    name: Option<Name>,
    mode: u16,
    time: SystemTime,
    used: Instant,
    open: u32,
}

/// All temporary files of a daemon.
#[derive(Debug)]
pub(super) struct Temporaries {
    next: u64,
    by_number: BTreeMap<u64, Temporary>,
    by_name: BTreeMap<Name, u64>,
    /// The files removed last that were not open, the oldest first.
    removed: VecDeque<u64>,
}

/// The full name of an entry of a directory of profiles.
pub(super) fn full_name(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        directory => format!("{directory}/{name}"),
    }
}

impl Temporaries {
    /// An empty set. Numbers start from the current time, so that numbers of an earlier daemon,
    /// which the kernel may still know, are not reused.
    pub(super) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            next: since.map_or(1, |s| s.as_micros() as u64),
            by_number: BTreeMap::new(),
            by_name: BTreeMap::new(),
            removed: VecDeque::new(),
        }
    }

    /// The inode of a name.
    pub(super) fn find(&mut self, name: &Name) -> Option<Inode> {
        let number = *self.by_name.get(name)?;
        if let Some(found) = self.by_number.get_mut(&number) {
            found.used = Instant::now();
        }
        Some(Inode::temporary(number))
    }

    /// The temporary file with this inode number.
    pub(super) fn get(&self, inode: Inode) -> Result<&Temporary, FsError> {
        let found = self.by_number.get(&number(inode));
        found.ok_or(FsError::Stale)
    }

    fn get_mut(&mut self, inode: Inode) -> Result<&mut Temporary, FsError> {
        let found = self.by_number.get_mut(&number(inode));
        found.ok_or(FsError::Stale)
    }

    /// The full name of a directory.
    pub(super) fn directory(&self, inode: Inode) -> Result<String, FsError> {
        let found = self.get(inode)?;
        if found.content != Content::Directory {
            return Err(FsError::NotADirectory);
        }
        let (above, name) = found.name.as_ref().ok_or(FsError::Stale)?;
        let name = std::str::from_utf8(name).map_err(|_| FsError::Stale)?;
        Ok(full_name(above, name))
    }

    /// Its attributes.
    pub(super) fn attributes(&self, inode: Inode) -> Result<Attributes, FsError> {
        let found = self.get(inode)?;
        let (kind, size) = match &found.content {
            Content::Directory => (Kind::Directory, DIRECTORY_SIZE),
            Content::File(bytes) => (Kind::File, bytes.len() as u64),
            Content::Link(target) => (Kind::Link, target.len() as u64),
        };
        Ok(Attributes {
            inode,
            in_store: inode,
            kind,
            mode: found.mode,
            size,
            links: u32::from(found.name.is_some()),
            time: found.time,
            settled: false,
        })
    }

    /// Adds a temporary file under an unused name.
    ///
    /// # Errors
    /// The name exists, or there are too many.
    pub(super) fn add(
        &mut self,
        name: Name,
        content: Content,
        mode: u16,
    ) -> Result<Inode, FsError> {
        self.forget_old(Instant::now());
        if self.by_name.contains_key(&name) {
            return Err(FsError::Exists);
        }
        if self.by_number.len() >= MAX_FILES + self.removed.len() {
            return Err(FsError::Full);
        }
        let number = number(Inode::temporary(self.next));
        self.next += 1;
        self.by_name.insert(name.clone(), number);
        let temporary = Temporary {
            content,
            name: Some(name),
            mode,
            time: SystemTime::now(),
            used: Instant::now(),
            open: 0,
        };
        self.by_number.insert(number, temporary);
        Ok(Inode::temporary(number))
    }

    /// Removes a name; an open file stays until it is closed, any other for a while.
    pub(super) fn remove(&mut self, name: &Name) {
        let Some(number) = self.by_name.remove(name) else {
            return;
        };
        if let Some(found) = self.by_number.get_mut(&number) {
            found.name = None;
            if found.open == 0 {
                self.keep_for_a_while(number);
            }
        }
    }

    /// Keeps a file without a name, which is not open, until enough others were removed after it.
    fn keep_for_a_while(&mut self, number: u64) {
        self.removed.push_back(number);
        if self.removed.len() > MAX_REMOVED
            && let Some(oldest) = self.removed.pop_front()
        {
            self.by_number.remove(&oldest);
        }
    }

    /// Renames a temporary file, replacing an existing one.
    pub(super) fn rename(&mut self, from: &Name, to: Name) {
        if *from == to {
            return;
        }
        self.remove(&to);
        if let Some(number) = self.by_name.remove(from) {
            if let Some(found) = self.by_number.get_mut(&number) {
                found.name = Some(to.clone());
            }
            self.by_name.insert(to, number);
        }
    }

    /// Keeps a file while it is open.
    pub(super) fn open(&mut self, inode: Inode) -> Result<(), FsError> {
        let found = self.get_mut(inode)?;
        found.open += 1;
        self.removed.retain(|kept| *kept != number(inode));
        Ok(())
    }

    /// The counterpart of [`Self::open`].
    pub(super) fn close(&mut self, inode: Inode) {
        if let Ok(found) = self.get_mut(inode) {
            found.open = found.open.saturating_sub(1);
            found.used = Instant::now();
            if found.open == 0 && found.name.is_none() {
                self.keep_for_a_while(number(inode));
            }
        }
    }

    /// The contents of a file.
    pub(super) fn file(&mut self, inode: Inode) -> Result<&mut Vec<u8>, FsError> {
        let found = self.get_mut(inode)?;
        found.used = Instant::now();
        match &mut found.content {
            Content::File(bytes) => Ok(bytes),
            Content::Directory => Err(FsError::IsADirectory),
            Content::Link(_) => Err(FsError::NotAFile),
        }
    }

    /// Writes to a file.
    ///
    /// # Errors
    /// It would become too large.
    pub(super) fn write(&mut self, inode: Inode, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let bytes = self.file(inode)?;
        let start = usize::try_from(offset).map_err(|_| FsError::ReadOnly)?;
        let end = start.saturating_add(data.len());
        if end > MAX_LENGTH {
            return Err(FsError::ReadOnly);
        }
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(part) = bytes.get_mut(start..end) {
            part.copy_from_slice(data);
        }
        self.set_time(inode, SystemTime::now())
    }

    /// Changes the length of a file.
    ///
    /// # Errors
    /// It would become too large.
    pub(super) fn resize(&mut self, inode: Inode, size: u64) -> Result<(), FsError> {
        let size = usize::try_from(size)
            .ok()
            .filter(|size| *size <= MAX_LENGTH);
        let size = size.ok_or(FsError::ReadOnly)?;
        self.file(inode)?.resize(size, 0);
        self.set_time(inode, SystemTime::now())
    }

    /// Sets the modification time.
    pub(super) fn set_time(&mut self, inode: Inode, time: SystemTime) -> Result<(), FsError> {
        self.get_mut(inode)?.time = time;
        Ok(())
    }

    /// Whether a directory is not empty.
    pub(super) fn is_used(&self, directory: &str) -> bool {
        self.by_name.keys().any(|(above, _)| above == directory)
    }

    /// The subdirectories of a directory, from an inode on, in order of inodes.
    pub(super) fn directories(&self, above: &str, from: Inode) -> Vec<(Vec<u8>, Inode)> {
        let all = self.by_number.range(number(from)..);
        let directories = all.filter(|(_, t)| t.content == Content::Directory);
        let named = directories.filter_map(|(n, t)| Some((*n, t.name.as_ref()?)));
        named
            .filter(|(_, (directory, _))| directory == above)
            .map(|(n, (_, name))| (name.clone(), Inode::temporary(n)))
            .collect()
    }

    /// Removes what is unused. A directory is used by its contents.
    fn forget_old(&mut self, now: Instant) {
        let is_old = |t: &Temporary| t.open == 0 && now.duration_since(t.used) >= MAX_AGE;
        let old = self.by_number.values().filter(|t| is_old(t));
        let names: Vec<_> = old.filter_map(|t| t.name.clone()).collect();
        for name in names {
            let directory = std::str::from_utf8(&name.1);
            let directory = directory.map(|last| full_name(&name.0, last));
            if !directory.is_ok_and(|directory| self.is_used(&directory)) {
                self.remove(&name);
            }
        }
    }
}

/// The number of the file in an inode number.
fn number(inode: Inode) -> u64 {
    inode.0 & !(Inode::temporary(0).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        (String::new(), text.into())
    }

    #[test]
    fn what_was_removed_stays_for_who_has_it_open() {
        let mut all = Temporaries::new();
        let lock = all.add(name("p.lock"), Content::File(Vec::new()), 0o600);
        let lock = lock.unwrap();
        all.open(lock).unwrap();
        all.remove(&name("p.lock"));
        assert_eq!(all.find(&name("p.lock")), None);
        all.write(lock, 0, b"d").unwrap();
        let seen = all.attributes(lock).unwrap();
        assert_eq!((seen.size, seen.links, seen.mode), (1, 0, 0o600));
        let again = all.add(name("p.lock"), Content::File(Vec::new()), 0o600);
        assert_ne!(again.unwrap(), lock);
        all.close(lock);
        // Another program may have found it before it was removed, and open it now.
        all.open(lock).unwrap();
        all.close(lock);
        for n in 0..MAX_REMOVED {
            assert!(all.attributes(lock).is_ok(), "after {n} others");
            let other = name(&n.to_string());
            all.add(other.clone(), Content::File(Vec::new()), 0o600)
                .unwrap();
            all.remove(&other);
        }
        assert!(matches!(all.attributes(lock), Err(FsError::Stale)));
    }

    #[test]
    fn there_are_bounds() {
        let mut all = Temporaries::new();
        let file = all
            .add(name("f"), Content::File(Vec::new()), 0o600)
            .unwrap();
        all.write(file, 4000, &[1; 96]).unwrap();
        let beyond = [
            all.write(file, 4001, &[1; 96]),
            all.write(file, u64::MAX, b"x"),
        ];
        assert!(beyond.iter().all(|b| matches!(b, Err(FsError::ReadOnly))));
        assert!(matches!(all.resize(file, 4097), Err(FsError::ReadOnly)));
        all.resize(file, 1).unwrap();
        assert_eq!(all.file(file).unwrap().as_slice(), [0]);
        for n in 1..MAX_FILES {
            let link = Content::Link(b"x".to_vec());
            all.add(name(&n.to_string()), link, 0o777).unwrap();
        }
        let more = all.add(name("more"), Content::Directory, 0o755);
        assert!(matches!(more, Err(FsError::Full)));
        // Later there is room again, except for open files.
        all.open(file).unwrap();
        let oldest = all.by_number.values().map(|t| t.used).min().unwrap();
        all.forget_old(oldest + MAX_AGE - Duration::from_nanos(1));
        assert_eq!(all.by_name.len(), MAX_FILES);
        all.forget_old(Instant::now() + MAX_AGE);
        assert_eq!(all.by_name.len(), 1);
        assert_eq!(all.by_number.len(), 1 + MAX_REMOVED);
        all.add(name("more"), Content::Directory, 0o755).unwrap();
    }

    #[test]
    fn a_directory_stays_as_long_as_something_is_in_it() {
        let mut all = Temporaries::new();
        let directory = all.add(
            ("per-user".into(), b"ann".into()),
            Content::Directory,
            0o755,
        );
        let directory = directory.unwrap();
        assert_eq!(all.directory(directory).unwrap(), "per-user/ann");
        let lock = ("per-user/ann".to_owned(), b"p.lock".to_vec());
        let file = all.add(lock, Content::File(Vec::new()), 0o600).unwrap();
        all.open(file).unwrap();
        all.forget_old(Instant::now() + MAX_AGE);
        assert!(all.directory(directory).is_ok());
        assert_eq!(all.directories("per-user", Inode::temporary(0)).len(), 1);
        all.close(file);
        all.forget_old(Instant::now() + MAX_AGE);
        all.forget_old(Instant::now() + MAX_AGE);
        assert!(all.directory(directory).is_err());
    }

    #[test]
    fn a_name_that_is_renamed_onto_another_replaces_it() {
        let mut all = Temporaries::new();
        let link = |target: &[u8]| Content::Link(target.to_vec());
        let one = all.add(name("one"), link(b"1"), 0o777).unwrap();
        all.add(name("two"), link(b"2"), 0o777).unwrap();
        all.rename(&name("one"), name("two"));
        assert_eq!(all.find(&name("two")), Some(one));
        assert_eq!(all.find(&name("one")), None);
        assert_eq!(all.by_name.len(), 1);
    }
}
