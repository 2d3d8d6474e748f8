//! Profiles in Nix's layout: `NAME` → `NAME-N-link` → store path, and directories.
//!
//! Each profile also has a named pipe `NAME.changed`, which is not listed. The kernel notifies
//! watchers of a directory (inotify(7)) only about operations through a mount, and the only one
//! that a read-only mount allows is a write to a pipe. Commands that have changed a profile
//! therefore write to its pipe.
//!
//! Invariants: the target of an inode number never changes, since the kernel caches targets for
//! ever; hence `NAME` has an inode number for each generation. Whatever the kernel may have cached
//! is reported by [`stale_entries`] when it changes. Only names that [`ProfileName`] allows are
//! shown. Nothing here waits for the network.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::attributes::{Attributes, Entry, Kind, LINKS, Lookup, above_paths};
use super::{FileSystem, FsError, Inode, Special};
use crate::profile::{GenerationNumber, ProfileEntry, ProfileName};
use crate::store::{
    ChangedIn, GenerationRecord, ProfileDirectory, ProfileMember, ProfileRecord, ProfileTable,
    ProfilesChanged,
};

/// Suffix of the name of a profile's pipe.
pub const CHANGED: &str = ".changed";
/// Mode of the pipe: a process that can write to it could announce changes that did not happen.
const CHANGED_MODE: u16 = 0o600;

/// Number of bits of ids and nodes with short offsets in listings.
const SHORT_IDS: u32 = 16;
const SHORT_NODES: u32 = 14;
/// First long offset.
const LONG_PLACES: u64 = 1 << 54;

/// Cached entries of a directory of profiles that are stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleEntries {
    /// The directory; its listing and its times are stale as well.
    pub directory: Inode,
    /// Its parent.
    pub above: Inode,
    /// Names of stale entries.
    pub names: Vec<String>,
}

/// The entries that a change of profiles makes stale, deepest directory first.
pub fn stale_entries(changed: &ProfilesChanged) -> Vec<StaleEntries> {
    let mut stale: BTreeMap<(Reverse<usize>, u32), StaleEntries> = BTreeMap::new();
    let mut add = |whole: &str, parent: ChangedIn, names: Vec<String>| {
        let above = parent.above.map(Inode::profile_directory);
        let entries = StaleEntries {
            directory: Inode::profile_directory(parent.id),
            above: above.unwrap_or(Inode::special(Special::Profiles.parent())),
            names: Vec::new(),
        };
        let depth = Reverse(whole.matches('/').count());
        let all = stale.entry((depth, parent.id)).or_insert(entries);
        all.names.extend(names);
    };
    for profile in &changed.profiles {
        if let Ok(name) = ProfileName::parse(&profile.name) {
            let [before, after] = [&profile.before, &profile.after]
                .map(|p| p.as_deref().map(|p| links(&name, p)).unwrap_or_default());
            let all: BTreeSet<_> = before.keys().chain(after.keys()).collect();
            let names = all.into_iter().filter(|n| before.get(*n) != after.get(*n));
            add(&profile.name, profile.parent, names.cloned().collect());
        }
    }
    for directory in &changed.directories {
        let name = directory.name.rsplit_once('/');
        let name = name.map_or(&*directory.name, |(_, name)| name);
        add(&directory.name, directory.parent, vec![name.to_owned()]);
    }
    let stale = stale.into_values();
    stale.filter(|s| !s.names.is_empty()).collect()
}

/// A link of a profile whose name was removed or points elsewhere now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedLink {
    /// Its directory.
    pub directory: Inode,
    /// Its former inode.
    pub link: Inode,
    pub name: String,
}

