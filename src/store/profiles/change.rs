//! Changes of profiles: what is asked for, what becomes of it, and the rules.
//!
//! Pure: from one table to the next, with the records that say the same. Invariant: a generation that
//! stays keeps its link number, and a directory is there as long as a profile lies in it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::table::{
    DIRECTORY, FIRST_ID, GenerationRecord, NEXT_ID, PROFILE, ProfileDirectory, ProfileRecord,
    ProfileTable, directory_of,
};
use crate::nix::store_path::StorePath;
use crate::store::error::StoreError;
use crate::store::records::{Batch, Family};

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
    pub(super) fn switched(&self) -> HashSet<&str> {
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

/// A change that is made: a table, what has changed in it, and the records.
pub(in crate::store) struct ProfileUpdate {
    pub(in crate::store) table: ProfileTable,
    pub(in crate::store) changed: ProfilesChanged,
    pub(in crate::store) writes: Batch,
}

/// Makes profiles what they are to be; `None` where they are that already. `now` is in seconds since
/// 1970.
pub(super) fn changed(
    before: &Arc<ProfileTable>,
    changes: &[ProfileChange],
    now: i64,
) -> Result<Option<ProfileUpdate>, StoreError> {
    let mut edit = Edit {
        before: before.clone(),
        table: ProfileTable::clone(before),
        now,
        touched: BTreeSet::new(),
    };
    for change in changes {
        edit.apply(change)?;
    }
    edit.fit_directories()?;
    let changed = edit.changed();
    if changed.profiles.is_empty() && !edit.mends() {
        return Ok(None);
    }
    Ok(Some(ProfileUpdate {
        writes: edit.writes(),
        table: edit.table,
        changed,
    }))
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
        let there = self.table.checked(&change.name)?.cloned();
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

    /// What has become of everything; directories in which something changed say when.
    fn changed(&mut self) -> ProfilesChanged {
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
        changed
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

    fn writes(&self) -> Batch {
        let mut batch = Batch::default();
        let family = Family::Profiles;
        let key = |kind: u8, name: &str| [&[kind], name.as_bytes()].concat();
        for name in &self.touched {
            match self.table.profile(name) {
                Some(record) => batch.put(family, key(PROFILE, name), record.encode()),
                None => batch.delete(family, key(PROFILE, name)),
            }
        }
        for (name, directory) in &self.table.directories {
            if self.before.directory(name) != Some(*directory) {
                batch.put(family, key(DIRECTORY, name), directory.encode());
            }
        }
        for name in self.before.directories.keys() {
            if self.table.directory(name).is_none() {
                batch.delete(family, key(DIRECTORY, name));
            }
        }
        let next = self.table.next_id.to_le_bytes();
        batch.put(Family::Meta, NEXT_ID, next);
        batch
    }
}
