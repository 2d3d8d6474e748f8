//! All profiles at one moment: a value that readers share and changes replace.
//!
//! Invariant: an id names one profile or directory for ever, and a link number one generation of
//! its profile, since inode numbers are made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::nix::store_path::StorePath;
use crate::store::error::StoreError;
use crate::store::records::{Family, Reader, Records, Writer};

/// One generation of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationRecord {
    /// Its number; a number is used again if the highest one was deleted.
    pub number: u64,
    /// What it points to.
    pub path: StorePath,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Its part of inode numbers: from 1 to [`GenerationRecord::MAX_LINK`], unique within the
    /// profile and never used again.
    pub link: u32,
}

impl GenerationRecord {
    /// The highest link number: with one more bit it has to fit into 24.
    pub const MAX_LINK: u32 = (1 << 23) - 1;
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileRecord {
    /// Its part of inode numbers: unique among profiles and directories, never used again.
    pub id: u32,
    /// The number of the current generation, which is in the list.
    pub current: Option<u64>,
    /// When it became that, in seconds since 1970.
    pub switched: i64,
    /// The generations, in the order of their numbers.
    pub generations: Vec<GenerationRecord>,
    /// The link number that the next new generation gets.
    pub next_link: u32,
}

impl ProfileRecord {
    /// A generation by its number.
    pub fn generation(&self, number: u64) -> Option<&GenerationRecord> {
        let found = self.generations.binary_search_by_key(&number, |g| g.number);
        self.generations.get(found.ok()?)
    }

    /// The current generation.
    pub fn current_generation(&self) -> Option<&GenerationRecord> {
        self.generation(self.current?)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::versioned(VERSION);
        out.u32(self.id);
        out.u32(self.next_link);
        out.i64(self.switched);
        out.byte(u8::from(self.current.is_some()));
        out.u64(self.current.unwrap_or(0));
        out.list(&self.generations, |out, generation| {
            out.u64(generation.number);
            out.i64(generation.created);
            out.u32(generation.link);
            out.path(&generation.path);
        });
        out.finish()
    }

    fn read(fields: &mut Reader<'_>) -> Option<Self> {
        fields.version(VERSION)?;
        let (id, next_link, switched) = (fields.u32()?, fields.u32()?, fields.i64()?);
        let (is_set, current) = (fields.byte()?, fields.u64()?);
        let generations = fields.list(|fields| {
            Some(GenerationRecord {
                number: fields.u64()?,
                created: fields.i64()?,
                link: fields.u32()?,
                path: fields.path()?,
            })
        });
        Some(Self {
            id,
            current: (is_set == 1).then_some(current),
            switched,
            generations: generations?,
            next_link,
        })
    }
}

/// A directory that profiles lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileDirectory {
    /// Its part of inode numbers, from the same numbers as those of profiles.
    pub id: u32,
    /// When it was made, in seconds since 1970; 0 for the two that are always there.
    pub created: i64,
    /// When what is in it changed last; 0 if it never did.
    pub changed: i64,
}

impl ProfileDirectory {
    /// The id of the directory of all profiles, whose name is empty.
    pub const ROOT: u32 = 0;
    /// The id of `per-user`, which is there even if nothing is in it, as Nix wants it.
    const PER_USER: u32 = 1;

    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = Writer::versioned(VERSION);
        out.u32(self.id);
        out.i64(self.created);
        out.i64(self.changed);
        out.finish()
    }

    fn read(fields: &mut Reader<'_>) -> Option<Self> {
        fields.version(VERSION)?;
        Some(Self {
            id: fields.u32()?,
            created: fields.i64()?,
            changed: fields.i64()?,
        })
    }
}

/// Of the records of profiles and directories.
const VERSION: u8 = 1;

/// The key of the id that the next new profile or directory gets, among what is said of the state.
pub(super) const NEXT_ID: &[u8] = b"next-profile";
/// First byte of the key of a profile.
pub(super) const PROFILE: u8 = 1;
/// First byte of the key of a directory.
pub(super) const DIRECTORY: u8 = 2;

/// The first id that is given out; those below are the directories that are always there.
pub(super) const FIRST_ID: u32 = 16;
/// The last one: it has to fit into 28 bits.
pub(super) const LAST_ID: u32 = (1 << 28) - 1;

/// What has an id.
#[derive(Clone, Copy, Debug)]
pub enum ProfileMember<'t> {
    /// A directory, with its whole name.
    Directory(&'t str, ProfileDirectory),
    /// A profile, with its whole name.
    Profile(&'t str, &'t ProfileRecord),
}

impl<'t> ProfileMember<'t> {
    /// The whole name.
    pub fn name(self) -> &'t str {
        match self {
            Self::Directory(name, _) | Self::Profile(name, _) => name,
        }
    }
}

/// The directory that something lies in; that of all profiles is in itself.
pub(super) fn directory_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// All profiles and their directories at one moment.
#[derive(Clone, Debug)]
pub struct ProfileTable {
    pub(super) profiles: BTreeMap<Arc<str>, Arc<ProfileRecord>>,
    pub(in crate::store) directories: BTreeMap<Arc<str>, ProfileDirectory>,
    by_id: BTreeMap<u32, Arc<str>>,
    /// Names of profiles whose records cannot be understood.
    pub(super) damaged: BTreeSet<String>,
    pub(super) next_id: u32,
}

