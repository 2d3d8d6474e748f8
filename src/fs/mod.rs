//! The file system: what a lookup, a listing, a read means. No kernel here.
//!
//! Invariants: an inode number is an address (see [`Inode`]), so there is no table of inodes and
//! numbers are the same after a restart; everything below a store path is immutable and may be
//! cached for ever; a name that is not there inside a path may be cached for ever too, one that
//! is not there in a store directory, among profiles or among views not at all.

mod appearances;
mod errno;
mod inode;
mod numbers;
mod on_demand;
mod profiles;
mod read;
mod trace;
mod views;
mod writable;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use appearances::Appearances;
pub use errno::FsError;
pub use inode::{Inode, Member, Place, Special};
pub use numbers::Numbers;
pub use profiles::{
    CHANGED, ReplacedLink, StaleEntries, all_entries, replaced_links, stale_entries,
};
pub use read::Space;
pub use trace::Recorder;
pub use views::{StaleViews, stale_views};
pub use writable::{ChangeProfile, NewAttributes, WritableProfiles};

use crate::fetch::Fetcher;
use crate::nix::store_path::StorePath;
use crate::store::{Contents, LoadedPath, PathOrdinal, ProfileDirectory, RootKind, Store};
use crate::tree::{NodeIndex, NodeKind};

/// atime, mtime and ctime of everything in a store path: one second after the epoch, as Nix sets.
const EPOCH: Duration = Duration::from_secs(1);

/// Longest name, in bytes, as Linux file systems have it; FUSE would let 1024 through.
pub const NAME_MAX: usize = 255;

/// Size of a directory, in bytes: what ext4 says of a small one, and always the same.
const DIRECTORY_SIZE: u64 = 4096;

/// Hard links of everything, directories too. Where a directory's count tells of subdirectories,
/// find(1) saves itself a look at the rest, and asks statfs whether it may: a request, each time.
const LINKS: u32 = 1;

/// What kind of file an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    Link,
    /// A named pipe.
    Pipe,
}

/// What stat shows; owner and group are root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The number.
    pub inode: Inode,
    /// What a directory of a closure view is in the store; for all else the number. See [`Numbers`].
    pub in_store: Inode,
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Bytes of contents, of a target, or [`DIRECTORY_SIZE`].
    pub size: u64,
    /// Hard links: [`LINKS`].
    pub links: u32,
    /// mtime, atime and ctime.
    pub time: SystemTime,
    /// Whether this will never be otherwise. The directory of a path whose contents are not here
    /// may turn out to be a file or a link, under another number.
    pub settled: bool,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is there.
    Found(Attributes),
    /// It is not there, and never will be.
    NeverThere,
    /// It is not there now.
    NotThere,
}

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    /// Where the listing goes on after it.
    pub next: u64,
    pub attributes: Attributes,
}

/// A state seen as a file system.
#[derive(Debug)]
pub struct FileSystem {
    store: Arc<Store>,
    fetcher: Option<Fetcher>,
    recorder: Arc<Recorder>,
    started: SystemTime,
}

impl FileSystem {
    /// The file system of a state, where what is not here is fetched by `fetcher`, or is absent.
    /// What is looked into is told to `recorder`.
    pub fn new(store: Arc<Store>, fetcher: Option<Fetcher>, recorder: Arc<Recorder>) -> Self {
        Self {
            store,
            fetcher,
            recorder,
            started: SystemTime::now(),
        }
    }

