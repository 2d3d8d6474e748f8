//! Following paths through the trees of store paths, as the kernel follows them through files.
//!
//! Links lead within a store path, to another one, or through the store directory. Nix follows links out of
//! the store on the machine that makes the environment; here nothing is there, so that an environment is the
//! same everywhere. Invariant: each store path is looked up once, and no path is followed over more links
//! than the kernel allows, so loops end.

use std::collections::HashMap;

use super::source::PackageSource;
use crate::nix::store_path::{StoreDir, StorePath};
use crate::tree::{NodeIndex, NodeKind};

/// Most links on the way to one file: the kernel's limit, which builders of environments run
/// into as well.
const MAX_LINKS: u32 = 40;

/// A place that a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The directory of this number of components of the store directory: `/`, `/nix`, or the store
    /// directory itself.
    Above(usize),
    /// In a store path.
    Inside { package: usize, node: NodeIndex },
}

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// Why a path was not followed to its end.
#[derive(Debug)]
pub(super) enum Stop<E> {
    /// Too many links, in a loop or not.
    TooManyLinks,
    /// A store path could not be looked up.
    Source(E),
}

/// A path that was followed: where it leads, and over how many links.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    pub(super) place: Place,
    pub(super) links: u32,
}

pub(super) struct Resolver<'s, S: PackageSource> {
    source: &'s S,
    store_dir: &'s StoreDir,
    store_parts: Vec<&'s [u8]>,
    packages: Vec<(StorePath, S::Package)>,
    numbers: HashMap<StorePath, Option<usize>>,
}