impl ProfileTable {
    /// The profiles that are recorded.
    pub(in crate::store) fn read(records: &Records) -> Result<Self, StoreError> {
        let next_id = match records.get(Family::Meta, NEXT_ID)? {
            None => FIRST_ID,
            Some(record) => Reader::whole(&record, || "next-profile".into(), Reader::u32)?,
        };
        let mut table = Self::new(next_id);
        records.scan(Family::Profiles, &[], |key, value| {
            table.load(key, value);
            Ok(true)
        })?;
        if let Err(e) = table.check() {
            tracing::warn!("a profile is not shown: {e}");
        }
        Ok(table)
    }

    fn new(next_id: u32) -> Self {
        let mut table = Self {
            profiles: BTreeMap::new(),
            directories: BTreeMap::new(),
            by_id: BTreeMap::new(),
            damaged: BTreeSet::new(),
            next_id,
        };
        for (name, id) in [
            ("", ProfileDirectory::ROOT),
            ("per-user", ProfileDirectory::PER_USER),
        ] {
            let (created, changed) = (0, 0);
            let directory = ProfileDirectory {
                id,
                created,
                changed,
            };
            table.put_directory(name, directory);
        }
        table
    }

    /// Takes in a record of the database.
    fn load(&mut self, key: &[u8], value: &[u8]) {
        let name = String::from_utf8_lossy(key.get(1..).unwrap_or_default());
        let mut fields = Reader::new(value);
        let known = match key.first() {
            Some(&PROFILE) => ProfileRecord::read(&mut fields)
                .filter(|_| fields.is_at_end())
                .map(|p| self.put_profile(&name, p)),
            Some(&DIRECTORY) => ProfileDirectory::read(&mut fields)
                .filter(|_| fields.is_at_end())
                .map(|d| self.put_directory(&name, d)),
            _ => None,
        };
        if known.is_none() {
            self.damaged.insert(name.into_owned());
        }
    }

    pub(super) fn put_profile(&mut self, name: &str, record: ProfileRecord) {
        let name: Arc<str> = name.into();
        self.by_id.insert(record.id, name.clone());
        self.profiles.insert(name, Arc::new(record));
    }

    pub(super) fn put_directory(&mut self, name: &str, directory: ProfileDirectory) {
        let name: Arc<str> = name.into();
        self.by_id.insert(directory.id, name.clone());
        self.directories.insert(name, directory);
    }

    pub(super) fn remove_profile(&mut self, name: &str) {
        self.damaged.remove(name);
        if let Some(record) = self.profiles.remove(name) {
            self.by_id.remove(&record.id);
        }
    }

    pub(super) fn remove_directory(&mut self, name: &str) {
        if let Some(directory) = self.directories.remove(name) {
            self.by_id.remove(&directory.id);
        }
    }

    pub(super) fn number(&mut self) -> Result<u32, StoreError> {
        if self.next_id > LAST_ID {
            return Err(StoreError::TooManyProfiles);
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    /// Fails if something is there that cannot be understood: it must not look like absent.
    fn check(&self) -> Result<(), StoreError> {
        match self.damaged.first() {
            Some(name) => Err(damaged(name)),
            None => Ok(()),
        }
    }

    /// A profile by its whole name.
    ///
    /// # Errors
    /// Its record is damaged.
    pub fn checked(&self, name: &str) -> Result<Option<&Arc<ProfileRecord>>, StoreError> {
        if self.damaged.contains(name) {
            return Err(damaged(name));
        }
        Ok(self.profile(name))
    }

    /// All profiles, in the order of their names.
    ///
    /// # Errors
    /// A record is damaged.
    pub fn profiles(&self) -> Result<impl Iterator<Item = (&str, &ProfileRecord)>, StoreError> {
        self.check()?;
        Ok(self.profiles.iter().map(|(name, p)| (&**name, &**p)))
    }

    /// A profile by its whole name; one that is damaged is none.
    pub fn profile(&self, name: &str) -> Option<&Arc<ProfileRecord>> {
        self.profiles.get(name)
    }

    /// A directory by its whole name.
    pub fn directory(&self, name: &str) -> Option<ProfileDirectory> {
        self.directories.get(name).copied()
    }

    /// What has an id.
    pub fn member(&self, id: u32) -> Option<ProfileMember<'_>> {
        self.member_of(id, self.by_id.get(&id)?)
    }

    /// What lies in the directory of this whole name, in the order of ids, from an id on.
    pub fn members<'t>(
        &'t self,
        directory: &'t str,
        from: u32,
    ) -> impl Iterator<Item = (u32, ProfileMember<'t>)> {
        let inside = move |name: &str| !name.is_empty() && directory_of(name) == directory;
        let ids = self.by_id.range(from..);
        ids.filter(move |(_, name)| inside(name))
            .filter_map(|(id, name)| Some((*id, self.member_of(*id, name)?)))
    }

    /// The directory that something of this whole name lies in.
    pub fn parent(&self, name: &str) -> Option<ProfileDirectory> {
        self.directory(directory_of(name))
    }

    fn member_of<'t>(&'t self, id: u32, name: &'t str) -> Option<ProfileMember<'t>> {
        match self.directories.get(name) {
            Some(directory) if directory.id == id => {
                Some(ProfileMember::Directory(name, *directory))
            }
            _ => Some(ProfileMember::Profile(name, self.profiles.get(name)?)),
        }
    }
}

fn damaged(name: &str) -> StoreError {
    StoreError::Damaged {
        what: format!("the profile {name:?}"),
    }
}
