//! Closure views: `.narfs/closures/NAME/store` shows only some paths of the store.
//!
//! Invariants: whatever is not in a view is unreachable, by name or by number. Files and links have
//! the inode numbers of the store, and thus share the page cache; a directory has a number in each
//! view, since the kernel allows one parent only. A view itself consists only of the names of its
//! paths, and only lookups of such a name or below it wait for the network.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::attributes::{Attributes, Entry, Kind, Lookup, above_paths, expected};
use super::profiles::since_1970;
use super::{FileSystem, FsError, Inode, Member, Place, Special, StaleEntries};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{ChangedView, PathOrdinal, View};
use crate::tree::NodeIndex;

/// The only name in the directory of a view.
const STORE: &[u8] = b"store";
/// A name that the kernel never caches.
const NO_NAME: &str = ".";

/// Entries that a change of views makes stale. Requests in `.narfs/closures` never wait for the
/// network; lookups in the store directory of a view do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaleViews {
    /// Names of views.
    pub views: Option<StaleEntries>,
    /// Names of paths.
    pub paths: Vec<StaleEntries>,
}

/// Entries that the kernel has to drop after a change of views.
pub fn stale_views(changed: &[ChangedView]) -> StaleViews {
    let names = changed.iter().filter(|view| view.came_or_went);
    let names: BTreeSet<_> = names.map(|view| view.name.clone()).collect();
    let views = StaleEntries {
        directory: Inode::special(Special::Closures),
        above: Inode::special(Special::Narfs),
        names: names.into_iter().collect(),
    };
    let paths = changed.iter().map(|view| StaleEntries {
        directory: Inode::view_store(view.id),
        above: Inode::view(view.id),
        // At least one, so that a listing in progress is waited for.
        names: match view.entries.as_slice() {
            [] => vec![NO_NAME.to_owned()],
            entries => entries.to_vec(),
        },
    });
    StaleViews {
        views: (!views.names.is_empty()).then_some(views),
        paths: paths.collect(),
    }
}

impl Attributes {
    /// The same, as seen in a view.
    pub(super) fn through(self, member: Member) -> Self {
        match (self.kind, self.inode.place()) {
            (Kind::Directory, Ok(Place::Node(_, node))) => Self {
                inode: Inode::member(member, node),
                ..self
            },
            _ => self,
        }
    }
}

impl Lookup {
    /// The same, as seen in a view.
    pub(super) fn through(self, member: Member) -> Self {
        match self {
            Self::Found(attributes) => Self::Found(attributes.through(member)),
            other => other,
        }
    }
}

impl FileSystem {
    fn view(&self, id: u32) -> Result<Arc<View>, FsError> {
        let table = self.store.views().table();
        table.with_id(id).cloned().ok_or(FsError::Stale)
    }

    /// The path at a place of a view.
    fn hash_of(&self, member: Member) -> Result<StorePathHash, FsError> {
        let table = self.store.views().table();
        let view = table.with_list(member.list).ok_or(FsError::Stale)?;
        let members = self.store.views().members(view)?;
        members.path(member.place).ok_or(FsError::Stale)
    }

    /// The ordinal of a path in a view. It is looked up each time: a path whose root turns out to
    /// be of another kind gets a new ordinal.
    pub(super) fn ordinal_of(&self, member: Member) -> Result<PathOrdinal, FsError> {
        let ordinal = self.store.paths().ordinal(self.hash_of(member)?)?;
        ordinal.ok_or(FsError::Stale)
    }

    fn member(&self, id: u32, hash: StorePathHash) -> Result<Option<Member>, FsError> {
        let view = self.view(id)?;
        let place = self.store.views().members(&view)?.place(hash);
        let list = view.record.list;
        Ok(place.map(|place| Member { list, place }))
    }

    /// Whether a view may contain something of this name.
    pub(super) fn has_member(&self, id: u32, name: &[u8]) -> Result<bool, FsError> {
        match StorePath::parse_base_name(name) {
            Ok(path) => Ok(self.member(id, path.hash())?.is_some()),
            Err(_) => Ok(false),
        }
    }

    pub(super) fn lookup_view(&self, name: &[u8]) -> Result<Lookup, FsError> {
        let table = self.store.views().table();
        let name = std::str::from_utf8(name).unwrap_or_default();
        match table.named(name) {
            Some(view) => {
                let inode = Inode::view(view.record.id);
                Ok(Lookup::Found(view_directory(view, inode)))
            }
            None => Ok(Lookup::Absent),
        }
    }

