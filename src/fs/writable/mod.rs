//! Profiles that programs may change through their links, as `nix-env` does; without a kernel.
//!
//! Names of profiles are shown as in the read-only file system; any other name may be given to a
//! temporary file or link. Renaming a temporary link to the name of a profile, and removing the
//! link of a generation, change the profile. Everything else is refused as on a read-only file
//! system.
//!
//! Invariants: the name of a profile never points to anything but what the state says; the contents
//! of a directory are found by the directory's name, so that a directory created for a user remains
//! the same when it gets its first profile. Only [`WritableProfiles::rename`] and
//! [`WritableProfiles::unlink`] change the state, and only they may block, no longer than a lookup
//! of a store path.

mod temporaries;

use std::fmt;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::{
    Attributes, Entry, FileSystem, FsError, Inode, Kind, Lookup, NAME_MAX, Place, Space, Special,
};
use crate::fetch::Requester;
use crate::nix::store_path::StorePath;
use crate::profile::{GenerationNumber, LinkChange, ProfileEntry, ProfileName};
use crate::store::{ProfileDirectory, ProfileMember};
use crate::sync;
use temporaries::{Content, Name, Temporaries, full_name};

/// Offset of temporary directories in a listing.
const TEMPORARY: u64 = 1 << 60;

/// Changes a profile, in the same way as commands.
pub type ChangeProfile =
    Box<dyn Fn(&ProfileName, &LinkChange) -> Result<(), FsError> + Send + Sync>;

/// The profiles of a state, which can be changed through their links.
pub struct WritableProfiles {
    fs: Arc<FileSystem>,
    change: ChangeProfile,
    temporaries: Mutex<Temporaries>,
}

impl fmt::Debug for WritableProfiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WritableProfiles({:?})", self.fs.store)
    }
}

/// New values of attributes; `None` leaves one unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewAttributes {
    /// Permission bits.
    pub mode: Option<u16>,
    pub owner: Option<u32>,
    pub group: Option<u32>,
    pub size: Option<u64>,
    pub time: Option<SystemTime>,
    /// Whether the time is the current time, as set by touch(1).
    pub is_now: bool,
}

