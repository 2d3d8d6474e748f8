//! The numbers that stat shows.
//!
//! An [`Inode`] is an address of 64 bits. Programs of 32 bits cannot take such a number, neither from stat(2)
//! nor from a listing, and take the error for "not there". So what is shown is another number, that
//! fits into 32 bits wherever it can. Invariant: two inodes never show the same number, since programs that compare
//! files by their numbers (compilers with their include guards, diff, cp) take equal ones for one
//! file. What does not fit keeps a number of 64 bits. A directory in a closure view shows what it
//! shows in the store: it is the same directory, in one more place.
//!
//! | from | bits of the ordinal | bits of the node | for nodes from |
//! | --- | ---: | ---: | ---: |
//! | 2^28 | 4 | 24 | 2^18 |
//! | 2^29 | 11 | 18 | 2^16 |
//! | 2^30 | 20 | 10 | 0 |
//! | 2^31 | 17 | 13 | 2^10 |
//! | 3 · 2^30 | 14 | 16 | 2^13 |
//!
//! So all of a path fits that is among the first 16 of a state; of a later one, what its place in the
//! tree allows, and the first thousand files and directories of each of the first million paths. Below 2^28
//! is what lies above the paths. Paths are numbered in the order in which a state came to know them.

use super::{Attributes, Inode, Place};
use crate::store::PathOrdinal;

/// How inode numbers are shown on one connection to the kernel. They do not change while it lives: a
/// daemon that takes it over goes on with those that it began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// The addresses, as they are.
    Addresses,
    /// The short ones.
    Short,
}

/// Where some nodes of some paths have their numbers.
struct Range {
    from: u64,
    ordinal_bits: u32,
    node_bits: u32,
}

/// Ordered by what nodes they are for. Each takes three bits from the ordinal for three of the node,
/// as far as it can.
const RANGES: [Range; 5] = [
    Range::new(1 << 30, 20, 10),
    Range::new(2 << 30, 17, 13),
    Range::new(3 << 30, 14, 16),
    Range::new(1 << 29, 11, 18),
    Range::new(1 << 28, 4, 24),
];

/// The bit of what does not fit. No address has it, but for those of closure views, which fit.
const LONG: u64 = 1 << 60;
/// Directories of closure views and the store directories in them.
const VIEWS: u64 = 1 << 24;
/// Temporary files of writable profiles.
const TEMPORARY: u64 = 1 << 26;
/// Links and directories of profiles.
const PROFILES: u64 = 1 << 27;
/// Bits of what is in a profile.
const LINK_BITS: u32 = 14;
/// Bits of a profile.
const PROFILE_BITS: u32 = 13;

impl Range {
    const fn new(from: u64, ordinal_bits: u32, node_bits: u32) -> Self {
        Self {
            from,
            ordinal_bits,
            node_bits,
        }
    }

    fn number(&self, ordinal: u32, node: u32) -> Option<u64> {
        let fits = ordinal >> self.ordinal_bits == 0 && node >> self.node_bits == 0;
        fits.then(|| self.from | u64::from(ordinal) << self.node_bits | u64::from(node))
    }

    /// The ordinal in a number, if that is in this range.
    fn ordinal(&self, number: u64) -> Option<u32> {
        let in_it = number.checked_sub(self.from)?;
        let ordinal = in_it >> self.node_bits;
        (ordinal >> self.ordinal_bits == 0).then_some(ordinal as u32)
    }
}

impl Numbers {
    /// What stat shows of a file.
    pub fn shown(self, attributes: &Attributes) -> u64 {
        match self {
            Self::Addresses => attributes.inode.0,
            Self::Short => short(attributes.in_store),
        }
    }

    /// The path whose file or directory shows a number, as `st_ino` or in `/proc/PID/maps`; `None`
    /// for what lies above the paths.
    pub fn path(self, shown: u64) -> Option<PathOrdinal> {
        let address = match self {
            Self::Addresses => shown,
            Self::Short if shown & LONG != 0 => shown & !LONG,
            Self::Short => {
                let mut ranges = RANGES.iter();
                return ranges.find_map(|r| r.ordinal(shown)).map(PathOrdinal);
            }
        };
        match Inode(address).place() {
            Ok(Place::Node(ordinal, _)) => Some(ordinal),
            _ => None,
        }
    }
}