    pub(super) fn lookup_in_view(&self, id: u32, name: &[u8]) -> Result<Lookup, FsError> {
        let view = self.view(id)?;
        if name != STORE {
            return Ok(Lookup::NeverExists);
        }
        Ok(Lookup::Found(view_directory(&view, Inode::view_store(id))))
    }

    pub(super) fn lookup_member(&self, id: u32, name: &[u8]) -> Result<Lookup, FsError> {
        let Ok(path) = StorePath::parse_base_name(name) else {
            self.view(id)?;
            return Ok(Lookup::NeverExists);
        };
        match self.member(id, path.hash())? {
            Some(member) => Ok(self.lookup_path(name)?.through(member)),
            // It may be added to the view later.
            None => Ok(Lookup::Absent),
        }
    }

    pub(super) fn view_attributes(&self, id: u32, inode: Inode) -> Result<Attributes, FsError> {
        Ok(view_directory(&*self.view(id)?, inode))
    }

    pub(super) fn member_attributes(
        &self,
        member: Member,
        node: NodeIndex,
    ) -> Result<Attributes, FsError> {
        let ordinal = self.ordinal_of(member)?;
        let attributes = self.attributes(Inode::node(ordinal, node))?;
        match attributes.kind {
            Kind::Directory => Ok(attributes.through(member)),
            // The root was assumed to be a directory, and is none.
            Kind::File | Kind::Link | Kind::Pipe => Err(FsError::Stale),
        }
    }

    pub(super) fn member_parent(&self, member: Member, node: NodeIndex) -> Result<Inode, FsError> {
        if node == 0 {
            let table = self.store.views().table();
            let view = table.with_list(member.list).ok_or(FsError::Stale)?;
            return Ok(Inode::view_store(view.record.id));
        }
        let path = self.path(self.ordinal_of(member)?)?;
        Ok(Inode::member(member, path.parent(node)?))
    }

    /// The time of the last change of a view.
    pub(super) fn views_changed(&self) -> SystemTime {
        let table = self.store.views().table();
        let changed = table.views().map(|view| view.record.changed).max();
        changed.map_or(self.started, since_1970)
    }

    /// Views are ordered by id, so that a change during a listing does not make others appear twice
    /// or not at all.
    pub(super) fn list_views(
        &self,
        from: u64,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        let table = self.store.views().table();
        for view in table.from_id(u32::try_from(from).unwrap_or(u32::MAX)) {
            let id = view.record.id;
            if take(Entry {
                name: view.name.as_bytes().to_vec(),
                next: u64::from(id) + 3,
                attributes: view_directory(view, Inode::view(id)),
            }) {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn list_in_view(
        &self,
        id: u32,
        from: u64,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        let view = self.view(id)?;
        if from == 0 {
            take(Entry {
                name: STORE.to_vec(),
                next: 3,
                attributes: view_directory(&view, Inode::view_store(id)),
            });
        }
        Ok(())
    }

    /// All paths of a view, whether local or to be fetched, ordered by their places, which do not
    /// change.
    pub(super) fn list_members(
        &self,
        id: u32,
        from: u64,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        let view = self.view(id)?;
        let list = view.record.list;
        let members = self.store.views().members(&view)?;
        for (place, hash) in members.from(u32::try_from(from).unwrap_or(u32::MAX)) {
            let member = Member { list, place };
            let Some((name, attributes)) = self.listed(hash)? else {
                continue;
            };
            if take(Entry {
                name: name.into_bytes(),
                next: u64::from(place) + 3,
                attributes: attributes.through(member),
            }) {
                break;
            }
        }
        Ok(())
    }

    /// The entry of a path in a listing; if it is not local, only its existence is shown.
    fn listed(&self, hash: StorePathHash) -> Result<Option<(String, Attributes)>, FsError> {
        let Some((ordinal, path, is_directory)) = self.store.paths().look_up_listed(hash)? else {
            return Ok(None);
        };
        let attributes = match is_directory {
            Some(is_directory) => self.listed_root(ordinal, &path, is_directory),
            None => self.fetcher.as_ref().map(|_| expected(ordinal)),
        };
        Ok(attributes.map(|attributes| (path.base_name(), attributes)))
    }
}

/// The directory of a view, or its store directory.
fn view_directory(view: &View, inode: Inode) -> Attributes {
    above_paths(inode, since_1970(view.record.changed))
}
