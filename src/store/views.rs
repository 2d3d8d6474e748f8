//! Closure views: which paths a container sees, and what keeps these.
//!
//! Invariants: a change is one synced batch, with the change of the profiles that it follows if there
//! is one; it can be seen when it is durable, all at once. What the kernel has to forget is written
//! with the change and taken away when it was told, so that a daemon that takes a mount over after
//! a crash knows it. The paths that a view names are roots; the profiles that it follows have roots
//! of their own. A view that was made as a volume is one for as long as it is there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, RwLock};

use super::database::{Database, META, VIEWS};
use super::view_completion::Reach;
use super::view_table::{read_string, write_string};
use super::write_batch::WriteBatch;
use super::{Change, ProfileTable, Store, StoreError, lock, uses};
use super::{View, ViewMembers, ViewName, ViewRecord, ViewTable};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::sync;
use crate::tree::{read_number, write_number};

const NEXT: &[u8] = b"next-view";
/// First byte of the key of a view.
const VIEW: u8 = 1;
/// First byte of the key of a list of members.
const MEMBERS: u8 = 2;
/// First byte of the key of what the kernel was not told yet.
const UNTOLD: u8 = 3;
/// First byte of the key that says of an id that its view was made as a volume. Ids are not given
/// again, so that it says it of no other view.
const VOLUME: u8 = 4;

/// What the kernel may remember of a view and is no longer so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedView {
    /// Its id.
    pub id: u32,
    pub name: String,
    /// Whether it is new, or gone.
    pub came_or_went: bool,
    /// Names in its store directory that lead nowhere now, or elsewhere.
    pub entries: Vec<String>,
}

impl ChangedView {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.came_or_went)];
        write_string(&mut out, &self.name);
        write_number(&mut out, self.entries.len() as u64);
        for entry in &self.entries {
            write_string(&mut out, entry);
        }
        out
    }

    fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let id = u32::from_be_bytes(key.get(1..)?.try_into().ok()?);
        let (came_or_went, mut rest) = value.split_first()?;
        let name = read_string(&mut rest)?.to_owned();
        let mut entries = Vec::new();
        for _ in 0..read_number(&mut rest)? {
            entries.push(read_string(&mut rest)?.to_owned());
        }
        Some(Self {
            id,
            name,
            came_or_went: *came_or_went != 0,
            entries,
        })
    }
}

/// What readers of views share.
#[derive(Debug)]
pub(super) struct Views(RwLock<Arc<ViewTable>>);

impl Views {
    pub(super) fn open(database: &Database) -> Result<Self, StoreError> {
        let next = match database.get(META, NEXT)? {
            None => ViewTable::FIRST,
            Some(value) => {
                let value = value.as_ref().try_into();
                u32::from_le_bytes(value.map_err(|_| StoreError::Damaged {
                    what: "next-view".into(),
                })?)
            }
        };
        let mut volumes = BTreeSet::new();
        database.scan(VIEWS, &[VOLUME], |key, _| {
            let Some((&VOLUME, id)) = key.split_first() else {
                return Ok(false);
            };
            volumes.extend(id.try_into().map(u32::from_be_bytes));
            Ok(true)
        })?;
        let mut table = ViewTable::new(next);
        database.scan(VIEWS, &[VIEW], |key, value| {
            let Some((&VIEW, name)) = key.split_first() else {
                return Ok(false);
            };
            table.load(name, value, &volumes);
            Ok(true)
        })?;
        if let Err(e) = table.check() {
            tracing::warn!("a closure view is not shown: {e}");
        }
        Ok(Self(RwLock::new(Arc::new(table))))
    }

    fn table(&self) -> Arc<ViewTable> {
        sync::read(&self.0).clone()
    }
}

/// A change of views in the making.
pub(super) struct ViewEdit {
    pub(super) table: ViewTable,
    /// Keys with their new records; `None` for what goes.
    pub(super) records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    changed: Vec<ChangedView>,
}

fn key(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind], name].concat()
}

fn volume_key(id: u32) -> Vec<u8> {
    key(VOLUME, &id.to_be_bytes())
}

