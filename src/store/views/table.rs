//! All closure views at one moment: a value that readers share and changes replace.
//!
//! Invariant: a number names one view, or one list of members, for ever, since inode numbers of
//! directories are made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use super::members::ViewMembers;
use crate::nix::store_path::StorePath;
use crate::store::error::StoreError;
use crate::store::records::{Family, Reader, Records, Writer};

/// The key of the number that the next new view or list gets, among what is said of the state.
pub(super) const NEXT: &[u8] = b"next-view";
/// First byte of the key of a view.
const VIEW: u8 = 1;
/// First byte of the key that says of an id that its view was made as a volume. Ids are not given
/// again, so that it says it of no other view.
const VOLUME: u8 = 4;

/// The key of a view.
pub(super) fn key(name: &str) -> Vec<u8> {
    [&[VIEW], name.as_bytes()].concat()
}

/// The key that is there if the view with this id was made as a volume.
pub(super) fn volume_key(id: u32) -> Vec<u8> {
    [&[VOLUME], &id.to_be_bytes()[..]].concat()
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

/// Of the record of a view.
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

/// A closure view.
#[derive(Debug)]
pub struct View {
    pub name: Arc<str>,
    pub record: ViewRecord,
    /// Its paths, when they were needed for the first time.
    members: OnceLock<Arc<ViewMembers>>,
    /// What was referred to and not registered when it was shown last; `None` if that was not
    /// looked at since the state was opened.
    pub(super) unknown: Option<Arc<[StorePath]>>,
}

impl View {
    /// The paths that it shows.
    pub(super) fn members(&self, records: &Records) -> Result<Arc<ViewMembers>, StoreError> {
        if let Some(members) = self.members.get() {
            return Ok(members.clone());
        }
        let members = ViewMembers::read(records, self.record.list)?;
        let members = members.ok_or_else(|| StoreError::Damaged {
            what: format!("the list of paths of the closure view {:?}", self.name),
        })?;
        Ok(self.members.get_or_init(|| Arc::new(members)).clone())
    }

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
    const LAST: u32 = (1 << 21) - 1;
    /// The first number that is given out.
    const FIRST: u32 = 1;

    /// The views that are recorded.
    pub(in crate::store) fn read(records: &Records) -> Result<Self, StoreError> {
        let next = match records.get(Family::Meta, NEXT)? {
            None => Self::FIRST,
            Some(record) => Reader::whole(&record, || "next-view".into(), Reader::u32)?,
        };
        let mut volumes = BTreeSet::new();
        records.scan(Family::Views, &[VOLUME], |key, _| {
            let Some((&VOLUME, id)) = key.split_first() else {
                return Ok(false);
            };
            volumes.extend(id.try_into().map(u32::from_be_bytes));
            Ok(true)
        })?;
        let mut table = Self::new(next);
        records.scan(Family::Views, &[VIEW], |key, value| {
            let Some((&VIEW, name)) = key.split_first() else {
                return Ok(false);
            };
            table.load(name, value, &volumes);
            Ok(true)
        })?;
        if let Err(e) = table.check() {
            tracing::warn!("a closure view is not shown: {e}");
        }
        Ok(table)
    }

    fn new(next: u32) -> Self {
        Self {
            views: BTreeMap::new(),
            by_number: BTreeMap::new(),
            damaged: BTreeSet::new(),
            next,
        }
    }

    /// Takes in a record of the database; `volumes` are the ids of views that are volumes.
    fn load(&mut self, name: &[u8], value: &[u8], volumes: &BTreeSet<u32>) {
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

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<View>> {
        self.damaged.remove(name);
        let view = self.views.remove(name)?;
        self.by_number.remove(&view.record.id);
        self.by_number.remove(&view.record.list);
        Some(view)
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
