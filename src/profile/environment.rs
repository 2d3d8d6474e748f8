//! Makes the user environment of a set of packages: the forest of links that Nix's
//! `builtin:buildenv` makes, computed from the trees of the packages alone.
//!
//! Packages are merged one after the other, those of the best priority first. A directory that
//! one package has alone is one link; where a second package has it too, the link gives way to a
//! real directory and both are merged into it. Invariant: the result depends on nothing but the
//! packages, their priorities and the trees, and is what Nix makes of them.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use thiserror::Error;

use super::forest::{Directory, Entry};
use super::resolution::{Kind, Place, Reached, Resolver, Stop};
use super::source::PackageSource;
use crate::nix::store_path::{StoreDir, StorePath};

/// The priority of a package that names none; a lower number wins.
pub const DEFAULT_PRIORITY: i64 = 5;

/// Priority of the first package that was only propagated by another; each next one has one more,
/// so that they never collide with one another.
const FIRST_PROPAGATED: i64 = 1000;

/// File in which a package names others that are installed with it.
const PROPAGATED: &[u8] = b"nix-support/propagated-user-env-packages";

/// Longest such file, in bytes: enough for ten thousand paths; real files have a few.
const PROPAGATED_LIMIT: u64 = 1 << 20;

/// Most names of packages that are looked at, so that links from directory to directory, which
/// can multiply without end, cannot fill the memory. An environment with a desktop in it has some
/// thirty thousand.
const MAX_STEPS: u64 = 1 << 20;

/// Ends of paths in packages that never appear in an environment.
const LEFT_OUT: [&[u8]; 7] = [
    b"/propagated-build-inputs",
    b"/nix-support",
    b"/perllocal.pod",
    b"/info/dir",
    b"/log",
    b"/manifest.nix",
    b"/manifest.json",
];

/// A package of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub path: StorePath,
    /// Whether it is linked at all.
    pub active: bool,
    /// Which of two packages with the same file wins: the one with the lower number.
    pub priority: i64,
}

/// A user environment.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Its forest, without a manifest.
    pub root: Directory,
    /// What was left out of it, which the user may not expect.
    pub warnings: Vec<Warning>,
    /// The paths of the packages that others propagated, in the order in which they were linked.
    pub propagated: Vec<Vec<u8>>,
}

/// Something that an environment lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A link of a package that leads nowhere.
    Dangling {
        /// The link, as a path in the environment.
        path: String,
        /// The link, as a path in the store.
        link: String,
    },
    /// A package that is a file.
    NotADirectory { package: String },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dangling { path, link } => {
                write!(f, "skipping dangling symlink '{path}' (of '{link}')")
            }
            Self::NotADirectory { package } => write!(
                f,
                "not including '{package}' in the user environment because it's not a directory"
            ),
        }
    }
}

/// Why packages make no environment. A text begins with that of Nix, if Nix has one.
#[derive(Debug, Error)]
pub enum EnvironmentError<E: std::error::Error + Send + Sync + 'static> {
    /// Two packages of the same priority have the same file.
    #[error(
        "packages '{new}' and '{old}' have the same priority {priority}; install one of the conflicting \
         packages with another priority (0 being the highest priority)"
    )]
    Conflict {
        /// The file that came second.
        new: String,
        /// The file that is linked.
        old: String,
        priority: i64,
    },
    /// A directory, where another package has a file.
    #[error("collision between '{directory}' and non-directory '{file}'")]
    DirectoryOverFile {
        /// The directory that came second.
        directory: String,
        /// The file that is linked, links followed.
        file: String,
    },
    /// A file, where other packages have a directory.
    #[error("collision between non-directory '{file}' and directory '{directory}'")]
    FileOverDirectory {
        /// The file that came second.
        file: String,
        /// The directory, as a path in the environment.
        directory: String,
    },
    #[error(
        "opening directory '{package}': No such file or directory; fetch the package, or remove it \
         from the profile"
    )]
    Missing { package: String },
    /// Links in a loop.
    #[error("getting status of '{path}': Too many levels of symbolic links")]
    TooManyLinks { path: String },
    /// A directory that is not in a package would have to be merged.
    #[error(
        "'{path}' leads to the directory '{target}', which is not in a store path, so it cannot be \
         merged with what other packages have there"
    )]
    OutOfStore {
        /// The directory, as the package has it.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// What should name propagated packages is not a file, or is far too long.
    #[error(
        "'{path}' is not a file of at most {PROPAGATED_LIMIT} bytes, as a list of packages must be"
    )]
    NoList { path: String },
    /// Links from directory to directory that multiply.
    #[error(
        "the packages have more than {MAX_STEPS} names to merge, the last one '{path}'; directories \
         link to one another"
    )]
    TooLarge {
        /// The last name.
        path: String,
    },
    /// A store path could not be read.
    #[error("cannot look into '{path}'")]
    Source {
        /// The path that was followed.
        path: String,
        #[source]
        source: E,
    },
}