pub(super) fn now() -> i64 {
    i64::try_from(uses::now() / 1000).unwrap_or(i64::MAX)
}

impl Store {
    /// All closure views as they are now, whatever changes later.
    pub fn view_table(&self) -> Arc<ViewTable> {
        self.views.table()
    }

    /// All closure views, in the order of their names.
    ///
    /// # Errors
    /// A record is damaged.
    pub fn all_views(&self) -> Result<Vec<Arc<View>>, StoreError> {
        let table = self.views.table();
        table.check()?;
        Ok(table.views().cloned().collect())
    }

    /// The paths that a view shows.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn view_members(&self, view: &View) -> Result<Arc<ViewMembers>, StoreError> {
        if let Some(members) = view.members.get() {
            return Ok(members.clone());
        }
        let list = key(MEMBERS, &view.record.list.to_be_bytes());
        let record = self.database.get(VIEWS, &list)?;
        let members = record.and_then(|r| ViewMembers::decode(&r));
        let members = members.ok_or_else(|| StoreError::Damaged {
            what: format!("the list of paths of the closure view {:?}", view.name),
        })?;
        Ok(view.members.get_or_init(|| Arc::new(members)).clone())
    }

    /// Makes a view, or makes it what it is to be: the closures of paths and of the current
    /// generations of profiles, as far as they are known. A path that is referred to and not known
    /// belongs to it by its name. When it returns, the change is durable, can be seen, and the
    /// observer has been told.
    ///
    /// # Errors
    /// The database failed, or numbers are used up; nothing has changed then.
    pub fn define_view(
        &self,
        name: &ViewName,
        roots: &[StorePath],
        profiles: &[String],
    ) -> Result<(), StoreError> {
        self.define(name, roots, profiles, false).map(drop)
    }

    /// Makes a view as a volume of a container engine, which may thus remove it. One that is there
    /// already stays as it is, and is returned.
    ///
    /// # Errors
    /// As of [`Self::define_view`].
    pub fn make_volume(
        &self,
        name: &ViewName,
        roots: &[StorePath],
        profiles: &[String],
    ) -> Result<Option<Arc<View>>, StoreError> {
        self.define(name, roots, profiles, true)
    }

    fn define(
        &self,
        name: &ViewName,
        roots: &[StorePath],
        profiles: &[String],
        new_volume: bool,
    ) -> Result<Option<Arc<View>>, StoreError> {
        let changing = lock(&self.profiles.changing);
        let mut edit = self.begin_view_edit();
        let before = edit.table.named(name.as_str()).cloned();
        if before.is_some() && new_volume {
            return Ok(before);
        }
        let record = ViewRecord {
            id: match &before {
                Some(view) => view.record.id,
                None => edit.table.number()?,
            },
            list: before.as_ref().map_or(0, |view| view.record.list),
            created: before.as_ref().map_or_else(now, |v| v.record.created),
            changed: now(),
            roots: roots.to_vec(),
            profiles: profiles.to_vec(),
            is_volume: before.as_ref().map_or(new_volume, |v| v.record.is_volume),
        };
        self.note_roots(roots.iter().map(StorePath::hash));
        let profiles = self.profile_table();
        self.show(
            &mut edit,
            name.as_str(),
            record,
            before.as_deref(),
            &profiles,
        )?;
        self.write_views(&edit)?;
        let changed = self.replace_views(edit);
        drop(changing);
        self.tell_views(&changed);
        Ok(None)
    }

    /// Removes a view; `false` if there is none of this name.
    ///
    /// # Errors
    /// The database failed; nothing has changed then.
    pub fn remove_view(&self, name: &str) -> Result<bool, StoreError> {
        self.remove_if(name, |_| true)
    }

    /// Removes a view if it was made as a volume; `false` if it was not, or is not there.
    ///
    /// # Errors
    /// As of [`Self::remove_view`].
    pub fn remove_volume(&self, name: &str) -> Result<bool, StoreError> {
        self.remove_if(name, |view| view.is_some_and(|v| v.record.is_volume))
    }

    /// Removes a view that `is_meant`; one that is damaged is `None`.
    fn remove_if(
        &self,
        name: &str,
        is_meant: impl FnOnce(Option<&View>) -> bool,
    ) -> Result<bool, StoreError> {
        let changing = lock(&self.profiles.changing);
        let mut edit = self.begin_view_edit();
        let before = edit.table.named(name).cloned();
        let is_there = before.is_some() || edit.table.is_damaged(name);
        if !is_there || !is_meant(before.as_deref()) {
            return Ok(false);
        }
        edit.table.remove(name);
        edit.records.push((key(VIEW, name.as_bytes()), None));
        if let Some(view) = before {
            let list = key(MEMBERS, &view.record.list.to_be_bytes());
            edit.records.push((list, None));
            edit.records.push((volume_key(view.record.id), None));
            let entries = match self.view_members(&view) {
                Ok(members) => self.names(members.from(1).map(|(_, hash)| hash))?,
                // Whoever looks for it there is told that it is stale.
                Err(_) => Vec::new(),
            };
            edit.changed.push(ChangedView {
                id: view.record.id,
                name: name.to_owned(),
                came_or_went: true,
                entries,
            });
        }
        self.write_views(&edit)?;
        let changed = self.replace_views(edit);
        drop(changing);
        self.tell_views(&changed);
        Ok(true)
    }

    /// What views name, each with the name of the view.
    ///
    /// # Errors
    /// A record is damaged.
    pub fn view_roots(&self) -> Result<Vec<(String, StorePath)>, StoreError> {
        let views = self.all_views()?;
        let roots = views.iter().flat_map(|view| {
            let roots = view.record.roots.iter();
            roots.map(|root| (view.name.to_string(), root.clone()))
        });
        Ok(roots.collect())
    }

    pub(super) fn begin_view_edit(&self) -> ViewEdit {
        ViewEdit {
            table: ViewTable::clone(&self.views.table()),
            records: Vec::new(),
            changed: Vec::new(),
        }
    }

    /// What becomes of views that follow `names` when profiles are as `table` says. The caller
    /// holds the lock of profiles.
    pub(super) fn follow(
        &self,
        names: &HashSet<&str>,
        table: &ProfileTable,
    ) -> Result<Option<ViewEdit>, StoreError> {
        let mut edit = self.begin_view_edit();
        let all: Vec<_> = edit.table.views().cloned().collect();
        for view in all {
            let follows = |p: &String| names.contains(p.as_str());
            if view.record.profiles.iter().any(follows) {
                let record = ViewRecord {
                    changed: now(),
                    ..view.record.clone()
                };
                self.show(&mut edit, &view.name, record, Some(&view), table)?;
            }
        }
        Ok((!edit.changed.is_empty()).then_some(edit))
    }

    /// Puts a view into a change, with the paths that it shows then; its list is as `before`, or
    /// is to be numbered.
    pub(super) fn show(
        &self,
        edit: &mut ViewEdit,
        name: &str,
        mut record: ViewRecord,
        before: Option<&View>,
        profiles: &ProfileTable,
    ) -> Result<(), StoreError> {
        let Reach { shown, unknown } = self.reach(&record, profiles)?;
        let there = before.map(|view| self.view_members(view)).transpose()?;
        let there = there.unwrap_or_default();
        let gone = there.from(1).map(|(_, hash)| hash);
        let (members, gone) = match there.showing(&shown).filter(|_| before.is_some()) {
            Some(members) => {
                let gone = gone.filter(|hash| members.place(*hash).is_none());
                let gone: Vec<_> = gone.collect();
                (members, gone)
            }
            // It is new, or its places are used up: all get other numbers.
            None => {
                let list = key(MEMBERS, &record.list.to_be_bytes());
                edit.records.push((list, None));
                record.list = edit.table.number()?;
                let members = ViewMembers::default().showing(&shown);
                let members = members.ok_or_else(|| StoreError::TooLargeView {
                    name: name.to_owned(),
                    paths: shown.len(),
                })?;
                (members, gone.collect())
            }
        };
        let list = key(MEMBERS, &record.list.to_be_bytes());
        edit.records.push((list, Some(members.encode())));
        let view = key(VIEW, name.as_bytes());
        edit.records.push((view, Some(record.encode())));
        if record.is_volume {
            edit.records.push((volume_key(record.id), Some(Vec::new())));
        }
        edit.changed.push(ChangedView {
            id: record.id,
            name: name.to_owned(),
            came_or_went: before.is_none(),
            entries: self.names(gone)?,
        });
        let members = Some(Arc::new(members));
        edit.table.put(name, record, members, Some(unknown.into()));
        Ok(())
    }

    /// Names of the paths that are known: no others were ever shown.
    fn names(
        &self,
        hashes: impl IntoIterator<Item = StorePathHash>,
    ) -> Result<Vec<String>, StoreError> {
        let infos = hashes.into_iter().map(|hash| self.path_info(hash));
        let names = infos.filter_map(|info| {
            let name = |i: super::PathInfo| i.registration.path.base_name();
            info.map(|i| i.map(name)).transpose()
        });
        names.collect()
    }

    pub(super) fn write_views(&self, edit: &ViewEdit) -> Result<(), StoreError> {
        let mut writes = WriteBatch::default();
        self.add_views(edit, &mut writes)?;
        self.database
            .write_synced(writes, "a closure view was written")
    }

    /// Adds a change of views to other writes.
    pub(super) fn add_views(
        &self,
        edit: &ViewEdit,
        writes: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        for (key, record) in &edit.records {
            match record {
                Some(record) => writes.put(VIEWS, key, record),
                None => writes.delete(VIEWS, key),
            }
        }
        let next = edit.table.next.to_le_bytes();
        writes.put(META, NEXT, next);
        let mut untold: BTreeMap<_, _> = self
            .untold_views()?
            .into_iter()
            .map(|c| (c.id, c))
            .collect();
        for changed in &edit.changed {
            let all = untold.entry(changed.id).or_default();
            all.id = changed.id;
            all.name.clone_from(&changed.name);
            all.came_or_went |= changed.came_or_went;
            all.entries.extend(changed.entries.iter().cloned());
            let untold = key(UNTOLD, &changed.id.to_be_bytes());
            writes.put(VIEWS, untold, all.encode());
        }
        Ok(())
    }

    /// Has readers see a change that was written. The caller holds the lock of profiles.
    pub(super) fn replace_views(&self, edit: ViewEdit) -> Vec<ChangedView> {
        *sync::write(&self.views.0) = Arc::new(edit.table);
        edit.changed
    }

    /// Tells the observer; then it need not be told again.
    pub(super) fn tell_views(&self, changed: &[ChangedView]) {
        if self.tell(&Change::Views(changed)) {
            self.views_told(changed);
        }
    }

    /// What was changed and the kernel may not know yet.
    ///
    /// # Errors
    /// The database failed.
    pub fn untold_views(&self) -> Result<Vec<ChangedView>, StoreError> {
        let mut untold = Vec::new();
        self.database.scan(VIEWS, &[UNTOLD], |key, value| {
            if key.first() != Some(&UNTOLD) {
                return Ok(false);
            }
            // Without the record only a kernel that was told before the crash would be right.
            untold.extend(ChangedView::decode(key, value));
            Ok(true)
        })?;
        Ok(untold)
    }

    /// Says that the kernel knows these changes. What was changed once more meanwhile stays
    /// noted; that it is told twice does no harm.
    pub fn views_told(&self, changed: &[ChangedView]) {
        let mut batch = WriteBatch::default();
        for changed in changed {
            let untold = key(UNTOLD, &changed.id.to_be_bytes());
            let noted = self.database.get(VIEWS, &untold);
            if noted.is_ok_and(|n| n.is_some_and(|n| *n == *changed.encode())) {
                batch.delete(VIEWS, untold);
            }
        }
        if let Err(e) = self.database.write(batch, "it was noted what was told") {
            tracing::warn!("{e}");
        }
    }
}
