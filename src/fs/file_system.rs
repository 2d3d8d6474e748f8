//! A state seen as a file system: each question goes to whoever knows the place that it is about.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::attributes::{
    Attributes, DIRECTORY_SIZE, EPOCH, Entry, Kind, LINKS, Lookup, above_paths, expected,
};
use super::errno::{FsError, NAME_MAX};
use super::inode::{Inode, Place, Special};
use super::read_ahead::ReadAhead;
use super::trace::Recorder;
use crate::fetch::Fetcher;
use crate::nix::store_path::StorePath;
use crate::store::{Contents, PathOrdinal, ProfileDirectory, RootKind, ServedPath, Store};
use crate::tree::{NodeIndex, NodeKind};

/// A state seen as a file system.
#[derive(Debug)]
pub struct FileSystem {
    pub(super) store: Arc<Store>,
    pub(super) fetcher: Option<Fetcher>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) started: SystemTime,
    pub(super) read_ahead: ReadAhead,
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
            read_ahead: ReadAhead::default(),
        }
    }

    /// Looks up `name` in directory `parent`.
    ///
    /// # Errors
    /// `parent` is no directory, the name is too long, or the state fails.
    pub fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Lookup, FsError> {
        if name.len() > NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        // The kernel asks for these only where a file was opened by its handle, and of files, too.
        match name {
            b"." => {
                self.looks_by_handle(parent)?;
                return Ok(Lookup::Found(self.attributes(parent)?));
            }
            b".." => {
                self.looks_by_handle(parent)?;
                let above = self.parent(parent.place()?)?;
                return Ok(Lookup::Found(self.attributes(above)?));
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
                Some(child) => Ok(Lookup::Found(self.special(child)?)),
                None => Ok(Lookup::NeverExists),
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
        path: &ServedPath,
        node: NodeIndex,
        name: &[u8],
    ) -> Result<Lookup, FsError> {
        match path.kind(node)?.ok_or(FsError::Stale)? {
            NodeKind::Directory { .. } => {}
            _ => return Err(FsError::NotADirectory),
        }
        match path.lookup(node, name)? {
            Some(child) => Ok(Lookup::Found(self.node(path, child)?)),
            None => Ok(Lookup::NeverExists),
        }
    }

    /// Looks up a name in the store directory. What is no store path is not asked for further.
    pub(super) fn lookup_path(&self, name: &[u8]) -> Result<Lookup, FsError> {
        if let Some(child) = Special::Store.child(name) {
            return Ok(Lookup::Found(self.special(child)?));
        }
        let Ok(path) = StorePath::parse_base_name(name) else {
            return Ok(Lookup::NeverExists);
        };
        match self.store.paths().look_up(path.hash())? {
            Some(info) if info.registration.path == path => match info.contents {
                Contents::Local(_) => {
                    let path = self.path(info.ordinal)?;
                    Ok(Lookup::Found(self.node(&path, 0)?))
                }
                Contents::Absent(Some(RootKind::Directory)) if self.fetcher.is_some() => {
                    Ok(Lookup::Found(expected(info.ordinal)))
                }
                Contents::Absent(_) => Ok(Lookup::Absent),
            },
            // The hash is another path's: no path of this name can be true.
            Some(_) | None => Ok(Lookup::Absent),
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
            Place::Node(ordinal, 0) => match self.store.paths().serve(ordinal)? {
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
            Place::Node(ordinal, node) => {
                self.path(ordinal)?.target(node)?.ok_or(FsError::NotALink)
            }
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
        path: &ServedPath,
        node: NodeIndex,
        from: u64,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        let Some(NodeKind::Directory { first, count, .. }) = path.kind(node)? else {
            return Err(FsError::NotADirectory);
        };
        for at in from..u64::from(count) {
            let child = first + at as NodeIndex;
            let attributes = self.node(path, child)?;
            let name = path.name(child)?;
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
                let Some(attributes) = self.listed_root(*ordinal, path, *is_directory) else {
                    continue;
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

    /// The attributes of a path in a listing, of which its tree is asked only where it is not noted to be a
    /// directory; `None` if it cannot be read, which must not hide the others.
    pub(super) fn listed_root(
        &self,
        ordinal: PathOrdinal,
        path: &StorePath,
        is_directory: bool,
    ) -> Option<Attributes> {
        if is_directory {
            return Some(Attributes {
                settled: true,
                ..expected(ordinal)
            });
        }
        let attributes = self.attributes(Inode::node(ordinal, 0));
        let omitted = |e: &FsError| tracing::warn!(%path, "left out of a listing: {e}");
        attributes.inspect_err(omitted).ok()
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
                let parent = self.path(ordinal)?.parent(node)?;
                Ok(Inode::node(ordinal, parent))
            }
        }
    }

    pub(super) fn path(&self, ordinal: PathOrdinal) -> Result<ServedPath, FsError> {
        self.store.paths().serve(ordinal)?.ok_or(FsError::Stale)
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

    fn node(&self, path: &ServedPath, index: NodeIndex) -> Result<Attributes, FsError> {
        let (kind, mode, size) = match path.kind(index)?.ok_or(FsError::Stale)? {
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
