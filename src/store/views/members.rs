//! The paths that a closure view shows.
//!
//! Invariant: a path that leaves a view keeps its place, as one that is not shown, since inode numbers
//! of directories are made of places.

use std::collections::HashSet;

use crate::nix::store_path::StorePathHash;
use crate::store::error::StoreError;
use crate::store::records::{Family, Reader, Records, Writer};

/// First byte of the key of a list of members.
const MEMBERS: u8 = 2;
/// Of the record of a list.
const VERSION: u8 = 1;

/// The key of a list by its number.
pub(super) fn key(list: u32) -> Vec<u8> {
    [&[MEMBERS], &list.to_be_bytes()[..]].concat()
}

/// The paths of a view: each has a place, from 1 on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewMembers {
    /// By place: the path, and whether it is shown.
    places: Vec<(StorePathHash, bool)>,
    /// Indexes into `places` in the order of hashes.
    sorted: Vec<u16>,
}

impl ViewMembers {
    /// Most paths that have a place: it has to fit into 16 bits, and 0 is not one.
    pub const MAX: usize = (1 << 16) - 1;

    /// `None` if they are more than have a place.
    fn new(places: Vec<(StorePathHash, bool)>) -> Option<Self> {
        if places.len() > Self::MAX {
            return None;
        }
        let mut sorted: Vec<_> = (0..places.len() as u16).collect();
        sorted.sort_unstable_by_key(|at| places[usize::from(*at)].0);
        Some(Self { places, sorted })
    }

    /// The list of this number; `None` if it is lost or damaged.
    pub(super) fn read(records: &Records, list: u32) -> Result<Option<Self>, StoreError> {
        let record = records.get(Family::Views, &key(list))?;
        Ok(record.and_then(|record| Self::decode(&record)))
    }

    /// Those that show exactly `shown`. Who had a place keeps it. `None` if there is no place left.
    pub(super) fn showing(&self, shown: &[StorePathHash]) -> Option<Self> {
        let wanted: HashSet<_> = shown.iter().collect();
        let mut places = self.places.clone();
        let mut had = HashSet::new();
        for (hash, is_shown) in &mut places {
            *is_shown = wanted.contains(hash);
            had.insert(*hash);
        }
        let new = shown.iter().filter(|hash| had.insert(**hash));
        places.extend(new.map(|hash| (*hash, true)));
        Self::new(places)
    }

    fn at(&self, hash: StorePathHash) -> Option<usize> {
        let found = self
            .sorted
            .binary_search_by_key(&hash, |at| self.places[usize::from(*at)].0);
        Some(usize::from(self.sorted[found.ok()?]))
    }

    /// The place of a path that is shown.
    pub fn place(&self, hash: StorePathHash) -> Option<u32> {
        let at = self.at(hash)?;
        self.places[at].1.then_some(at as u32 + 1)
    }

    /// The path at a place, if it is shown.
    pub fn path(&self, place: u32) -> Option<StorePathHash> {
        let (hash, is_shown) = self.places.get(place.checked_sub(1)? as usize)?;
        is_shown.then_some(*hash)
    }

    /// What is shown from a place on, in the order of places.
    pub fn from(&self, place: u32) -> impl Iterator<Item = (u32, StorePathHash)> {
        let places = (1..).zip(&self.places).skip(place.max(1) as usize - 1);
        let shown = places.filter(|(_, (_, is_shown))| *is_shown);
        shown.map(|(place, (hash, _))| (place, *hash))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::versioned(VERSION);
        out.list(&self.places, |out, (hash, is_shown)| {
            out.byte(u8::from(*is_shown));
            out.bytes(hash.as_bytes());
        });
        out.finish()
    }

    fn decode(record: &[u8]) -> Option<Self> {
        let mut fields = Reader::new(record);
        fields.version(VERSION)?;
        let places = fields.list(|f| {
            let is_shown = f.byte()? != 0;
            Some((f.hash()?, is_shown))
        })?;
        fields.is_at_end().then_some(places).and_then(Self::new)
    }
}