/// Makes the environment of `packages`, which are read from `source`.
///
/// # Errors
/// The packages collide, or cannot be looked into.
pub fn synthesize<S: PackageSource>(
    packages: &[Package],
    store_dir: &StoreDir,
    source: &S,
) -> Result<Environment, EnvironmentError<S::Error>> {
    synthesize_within(packages, store_dir, source, MAX_STEPS)
}

/// The same, if at most `limit` names have to be looked at.
fn synthesize_within<S: PackageSource>(
    packages: &[Package],
    store_dir: &StoreDir,
    source: &S,
    limit: u64,
) -> Result<Environment, EnvironmentError<S::Error>> {
    let mut synthesis = Synthesis {
        resolver: Resolver::new(source, store_dir),
        warnings: Vec::new(),
        done: HashSet::new(),
        postponed: BTreeSet::new(),
        steps_left: limit,
    };
    let mut root = Merged::new();
    let mut order: Vec<&Package> = packages.iter().filter(|package| package.active).collect();
    order.sort_by(|a, b| (a.priority, &a.path).cmp(&(b.priority, &b.path)));
    for package in order {
        let path = package.path.to_full(store_dir).into_bytes();
        synthesis.add(path, package.priority, &mut root)?;
    }
    let mut priority = FIRST_PROPAGATED;
    let mut propagated = Vec::new();
    while !synthesis.postponed.is_empty() {
        for path in std::mem::take(&mut synthesis.postponed) {
            if synthesis.add(path.clone(), priority, &mut root)? {
                propagated.push(path);
            }
            priority += 1;
        }
    }
    Ok(Environment {
        root: settle(root),
        warnings: synthesis.warnings,
        propagated,
    })
}

/// A directory that is being made.
type Merged = std::collections::BTreeMap<Vec<u8>, Slot>;

enum Slot {
    Directory(Merged),
    Link(Link),
}

struct Link {
    target: Vec<u8>,
    priority: i64,
    kind: Kind,
    /// Where the target leads, links followed.
    place: Place,
}

fn settle(merged: Merged) -> Directory {
    let entries = merged.into_iter().map(|(name, slot)| {
        let entry = match slot {
            Slot::Directory(below) => Entry::Directory(settle(below)),
            Slot::Link(link) => Entry::Link(link.target),
        };
        (name, entry)
    });
    Directory {
        entries: entries.collect(),
    }
}

/// A directory to merge: the path by which it is known, which may lead over links, and where it is.
struct Origin {
    path: Vec<u8>,
    reached: Reached,
}

struct Synthesis<'s, S: PackageSource> {
    resolver: Resolver<'s, S>,
    warnings: Vec<Warning>,
    /// The packages that were added, by the text of their paths.
    done: HashSet<Vec<u8>>,
    /// Those that packages of this round propagate.
    postponed: BTreeSet<Vec<u8>>,
    /// Names that may still be looked at.
    steps_left: u64,
}

