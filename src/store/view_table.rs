//! All closure views at one moment: a value that readers share and changes replace.
//!
//! Invariant: a number names one view, or one list of members, for ever, and a place in such a list
//! one path, since inode numbers of directories are made of them. A path that leaves a view keeps its
//! place, as one that is not shown.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use thiserror::Error;

use super::StoreError;
use super::records::{Reader, Writer};
use crate::nix::store_path::{StorePath, StorePathHash};

/// Longest name, in bytes.
const NAME: usize = 128;

/// A text that cannot be the name of a closure view.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no name for a closure view; give up to {NAME} letters, digits and +-._=@, beginning \
     with a letter or a digit"
)]
pub struct ViewNameError(String);

/// What a closure view is called. It is the name of a directory too, and may be that of a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewName(String);

impl ViewName {
    /// Reads a name.
    ///
    /// # Errors
    /// It has other characters than letters, digits and `+-._=@`, begins with one of these, is
    /// empty or too long.
    pub fn parse(text: &str) -> Result<Self, ViewNameError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"+-._=@".contains(&b);
        let first = text.bytes().next();
        let begins_well = first.is_some_and(|b| b.is_ascii_alphanumeric());
        if !begins_well || text.len() > NAME || !text.bytes().all(good) {
            return Err(ViewNameError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ViewName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a closure view is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewRecord {
    /// Its part of the inode numbers of its own two directories; never used again.
    pub id: u32,
    /// The number of its list of members, which is their part of inode numbers.
    pub list: u32,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When what it shows changed last, in seconds since 1970.
    pub changed: i64,
    /// The paths whose closures it shows, as they were named.
    pub roots: Vec<StorePath>,
    /// Names of the profiles whose current generations it shows, too.
    pub profiles: Vec<String>,
    /// Whether it was made as a volume of a container engine, which thus may remove it. Kept by a
    /// key of its own.
    pub is_volume: bool,
}

/// Of the records of views and of their members.
const VERSION: u8 = 1;

impl ViewRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::versioned(VERSION);
        out.u32(self.id);
        out.u32(self.list);
        out.i64(self.created);
        out.i64(self.changed);
        out.list(&self.roots, Writer::path);
        out.list(&self.profiles, |out, profile| out.string(profile));
        out.finish()
    }

    fn decode(record: &[u8], volumes: &BTreeSet<u32>) -> Option<Self> {
        let mut fields = Reader::new(record);
        fields.version(VERSION)?;
        let id = fields.u32()?;
        let record = Self {
            id,
            list: fields.u32()?,
            created: fields.i64()?,
            changed: fields.i64()?,
            roots: fields.list(Reader::path)?,
            profiles: fields.list(|f| f.string().map(str::to_owned))?,
            is_volume: volumes.contains(&id),
        };
        fields.is_at_end().then_some(record)
    }
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

    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        let mut fields = Reader::new(record);
        fields.version(VERSION)?;
        let places = fields.list(|f| {
            let is_shown = f.byte()? != 0;
            Some((f.hash()?, is_shown))
        })?;
        fields.is_at_end().then_some(places).and_then(Self::new)
    }
}

/// A closure view.
#[derive(Debug)]
pub struct View {
    pub name: Arc<str>,
    pub record: ViewRecord,
    /// Its paths, when they were needed for the first time.
    pub(super) members: OnceLock<Arc<ViewMembers>>,
    /// What was referred to and not registered when it was shown last; `None` if that was not
    /// looked at since the state was opened.
    pub(super) unknown: Option<Arc<[StorePath]>>,
}

impl View {
    /// Whether something that it refers to may not be known.
    pub fn may_be_incomplete(&self) -> bool {
        self.unknown.as_ref().is_none_or(|u| !u.is_empty())
    }
}

/// All closure views at one moment.
#[derive(Clone, Debug)]
pub struct ViewTable {
    views: BTreeMap<Arc<str>, Arc<View>>,
    /// By their ids and by the numbers of their lists.
    by_number: BTreeMap<u32, Arc<View>>,
    /// Names of views whose records cannot be understood.
    damaged: BTreeSet<String>,
    pub(super) next: u32,
}

impl ViewTable {
    /// The last number: it has to fit into 21 bits.
    pub(super) const LAST: u32 = (1 << 21) - 1;
    /// The first number that is given out.
    pub(super) const FIRST: u32 = 1;

    pub(super) fn new(next: u32) -> Self {
        Self {
            views: BTreeMap::new(),
            by_number: BTreeMap::new(),
            damaged: BTreeSet::new(),
            next,
        }
    }

    /// Takes in a record of the database; `volumes` are the ids of views that are volumes.
    pub(super) fn load(&mut self, name: &[u8], value: &[u8], volumes: &BTreeSet<u32>) {
        let name = String::from_utf8_lossy(name);
        match ViewRecord::decode(value, volumes) {
            Some(record) => self.put(&name, record, None, None),
            None => drop(self.damaged.insert(name.into_owned())),
        }
    }

    pub(super) fn put(
        &mut self,
        name: &str,
        record: ViewRecord,
        members: Option<Arc<ViewMembers>>,
        unknown: Option<Arc<[StorePath]>>,
    ) {
        self.remove(name);
        let numbers = [record.id, record.list];
        let view = Arc::new(View {
            name: name.into(),
            record,
            members: members.map_or_else(OnceLock::new, OnceLock::from),
            unknown,
        });
        for number in numbers {
            self.by_number.insert(number, view.clone());
        }
        self.views.insert(view.name.clone(), view);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.damaged.remove(name);
        if let Some(view) = self.views.remove(name) {
            self.by_number.remove(&view.record.id);
            self.by_number.remove(&view.record.list);
        }
    }

    pub(super) fn number(&mut self) -> Result<u32, StoreError> {
        if self.next > Self::LAST {
            return Err(StoreError::TooManyViews);
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Whether there is a view, or has ever been one: files of those that are gone may be open.
    pub fn has_given_numbers(&self) -> bool {
        self.next > Self::FIRST
    }

    /// Fails if something is there that cannot be understood: it must not look like absent.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.damaged.first() {
            Some(name) => Err(StoreError::Damaged {
                what: format!("the closure view {name:?} (`narfs closure --delete` removes it)"),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn is_damaged(&self, name: &str) -> bool {
        self.damaged.contains(name)
    }

    /// All of them, in the order of their names.
    pub fn views(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.values()
    }

    /// A view by its name.
    pub fn named(&self, name: &str) -> Option<&Arc<View>> {
        self.views.get(name)
    }

    /// A view by its id.
    pub fn with_id(&self, id: u32) -> Option<&Arc<View>> {
        self.by_number.get(&id).filter(|v| v.record.id == id)
    }

    /// A view by the number of its list of members.
    pub fn with_list(&self, list: u32) -> Option<&Arc<View>> {
        self.by_number.get(&list).filter(|v| v.record.list == list)
    }

    /// Views from an id on, in the order of ids.
    pub fn from_id(&self, id: u32) -> impl Iterator<Item = &Arc<View>> {
        let all = self.by_number.range(id..);
        all.filter(|(n, view)| view.record.id == **n)
            .map(|(_, view)| view)
    }
}
