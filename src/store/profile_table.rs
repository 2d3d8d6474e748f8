//! All profiles at one moment: a value that readers share and changes replace.
//!
//! Invariant: an id names one profile or directory for ever, and a link number one generation of
//! its profile, since inode numbers are made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::StoreError;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::tree::{read_number, write_number};

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
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.next_link.to_le_bytes());
        out.extend_from_slice(&self.switched.to_le_bytes());
        out.push(u8::from(self.current.is_some()));
        out.extend_from_slice(&self.current.unwrap_or(0).to_le_bytes());
        write_number(&mut out, self.generations.len() as u64);
        for generation in &self.generations {
            out.extend_from_slice(&generation.number.to_le_bytes());
            out.extend_from_slice(&generation.created.to_le_bytes());
            out.extend_from_slice(&generation.link.to_le_bytes());
            out.extend_from_slice(generation.path.hash().as_bytes());
            write_number(&mut out, generation.path.name().len() as u64);
            out.extend_from_slice(generation.path.name().as_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[VERSION])?;
        let mut record = Self {
            id: u32::from_le_bytes(take(&mut rest)?),
            next_link: u32::from_le_bytes(take(&mut rest)?),
            switched: i64::from_le_bytes(take(&mut rest)?),
            current: None,
            generations: Vec::new(),
        };
        let [is_set] = take(&mut rest)?;
        let current = u64::from_le_bytes(take(&mut rest)?);
        record.current = (is_set == 1).then_some(current);
        for _ in 0..read_number(&mut rest)? {
            let number = u64::from_le_bytes(take(&mut rest)?);
            let created = i64::from_le_bytes(take(&mut rest)?);
            let link = u32::from_le_bytes(take(&mut rest)?);
            let hash = StorePathHash::from_bytes(take(&mut rest)?);
            let length = usize::try_from(read_number(&mut rest)?).ok()?;
            let (name, after) = rest.split_at_checked(length)?;
            rest = after;
            record.generations.push(GenerationRecord {
                number,
                path: StorePath::new(hash, std::str::from_utf8(name).ok()?).ok()?,
                created,
                link,
            });
        }
        rest.is_empty().then_some(record)
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
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.created.to_le_bytes());
        out.extend_from_slice(&self.changed.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[VERSION])?;
        let directory = Self {
            id: u32::from_le_bytes(take(&mut rest)?),
            created: i64::from_le_bytes(take(&mut rest)?),
            changed: i64::from_le_bytes(take(&mut rest)?),
        };
        rest.is_empty().then_some(directory)
    }
}

/// Of the records of profiles and directories.
const VERSION: u8 = 1;

/// First byte of the key of a profile.
pub(super) const PROFILE: u8 = 1;
/// First byte of the key of a directory.
pub(super) const DIRECTORY: u8 = 2;

/// The first id that is given out; those below are the directories that are always there.
pub(super) const FIRST_ID: u32 = 16;
/// The last one: it has to fit into 28 bits.
pub(super) const LAST_ID: u32 = (1 << 28) - 1;

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

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
    pub(super) directories: BTreeMap<Arc<str>, ProfileDirectory>,
    by_id: BTreeMap<u32, Arc<str>>,
    /// Names of profiles whose records cannot be understood.
    pub(super) damaged: BTreeSet<String>,
    pub(super) next_id: u32,
}

impl ProfileTable {
    pub(super) fn new(next_id: u32) -> Self {
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
    pub(super) fn load(&mut self, key: &[u8], value: &[u8]) {
        let name = String::from_utf8_lossy(key.get(1..).unwrap_or_default());
        let known = match key.first() {
            Some(&PROFILE) => ProfileRecord::decode(value).map(|p| self.put_profile(&name, p)),
            Some(&DIRECTORY) => ProfileDirectory::decode(value).map(|d| {
                self.put_directory(&name, d);
            }),
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
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.damaged.first() {
            Some(name) => Err(damaged(name)),
            None => Ok(()),
        }
    }

    /// The same for one profile.
    pub(super) fn check_one(&self, name: &str) -> Result<(), StoreError> {
        if self.damaged.contains(name) {
            return Err(damaged(name));
        }
        Ok(())
    }

    /// A profile by its whole name.
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