/// The links that a change of profiles replaces; their watchers are notified of the deletion.
pub fn replaced_links(changed: &ProfilesChanged) -> Vec<ReplacedLink> {
    let mut replaced = Vec::new();
    for profile in &changed.profiles {
        let (Ok(name), Some(before)) = (ProfileName::parse(&profile.name), &profile.before) else {
            continue;
        };
        let after = profile.after.as_deref().map(|after| links(&name, after));
        let number = |text: &str| Some(after.as_ref()?.get(text)?.0);
        let before = links(&name, before).into_iter();
        let gone = before.filter(|(text, (link, _))| number(text) != Some(*link));
        replaced.extend(gone.map(|(name, (link, _))| ReplacedLink {
            directory: Inode::profile_directory(profile.parent.id),
            link,
            name,
        }));
    }
    replaced
}

/// Everything about profiles that the kernel may have cached, for invalidation after a daemon that
/// ended without it. Generation numbers are reused from the highest existing one on, so none was
/// higher than the number of links ever made, or than the existing ones.
pub fn all_entries(table: &ProfileTable) -> Vec<StaleEntries> {
    let mut all = Vec::new();
    let mut directories = vec![(String::new(), ProfileDirectory::ROOT)];
    while let Some((directory, id)) = directories.pop() {
        let mut names = Vec::new();
        for (id, member) in table.members(&directory, 0) {
            match member {
                ProfileMember::Directory(name, _) => {
                    let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
                    names.push(last.to_owned());
                    directories.push((name.to_owned(), id));
                }
                ProfileMember::Profile(name, profile) => {
                    if let Ok(name) = ProfileName::parse(name) {
                        names.push(name.link().to_owned());
                        names.push(pipe(&name));
                        let there = profile.generations.iter().map(|g| g.number);
                        let made = u64::from(profile.next_link);
                        let numbers: BTreeSet<_> = there.chain(1..made).collect();
                        let links = numbers.into_iter().map(GenerationNumber);
                        names.extend(links.map(|n| name.generation_link(n)));
                    }
                }
            }
        }
        let above = table
            .parent(&directory)
            .filter(|_| id != ProfileDirectory::ROOT);
        let above = above.map_or(Inode::special(Special::Profiles.parent()), |d| {
            Inode::profile_directory(d.id)
        });
        all.push(StaleEntries {
            directory: Inode::profile_directory(id),
            above,
            names,
        });
    }
    // Deepest directory first.
    all.reverse();
    all
}

/// The name of a profile's pipe, in its directory.
fn pipe(name: &ProfileName) -> String {
    format!("{}{CHANGED}", name.link())
}

/// The links of a profile and its pipe, by name, with what a lookup returns.
fn links(name: &ProfileName, profile: &ProfileRecord) -> BTreeMap<String, (Inode, i64)> {
    let generations = profile.generations.iter();
    let mut links: BTreeMap<_, _> = generations
        .map(|g| {
            let link = name.generation_link(GenerationNumber(g.number));
            (link, (Inode::generation(profile.id, g.link), g.created))
        })
        .collect();
    if let Some(current) = profile.current_generation() {
        let inode = Inode::current(profile.id, current.link);
        links.insert(name.link().to_owned(), (inode, profile.switched));
    }
    links.insert(pipe(name), (Inode::changed(profile.id), 0));
    links
}

