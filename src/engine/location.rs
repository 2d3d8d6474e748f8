//! From what users type to places in the store: `/nix/store/HASH-NAME/bin/x`, `HASH-NAME`, `HASH`.
//! What is none of these may be the name of a package, which channels know.

use thiserror::Error;

use crate::nix::store_path::{StorePath, StorePathError, StorePathHash, check_name};
use crate::store::{LoadedPath, PathInfo, Store, StoreError};
use crate::tree::{NodeIndex, NodeKind};

/// Links that are followed before a loop is assumed, as in the kernel.
const MAX_LINKS: u32 = 40;

/// Why a place cannot be found.
#[derive(Debug, Error)]
pub enum LocationError {
    /// Neither a path nor a hash.
    #[error(
        "{text:?} is not a store path of this state: give {example}, its base name, or its hash"
    )]
    NotAPath {
        text: String,
        /// What one looks like.
        example: String,
        #[source]
        source: StorePathError,
    },
    /// It is not here.
    #[error("{0} is not in the state; `narfs copy` brings it")]
    Absent(String),
    /// The hash is there under another name.
    #[error("{asked} is not in the state, but {there} is")]
    OtherName {
        asked: String,
        /// What has the same hash.
        there: StorePath,
    },
    /// The path is here, the place is not.
    #[error("{path} has no {place:?}")]
    NoSuchPlace {
        path: StorePath,
        /// The place in it.
        place: String,
    },
    /// A directory or link where a file is needed.
    #[error("{0} is not a regular file")]
    NotAFile(String),
    /// Links in a circle, or out of the store.
    #[error("{text} leads out of the store, or in a circle: a link points to {target:?}")]
    Astray {
        text: String,
        /// The link's target.
        target: String,
    },
    /// A name that several pins have.
    #[error("several pins are called {text:?}: {}; name one by its store path", paths.join(", "))]
    SeveralPins {
        /// What was named.
        text: String,
        /// Their store paths.
        paths: Vec<String>,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A store path as users name it: a hash, with the name where it was given, and the place in it.
pub(super) struct Named {
    pub(super) hash: StorePathHash,
    pub(super) path: Option<StorePath>,
    pub(super) place: Vec<u8>,
}

/// Reads what a user typed.
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

/// Whether what names no path can be the name of a package instead.
pub(super) fn may_be_package(text: &str) -> bool {
    check_name(text.as_bytes()).is_ok()
}

/// A place in a path that is here.
pub(super) struct Located {
    pub(super) path: LoadedPath,
    pub(super) node: NodeIndex,
}

/// The path that a user named.
pub(super) fn path(store: &Store, text: &str) -> Result<LoadedPath, LocationError> {
    load(store, text, &parse(store, text)?)
}

/// What is registered of the path that a user named.
pub(super) fn info(store: &Store, text: &str) -> Result<PathInfo, LocationError> {
    find(store, text, &parse(store, text)?)
}

/// The same, also where its contents never were here.
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
        Some(asked) if asked != there => Err(LocationError::OtherName {
            asked: asked.to_string(),
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

/// The place that a user named, without following a link at its end.
pub(super) fn place(store: &Store, text: &str) -> Result<Located, LocationError> {
    resolve(store, text, false)
}

/// The file that a user named, links followed.
pub(super) fn file(store: &Store, text: &str) -> Result<Located, LocationError> {
    let found = resolve(store, text, true)?;
    match found.path.tree().node(found.node).map(|n| n.kind) {
        Some(NodeKind::File { .. }) => Ok(found),
        _ => Err(LocationError::NotAFile(text.to_owned())),
    }
}

/// Walks from `text` on as the kernel would, with the mount where it belongs.
fn resolve(store: &Store, text: &str, follow_last: bool) -> Result<Located, LocationError> {
    let named = parse(store, text)?;
    let mut path = load(store, text, &named)?;
    let mut node = 0;
    // The parts that are still to be walked, the next one last.
    let mut parts = Vec::new();
    push_parts(&mut parts, &named.place);
    let mut links = 0;
    loop {
        let link = path.target(node);
        if let Some(target) = link.filter(|_| follow_last || !parts.is_empty()) {
            let astray = || LocationError::Astray {
                text: text.to_owned(),
                target: String::from_utf8_lossy(&target).into_owned(),
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(astray());
            }
            push_parts(&mut parts, &target);
            if target.starts_with(b"/") {
                // The store directory's own parts, then the path's name.
                for part in store.store_dir().as_str().split('/').skip(1) {
                    if parts.pop().is_none_or(|p| p != part.as_bytes()) {
                        return Err(astray());
                    }
                }
                (path, node) = (enter(store, &mut parts).ok_or_else(astray)??, 0);
            } else if node == 0 {
                // In the store directory, where the link itself lies.
                path = enter(store, &mut parts).ok_or_else(astray)??;
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

/// The path that the next part names in the store directory; `None` if it names none.
fn enter(store: &Store, parts: &mut Vec<Vec<u8>>) -> Option<Result<LoadedPath, LocationError>> {
    let path = StorePath::parse_base_name(&parts.pop()?).ok()?;
    Some(self::path(store, &path.base_name()))
}
