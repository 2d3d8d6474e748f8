//! Roots: paths that a collection keeps, with their closures.
//!
//! Pins, generations and closure views are stored in the state; further roots are symlinks in its
//! directory `gcroots`, in the forms that Nix knows, and what running programs use. Invariant: a
//! root that cannot be inspected is an error and never ignored, except for links into directories
//! that this process may not enter. A link on a disk that is not mounted counts as it was last
//! seen.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::in_use::{Unseen, Use};
use super::users::User;
use crate::command::{Report, RootKind, RootReport};
use crate::engine::error::{EngineError, RootsError};
use crate::engine::location;
use crate::engine::state::Engine;
use crate::fuse::{self};
use crate::nix::hash::{Hash, HashAlgo};
use crate::nix::nix32;
use crate::nix::store_path::StorePath;
use crate::store::{LinkedRoot, LinkedRoots, Store, StoreError, make_directory, sync_names};

/// Directory of root links, in the state directory.
const DIRECTORY: &str = "gcroots";
/// Subdirectory with links to links elsewhere. They are removed when their target is gone.
const AUTO: &str = "auto";

/// A root and its origin.
pub(super) struct Root {
    pub(super) path: StorePath,
    pub(super) kind: RootKind,
    pub(super) from: String,
}

/// A link in `auto` whose target is gone.
pub(super) struct Stale {
    pub(super) link: PathBuf,
    pub(super) target: PathBuf,
}

/// The contents of `gcroots`.
#[derive(Default)]
pub(super) struct Links {
    pub(super) roots: Vec<Root>,
    pub(super) stale: Vec<Stale>,
    /// Targets of indirect links in earlier scans, and the current mounts.
    last_seen: LinkedRoots,
    mounts: Vec<PathBuf>,
    /// Current targets; for unmounted disks, those of earlier scans.
    seen: LinkedRoots,
}

/// Scans `gcroots`, sorted by name.
pub(super) fn links(store: &Store) -> Result<Links, RootsError> {
    let top = store.dir().join(DIRECTORY);
    let mut links = Links {
        last_seen: store.roots().linked()?,
        mounts: fuse::mount_points()?,
        ..Links::default()
    };
    let mut open = vec![top.clone()];
    while let Some(place) = open.pop() {
        let look_error = |source| RootsError::Look {
            at: place.clone(),
            source,
        };
        let kind = match fs::symlink_metadata(&place) {
            Ok(metadata) => metadata.file_type(),
            // Removed meanwhile, or there are no root links at all.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(look_error(e)),
        };
        if kind.is_dir() || (place == top && kind.is_symlink()) {
            let entries = fs::read_dir(&place).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let mut entries: Vec<_> = entries
                .map_err(look_error)?
                .iter()
                .map(fs::DirEntry::path)
                .collect();
            entries.sort_unstable_by(|a, b| b.cmp(a));
            open.extend(entries);
        } else if kind.is_symlink() {
            links.follow(store, &top, &place)?;
        } else if kind.is_file() {
            let name = place.file_name().unwrap_or_default();
            links.add(store, name.as_bytes(), &place)?;
        }
    }
    Ok(links)
}

impl Links {
    /// Follows a link into the store, or to a link into the store.
    fn follow(&mut self, store: &Store, top: &Path, link: &Path) -> Result<(), RootsError> {
        let Some(target) = read_link(link)? else {
            return Ok(());
        };
        let is_in_store = target.starts_with(store.store_dir().as_str());
        if self.add(store, target.as_os_str().as_bytes(), link)? || is_in_store {
            return Ok(());
        }
        let target = link.parent().unwrap_or(top).join(target);
        match fs::symlink_metadata(&target) {
            Ok(metadata) if metadata.is_symlink() => {
                if let Some(inner) = read_link(&target)? {
                    self.add(store, inner.as_os_str().as_bytes(), &target)?;
                    self.note(link, &target);
                }
            }
            Ok(_) => {}
            Err(e) if self.is_unmounted(link, &e) => self.add_last_seen(link, &target),
            Err(e) if is_absent(&e) => {
                if link.starts_with(top.join(AUTO)) {
                    let link = link.to_owned();
                    self.stale.push(Stale { link, target });
                }
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(
                    "ignoring a root link: cannot enter {}: {e}",
                    target.display()
                );
            }
            Err(source) => return Err(RootsError::Look { at: target, source }),
        }
        Ok(())
    }

