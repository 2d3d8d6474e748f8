//! Parsing of paths as users give them: `/nix/store/HASH-NAME/bin/x`, `HASH-NAME`, `HASH`. Other
//! text may be the name of a package of a channel.

use thiserror::Error;

use crate::nix::store_path::{StorePath, StorePathError, StorePathHash, check_name};
use crate::store::{LoadedPath, PathInfo, Store, StoreError};
use crate::tree::{NodeIndex, NodeKind};

/// Number of links followed before a loop is assumed, as in the kernel.
const MAX_LINKS: u32 = 40;

#[derive(Debug, Error)]
pub enum LocationError {
    #[error(
        "{text:?} is not a store path of this state: give {example}, its base name, or its hash"
    )]
    NotAPath {
        text: String,
        /// An example of a store path.
        example: String,
        #[source]
        source: StorePathError,
    },
    #[error("{0} is not in the state; `narfs copy` fetches it")]
    Absent(String),
    /// The hash is registered with another name.
    #[error("{requested} is not in the state, but {there} is")]
    OtherName {
        requested: String,
        /// The registered path with this hash.
        there: StorePath,
    },
    /// The path is local but has no such file.
    #[error("{path} has no {place:?}")]
    NoSuchPlace {
        path: StorePath,
        /// The path within the store path.
        place: String,
    },
    /// A directory or a link where a file is needed.
    #[error("{0} is not a regular file")]
    NotAFile(String),
    /// Links that form a loop, or leave the store.
    #[error("{text} leads out of the store, or into a loop: a link points to {target:?}")]
    LeavesStore {
        text: String,
        /// Target of the link.
        target: String,
    },
    /// Several pins have this name.
    #[error("several pins are named {text:?}: {}; give the store path of one", paths.join(", "))]
    SeveralPins {
        /// The given name.
        text: String,
        /// Their store paths.
        paths: Vec<String>,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A store path as users give it: a hash, its name if given, and a path within it.
pub(super) struct Named {
    pub(super) hash: StorePathHash,
    pub(super) path: Option<StorePath>,
    pub(super) place: Vec<u8>,
}

/// Parses a path given by a user.
pub(super) fn parse(store: &Store, text: &str) -> Result<Named, LocationError> {
    let inside = text
        .strip_prefix(store.store_dir().as_str())
        .and_then(|t| t.strip_prefix('/'))
        .unwrap_or(text);
    let (base, place) = inside.split_once('/').unwrap_or((inside, ""));
    let place = place.as_bytes().to_vec();
    if let Ok(hash) = StorePathHash::parse(base.as_bytes()) {
        let path = None;
        return Ok(Named { hash, path, place });
    }
    match StorePath::parse_base_name(base.as_bytes()) {
        Ok(path) => Ok(Named {
            hash: path.hash(),
            path: Some(path),
            place,
        }),
        Err(source) => Err(LocationError::NotAPath {
            text: text.to_owned(),
            example: format!("{}/HASH-NAME", store.store_dir()),
            source,
        }),
    }
}

/// Whether text that is not a path may be a package name.
pub(super) fn may_be_package(text: &str) -> bool {
    check_name(text.as_bytes()).is_ok()
}

/// A file or directory in a local path.
pub(super) struct Located {
    pub(super) path: LoadedPath,
    pub(super) node: NodeIndex,
}

/// The local path that the user means.
pub(super) fn path(store: &Store, text: &str) -> Result<LoadedPath, LocationError> {
    load(store, text, &parse(store, text)?)
}

/// The path info of the local path that the user means.
pub(super) fn info(store: &Store, text: &str) -> Result<PathInfo, LocationError> {
    find(store, text, &parse(store, text)?)
}

/// Likewise, also if its contents never were local.
pub(super) fn known(store: &Store, text: &str) -> Result<PathInfo, LocationError> {
    find_where(store, text, &parse(store, text)?, |_| true)
}

fn find(store: &Store, text: &str, named: &Named) -> Result<PathInfo, LocationError> {
    find_where(store, text, named, |info| info.tree().is_some())
}

fn find_where(
    store: &Store,
    text: &str,
    named: &Named,
    is_wanted: impl FnOnce(&PathInfo) -> bool,
) -> Result<PathInfo, LocationError> {
    let info = store
        .paths()
        .info(named.hash)?
        .filter(is_wanted)
        .ok_or_else(|| LocationError::Absent(text.to_owned()))?;
    let there = &info.registration.path;
    match &named.path {
        Some(requested) if requested != there => Err(LocationError::OtherName {
            requested: requested.to_string(),
            there: there.clone(),
        }),
        _ => Ok(info),
    }
}

fn load(store: &Store, text: &str, named: &Named) -> Result<LoadedPath, LocationError> {
    let info = find(store, text, named)?;
    store
        .paths()
        .load_info(info)?
        .ok_or_else(|| LocationError::Absent(text.to_owned()))
}

/// The file or directory that the user means, without following a link at the end.
pub(super) fn place(store: &Store, text: &str) -> Result<Located, LocationError> {
    resolve(store, text, false)
}

/// The file that the user means, with links followed.
pub(super) fn file(store: &Store, text: &str) -> Result<Located, LocationError> {
    let found = resolve(store, text, true)?;
    match found.path.tree().node(found.node).map(|n| n.kind) {
        Some(NodeKind::File { .. }) => Ok(found),
        _ => Err(LocationError::NotAFile(text.to_owned())),
    }
}

/// Resolves `text` as the kernel would if the mount were at the store directory.
fn resolve(store: &Store, text: &str, follow_last: bool) -> Result<Located, LocationError> {
    let named = parse(store, text)?;
    let mut path = load(store, text, &named)?;
    let mut node = 0;
    // Components still to be resolved, in reverse order.
    let mut parts = Vec::new();
    push_parts(&mut parts, &named.place);
    let mut links = 0;
    loop {
        let link = path.target(node);
        if let Some(target) = link.filter(|_| follow_last || !parts.is_empty()) {
            let leaves_store = || LocationError::LeavesStore {
                text: text.to_owned(),
                target: String::from_utf8_lossy(&target).into_owned(),
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(leaves_store());
            }
            push_parts(&mut parts, &target);
            if target.starts_with(b"/") {
                // The components of the store directory, then the name of the path.
                for part in store.store_dir().as_str().split('/').skip(1) {
                    if parts.pop().is_none_or(|p| p != part.as_bytes()) {
                        return Err(leaves_store());
                    }
                }
                (path, node) = (enter(store, &mut parts).ok_or_else(leaves_store)??, 0);
            } else if node == 0 {
                // A link relative to the store directory.
                path = enter(store, &mut parts).ok_or_else(leaves_store)??;
            } else {
                node = path.tree().parent(node);
            }
            continue;
        }
        let Some(part) = parts.pop() else {
            return Ok(Located { path, node });
        };
        let missing = || LocationError::NoSuchPlace {
            path: path.info().registration.path.clone(),
            place: String::from_utf8_lossy(&named.place).into_owned(),
        };
        node = match (part.as_slice(), node) {
            (b"..", 0) => {
                path = enter(store, &mut parts).ok_or_else(missing)??;
                0
            }
            (b"..", node) => path.tree().parent(node),
            (part, node) => path.tree().lookup(node, part).ok_or_else(missing)?,
        };
    }
}

fn push_parts(parts: &mut Vec<Vec<u8>>, place: &[u8]) {
    let new = place.split(|b| *b == b'/').rev();
    let new = new.filter(|p| !p.is_empty() && *p != b".");
    parts.extend(new.map(<[u8]>::to_vec));
}

/// The store path that the next component names; `None` if there is no component.
fn enter(store: &Store, parts: &mut Vec<Vec<u8>>) -> Option<Result<LoadedPath, LocationError>> {
    let path = StorePath::parse_base_name(&parts.pop()?).ok()?;
    Some(self::path(store, &path.base_name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryBackend, StoreOptions};

    #[test]
    fn a_chain_of_forty_links_is_followed_and_one_more_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        let state = dir.path().join("state");
        let store = Store::open_in_memory(&state, &options, MemoryBackend::default()).unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("0"), "x").unwrap();
        for link in 1..=41 {
            let target = (link - 1).to_string();
            std::os::unix::fs::symlink(target, tree.join(link.to_string())).unwrap();
        }
        let added = crate::fetch::add(&store, &tree, "chain").unwrap();
        let find = |link: u32| file(&store, &format!("{added}/{link}"));
        assert!(find(MAX_LINKS).is_ok());
        let error = find(MAX_LINKS + 1).err().unwrap();
        assert!(
            matches!(error, LocationError::LeavesStore { .. }),
            "{error}"
        );
    }
}
