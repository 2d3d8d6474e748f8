//! The inode numbers that programs see.
//!
//! An [`Inode`] is an address of 64 bits. 32-bit programs cannot handle such numbers, neither from
//! stat(2) nor in listings, and mistake the error for "not there". Programs therefore see another
//! number, which fits into 32 bits where possible. Invariant: two inodes never show the same
//! number, since programs that compare files by number (compilers with include guards, diff, cp)
//! would take them for the same file. Inodes that do not fit keep a 64-bit number. A directory in a
//! closure view shows the same number as in the store, since it is the same directory at another
//! place.
//!
//! | from | bits of the ordinal | bits of the node | for nodes from |
//! | --- | ---: | ---: | ---: |
//! | 2^28 | 4 | 24 | 2^18 |
//! | 2^29 | 11 | 18 | 2^16 |
//! | 2^30 | 20 | 10 | 0 |
//! | 2^31 | 17 | 13 | 2^10 |
//! | 3 · 2^30 | 14 | 16 | 2^13 |
//!
//! Everything in the first 16 paths of a state fits; in later paths, as much as the place in the
//! tree allows, and the first thousand files and directories of each of the first million paths.
//! Numbers below 2^28 are for what lies above the paths. Paths are numbered in the order in which a
//! state registered them.

use super::{Attributes, Inode, Place};
use crate::store::PathOrdinal;

/// Kind of visible inode numbers of a connection. It does not change during the connection: a
/// daemon that takes it over keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// The addresses themselves.
    Addresses,
    /// Short numbers where possible.
    Short,
}

/// A range of numbers for some nodes of some paths.
struct Range {
    from: u64,
    ordinal_bits: u32,
    node_bits: u32,
}

/// Sorted by first node. Each range takes three bits from the ordinal for three bits of the node,
/// as far as possible.
const RANGES: [Range; 5] = [
    Range::new(1 << 30, 20, 10),
    Range::new(2 << 30, 17, 13),
    Range::new(3 << 30, 14, 16),
    Range::new(1 << 29, 11, 18),
    Range::new(1 << 28, 4, 24),
];

/// Marker of numbers that do not fit. Only addresses in closure views have this bit, and those fit.
const LONG: u64 = 1 << 60;
/// Directories of closure views and the store directories in them.
const VIEWS: u64 = 1 << 24;
/// Temporary files of writable profiles.
const TEMPORARY: u64 = 1 << 26;
/// Links and directories of profiles.
const PROFILES: u64 = 1 << 27;
/// Bits of a link within a profile.
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

    /// The ordinal in a number, if the number is in this range.
    fn ordinal(&self, number: u64) -> Option<u32> {
        let in_it = number.checked_sub(self.from)?;
        let ordinal = in_it >> self.node_bits;
        (ordinal >> self.ordinal_bits == 0).then_some(ordinal as u32)
    }
}

impl Numbers {
    /// The number that programs see.
    pub fn shown(self, attributes: &Attributes) -> u64 {
        match self {
            Self::Addresses => attributes.inode.0,
            Self::Short => short(attributes.in_store),
        }
    }

    /// The path whose file or directory has this number in `st_ino` or `/proc/PID/maps`; `None` for
    /// what lies above the paths.
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
        // Shown with the number in the store; the address has a bit that no other has.
        Ok(Place::Member(..)) => Some(inode.0),
        // Wraps around: by then the first temporary file is gone.
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

    /// Numbers at the limits of the ranges.
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