/// Whether a temporary file may have this name. Any name is allowed that cannot be that of a
/// profile, since programs may choose names other than those of Nix today; names that end in
/// `.tmp-N-N` or `.tmp-N` are never profiles.
fn is_temporary_name(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else {
        return true;
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let numbers = name.rsplit_once(".tmp-").map(|(_, numbers)| numbers);
    ProfileEntry::parse(name).is_none()
        || numbers.is_some_and(|n| n.split('-').count() <= 2 && n.split('-').all(is_number))
}

/// Whether Nix or NixOS creates a directory of this full name before it contains a profile.
fn is_directory_name(name: &str) -> bool {
    let user = name.strip_prefix("per-user/");
    let is_user = user.is_some_and(|u| !u.contains('/') && ProfileName::parse(name).is_ok());
    is_user || name == "system-profiles"
}

/// Translates an inode number for the kernel: 1 is the root, and the link of a profile has one
/// number, since its target is never cached.
fn to_kernel(attributes: Attributes) -> Attributes {
    let inode = match attributes.inode.place() {
        Ok(Place::Special(_)) => Inode::special(Special::Root),
        Ok(Place::Profile(id, node)) if node & 1 == 1 => Inode::following(id),
        _ => attributes.inode,
    };
    Attributes {
        inode,
        in_store: inode,
        ..attributes
    }
}

/// The inverse translation: of the directories above the store paths, only the profiles exist here.
fn from_kernel(inode: Inode) -> Result<Inode, FsError> {
    match inode.place()? {
        Place::Special(Special::Root) => Ok(Inode::special(Special::Profiles)),
        Place::Profile(..) => Ok(inode),
        _ => Err(FsError::Stale),
    }
}

impl WritableProfiles {
    /// The profiles of the state of `fs`, which are changed by `change`; unknown store paths are
    /// looked up as in `fs`.
    pub fn new(fs: Arc<FileSystem>, change: ChangeProfile) -> Self {
        Self {
            fs,
            change,
            temporaries: Mutex::new(Temporaries::new()),
        }
    }

    fn temporaries(&self) -> MutexGuard<'_, Temporaries> {
        sync::lock(&self.temporaries)
    }

    /// The full name of a directory.
    fn directory(&self, inode: Inode) -> Result<String, FsError> {
        if inode.is_temporary() {
            return self.temporaries().directory(inode);
        }
        let id = match from_kernel(inode)?.place()? {
            Place::Profile(id, _) => id,
            _ => ProfileDirectory::ROOT,
        };
        match self.fs.store.profiles().table().member(id) {
            Some(ProfileMember::Directory(name, _)) => Ok(name.to_owned()),
            Some(ProfileMember::Profile(..)) => Err(FsError::NotADirectory),
            None => Err(FsError::Stale),
        }
    }

    /// The inode of a directory that exists in the state.
    fn known(&self, directory: &str) -> Option<Inode> {
        let known = self.fs.store.profiles().table().directory(directory);
        known.map(|known| Inode::profile_directory(known.id))
    }

    /// The entry in the state of this name.
    fn in_state(&self, directory: &str, name: &[u8]) -> Result<Option<Attributes>, FsError> {
        if name.len() > NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        let Some(directory) = self.known(directory) else {
            return Ok(None);
        };
        match self.fs.lookup(directory, name)? {
            Lookup::Found(found) => Ok(Some(to_kernel(found))),
            Lookup::Absent | Lookup::NeverExists => Ok(None),
        }
    }

    /// Looks up `name` in the directory `parent`.
    ///
    /// # Errors
    /// `parent` is not a directory, the name does not exist or is not allowed, or the state fails.
    pub fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Attributes, FsError> {
        let directory = self.directory(parent)?;
        if let Some(found) = self.in_state(&directory, name)? {
            return Ok(found);
        }
        let mut temporaries = self.temporaries();
        let found = temporaries.find(&(directory, name.to_owned()));
        temporaries.attributes(found.ok_or(FsError::NotFound)?)
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// The inode does not exist, or the state fails.
    pub fn attributes(&self, inode: Inode) -> Result<Attributes, FsError> {
        if inode.is_temporary() {
            return self.temporaries().attributes(inode);
        }
        Ok(to_kernel(self.fs.attributes(from_kernel(inode)?)?))
    }

    /// Sets size and time of a temporary file. For anything else, only a request that changes
    /// nothing succeeds. Touching the link of a profile succeeds without effect: it is for
    /// notifying watchers.
    ///
    /// # Errors
    /// The attribute cannot be changed, or the inode does not exist.
    pub fn set_attributes(&self, inode: Inode, new: NewAttributes) -> Result<Attributes, FsError> {
        let own = self.attributes(inode)?;
        let differs = new.mode.is_some_and(|mode| mode != own.mode)
            || [new.owner, new.group].iter().flatten().any(|id| *id != 0);
        let may_change = inode.is_temporary() && own.kind != Kind::Directory;
        let is_touched = own.kind == Kind::Link && new.is_now && new.size.is_none();
        if differs || !(may_change || is_touched) && (new.size.is_some() || new.time.is_some()) {
            return Err(FsError::ReadOnly);
        }
        if !may_change {
            return Ok(own);
        }
        let mut temporaries = self.temporaries();
        if let Some(size) = new.size {
            temporaries.resize(inode, size)?;
        }
        if let Some(time) = new.time {
            temporaries.set_time(inode, time)?;
        }
        drop(temporaries);
        self.attributes(inode)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// It is not a link, or the state fails.
    pub fn read_link(&self, inode: Inode) -> Result<Vec<u8>, FsError> {
        if inode.is_temporary() {
            return match &self.temporaries().get(inode)?.content {
                Content::Link(target) => Ok(target.clone()),
                _ => Err(FsError::NotALink),
            };
        }
        self.fs.read_link(from_kernel(inode)?)
    }

    /// Passes the entries of a directory, from `offset` on, to `take` until it returns that it is
    /// full. Temporary files and links are not listed: Nix takes every name that begins like the
    /// link of a generation for one.
    ///
    /// # Errors
    /// It is not a directory, or the state fails.
    pub fn list(
        &self,
        inode: Inode,
        offset: u64,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        let directory = self.directory(inode)?;
        let known = self.known(&directory);
        let mut full = false;
        match known {
            Some(known) if offset < TEMPORARY => {
                self.fs.list(known, offset, &mut |entry| {
                    let attributes = to_kernel(entry.attributes);
                    full = take(Entry {
                        attributes,
                        ..entry
                    });
                    full
                })?;
            }
            Some(_) => {}
            // The kernel knows the parent by itself.
            None => {
                let own = self.attributes(inode)?;
                for (next, name) in (1..).zip([&b"."[..], b".."]).skip(offset as usize) {
                    let (name, attributes) = (name.to_vec(), own);
                    full = full
                        || take(Entry {
                            name,
                            next,
                            attributes,
                        });
                }
            }
        }
        if full {
            return Ok(());
        }
        let from = Inode::temporary(offset.saturating_sub(TEMPORARY));
        let temporaries = self.temporaries();
        for (name, inode) in temporaries.directories(&directory, from) {
            let last = String::from_utf8_lossy(&name);
            if self.known(&full_name(&directory, &last)).is_some() {
                continue;
            }
            let entry = Entry {
                name,
                next: TEMPORARY + (inode.0 - Inode::temporary(0).0) + 1,
                attributes: temporaries.attributes(inode)?,
            };
            if take(entry) {
                break;
            }
        }
        Ok(())
    }

    /// Checks that a temporary file may have this name.
    fn place(&self, parent: Inode, name: &[u8]) -> Result<Name, FsError> {
        let directory = self.directory(parent)?;
        if self.in_state(&directory, name)?.is_some() {
            return Err(FsError::Exists);
        }
        if !is_temporary_name(name) {
            return Err(FsError::ReadOnly);
        }
        Ok((directory, name.to_owned()))
    }

    /// Creates and opens a temporary file; an existing one is opened unless `new`.
    ///
    /// # Errors
    /// It exists, or the name is not allowed.
    pub fn create(
        &self,
        parent: Inode,
        name: &[u8],
        mode: u16,
        new: bool,
    ) -> Result<Attributes, FsError> {
        let name = match self.place(parent, name) {
            Err(FsError::Exists) if !new => return Err(FsError::ReadOnly),
            place => place?,
        };
        let mut temporaries = self.temporaries();
        let inode = match temporaries.find(&name) {
            Some(there) if !new => there,
            _ => temporaries.add(name, Content::File(Vec::new()), mode)?,
        };
        temporaries.file(inode)?;
        temporaries.open(inode)?;
        temporaries.attributes(inode)
    }

    /// Opens a temporary file.
    ///
    /// # Errors
    /// It is something else, or is gone.
    pub fn open(&self, inode: Inode) -> Result<(), FsError> {
        if !inode.is_temporary() {
            self.attributes(inode)?;
            return Err(FsError::ReadOnly);
        }
        let mut temporaries = self.temporaries();
        temporaries.file(inode)?;
        temporaries.open(inode)
    }

    /// The counterpart of [`Self::create`] and [`Self::open`].
    pub fn release(&self, inode: Inode) {
        self.temporaries().close(inode);
    }

    /// At most `length` bytes of a temporary file.
    ///
    /// # Errors
    /// There is no such file.
    pub fn read(&self, inode: Inode, offset: u64, length: u32) -> Result<Vec<u8>, FsError> {
        let mut temporaries = self.temporaries();
        let bytes = temporaries.file(inode)?;
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let end = start.saturating_add(length as usize).min(bytes.len());
        Ok(bytes[start..end].to_vec())
    }

    /// Writes to a temporary file.
    ///
    /// # Errors
    /// There is no such file, or it would become too large.
    pub fn write(&self, inode: Inode, offset: u64, data: &[u8]) -> Result<(), FsError> {
        self.temporaries().write(inode, offset, data)
    }

    /// Creates a temporary link.
    ///
    /// # Errors
    /// The name exists, or is not allowed for a temporary link.
    pub fn symlink(
        &self,
        parent: Inode,
        name: &[u8],
        target: &[u8],
    ) -> Result<Attributes, FsError> {
        let name = self.place(parent, name)?;
        let mut temporaries = self.temporaries();
        let inode = temporaries.add(name, Content::Link(target.to_vec()), 0o777)?;
        temporaries.attributes(inode)
    }

    /// Creates a directory for future profiles.
    ///
    /// # Errors
    /// The name exists, or Nix does not create a directory of this name.
    pub fn make_directory(&self, parent: Inode, name: &[u8]) -> Result<Attributes, FsError> {
        let directory = self.directory(parent)?;
        if self.in_state(&directory, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let last = std::str::from_utf8(name).map_err(|_| FsError::ReadOnly)?;
        if !is_directory_name(&full_name(&directory, last)) {
            return Err(FsError::ReadOnly);
        }
        let name = (directory, name.to_owned());
        let mut temporaries = self.temporaries();
        let inode = temporaries.add(name, Content::Directory, 0o755)?;
        temporaries.attributes(inode)
    }

    /// Removes a directory that was created and not used.
    ///
    /// # Errors
    /// It exists in the state, is not a directory, or is not empty.
    pub fn remove_directory(&self, parent: Inode, name: &[u8]) -> Result<(), FsError> {
        let found = self.lookup(parent, name)?;
        let directory = self.directory(found.inode)?;
        if !found.inode.is_temporary() {
            return Err(FsError::ReadOnly);
        }
        let name = (self.directory(parent)?, name.to_owned());
        let mut temporaries = self.temporaries();
        if temporaries.is_used(&directory) {
            return Err(FsError::NotEmpty);
        }
        temporaries.remove(&name);
        Ok(())
    }

    /// Removes a temporary file, or a generation by its link.
    ///
    /// # Errors
    /// The name does not exist, is a directory or the link of a profile, or the generation is the
    /// current one.
    pub fn unlink(&self, parent: Inode, name: &[u8]) -> Result<(), FsError> {
        let found = self.lookup(parent, name)?;
        let directory = self.directory(parent)?;
        if found.kind == Kind::Directory {
            return Err(FsError::IsADirectory);
        }
        if found.inode.is_temporary() {
            self.temporaries().remove(&(directory, name.to_owned()));
            return Ok(());
        }
        let Some((profile, number)) = generation(&directory, name) else {
            return Err(FsError::ReadOnly);
        };
        (self.change)(&profile, &LinkChange::Removal(number))
    }

    /// Renames a temporary file. Renaming a link to the name of a profile changes that profile, and
    /// consumes the link. With `new` the name must not exist.
    ///
    /// # Errors
    /// The old name does not exist, the new one is not allowed, or the profile cannot be changed in
    /// this way; then nothing has changed.
    pub fn rename(
        &self,
        (parent, name): (Inode, &[u8]),
        (new_parent, new_name): (Inode, &[u8]),
        new: bool,
        requester: Requester,
    ) -> Result<(), FsError> {
        let from = (self.directory(parent)?, name.to_owned());
        let to = (self.directory(new_parent)?, new_name.to_owned());
        let moved = self.lookup(parent, name)?;
        let there = match self.lookup(new_parent, new_name) {
            Err(FsError::NotFound) => None,
            there => Some(there?),
        };
        if !moved.inode.is_temporary() || moved.kind == Kind::Directory {
            return Err(FsError::ReadOnly);
        }
        match there {
            Some(_) if new => return Err(FsError::Exists),
            Some(there) if there.kind == Kind::Directory => return Err(FsError::IsADirectory),
            _ => {}
        }
        let in_state = there.is_some_and(|there| !there.inode.is_temporary());
        if is_temporary_name(new_name) && !in_state {
            self.temporaries().rename(&from, to);
            return Ok(());
        }
        let target = match self.read_link(moved.inode) {
            Err(FsError::NotALink) => return Err(FsError::ReadOnly),
            target => target?,
        };
        let (profile, change) = self.profile_change(&to, &target).ok_or_else(|| {
            let (directory, target) = (&to.0, String::from_utf8_lossy(&target));
            let name = String::from_utf8_lossy(new_name);
            tracing::warn!(
                "refused to point {name:?} in the directory {directory:?} of profiles to \
                 {target:?}: a profile points to NAME-N-link, and that to a store path"
            );
            FsError::ReadOnly
        })?;
        if let LinkChange::Generation { target, .. } = &change {
            self.find(target, requester).inspect_err(|e| {
                tracing::warn!("refused to set the profile '{profile}' to {target}: {e}");
            })?;
        }
        (self.change)(&profile, &change)?;
        // No other process had the name: the kernel holds the lock of the directory.
        self.temporaries().remove(&from);
        Ok(())
    }

    /// The change of a profile that corresponds to a link with this name and target.
    fn profile_change(
        &self,
        (directory, name): &Name,
        target: &[u8],
    ) -> Option<(ProfileName, LinkChange)> {
        if let Some((profile, number)) = generation(directory, name) {
            let store_dir = self.fs.store.store_dir().as_str();
            let base_name = target
                .strip_prefix(store_dir.as_bytes())?
                .strip_prefix(b"/")?;
            let target = StorePath::parse_base_name(base_name).ok()?;
            return Some((profile, LinkChange::Generation { number, target }));
        }
        let name = full_name(directory, std::str::from_utf8(name).ok()?);
        let profile = ProfileName::parse(&name).ok()?;
        let (of, number) = generation(directory, target)?;
        (of == profile).then_some((profile, LinkChange::Current(number)))
    }

    /// Registers a store path.
    fn find(&self, path: &StorePath, requester: Requester) -> Result<(), FsError> {
        let is_known = || {
            let info = self.fs.store.paths().info(path.hash())?;
            Ok::<_, FsError>(info.is_some_and(|info| info.registration.path == *path))
        };
        if is_known()? {
            return Ok(());
        }
        let (sender, answer) = mpsc::channel();
        let name = path.base_name();
        let store = Inode::special(Special::Store);
        self.fs
            .when_resolvable(store, name.as_bytes(), requester, move |_, known| {
                // The receiver is still waiting.
                let _ = sender.send(known);
            });
        // The fetcher answers in time; there is no answer only when the daemon ends.
        let unknown = || FsError::Unknown(path.clone());
        answer.recv().unwrap_or_else(|_| Err(unknown()))?;
        if is_known()? { Ok(()) } else { Err(unknown()) }
    }

    /// The free space on the disk of the state.
    ///
    /// # Errors
    /// The disk does not report it.
    pub fn space(&self) -> Result<Space, FsError> {
        self.fs.space()
    }
}

/// The profile and generation whose link has this name.
fn generation(directory: &str, name: &[u8]) -> Option<(ProfileName, GenerationNumber)> {
    match ProfileEntry::parse(std::str::from_utf8(name).ok()?)? {
        ProfileEntry::Generation { profile, number } => {
            let profile = ProfileName::parse(&full_name(directory, profile)).ok()?;
            Some((profile, number))
        }
        ProfileEntry::Link(_) => None,
    }
}