impl<'s, S: PackageSource> Resolver<'s, S> {
    pub(super) fn new(source: &'s S, store_dir: &'s StoreDir) -> Self {
        let parts = store_dir.as_str().as_bytes().split(|b| *b == b'/');
        Self {
            source,
            store_dir,
            store_parts: parts.filter(|part| !part.is_empty()).collect(),
            packages: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// Follows an absolute path. `None` where nothing is at its end.
    pub(super) fn resolve(&mut self, path: &[u8]) -> Result<Option<Reached>, Stop<S::Error>> {
        if !path.starts_with(b"/") {
            return Ok(None);
        }
        let start = Reached {
            place: Place::Above(0),
            links: 0,
        };
        self.walk(&start, path)
    }

    /// Follows `path` from a place that was reached before, and adds the links on the way to those before.
    pub(super) fn walk(
        &mut self,
        from: &Reached,
        path: &[u8],
    ) -> Result<Option<Reached>, Stop<S::Error>> {
        let mut at = from.place.clone();
        let mut links = from.links;
        let mut ahead = vec![path.to_vec()];
        while let Some(piece) = ahead.pop() {
            let (part, rest) = match piece.iter().position(|b| *b == b'/') {
                Some(slash) => (&piece[..slash], Some(&piece[slash + 1..])),
                None => (&piece[..], None),
            };
            if let Some(rest) = rest {
                ahead.push(rest.to_vec());
            }
            if self.kind(&at) != Some(Kind::Directory) {
                return Ok(None);
            }
            let next = match part {
                b"" | b"." => continue,
                b".." => self.parent(&at),
                name => match self.child(&at, name).map_err(Stop::Source)? {
                    Some(next) => next,
                    None => return Ok(None),
                },
            };
            let Some(target) = self.link_target(&next) else {
                at = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Stop::TooManyLinks);
            }
            if target.starts_with(b"/") {
                at = Place::Above(0);
            }
            ahead.push(target);
        }
        let place = at;
        Ok(self.kind(&place).map(|_| Reached { place, links }))
    }

    /// What is at a place that is not a link; `None` for nothing.
    pub(super) fn kind(&self, place: &Place) -> Option<Kind> {
        match place {
            Place::Above(_) => Some(Kind::Directory),
            Place::Inside { package, node } => {
                let tree = self.source.tree(&self.packages[*package].1);
                match tree.node(*node)?.kind {
                    NodeKind::Directory { .. } => Some(Kind::Directory),
                    NodeKind::File { .. } => Some(Kind::File),
                    NodeKind::Link { .. } => None,
                }
            }
        }
    }

    /// The path of a place, free of links.
    pub(super) fn path(&self, place: &Place) -> Vec<u8> {
        match place {
            Place::Above(0) => b"/".to_vec(),
            Place::Above(n) => join(self.store_parts[..*n].iter().copied()),
            Place::Inside { package, node } => {
                let (store_path, package) = &self.packages[*package];
                let tree = self.source.tree(package);
                let mut names = Vec::new();
                let mut node = *node;
                while node != 0 {
                    names.extend(tree.node(node).map(|n| n.name));
                    node = tree.parent(node);
                }
                let mut path = store_path.to_full(self.store_dir).into_bytes();
                for name in names.iter().rev() {
                    path.push(b'/');
                    path.extend_from_slice(name);
                }
                path
            }
        }
    }

    /// The names in a directory of a store path; `None` for any other place.
    pub(super) fn names(&self, place: &Place) -> Option<Vec<Vec<u8>>> {
        let Place::Inside { package, node } = place else {
            return None;
        };
        let tree = self.source.tree(&self.packages[*package].1);
        let NodeKind::Directory { first, count, .. } = tree.node(*node)?.kind else {
            return None;
        };
        let nodes = (first..first + count).filter_map(|n| tree.node(n));
        Some(nodes.map(|n| n.name.to_vec()).collect())
    }

    /// The contents of a file in a store path; `None` for any other place.
    pub(super) fn read(&self, place: &Place, limit: u64) -> Result<Option<Vec<u8>>, S::Error> {
        let Place::Inside { package, node } = place else {
            return Ok(None);
        };
        let package = &self.packages[*package].1;
        match self.source.tree(package).node(*node).map(|n| n.kind) {
            Some(NodeKind::File { size, .. }) if size <= limit => {
                self.source.read(package, *node).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn parent(&self, place: &Place) -> Place {
        match place {
            Place::Above(n) => Place::Above(n.saturating_sub(1)),
            Place::Inside { node: 0, .. } => Place::Above(self.store_parts.len()),
            Place::Inside { package, node } => {
                let tree = self.source.tree(&self.packages[*package].1);
                let (package, node) = (*package, tree.parent(*node));
                Place::Inside { package, node }
            }
        }
    }

    fn child(&mut self, place: &Place, name: &[u8]) -> Result<Option<Place>, S::Error> {
        Ok(match place {
            Place::Above(n) if *n == self.store_parts.len() => {
                let package = self.find(name)?;
                package.map(|package| Place::Inside { package, node: 0 })
            }
            Place::Above(n) if self.store_parts[*n] == name => Some(Place::Above(n + 1)),
            Place::Above(_) => None,
            Place::Inside { package, node } => {
                let tree = self.source.tree(&self.packages[*package].1);
                let package = *package;
                let child = tree.lookup(*node, name);
                child.map(|node| Place::Inside { package, node })
            }
        })
    }

    fn find(&mut self, base_name: &[u8]) -> Result<Option<usize>, S::Error> {
        let Ok(path) = StorePath::parse_base_name(base_name) else {
            return Ok(None);
        };
        if let Some(known) = self.numbers.get(&path) {
            return Ok(*known);
        }
        let number = self.source.find(&path)?.map(|package| {
            self.packages.push((path.clone(), package));
            self.packages.len() - 1
        });
        self.numbers.insert(path, number);
        Ok(number)
    }

    fn link_target(&self, place: &Place) -> Option<Vec<u8>> {
        let Place::Inside { package, node } = place else {
            return None;
        };
        let package = &self.packages[*package].1;
        let node_kind = self.source.tree(package).node(*node)?.kind;
        let is_link = matches!(node_kind, NodeKind::Link { .. });
        is_link
            .then(|| self.source.target(package, *node))
            .flatten()
    }
}

fn join<'p>(parts: impl Iterator<Item = &'p [u8]>) -> Vec<u8> {
    let mut path = Vec::new();
    for part in parts {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    path
}
