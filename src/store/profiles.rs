//! Profiles: generations, which are roots, and the directories that profiles lie in.
//!
//! Invariants: a change of any number of profiles is one synced batch, so after a crash it is
//! there whole or not at all; it can be seen when it is durable, all at once. The database is the
//! truth; what readers see is a table in memory that each change replaces.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, RwLock};

use super::database::{Database, META, PROFILES};
use super::profile_table::{DIRECTORY, FIRST_ID, PROFILE, directory_of};
use super::write_batch::WriteBatch;
use super::{Change, Store, StoreError, lock, uses};
use super::{GenerationRecord, ProfileDirectory, ProfileRecord, ProfileTable};
use crate::nix::store_path::StorePath;
use crate::sync;

const NEXT_ID: &[u8] = b"next-profile";

/// What a profile is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileChange {
    pub name: String,
    /// The number of its current generation. One that is not in the list counts as none.
    pub current: Option<u64>,
    /// Number, path and time of creation of each generation. Without any, the profile goes.
    pub generations: Vec<(u64, StorePath, i64)>,
}

/// What became of profiles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfilesChanged {
    /// Profiles that changed.
    pub profiles: Vec<ChangedProfile>,
    /// Directories that were made or removed; what lies deeper comes first.
    pub directories: Vec<ChangedDirectory>,
}

impl ProfilesChanged {
    /// Profiles that lead to another path now, or to none.
    fn switched(&self) -> HashSet<&str> {
        let target = |p: &Option<Arc<ProfileRecord>>| {
            let current = p.as_ref()?.current_generation()?;
            Some(current.path.clone())
        };
        let profiles = self.profiles.iter();
        let switched = profiles.filter(|p| target(&p.before) != target(&p.after));
        switched.map(|p| p.name.as_str()).collect()
    }
}

/// The directory in which something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedIn {
    /// Its id.
    pub id: u32,
    /// The id of the directory that it is in, unless it is that of all profiles.
    pub above: Option<u32>,
}

/// A profile that was made, changed or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedProfile {
    pub name: String,
    /// Its directory.
    pub parent: ChangedIn,
    /// What it was.
    pub before: Option<Arc<ProfileRecord>>,
    pub after: Option<Arc<ProfileRecord>>,
}

/// A directory that was made or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedDirectory {
    pub name: String,
    /// The directory that it is in.
    pub parent: ChangedIn,
    /// Its own id.
    pub id: u32,
}

/// What readers and changes of profiles share.
#[derive(Debug)]
pub(super) struct Profiles {
    /// Held while profiles or closure views change, so that none is built on what is no longer
    /// true.
    pub(super) changing: Mutex<()>,
    table: RwLock<Arc<ProfileTable>>,
}

impl Profiles {
    pub(super) fn open(database: &Database) -> Result<Self, StoreError> {
        let next_id = match database.get(META, NEXT_ID)? {
            None => FIRST_ID,
            Some(value) => {
                let value = value.as_ref().try_into();
                u32::from_le_bytes(value.map_err(|_| StoreError::Damaged {
                    what: "next-profile".into(),
                })?)
            }
        };
        let mut table = ProfileTable::new(next_id);
        database.scan(PROFILES, &[], |key, value| {
            table.load(key, value);
            Ok(true)
        })?;
        if let Err(e) = table.check() {
            tracing::warn!("a profile is not shown: {e}");
        }
        Ok(Self {
            changing: Mutex::default(),
            table: RwLock::new(Arc::new(table)),
        })
    }

    fn table(&self) -> Arc<ProfileTable> {
        sync::read(&self.table).clone()
    }

    fn replace(&self, table: ProfileTable) {
        let table = Arc::new(table);
        let mut seen = sync::write(&self.table);
        *seen = table;
    }
}

impl Store {
    /// A profile.
    ///
    /// # Errors
    /// Its record is damaged.
    pub fn profile(&self, name: &str) -> Result<Option<ProfileRecord>, StoreError> {
        let table = self.profiles.table();
        table.check_one(name)?;
        Ok(table.profile(name).map(|p| ProfileRecord::clone(p)))
    }

    /// All profiles, in the order of their names.
    ///
    /// # Errors
    /// A record is damaged.
    pub fn profiles(&self) -> Result<Vec<(String, ProfileRecord)>, StoreError> {
        let table = self.profiles.table();
        table.check()?;
        let profiles = table.profiles.iter();
        let owned = profiles.map(|(name, p)| (name.to_string(), ProfileRecord::clone(p)));
        Ok(owned.collect())
    }

