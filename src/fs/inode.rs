//! Inode numbers as addresses: this is how the kernel names inodes. Programs see another number,
//! see [`Numbers`](super::Numbers).
//!
//! ```text
//! 63      52 51                24 23             0
//! |  view   |    path ordinal    |     node      |
//! ```
//!
//! View 0 is the store itself. Ordinal 0 stands for the directories above the store paths; their
//! node is a [`Special`]. The kernel reserves number 0, and assigns 1 to the root.
//!
//! View 1 has the profiles. In place of the ordinal is the id of a profile or of a directory of
//! profiles. Node 0 is the directory, or the pipe `NAME.changed`. The link `NAME-N-link` has twice
//! the link number of the generation; the link `NAME` has the number of the link to its current
//! generation plus one, or 1 if it is to be followed wherever it points.
//!
//! View 2 has the temporary files of writable profiles, which keep their number while they exist.
//!
//! Closure views use another layout. The id of a view is never reused, and 12 bits would soon be
//! exhausted; a view has few paths, so 16 bits suffice for their places:
//!
//! ```text
//! 63 61    60          40 39         24 23             0
//! | 1 |  number of a view  |   place    |     node      |
//! ```
//!
//! Place 0 has the two directories of the view itself. Any other place has the directories of one
//! path, with the number of the view's list of paths in place of the view's id. Files and links
//! have the number that they have in the store. The highest two bits stay free: overlayfs may put
//! its layer there.

use super::FsError;
use crate::store::{PathOrdinal, ProfileDirectory};
use crate::tree::NodeIndex;

const NODE_BITS: u32 = Inode::NODE_BITS;
const ORDINAL_BITS: u32 = 28;
/// The view of profiles.
const PROFILES: u64 = 1;
/// The view of temporary files.
const TEMPORARY: u64 = 2;
/// Bits of a place in a closure view.
const PLACE_BITS: u32 = 16;
/// Lowest bit of the id of a closure view.
const VIEW_SHIFT: u32 = NODE_BITS + PLACE_BITS;
/// Lowest bit of the marker of closure views.
const VIEWS_SHIFT: u32 = 61;
/// Marker of closure views.
const VIEWS: u64 = 1;

/// An inode number, as an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode(pub u64);

/// What an inode number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Special(Special),
    /// A node in the tree of a store path.
    Node(PathOrdinal, NodeIndex),
    /// A directory of profiles other than [`Special::Profiles`], or a link of a profile: id and
    /// node.
    Profile(u32, u32),
    /// The directory of a closure view, by its id.
    View(u32),
    /// `store` in the directory of a closure view, by its id.
    ViewStore(u32),
    /// A directory of a path in a closure view.
    Member(Member, NodeIndex),
}

/// A path in a closure view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Number of the view's list of paths.
    pub list: u32,
    /// Place of the path in that list, from 1.
    pub place: u32,
}

/// A directory above the store paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// The root of the mount, usually `/nix`.
    Root = 1,
    /// `store`.
    Store = 2,
    /// `store/.links`: empty and not listed; Nix creates it when it opens a store.
    Links = 3,
    /// `var`.
    Var = 4,
    /// `var/nix`.
    VarNix = 5,
    /// `var/nix/profiles`.
    Profiles = 6,
    /// `var/nix/gcroots`: empty, like those below; Nix does not open a read-only store without it.
    GcRoots = 7,
    /// `var/nix/gcroots/per-user`.
    GcRootsPerUser = 8,
    /// `var/nix/temproots`.
    TempRoots = 9,
    /// `.narfs`: not listed, so that a program that walks the tree does not visit each view as
    /// well.
    Narfs = 10,
    /// `.narfs/closures`, the directory of the closure views.
    Closures = 11,
    /// `.file`: the only regular file here, empty and not listed. It is opened and closed once
    /// after each mount, by which the kernel learns that OPEN and FLUSH are not needed. Otherwise a
    /// program that closes a file for the first time while no daemon is running would be blocked.
    File = 12,
}

