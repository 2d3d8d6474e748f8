//! Inode numbers are addresses.
//!
//! ```text
//! 63      52 51                24 23             0
//! |  view   |    path ordinal    |     node      |
//! ```
//!
//! View 0 is the store itself. Ordinal 0 are the directories above the store paths, whose node
//! is a [`Special`]. The kernel reserves 0 and gives 1 to the root.

use super::FsError;
use crate::store::PathOrdinal;
use crate::tree::NodeIndex;

const NODE_BITS: u32 = 24;
const ORDINAL_BITS: u32 = 28;

/// A number of a file, a directory or a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode(pub u64);

/// What an inode number names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory above the store paths.
    Special(Special),
    /// A node of a path's tree.
    Node(PathOrdinal, NodeIndex),
}

/// A directory above the store paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// The root of the mount, usually `/nix`.
    Root = 1,
    /// `store`.
    Store = 2,
    /// `store/.links`: empty and not listed; Nix makes it when it opens a store.
    Links = 3,
    /// `var`.
    Var = 4,
    /// `var/nix`.
    VarNix = 5,
    /// `var/nix/profiles`.
    Profiles = 6,
}

use Special::{Links, Profiles, Root, Store, Var, VarNix};

impl Special {
    const ALL: [Self; 6] = [Root, Store, Links, Var, VarNix, Profiles];

    /// Its name in its directory.
    pub fn name(self) -> &'static str {
        match self {
            Root => "",
            Store => "store",
            Links => ".links",
            Var => "var",
            VarNix => "nix",
            Profiles => "profiles",
        }
    }

    /// The directory that it is in; the root is in itself.
    pub fn parent(self) -> Self {
        match self {
            Root | Store | Var => Root,
            Links => Store,
            VarNix => Var,
            Profiles => VarNix,
        }
    }

    /// What a listing of it shows, store paths apart.
    pub fn children(self) -> &'static [Self] {
        match self {
            Root => &[Store, Var],
            Var => &[VarNix],
            VarNix => &[Profiles],
            Store | Links | Profiles => &[],
        }
    }

    /// The directory in it with a name, listed or not.
    pub fn child(self, name: &[u8]) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|s| *s != Root && s.parent() == self && s.name().as_bytes() == name)
    }
}

impl Inode {
    /// The number of a directory above the store paths.
    pub fn special(special: Special) -> Self {
        Self(special as u64)
    }

    /// The number of a node of a path.
    pub fn node(ordinal: PathOrdinal, node: NodeIndex) -> Self {
        Self(u64::from(ordinal.0) << NODE_BITS | u64::from(node))
    }

    /// What the number names.
    ///
    /// # Errors
    /// Nothing has this number.
    pub fn place(self) -> Result<Place, FsError> {
        let node = (self.0 & ((1 << NODE_BITS) - 1)) as u32;
        let ordinal = (self.0 >> NODE_BITS & ((1 << ORDINAL_BITS) - 1)) as u32;
        if self.0 >> (NODE_BITS + ORDINAL_BITS) != 0 {
            return Err(FsError::Stale);
        }
        if ordinal != 0 {
            return Ok(Place::Node(PathOrdinal(ordinal), node));
        }
        let mut all = Special::ALL.into_iter();
        let special = all.find(|s| *s as u32 == node).ok_or(FsError::Stale)?;
        Ok(Place::Special(special))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_addresses() {
        for special in Special::ALL {
            let place = Inode::special(special).place().unwrap();
            assert_eq!(place, Place::Special(special));
            if special != Root {
                let name = special.name().as_bytes();
                assert_eq!(special.parent().child(name), Some(special));
            }
        }
        for (ordinal, node) in [(1, 0), (PathOrdinal::MAX, (1 << NODE_BITS) - 1)] {
            let inode = Inode::node(PathOrdinal(ordinal), node);
            assert_eq!(
                inode.place().unwrap(),
                Place::Node(PathOrdinal(ordinal), node)
            );
        }
        for nothing in [0, 7, 1 << 52, u64::MAX] {
            assert!(Inode(nothing).place().is_err(), "{nothing}");
        }
    }
}