    /// All directories of profiles, in the order of their names. That of all profiles has the
    /// name "".
    pub fn profile_directories(&self) -> Vec<(String, ProfileDirectory)> {
        let table = self.profiles.table();
        let directories = table.directories.iter();
        directories.map(|(n, d)| (n.to_string(), *d)).collect()
    }

    /// What every generation of every profile points to, each once.
    ///
    /// # Errors
    /// A record is damaged.
    pub fn generation_roots(&self) -> Result<Vec<StorePath>, StoreError> {
        let table = self.profiles.table();
        table.check()?;
        let generations = table.profiles.values().flat_map(|p| &p.generations);
        let paths: BTreeSet<_> = generations.map(|g| &g.path).collect();
        Ok(paths.into_iter().cloned().collect())
    }

    /// All profiles as they are now, whatever changes later.
    pub fn profile_table(&self) -> Arc<ProfileTable> {
        self.profiles.table()
    }

    /// Makes profiles what they are to be, all together, and the closure views that follow them. A
    /// generation that is there already, with
    /// the same number, path and time, keeps its link number. When it returns, the change is
    /// durable, can be seen, and the observer has been told.
    ///
    /// # Errors
    /// The database failed, numbers are used up, or a profile would have the name of a directory
    /// of profiles; nothing has changed then.
    pub fn change_profiles(&self, changes: &[ProfileChange]) -> Result<(), StoreError> {
        let changing = lock(&self.profiles.changing);
        let mut edit = Edit {
            before: self.profiles.table(),
            table: ProfileTable::clone(&self.profiles.table()),
            now: i64::try_from(uses::now() / 1000).unwrap_or(i64::MAX),
            touched: BTreeSet::new(),
        };
        for change in changes {
            edit.apply(change)?;
        }
        edit.fit_directories()?;
        let generations = changes.iter().flat_map(|c| &c.generations);
        self.note_roots(generations.map(|(_, path, _)| path.hash()));
        let (changed, mut batch) = edit.finish();
        if changed.profiles.is_empty() && !edit.mends() {
            return Ok(());
        }
        let views = self.follow(&changed.switched(), &edit.table)?;
        if let Some(views) = &views {
            self.add_views(views, &mut batch)?;
        }
        self.database.write_synced(batch, "profiles were written")?;
        self.profiles.replace(edit.table);
        let views = views.map(|views| self.replace_views(views));
        drop(changing);
        self.tell(&Change::Profiles(&changed));
        if let Some(views) = views {
            self.tell_views(&views);
        }
        Ok(())
    }
}

/// A change of the table in the making.
struct Edit {
    before: Arc<ProfileTable>,
    table: ProfileTable,
    now: i64,
    /// Names of profiles that may have changed.
    touched: BTreeSet<String>,
}

impl Edit {
    fn apply(&mut self, change: &ProfileChange) -> Result<(), StoreError> {
        self.touched.insert(change.name.clone());
        if change.generations.is_empty() {
            self.table.remove_profile(&change.name);
            return Ok(());
        }
        self.table.check_one(&change.name)?;
        let there = self.table.profile(&change.name).cloned();
        let mut record = match &there {
            Some(there) => ProfileRecord::clone(there),
            None => ProfileRecord {
                id: self.table.number()?,
                current: None,
                switched: self.now,
                generations: Vec::new(),
                next_link: 1,
            },
        };
        let before = std::mem::take(&mut record.generations);
        for (number, path, created) in &change.generations {
            let is_same = |g: &&GenerationRecord| {
                g.number == *number && g.path == *path && g.created == *created
            };
            let link = match before.iter().find(is_same) {
                Some(there) => there.link,
                None if record.next_link > GenerationRecord::MAX_LINK => {
                    return Err(StoreError::TooManyGenerations(change.name.clone()));
                }
                None => {
                    record.next_link += 1;
                    record.next_link - 1
                }
            };
            record.generations.push(GenerationRecord {
                number: *number,
                path: path.clone(),
                created: *created,
                link,
            });
        }
        record.generations.sort_by_key(|g| g.number);
        record.generations.dedup_by_key(|g| g.number);
        record.current = change.current.filter(|n| record.generation(*n).is_some());
        let current = |p: &ProfileRecord| p.current_generation().map(|g| g.link);
        if there.is_none_or(|there| current(&there) != current(&record)) {
            record.switched = self.now;
        }
        self.table.put_profile(&change.name, record);
        Ok(())
    }