use Special::{
    Closures, File, GcRoots, GcRootsPerUser, Links, Narfs, Profiles, Root, Store, TempRoots, Var,
    VarNix,
};

impl Special {
    const ALL: [Self; 12] = [
        Root,
        Store,
        Links,
        Var,
        VarNix,
        Profiles,
        GcRoots,
        GcRootsPerUser,
        TempRoots,
        Narfs,
        Closures,
        File,
    ];

    /// Its name in its directory.
    pub fn name(self) -> &'static str {
        match self {
            Root => "",
            Store => "store",
            Links => ".links",
            Var => "var",
            VarNix => "nix",
            Profiles => "profiles",
            GcRoots => "gcroots",
            GcRootsPerUser => "per-user",
            TempRoots => "temproots",
            Narfs => ".narfs",
            Closures => "closures",
            File => ".file",
        }
    }

    /// Its parent; the root is its own parent.
    pub fn parent(self) -> Self {
        match self {
            Root | Store | Var | Narfs | File => Root,
            Links => Store,
            VarNix => Var,
            Profiles | GcRoots | TempRoots => VarNix,
            GcRootsPerUser => GcRoots,
            Closures => Narfs,
        }
    }

    /// Its listed subdirectories, without store paths, profiles and closure views.
    pub fn children(self) -> &'static [Self] {
        match self {
            Root => &[Store, Var],
            Var => &[VarNix],
            VarNix => &[GcRoots, Profiles, TempRoots],
            GcRoots => &[GcRootsPerUser],
            Narfs => &[Closures],
            Store | Links | Profiles | GcRootsPerUser | TempRoots | Closures | File => &[],
        }
    }

    /// Its subdirectory of this name, listed or not.
    pub fn child(self, name: &[u8]) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|s| *s != Root && s.parent() == self && s.name().as_bytes() == name)
    }
}

impl Inode {
    /// Number of bits of a node, the lowest ones.
    pub(super) const NODE_BITS: u32 = 24;

    pub fn special(special: Special) -> Self {
        Self(special as u64)
    }

    pub fn node(ordinal: PathOrdinal, node: NodeIndex) -> Self {
        Self(u64::from(ordinal.0) << NODE_BITS | u64::from(node))
    }

    /// The inode of the directory of a closure view.
    pub fn view(id: u32) -> Self {
        Self::in_view(id, 0, 0)
    }

    /// The inode of the store directory of a closure view.
    pub fn view_store(id: u32) -> Self {
        Self::in_view(id, 0, 1)
    }

    /// The inode of a directory of a path in a closure view.
    pub fn member(member: Member, node: NodeIndex) -> Self {
        Self::in_view(member.list, member.place, node)
    }

    fn in_view(number: u32, place: u32, node: u32) -> Self {
        let view = u64::from(number) << VIEW_SHIFT | u64::from(place) << NODE_BITS;
        Self(VIEWS << VIEWS_SHIFT | view | u64::from(node))
    }

    /// The inode of a directory of profiles.
    pub fn profile_directory(id: u32) -> Self {
        match id {
            ProfileDirectory::ROOT => Self::special(Profiles),
            id => Self::profile(id, 0),
        }
    }

    /// The inode of the link to a generation, by its link number.
    pub fn generation(profile: u32, link: u32) -> Self {
        Self::profile(profile, link << 1)
    }

    /// The inode of the link of a profile while it points to a generation.
    pub fn current(profile: u32, link: u32) -> Self {
        Self::profile(profile, link << 1 | 1)
    }

    /// The inode of the pipe that announces changes of a profile.
    pub fn changed(profile: u32) -> Self {
        Self::profile(profile, 0)
    }

    fn profile(id: u32, node: u32) -> Self {
        let view = PROFILES << (NODE_BITS + ORDINAL_BITS);
        Self(view | u64::from(id) << NODE_BITS | u64::from(node))
    }

    /// The inode of the link of a profile, whatever it points to.
    pub(super) fn following(profile: u32) -> Self {
        Self::current(profile, 0)
    }