fn short(inode: Inode) -> u64 {
    let fits = match inode.place() {
        Ok(Place::Special(_)) => Some(inode.0),
        Ok(Place::Node(PathOrdinal(ordinal), node)) => {
            RANGES.iter().find_map(|range| range.number(ordinal, node))
        }
        // Ids of views have 21 bits.
        Ok(Place::View(id)) => Some(VIEWS | u64::from(id) << 1),
        Ok(Place::ViewStore(id)) => Some(VIEWS | u64::from(id) << 1 | 1),
        Ok(Place::Profile(id, node)) => {
            let fits = id >> PROFILE_BITS == 0 && node >> LINK_BITS == 0;
            fits.then(|| PROFILES | u64::from(id) << LINK_BITS | u64::from(node))
        }
        // It is seen as what it is in the store; its address has a bit that no other has.
        Ok(Place::Member(..)) => Some(inode.0),
        // Who makes so many temporary files has forgotten the first one.
        Err(_) if inode.is_temporary() => Some(TEMPORARY | inode.0 & (TEMPORARY - 1)),
        Err(_) => None,
    };
    fits.unwrap_or(inode.0 | LONG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::attributes::expected;
    use crate::fs::{Member, Special};

    fn shown(inode: Inode) -> u64 {
        Numbers::Short.shown(&Attributes {
            inode,
            in_store: inode,
            ..expected(PathOrdinal(1))
        })
    }

    fn node(ordinal: u32, node: u32) -> Inode {
        Inode::node(PathOrdinal(ordinal), node)
    }

    /// Numbers at the edges of what fits.
    fn edges(bits: u32) -> Vec<u32> {
        let edges = (1..=bits).flat_map(|bit| {
            let power = 1u32 << bit;
            [power - 1, power, power + 1]
        });
        edges.filter(|n| n >> bits == 0).collect()
    }

    #[test]
    fn no_two_inodes_show_the_same_number() {
        let mut all = Vec::new();
        for ordinal in edges(28) {
            for index in edges(24) {
                all.push(node(ordinal, index));
                all.push(Inode::generation(ordinal, index >> 1));
                all.push(Inode::current(ordinal, index >> 1));
            }
        }
        for id in edges(21) {
            all.extend([Inode::view(id), Inode::view_store(id)]);
            all.extend(
                edges(16)
                    .into_iter()
                    .map(|place| Inode::member(Member { list: id, place }, 7)),
            );
        }
        all.extend([Special::Root, Special::Store, Special::File].map(Inode::special));
        all.extend((0..100).map(Inode::temporary));
        all.sort_by_key(|inode| inode.0);
        all.dedup();
        let mut numbers: Vec<_> = all.iter().map(|inode| shown(*inode)).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(numbers[0] > 0);
    }

    #[test]
    fn a_number_tells_of_its_path() {
        for ordinal in edges(28) {
            for index in edges(24) {
                let inode = node(ordinal, index);
                let path = Some(PathOrdinal(ordinal));
                assert_eq!(Numbers::Short.path(shown(inode)), path, "{inode:?}");
                assert_eq!(Numbers::Addresses.path(inode.0), path);
            }
        }
        for other in [
            Inode::special(Special::Store),
            Inode::view_store(9),
            Inode::generation(3, 4),
            Inode::generation(1 << 20, 1 << 20),
            Inode::temporary(5),
        ] {
            assert_eq!(Numbers::Short.path(shown(other)), None, "{other:?}");
            assert_eq!(Numbers::Addresses.path(other.0), None);
        }
    }

    #[test]
    fn what_programs_of_32_bits_meet_fits() {
        for inode in [
            node((1 << 20) - 1, (1 << 10) - 1),
            node((1 << 17) - 1, (1 << 13) - 1),
            node((1 << 14) - 1, (1 << 16) - 1),
            node((1 << 11) - 1, (1 << 18) - 1),
            node((1 << 4) - 1, (1 << 24) - 1),
            Inode::view_store((1 << 21) - 1),
            Inode::current((1 << 13) - 1, (1 << 13) - 1),
            Inode::special(Special::Root),
        ] {
            assert!(shown(inode) >> 32 == 0, "{inode:?}");
        }
        assert_eq!(shown(Inode::special(Special::Root)), 1);
    }
}
