//! From what users type to places in the store: `/nix/store/HASH-NAME/bin/x`, `HASH-NAME`, `HASH`.

use std::sync::Arc;

use thiserror::Error;

use crate::nix::store_path::{StorePath, StorePathError, StorePathHash};
use crate::store::{LoadedPath, Store, StoreError};
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
        /// As it was given.
        text: String,
        /// What one looks like.
        example: String,
        /// Why.
        #[source]
        source: StorePathError,
    },
    /// It is not here.
    #[error("{0} is not in the state; `narfs copy` brings it")]
    Absent(String),
    /// The hash is there under another name.
    #[error("{asked} is not in the state, but {there} is")]
    OtherName {
        /// As it was given.
        asked: String,
        /// What has the same hash.
        there: StorePath,
    },
    /// The path is here, the place is not.
    #[error("{path} has no {place:?}")]
    NoSuchPlace {
        /// The store path.
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
        /// As it was given.
        text: String,
        /// The link's target.
        target: String,
    },
    /// The state failed.
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

/// A place in a path that is here.
pub(super) struct Located {
    pub(super) path: Arc<LoadedPath>,
    pub(super) node: NodeIndex,
}

/// The path that a user named.
pub(super) fn path(store: &Store, text: &str) -> Result<Arc<LoadedPath>, LocationError> {
    load(store, text, &parse(store, text)?)
}

fn load(store: &Store, text: &str, named: &Named) -> Result<Arc<LoadedPath>, LocationError> {
    let info = store
        .path_info(named.hash)?
        .ok_or_else(|| LocationError::Absent(text.to_owned()))?;
    let there = &info.registration.path;
    match &named.path {
        Some(asked) if asked != there => Err(LocationError::OtherName {
            asked: asked.to_string(),
            there: there.clone(),
        }),
        _ => store
            .load_info(info)?
            .ok_or_else(|| LocationError::Absent(text.to_owned())),
    }
}

/// The place that a user named, without following a link at its end.
pub(super) fn place(store: &Store, text: &str) -> Result<Located, LocationError> {
    let mut links = 0;
    resolve(store, text, text, false, &mut links)
}

/// The file that a user named, links followed.
pub(super) fn file(store: &Store, text: &str) -> Result<Located, LocationError> {
    let mut links = 0;
    let found = resolve(store, text, text, true, &mut links)?;
    match found.path.tree().node(found.node).map(|n| n.kind) {
        Some(NodeKind::File { .. }) => Ok(found),
        _ => Err(LocationError::NotAFile(text.to_owned())),
    }
}

fn resolve(
    store: &Store,
    asked: &str,
    text: &str,
    follow_last: bool,
    links: &mut u32,
) -> Result<Located, LocationError> {
    let named = parse(store, text)?;
    let path = load(store, text, &named)?;
    let tree = path.tree();
    let mut node = 0;
    let mut parts: Vec<Vec<u8>> = named
        .place
        .split(|b| *b == b'/')
        .rev()
        .map(<[u8]>::to_vec)
        .collect();
    parts.retain(|p| !p.is_empty() && p != b".");
    loop {
        if let Some(target) = path
            .target(node)
            .filter(|_| follow_last || !parts.is_empty())
        {
            let target_text = String::from_utf8_lossy(&target).into_owned();
            let astray = || LocationError::Astray {
                text: asked.to_owned(),
                target: target_text.clone(),
            };
            *links += 1;
            if *links > MAX_LINKS {
                return Err(astray());
            }
            let rest: Vec<_> = parts
                .iter()
                .rev()
                .map(|p| String::from_utf8_lossy(p))
                .collect();
            if target.starts_with(b"/") {
                let there = format!("{target_text}/{}", rest.join("/"));
                return resolve(store, asked, &there, follow_last, links).map_err(|e| match e {
                    LocationError::NotAPath { .. } => astray(),
                    other => other,
                });
            }
            // Relative: from the directory of the link on.
            let parent = tree.parent(node);
            if node == 0 {
                return Err(astray());
            }
            let steps = target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec);
            parts.extend(steps.filter(|p| !p.is_empty() && p != b"."));
            node = parent;
            continue;
        }
        let Some(part) = parts.pop() else {
            return Ok(Located { path, node });
        };
        if part == b".." {
            if node == 0 {
                // Out of this path, perhaps into the next one.
                let rest: Vec<_> = parts
                    .iter()
                    .rev()
                    .map(|p| String::from_utf8_lossy(p))
                    .collect();
                let there = format!("{}/{}", store.store_dir(), rest.join("/"));
                return resolve(store, asked, &there, follow_last, links);
            }
            node = tree.parent(node);
            continue;
        }
        node = tree
            .lookup(node, &part)
            .ok_or_else(|| LocationError::NoSuchPlace {
                path: path.info().registration.path.clone(),
                place: String::from_utf8_lossy(&named.place).into_owned(),
            })?;
    }
}