    /// Looks up `name` in directory `parent`.
    ///
    /// # Errors
    /// `parent` is no directory, the name is too long, or the state fails.
    pub fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Looked, FsError> {
        if name.len() > NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        // The kernel asks for these only where a file was opened by its handle, and of files, too.
        match name {
            b"." => {
                self.looks_by_handle(parent)?;
                return Ok(Looked::Found(self.attributes(parent)?));
            }
            b".." => {
                self.looks_by_handle(parent)?;
                let above = self.parent(parent.place()?)?;
                return Ok(Looked::Found(self.attributes(above)?));
            }
            _ => {}
        }
        match parent.place()? {
            Place::Special(Special::Store) => self.lookup_path(name),
            Place::Special(Special::Profiles) => self.lookup_profile(ProfileDirectory::ROOT, name),
            Place::Profile(id, _) => self.lookup_profile(id, name),
            Place::Special(Special::Closures) => self.lookup_view(name),
            Place::View(id) => self.lookup_in_view(id, name),
            Place::ViewStore(id) => self.lookup_member(id, name),
            Place::Special(parent) => match parent.child(name) {
                Some(child) => Ok(Looked::Found(self.special(child)?)),
                None => Ok(Looked::NeverThere),
            },
            Place::Node(ordinal, node) => self.lookup_node(&self.path(ordinal)?, node, name),
            Place::Member(member, node) => {
                let path = self.path(self.ordinal_of(member)?)?;
                let looked = self.lookup_node(&path, node, name)?;
                Ok(looked.through(member))
            }
        }
    }

    /// Whoever has the handle of a file comes to its path without a name.
    fn looks_by_handle(&self, inode: Inode) -> Result<(), FsError> {
        if let Place::Node(ordinal, _) = inode.place()? {
            self.store.paths().look_up_number(ordinal)?;
        }
        Ok(())
    }

    /// Looks up a name in a directory of a path.
    fn lookup_node(
        &self,
        path: &LoadedPath,
        node: NodeIndex,
        name: &[u8],
    ) -> Result<Looked, FsError> {
        match path.tree().node(node).ok_or(FsError::Stale)?.kind {
            NodeKind::Directory { .. } => {}
            _ => return Err(FsError::NotADirectory),
        }
        match path.tree().lookup(node, name) {
            Some(child) => Ok(Looked::Found(self.node(path, child)?)),
            None => Ok(Looked::NeverThere),
        }
    }

    /// Looks up a name in the store directory. What is no store path is not asked for further.
    fn lookup_path(&self, name: &[u8]) -> Result<Looked, FsError> {
        if let Some(child) = Special::Store.child(name) {
            return Ok(Looked::Found(self.special(child)?));
        }
        let Ok(path) = StorePath::parse_base_name(name) else {
            return Ok(Looked::NeverThere);
        };
        match self.store.paths().look_up(path.hash())? {
            Some(info) if info.registration.path == path => match info.contents {
                Contents::Local(_) => {
                    let path = self.path(info.ordinal)?;
                    Ok(Looked::Found(self.node(&path, 0)?))
                }
                Contents::Absent(Some(RootKind::Directory)) if self.fetcher.is_some() => {
                    Ok(Looked::Found(expected(info.ordinal)))
                }
                Contents::Absent(_) => Ok(Looked::NotThere),
            },
            // The hash is another path's: no path of this name can be true.
            Some(_) | None => Ok(Looked::NotThere),
        }
    }