impl<S: PackageSource> Synthesis<'_, S> {
    /// Merges a package into the environment, unless that was done before; returns whether it was merged now.
    fn add(
        &mut self,
        path: Vec<u8>,
        priority: i64,
        root: &mut Merged,
    ) -> Result<bool, EnvironmentError<S::Error>> {
        if !self.done.insert(path.clone()) {
            return Ok(false);
        }
        let reached = self.resolver.resolve(&path);
        let Some(reached) = reached.map_err(|stop| stopped(&path, stop))? else {
            let package = text(&path);
            return Err(EnvironmentError::Missing { package });
        };
        let origin = Origin { path, reached };
        if self.resolver.kind(&origin.reached.place) == Some(Kind::Directory) {
            self.merge(&origin, root, &mut Vec::new(), priority)?;
        } else {
            let package = text(&origin.path);
            self.warnings.push(Warning::NotADirectory { package });
        }
        self.postpone(&origin)?;
        Ok(true)
    }

    /// Puts off the packages that this one propagates to the next round.
    fn postpone(&mut self, package: &Origin) -> Result<(), EnvironmentError<S::Error>> {
        let path = child(&package.path, PROPAGATED);
        let list = self.resolver.walk(&package.reached, PROPAGATED);
        let Some(list) = list.map_err(|stop| stopped(&path, stop))? else {
            return Ok(());
        };
        let list = self.resolver.read(&list.place, PROPAGATED_LIMIT);
        let list = list.map_err(|source| stopped(&path, Stop::Source(source)))?;
        let list = list.ok_or_else(|| EnvironmentError::NoList { path: text(&path) })?;
        let named = list.split(|b| matches!(b, b' ' | b'\n'));
        let named = named.filter(|path| !path.is_empty() && !self.done.contains(*path));
        self.postponed.extend(named.map(<[u8]>::to_vec));
        Ok(())
    }

    /// Merges a directory into `into`, whose path in the environment is `at`.
    fn merge(
        &mut self,
        from: &Origin,
        into: &mut Merged,
        at: &mut Vec<u8>,
        priority: i64,
    ) -> Result<(), EnvironmentError<S::Error>> {
        let Some(names) = self.resolver.names(&from.reached.place) else {
            return Err(EnvironmentError::OutOfStore {
                path: text(&from.path),
                target: text(&self.resolver.path(&from.reached.place)),
            });
        };
        let length = at.len();
        for name in names.iter().filter(|name| !name.starts_with(b".")) {
            at.truncate(length);
            at.extend_from_slice(name);
            let path = child(&from.path, name);
            let Some(left) = self.steps_left.checked_sub(1) else {
                return Err(EnvironmentError::TooLarge { path: text(&path) });
            };
            self.steps_left = left;
            let reached = self.resolver.walk(&from.reached, name);
            let Some(reached) = reached.map_err(|stop| stopped(&path, stop))? else {
                let (path, link) = (text(at), text(&path));
                self.warnings.push(Warning::Dangling { path, link });
                continue;
            };
            if LEFT_OUT.iter().any(|end| path.ends_with(end)) {
                continue;
            }
            let origin = Origin { path, reached };
            if self.resolver.kind(&origin.reached.place) == Some(Kind::Directory) {
                at.push(b'/');
                self.place_directory(origin, name, into, at, priority)?;
            } else {
                place_file(origin, name, into, at, priority)?;
            }
        }
        at.truncate(length);
        Ok(())
    }

    /// A directory of a package: linked as a whole, or merged with what is there.
    fn place_directory(
        &mut self,
        origin: Origin,
        name: &[u8],
        into: &mut Merged,
        at: &mut Vec<u8>,
        priority: i64,
    ) -> Result<(), EnvironmentError<S::Error>> {
        let Some(slot) = into.get_mut(name) else {
            into.insert(name.to_vec(), link(origin, Kind::Directory, priority));
            return Ok(());
        };
        if let Slot::Link(link) = slot {
            let path = self.resolver.path(&link.place);
            if link.kind != Kind::Directory {
                return Err(EnvironmentError::DirectoryOverFile {
                    directory: text(&origin.path),
                    file: text(&path),
                });
            }
            let reached = Reached {
                place: link.place.clone(),
                links: 0,
            };
            let (before, other) = (Origin { path, reached }, link.priority);
            let mut both = Merged::new();
            self.merge(&before, &mut both, at, other)?;
            *slot = Slot::Directory(both);
        }
        match slot {
            Slot::Directory(both) => self.merge(&origin, both, at, priority),
            Slot::Link(_) => Ok(()),
        }
    }
}

/// A file of a package: linked, unless one of a better priority is there.
fn place_file<E: std::error::Error + Send + Sync + 'static>(
    origin: Origin,
    name: &[u8],
    into: &mut Merged,
    at: &[u8],
    priority: i64,
) -> Result<(), EnvironmentError<E>> {
    match into.get(name) {
        Some(Slot::Directory(_)) => {
            return Err(EnvironmentError::FileOverDirectory {
                file: text(&origin.path),
                directory: text(at),
            });
        }
        Some(Slot::Link(old)) if old.priority == priority => {
            return Err(EnvironmentError::Conflict {
                new: text(&origin.path),
                old: text(&old.target),
                priority,
            });
        }
        Some(Slot::Link(old)) if old.priority < priority => return Ok(()),
        Some(Slot::Link(_)) | None => {}
    }
    into.insert(name.to_vec(), link(origin, Kind::File, priority));
    Ok(())
}

fn link(origin: Origin, kind: Kind, priority: i64) -> Slot {
    Slot::Link(Link {
        target: origin.path,
        priority,
        kind,
        place: origin.reached.place,
    })
}

fn stopped<E: std::error::Error + Send + Sync + 'static>(
    path: &[u8],
    stop: Stop<E>,
) -> EnvironmentError<E> {
    let path = text(path);
    match stop {
        Stop::TooManyLinks => EnvironmentError::TooManyLinks { path },
        Stop::Source(source) => EnvironmentError::Source { path, source },
    }
}

fn child(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut child = Vec::with_capacity(path.len() + 1 + name.len());
    child.extend_from_slice(path);
    child.push(b'/');
    child.extend_from_slice(name);
    child
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests;