/// A link of a profile.
#[derive(Clone, Copy)]
enum Link<'t> {
    /// `NAME`, which points to this generation.
    Current(&'t GenerationRecord),
    /// `NAME-N-link`.
    Generation(&'t GenerationRecord),
}

impl<'t> Link<'t> {
    /// The link with a node number, while it points to the same target.
    fn find(profile: &'t ProfileRecord, node: u32) -> Option<Self> {
        if node & 1 == 1 {
            let current = profile.current_generation()?;
            // Links are numbered from 1, so no link is followed under the number 0.
            let is_it = node >> 1 == 0 || current.link == node >> 1;
            return is_it.then_some(Self::Current(current));
        }
        let mut all = profile.generations.iter();
        all.find(|g| g.link == node >> 1).map(Self::Generation)
    }
}

impl FileSystem {
    pub(super) fn lookup_profile(&self, directory: u32, name: &[u8]) -> Result<Lookup, FsError> {
        let table = self.store.profiles().table();
        let directory = directory_name(&table, directory)?;
        let Ok(name) = std::str::from_utf8(name) else {
            return Ok(Lookup::Absent);
        };
        let whole = |name: &str| match directory {
            "" => name.to_owned(),
            directory => format!("{directory}/{name}"),
        };
        let found = match ProfileEntry::parse(name) {
            Some(ProfileEntry::Link(name)) => {
                let name = whole(name);
                match table.directory(&name) {
                    Some(directory) => Some(self.profile_directory(directory)),
                    None => find(&table, &name).and_then(|(name, profile)| {
                        let link = Link::Current(profile.current_generation()?);
                        Some(self.profile_link(&name, profile, link))
                    }),
                }
            }
            Some(ProfileEntry::Generation { profile, number }) => find(&table, &whole(profile))
                .and_then(|(name, profile)| {
                    let link = Link::Generation(profile.generation(number.0)?);
                    Some(self.profile_link(&name, profile, link))
                }),
            None => None,
        };
        let found = found.or_else(|| {
            let (_, profile) = find(&table, &whole(name.strip_suffix(CHANGED)?))?;
            Some(changed(profile))
        });
        Ok(found.map_or(Lookup::Absent, Lookup::Found))
    }

    pub(super) fn profile_attributes(&self, id: u32, node: u32) -> Result<Attributes, FsError> {
        let table = self.store.profiles().table();
        match table.member(id) {
            Some(ProfileMember::Directory(_, directory)) if node == 0 => {
                Ok(self.profile_directory(directory))
            }
            Some(ProfileMember::Profile(_, profile)) if node == 0 => Ok(changed(profile)),
            Some(ProfileMember::Profile(name, profile)) => {
                let link = Link::find(profile, node).ok_or(FsError::Stale)?;
                let name = ProfileName::parse(name).map_err(|_| FsError::Stale)?;
                Ok(self.profile_link(&name, profile, link))
            }
            _ => Err(FsError::Stale),
        }
    }

    pub(super) fn profile_target(&self, id: u32, node: u32) -> Result<Vec<u8>, FsError> {
        let table = self.store.profiles().table();
        match table.member(id).ok_or(FsError::Stale)? {
            ProfileMember::Directory(..) => Err(FsError::NotALink),
            ProfileMember::Profile(name, profile) => {
                let link = Link::find(profile, node).ok_or(FsError::Stale)?;
                let name = ProfileName::parse(name).map_err(|_| FsError::Stale)?;
                Ok(self.target(&name, link))
            }
        }
    }

    /// Entries are ordered by ids and link numbers, so that a change during a listing does not make
    /// others appear twice or not at all; those with short offsets come first.
    pub(super) fn list_profiles(
        &self,
        directory: u32,
        from: u64,
        take: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        let table = self.store.profiles().table();
        let directory = directory_name(&table, directory)?;
        for long in [false, true] {
            for (id, member) in table.members(directory, first_listed(from, long)) {
                let entries = match member {
                    ProfileMember::Directory(name, directory) => {
                        let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
                        vec![(0, name.to_owned(), self.profile_directory(directory))]
                    }
                    ProfileMember::Profile(name, profile) => self.profile_entries(name, profile),
                };
                for (node, name, attributes) in entries {
                    let at = place_in_listing(id, node);
                    if at < from || (at >= LONG_PLACES) != long {
                        continue;
                    }
                    let name = name.into_bytes();
                    if take(Entry {
                        name,
                        next: at + 3,
                        attributes,
                    }) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The links of a profile. The offset of `NAME` does not depend on its target.
    fn profile_entries(
        &self,
        name: &str,
        profile: &ProfileRecord,
    ) -> Vec<(u32, String, Attributes)> {
        let Ok(name) = ProfileName::parse(name) else {
            return Vec::new();
        };
        let mut entries = Vec::with_capacity(profile.generations.len() + 1);
        if let Some(current) = profile.current_generation() {
            let attributes = self.profile_link(&name, profile, Link::Current(current));
            entries.push((1, name.link().to_owned(), attributes));
        }
        for generation in &profile.generations {
            let link = name.generation_link(GenerationNumber(generation.number));
            let attributes = self.profile_link(&name, profile, Link::Generation(generation));
            entries.push((generation.link << 1, link, attributes));
        }
        entries.sort_by_key(|(at, ..)| *at);
        entries
    }

    /// The parent directory of a profile or directory with this id.
    pub(super) fn profile_parent(&self, id: u32) -> Result<Inode, FsError> {
        let table = self.store.profiles().table();
        let name = table.member(id).ok_or(FsError::Stale)?.name();
        let parent = table.parent(name).ok_or(FsError::Stale)?;
        Ok(Inode::profile_directory(parent.id))
    }

    fn profile_directory(&self, directory: ProfileDirectory) -> Attributes {
        let time = match directory.changed {
            0 => self.started,
            changed => since_1970(changed),
        };
        above_paths(Inode::profile_directory(directory.id), time)
    }

    /// The times are those of the generation: nix-env, among others, reads its date from them.
    fn profile_link(
        &self,
        name: &ProfileName,
        profile: &ProfileRecord,
        link: Link<'_>,
    ) -> Attributes {
        let (inode, time) = match link {
            Link::Current(g) => (Inode::current(profile.id, g.link), profile.switched),
            Link::Generation(g) => (Inode::generation(profile.id, g.link), g.created),
        };
        Attributes {
            inode,
            in_store: inode,
            kind: Kind::Link,
            mode: 0o777,
            size: self.target(name, link).len() as u64,
            links: LINKS,
            time: since_1970(time),
            settled: true,
        }
    }

    fn target(&self, name: &ProfileName, link: Link<'_>) -> Vec<u8> {
        match link {
            Link::Current(g) => name.generation_link(GenerationNumber(g.number)),
            Link::Generation(g) => {
                format!("{}/{}", self.store.store_dir(), g.path.base_name())
            }
        }
        .into_bytes()
    }
}

/// The offset of an entry in a listing. Offsets for 32-bit programs have 31 bits.
pub(super) fn place_in_listing(id: u32, node: u32) -> u64 {
    let (id, node) = (u64::from(id), u64::from(node));
    if id >> SHORT_IDS == 0 && node >> SHORT_NODES == 0 {
        id << SHORT_NODES | node
    } else {
        LONG_PLACES | id << Inode::NODE_BITS | node
    }
}

/// The id of the first entry from an offset on, among those with short offsets or the others.
pub(super) fn first_listed(from: u64, long: bool) -> u32 {
    let first = match (from.checked_sub(LONG_PLACES), long) {
        (None, false) => from >> SHORT_NODES,
        (None, true) => 0,
        (Some(_), false) => return u32::MAX,
        (Some(from), true) => from >> Inode::NODE_BITS,
    };
    u32::try_from(first).unwrap_or(u32::MAX)
}

/// The pipe of a profile. The kernel itself keeps what is written to it.
fn changed(profile: &ProfileRecord) -> Attributes {
    let inode = Inode::changed(profile.id);
    Attributes {
        inode,
        in_store: inode,
        kind: Kind::Pipe,
        mode: CHANGED_MODE,
        size: 0,
        links: LINKS,
        // Times of the last switch would have to be invalidated.
        time: UNIX_EPOCH,
        settled: true,
    }
}

fn directory_name(table: &ProfileTable, id: u32) -> Result<&str, FsError> {
    match table.member(id) {
        Some(ProfileMember::Directory(name, _)) => Ok(name),
        Some(ProfileMember::Profile(..)) => Err(FsError::NotADirectory),
        None => Err(FsError::Stale),
    }
}

fn find<'t>(table: &'t ProfileTable, name: &str) -> Option<(ProfileName, &'t Arc<ProfileRecord>)> {
    Some((ProfileName::parse(name).ok()?, table.profile(name)?))
}

pub(super) fn since_1970(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}