    /// What stat shows of an inode.
    ///
    /// # Errors
    /// There is no such inode, or the state fails.
    pub fn attributes(&self, inode: Inode) -> Result<Attributes, FsError> {
        match inode.place()? {
            Place::Special(special) => self.special(special),
            Place::Profile(id, node) => self.profile_attributes(id, node),
            Place::View(id) | Place::ViewStore(id) => self.view_attributes(id, inode),
            Place::Member(member, node) => self.member_attributes(member, node),
            Place::Node(ordinal, 0) => match self.store.paths().load(ordinal)? {
                Some(path) => self.node(&path, 0),
                // Known, but not here: what was said of it when it was looked up.
                None => self
                    .store
                    .paths()
                    .with_ordinal(ordinal)?
                    .map(|_| expected(ordinal))
                    .ok_or(FsError::Stale),
            },
            Place::Node(ordinal, node) => self.node(&self.path(ordinal)?, node),
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// It is no link, or the state fails.
    pub fn read_link(&self, inode: Inode) -> Result<Vec<u8>, FsError> {
        match inode.place()? {
            Place::Special(_) | Place::View(_) | Place::ViewStore(_) | Place::Member(..) => {
                Err(FsError::NotALink)
            }
            Place::Profile(id, node) => self.profile_target(id, node),
            Place::Node(ordinal, node) => self.path(ordinal)?.target(node).ok_or(FsError::NotALink),
        }
    }

    /// Hands the entries of a directory from `offset` on (0 or the `next` of an entry) to
    /// `take`, until it says that it is full; `.` and `..` come first.
    ///
    /// # Errors
    /// It is no directory, or the state fails.
    pub fn list(
        &self,
        inode: Inode,
        offset: u64,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        let place = inode.place()?;
        let own = self.attributes(inode)?;
        if own.kind != Kind::Directory {
            return Err(FsError::NotADirectory);
        }
        let dots = [
            (&b"."[..], own),
            (b"..", self.attributes(self.parent(place)?)?),
        ];
        for (next, (name, attributes)) in (1..).zip(dots).skip(offset as usize) {
            let name = name.to_vec();
            if take(Entry {
                name,
                next,
                attributes,
            }) {
                return Ok(());
            }
        }
        let from = offset.max(2) - 2;
        match place {
            Place::Special(Special::Store) => self.list_paths(from, take),
            Place::Special(Special::Profiles) => {
                self.list_profiles(ProfileDirectory::ROOT, from, take)
            }
            Place::Profile(id, _) => self.list_profiles(id, from, take),
            Place::Special(Special::Closures) => self.list_views(from, take),
            Place::View(id) => self.list_in_view(id, from, take),
            Place::ViewStore(id) => self.list_members(id, from, take),
            Place::Special(special) => {
                for (at, child) in (0..).zip(special.children()).skip(from as usize) {
                    let attributes = self.special(*child)?;
                    let name = child.name().as_bytes().to_vec();
                    if take(Entry {
                        name,
                        next: at + 3,
                        attributes,
                    }) {
                        break;
                    }
                }
                Ok(())
            }
            Place::Node(ordinal, node) => self.list_node(&self.path(ordinal)?, node, from, take),
            Place::Member(member, node) => {
                let path = self.path(self.ordinal_of(member)?)?;
                self.list_node(&path, node, from, &mut |entry| {
                    take(Entry {
                        attributes: entry.attributes.through(member),
                        ..entry
                    })
                })
            }
        }
    }

    /// The entries of a directory of a path.
    fn list_node(
        &self,
        path: &LoadedPath,
        node: NodeIndex,
        from: u64,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        let Some(NodeKind::Directory { first, count, .. }) = path.tree().node(node).map(|n| n.kind)
        else {
            return Err(FsError::NotADirectory);
        };
        for at in from..u64::from(count) {
            let child = first + at as NodeIndex;
            let attributes = self.node(path, child)?;
            let name = path.tree().node(child).map_or(&[][..], |n| n.name).to_vec();
            if take(Entry {
                name,
                next: at + 3,
                attributes,
            }) {
                break;
            }
        }
        Ok(())
    }

    /// The store directory: its entries are ordered by ordinal, so that a path that is published
    /// during a listing does not make another one come twice or not at all.
    fn list_paths(
        &self,
        mut from: u64,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        /// Paths that are looked at in one go.
        const GROUP: usize = 256;
        loop {
            let Ok(ordinal) = u32::try_from(from) else {
                return Ok(());
            };
            let group = self
                .store
                .paths()
                .look_up_from(PathOrdinal(ordinal), GROUP)?;
            for (ordinal, path, is_directory) in &group {
                from = u64::from(ordinal.0) + 1;
                let attributes = if *is_directory {
                    Ok(Attributes {
                        settled: true,
                        ..expected(*ordinal)
                    })
                } else {
                    self.attributes(Inode::node(*ordinal, 0))
                };
                // One that cannot be read must not hide the others.
                let attributes = match attributes {
                    Ok(attributes) => attributes,
                    Err(e) => {
                        tracing::warn!(%path, "left out of a listing: {e}");
                        continue;
                    }
                };
                if take(Entry {
                    name: path.base_name().into_bytes(),
                    next: from + 2,
                    attributes,
                }) {
                    return Ok(());
                }
            }
            if group.len() < GROUP {
                return Ok(());
            }
        }
    }

    /// Whether questions can be answered: a look at the store directory and at what is in it.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn answers(&self) -> Result<(), FsError> {
        let store = Inode::special(Special::Store);
        self.attributes(store)?;
        self.list(store, 0, &mut |_| true)
    }

    fn parent(&self, place: Place) -> Result<Inode, FsError> {
        match place {
            Place::Special(special) => Ok(Inode::special(special.parent())),
            Place::Profile(id, _) => self.profile_parent(id),
            Place::View(_) => Ok(Inode::special(Special::Closures)),
            Place::ViewStore(id) => Ok(Inode::view(id)),
            Place::Member(member, node) => self.member_parent(member, node),
            Place::Node(_, 0) => Ok(Inode::special(Special::Store)),
            Place::Node(ordinal, node) => {
                let parent = self.path(ordinal)?.tree().parent(node);
                Ok(Inode::node(ordinal, parent))
            }
        }
    }

    fn path(&self, ordinal: PathOrdinal) -> Result<LoadedPath, FsError> {
        self.store.paths().load(ordinal)?.ok_or(FsError::Stale)
    }

    fn special(&self, special: Special) -> Result<Attributes, FsError> {
        let time = match special {
            Special::Store => self.store.paths().changed()?,
            Special::Profiles => return self.profile_attributes(ProfileDirectory::ROOT, 0),
            Special::Closures => self.views_changed(),
            _ => self.started,
        };
        if special == Special::File {
            return Ok(Attributes {
                inode: Inode::special(special),
                in_store: Inode::special(special),
                kind: Kind::File,
                mode: 0o444,
                size: 0,
                links: LINKS,
                time,
                settled: true,
            });
        }
        Ok(above_paths(Inode::special(special), time))
    }

    fn node(&self, path: &LoadedPath, index: NodeIndex) -> Result<Attributes, FsError> {
        let node = path.tree().node(index).ok_or(FsError::Stale)?;
        let (kind, mode, size) = match node.kind {
            NodeKind::Directory { .. } => (Kind::Directory, 0o555, DIRECTORY_SIZE),
            NodeKind::File {
                executable, size, ..
            } => (Kind::File, if executable { 0o555 } else { 0o444 }, size),
            NodeKind::Link { length, .. } => (Kind::Link, 0o777, u64::from(length)),
        };
        let inode = Inode::node(path.info().ordinal, index);
        Ok(Attributes {
            inode,
            in_store: inode,
            kind,
            mode,
            size,
            links: LINKS,
            time: UNIX_EPOCH + EPOCH,
            settled: true,
        })
    }
}

/// A directory above the store paths.
fn above_paths(inode: Inode, time: SystemTime) -> Attributes {
    Attributes {
        inode,
        in_store: inode,
        kind: Kind::Directory,
        mode: 0o755,
        size: DIRECTORY_SIZE,
        links: LINKS,
        time,
        settled: true,
    }
}

/// The root of a path that is said to be a directory, whatever is in it.
fn expected(ordinal: PathOrdinal) -> Attributes {
    Attributes {
        inode: Inode::node(ordinal, 0),
        in_store: Inode::node(ordinal, 0),
        kind: Kind::Directory,
        mode: 0o555,
        size: DIRECTORY_SIZE,
        links: LINKS,
        time: UNIX_EPOCH + EPOCH,
        settled: false,
    }
}

#[cfg(test)]
mod tests;