    /// The inode of a temporary file; the highest bits of its number are dropped.
    pub(super) fn temporary(number: u64) -> Self {
        let view = NODE_BITS + ORDINAL_BITS;
        Self(TEMPORARY << view | number & ((1 << view) - 1))
    }

    /// Whether this is a temporary file.
    pub(super) fn is_temporary(self) -> bool {
        self.0 >> (NODE_BITS + ORDINAL_BITS) == TEMPORARY
    }

    /// The inode without the node: identifies the path that a file is in.
    pub fn path_number(self) -> u64 {
        self.0 >> NODE_BITS
    }

    /// Whether this is the store directory, or that of a closure view.
    pub fn is_store(self) -> bool {
        let place = self.place();
        matches!(
            place,
            Ok(Place::Special(Special::Store) | Place::ViewStore(_))
        )
    }

    /// Decodes the inode number.
    ///
    /// # Errors
    /// It is not valid.
    pub fn place(self) -> Result<Place, FsError> {
        let node = (self.0 & ((1 << NODE_BITS) - 1)) as u32;
        let ordinal = (self.0 >> NODE_BITS & ((1 << ORDINAL_BITS) - 1)) as u32;
        if self.0 >> VIEWS_SHIFT == VIEWS {
            return self.place_in_view(node);
        }
        match self.0 >> (NODE_BITS + ORDINAL_BITS) {
            0 => {}
            // The top directory of profiles is a [`Special`].
            PROFILES if ordinal != ProfileDirectory::ROOT => {
                return Ok(Place::Profile(ordinal, node));
            }
            _ => return Err(FsError::Stale),
        }
        if ordinal != 0 {
            return Ok(Place::Node(PathOrdinal(ordinal), node));
        }
        let mut all = Special::ALL.into_iter();
        let special = all.find(|s| *s as u32 == node).ok_or(FsError::Stale)?;
        Ok(Place::Special(special))
    }

    fn place_in_view(self, node: NodeIndex) -> Result<Place, FsError> {
        let number = (self.0 >> VIEW_SHIFT & ((1 << (VIEWS_SHIFT - VIEW_SHIFT)) - 1)) as u32;
        let place = (self.0 >> NODE_BITS & ((1 << PLACE_BITS) - 1)) as u32;
        match (place, node) {
            (0, 0) => Ok(Place::View(number)),
            (0, 1) => Ok(Place::ViewStore(number)),
            (0, _) => Err(FsError::Stale),
            (place, node) => {
                let list = number;
                Ok(Place::Member(Member { list, place }, node))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::GenerationRecord;

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
        let top = GenerationRecord::MAX_LINK;
        for (inode, place) in [
            (Inode::profile_directory(1), Place::Profile(1, 0)),
            (Inode::generation(20, 1), Place::Profile(20, 2)),
            (Inode::current(20, 1), Place::Profile(20, 3)),
            (
                Inode::current((1 << 28) - 1, top),
                Place::Profile((1 << 28) - 1, (1 << 24) - 1),
            ),
        ] {
            assert_eq!(inode.place().unwrap(), place);
        }
        let last = (1 << 21) - 1;
        let member = Member {
            list: last,
            place: (1 << 16) - 1,
        };
        for (inode, place) in [
            (Inode::view(1), Place::View(1)),
            (Inode::view_store(last), Place::ViewStore(last)),
            (
                Inode::member(member, (1 << 24) - 1),
                Place::Member(member, (1 << 24) - 1),
            ),
        ] {
            assert_eq!(inode.place().unwrap(), place);
            assert_eq!(inode.0 >> 61, 1);
        }
        for nothing in [Inode(Inode::view(1).0 | 2), Inode(2 << 61)] {
            assert!(nothing.place().is_err(), "{nothing:?}");
        }
        let all = Inode::profile_directory(ProfileDirectory::ROOT);
        assert_eq!(all, Inode::special(Profiles));
        for nothing in [0, 13, 1 << 52, 2 << 52, u64::MAX] {
            assert!(Inode(nothing).place().is_err(), "{nothing}");
        }
    }
}