    /// Records what the link `target` points to at present.
    fn note(&mut self, link: &Path, target: &Path) {
        let from = target.display().to_string();
        let Some(root) = self.roots.last().filter(|root| root.from == from) else {
            return;
        };
        let parent = target.parent().and_then(|p| fs::canonicalize(p).ok());
        let over = |m: &&PathBuf| parent.as_ref().is_some_and(|p| p.starts_with(m));
        let longest = self.mounts.iter().filter(over);
        if let Some(mount_point) = longest.max_by_key(|m| m.as_os_str().len()) {
            let root = LinkedRoot {
                path: root.path.clone(),
                mount_point: mount_point.clone(),
            };
            self.seen.insert(link.to_owned(), root);
        }
    }

    /// Whether the target of a link lies on a disk that is not mounted or does not answer.
    fn is_unmounted(&self, link: &Path, e: &io::Error) -> bool {
        let last_seen = self.last_seen.get(link);
        last_seen.is_some_and(|root| !is_absent(e) || !self.mounts.contains(&root.mount_point))
    }

    fn add_last_seen(&mut self, link: &Path, target: &Path) {
        let Some(root) = self.last_seen.get(link).cloned() else {
            return;
        };
        let at = root.mount_point.display();
        self.roots.push(Root {
            path: root.path.clone(),
            kind: RootKind::Link,
            from: format!("{}, as last seen when {at} was mounted", target.display()),
        });
        self.seen.insert(link.to_owned(), root);
    }

    /// Saves the targets for scans during which a disk is not mounted.
    pub(super) fn keep(&self, store: &Store) -> Result<(), StoreError> {
        store.roots().set_linked(&self.seen)
    }

    /// Adds the registered paths whose names are components of a target, wherever the store is
    /// mounted. Returns whether there are any.
    fn add(&mut self, store: &Store, target: &[u8], from: &Path) -> Result<bool, StoreError> {
        let before = self.roots.len();
        for part in target.split(|b| *b == b'/') {
            if let Ok(path) = StorePath::parse_base_name(part)
                && is_registered(store, &path)?
            {
                self.roots.push(Root {
                    path,
                    kind: RootKind::Link,
                    from: from.display().to_string(),
                });
            }
        }
        Ok(self.roots.len() > before)
    }
}

/// Whether a path is registered under this name, or may be.
fn is_registered(store: &Store, path: &StorePath) -> Result<bool, StoreError> {
    match store.paths().info(path.hash()) {
        Err(e) if e.is_damage() => Ok(true),
        there => Ok(there?.is_some_and(|there| there.registration.path == *path)),
    }
}

