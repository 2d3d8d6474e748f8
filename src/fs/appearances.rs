//! All inode numbers under which the kernel may know a path.

use super::{Inode, Member};
use crate::store::{Leaving, ServedPath, Store, StoreError};
use crate::tree::{NodeIndex, NodeKind};

/// A path with its appearances in the store directory and in closure views.
#[derive(Debug)]
pub struct Appearances {
    leaving: Leaving,
    members: Vec<Member>,
}

impl Appearances {
    /// The current appearances of a path.
    ///
    /// # Errors
    /// The paths of a view cannot be read.
    pub fn of(store: &Store, leaving: Leaving) -> Result<Self, StoreError> {
        let mut members = Vec::new();
        for view in store.views().table().views() {
            let list = view.record.list;
            let place = store.views().members(view)?.place(leaving.hash);
            members.extend(place.map(|place| Member { list, place }));
        }
        Ok(Self { leaving, members })
    }

    /// The inode numbers of its roots. If the kernel knows an inode that was reached by names
    /// through such a root, it also knows the root.
    pub fn roots(&self) -> impl Iterator<Item = Inode> {
        let own = Inode::node(self.leaving.ordinal, 0);
        let in_views = self.members.iter().map(|m| Inode::member(*m, 0));
        std::iter::once(own).chain(in_views)
    }

    /// The inode numbers of everything in the path, the contents of a directory before the
    /// directory; only its roots if the tree is not local.
    ///
    /// # Errors
    /// The database failed, or the tree is damaged.
    pub fn all(&self, store: &Store) -> Result<Vec<Inode>, StoreError> {
        match store.paths().serve(self.leaving.ordinal)? {
            Some(path) => self.inside(&path),
            None => Ok(self.roots().collect()),
        }
    }

    /// Children have higher indices than their parents: see [`crate::tree::Tree`].
    fn inside(&self, path: &ServedPath) -> Result<Vec<Inode>, StoreError> {
        let mut all = Vec::new();
        for node in (0..path.node_count()).rev() {
            let node = node as NodeIndex;
            all.push(Inode::node(self.leaving.ordinal, node));
            if let Some(NodeKind::Directory { .. }) = path.kind(node)? {
                all.extend(self.members.iter().map(|m| Inode::member(*m, node)));
            }
        }
        Ok(all)
    }
}
