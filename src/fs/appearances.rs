//! All numbers by which the kernel may know a path.

use super::{Inode, Member};
use crate::store::{Leaving, LoadedPath, Store, StoreError};
use crate::tree::{NodeIndex, NodeKind};

/// A path as it appears in the store directory and in closure views.
#[derive(Debug)]
pub struct Appearances {
    leaving: Leaving,
    members: Vec<Member>,
}

impl Appearances {
    /// Where a path appears now.
    ///
    /// # Errors
    /// The members of a view cannot be read.
    pub fn of(store: &Store, leaving: Leaving) -> Result<Self, StoreError> {
        let mut members = Vec::new();
        for view in store.views().table().views() {
            let list = view.record.list;
            let place = store.views().members(view)?.place(leaving.hash);
            members.extend(place.map(|place| Member { list, place }));
        }
        Ok(Self { leaving, members })
    }

    /// The numbers of its roots. The kernel knows one of them whenever it knows something that is
    /// reached by names from there.
    pub fn roots(&self) -> impl Iterator<Item = Inode> {
        let own = Inode::node(self.leaving.ordinal, 0);
        let in_views = self.members.iter().map(|m| Inode::member(*m, 0));
        std::iter::once(own).chain(in_views)
    }

    /// The numbers of all that is in it, what a directory has before the directory; of its roots
    /// alone if its tree is not here.
    ///
    /// # Errors
    /// The database failed, or the tree is damaged.
    pub fn all(&self, store: &Store) -> Result<Vec<Inode>, StoreError> {
        match store.paths().load(self.leaving.ordinal)? {
            Some(path) => Ok(self.inside(&path)),
            None => Ok(self.roots().collect()),
        }
    }

    /// Children have higher indices than their parents: see [`crate::tree::Tree`].
    fn inside(&self, path: &LoadedPath) -> Vec<Inode> {
        let tree = path.tree();
        let mut all = Vec::new();
        for node in (0..tree.len()).rev() {
            let node = node as NodeIndex;
            all.push(Inode::node(self.leaving.ordinal, node));
            let kind = tree.node(node).map(|n| n.kind);
            if let Some(NodeKind::Directory { .. }) = kind {
                all.extend(self.members.iter().map(|m| Inode::member(*m, node)));
            }
        }
        all
    }
}