fn is_absent(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// `None` if the link was removed meanwhile.
fn read_link(link: &Path) -> Result<Option<PathBuf>, RootsError> {
    match fs::read_link(link) {
        Ok(target) => Ok(Some(target)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(source) => Err(RootsError::Look {
            at: link.to_owned(),
            source,
        }),
    }
}

/// Makes `link` point to a path, and registers it as a root. An existing link into the store is
/// replaced atomically.
fn make(store: &Store, link: &Path, path: &str) -> Result<(), RootsError> {
    match fs::read_link(link) {
        Ok(there) if there.starts_with(store.store_dir().as_str()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        _ => return Err(RootsError::Occupied(link.to_owned())),
    }
    let failed = |at: &Path| {
        let at = at.to_owned();
        move |source| RootsError::Make { at, source }
    };
    replace_link(link, Path::new(path)).map_err(failed(link))?;
    register(store, link)
}

/// Registers a link as a root, wherever it points to.
pub(super) fn register(store: &Store, link: &Path) -> Result<(), RootsError> {
    let failed = |at: &Path| {
        let at = at.to_owned();
        move |source| RootsError::Make { at, source }
    };
    let auto = store.dir().join(DIRECTORY).join(AUTO);
    make_directory(&auto).map_err(failed(&auto))?;
    let name = Hash::of(HashAlgo::Sha1, link.as_os_str().as_bytes());
    let indirect = auto.join(nix32::encode(name.as_bytes()));
    replace_link(&indirect, link).map_err(failed(&indirect))
}

/// Creates a symlink, replacing an existing one. It survives a power loss.
fn replace_link(link: &Path, target: &Path) -> io::Result<()> {
    let mut draft = link.as_os_str().to_owned();
    draft.push(format!(".tmp-{}", std::process::id()));
    let draft = PathBuf::from(draft);
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &draft)?;
    fs::rename(&draft, link).inspect_err(|_| drop(fs::remove_file(&draft)))?;
    link.parent().map_or(Ok(()), sync_names)
}

impl Engine {
    /// Roots stored in the state, without the generations selected by `is_old`.
    pub(super) fn recorded_roots(
        &self,
        is_old: impl Fn(&str, u64) -> bool,
    ) -> Result<Vec<Root>, StoreError> {
        let pins = self.store.roots().pins()?.into_iter().map(|pin| Root {
            path: pin.path,
            kind: RootKind::Pin,
            from: "pin".into(),
        });
        let mut roots: Vec<_> = pins.collect();
        for (name, profile) in self.store.profiles().list()? {
            let generations = profile.generations.into_iter();
            let generations = generations.filter(|g| !is_old(&name, g.number));
            roots.extend(generations.map(|g| Root {
                path: g.path,
                kind: RootKind::Generation,
                from: format!("profile {name}, generation {}", g.number),
            }));
        }
        let named = self.store.views().roots()?.into_iter();
        roots.extend(named.map(|(view, path)| Root {
            path,
            kind: RootKind::Closure,
            from: format!("closure view {view}"),
        }));
        Ok(roots)
    }

    /// Registered paths that running programs use, and processes that could not be inspected.
    pub(super) fn roots_in_use(&self) -> Result<(Vec<Root>, Vec<Unseen>), StoreError> {
        let usage = self.users.scan(Use::Known)?;
        let mut roots = Vec::new();
        for (hash, user) in usage.paths {
            if let Some(path) = self.store.paths().name(hash)? {
                roots.push(Root {
                    path,
                    kind: RootKind::Process,
                    from: match user {
                        User::Seen(file) => file.display().to_string(),
                        User::Unseen(process) => {
                            format!("possibly process {process}, which cannot be inspected")
                        }
                    },
                });
            }
        }
        roots.sort_by(|a, b| (&a.from, &a.path).cmp(&(&b.from, &b.path)));
        roots.dedup_by(|a, b| (&a.from, &a.path) == (&b.from, &b.path));
        Ok((roots, usage.unseen))
    }

    /// What a collection keeps, and why.
    ///
    /// # Errors
    /// A root cannot be looked at, or the database failed.
    pub fn roots(&self) -> Result<Vec<RootReport>, EngineError> {
        let mut roots = self.recorded_roots(|_, _| false)?;
        roots.extend(links(&self.store)?.roots);
        roots.extend(self.roots_in_use()?.0);
        let reports = roots.into_iter().map(|root| RootReport {
            path: self.full(&root.path),
            kind: root.kind,
            from: root.from,
        });
        Ok(reports.collect())
    }

    pub(super) fn add_root(&self, link: &Path, text: &str) -> Result<Report, EngineError> {
        let kept = self.store.roots().temporary();
        kept.add(location::parse(&self.store, text)?.hash);
        let info = location::info(&self.store, text)?;
        let path = self.full(&info.registration.path);
        make(&self.store, link, &path)?;
        links(&self.store)?.keep(&self.store)?;
        Ok(Report::Added(path))
    }
}

#[cfg(test)]
mod tests;