    /// Makes directories for profiles that have none, and removes those that are needed no more.
    fn fit_directories(&mut self) -> Result<(), StoreError> {
        let mut needed = BTreeSet::new();
        let names: Vec<_> = self.table.profiles.keys().cloned().collect();
        for name in &names {
            let mut directory = directory_of(name);
            while !directory.is_empty() && needed.insert(directory) {
                if self.table.directory(directory).is_none() {
                    let id = self.table.number()?;
                    let (created, changed) = (self.now, self.now);
                    let made = ProfileDirectory {
                        id,
                        created,
                        changed,
                    };
                    self.table.put_directory(directory, made);
                }
                directory = directory_of(directory);
            }
        }
        let old: Vec<_> = self.table.directories.iter().collect();
        let old = old.into_iter().filter(|(_, d)| d.id >= FIRST_ID);
        let old = old.filter(|(name, _)| !needed.contains(name.as_ref()));
        let old: Vec<_> = old.map(|(name, _)| name.clone()).collect();
        for name in old {
            self.table.remove_directory(&name);
        }
        let mut both = self.table.directories.keys();
        match both.find(|name| self.table.profile(name).is_some()) {
            Some(name) => Err(StoreError::ProfileIsDirectory(name.to_string())),
            None => Ok(()),
        }
    }

    /// Whether a record goes that could not be understood, and so was never seen.
    fn mends(&self) -> bool {
        self.table.damaged != self.before.damaged
    }

    /// What has become of everything, and what to write of it.
    fn finish(&mut self) -> (ProfilesChanged, WriteBatch) {
        let mut changed = ProfilesChanged::default();
        let mut stirred = BTreeSet::new();
        for name in &self.touched {
            let (before, after) = (self.before.profile(name), self.table.profile(name));
            if before == after {
                continue;
            }
            stirred.insert(directory_of(name).to_owned());
            changed.profiles.push(ChangedProfile {
                name: name.clone(),
                parent: self.parent_of(name),
                before: before.cloned(),
                after: after.cloned(),
            });
        }
        let (then, now) = (&self.before.directories, &self.table.directories);
        let both = then.iter().chain(now.iter());
        let both = both.filter(|(name, _)| then.contains_key(*name) != now.contains_key(*name));
        for (name, directory) in both {
            stirred.insert(directory_of(name).to_owned());
            changed.directories.push(ChangedDirectory {
                name: name.to_string(),
                parent: self.parent_of(name),
                id: directory.id,
            });
        }
        let depth = |d: &ChangedDirectory| std::cmp::Reverse(d.name.matches('/').count());
        changed.directories.sort_by_key(depth);
        for name in stirred {
            if let Some(mut directory) = self.table.directory(&name) {
                directory.changed = self.now;
                self.table.put_directory(&name, directory);
            }
        }
        let batch = self.writes();
        (changed, batch)
    }

    fn parent_of(&self, name: &str) -> ChangedIn {
        let directory = directory_of(name);
        let above = (!directory.is_empty()).then(|| self.id_of(directory_of(directory)));
        ChangedIn {
            id: self.id_of(directory),
            above,
        }
    }

    /// The id of a directory that is there or was.
    fn id_of(&self, directory: &str) -> u32 {
        let now = self.table.directory(directory);
        let there = now.or_else(|| self.before.directory(directory));
        there.map_or(ProfileDirectory::ROOT, |d| d.id)
    }

    fn writes(&self) -> WriteBatch {
        let mut batch = WriteBatch::default();
        let key = |kind: u8, name: &str| [&[kind], name.as_bytes()].concat();
        for name in &self.touched {
            match self.table.profile(name) {
                Some(record) => batch.put(PROFILES, key(PROFILE, name), record.encode()),
                None => batch.delete(PROFILES, key(PROFILE, name)),
            }
        }
        for (name, directory) in &self.table.directories {
            if self.before.directory(name) != Some(*directory) {
                batch.put(PROFILES, key(DIRECTORY, name), directory.encode());
            }
        }
        for name in self.before.directories.keys() {
            if self.table.directory(name).is_none() {
                batch.delete(PROFILES, key(DIRECTORY, name));
            }
        }
        let next = self.table.next_id.to_le_bytes();
        batch.put(META, NEXT_ID, next);
        batch
    }
}
