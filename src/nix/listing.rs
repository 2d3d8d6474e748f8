//! The `.ls` listing of a NAR, version 1.
//!
//! Owns its JSON. Listings are unsigned: a listing says where to look, never what is there.
//! Invariant: every name in a parsed listing is one that a NAR could hold, no directory names an
//! entry twice, and the depth is bounded.
//!
//! JSON is UTF-8, file names are not: a tree with other names has no listing (Nix fails to write one, too).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use thiserror::Error;

use crate::nix::nar;

/// Most nodes on the way from the root to the deepest node. One less than in a NAR: each node takes
/// two levels of JSON, and the JSON parser stops at 127 of them.
pub const MAX_DEPTH: usize = nar::MAX_DEPTH - 1;

/// Why a listing is refused, or cannot be written.
#[derive(Debug, Error)]
pub enum ListingError {
    /// It is not JSON of the right form.
    #[error("the listing is not valid")]
    Json(#[source] serde_json::Error),
    /// It has another version.
    #[error("the listing has the version {version}, only 1 is known")]
    Version {
        /// The version as given.
        version: u64,
    },
    /// More directories inside each other than [`MAX_DEPTH`].
    #[error("the listing is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A name, target or combination of fields that no NAR has.
    #[error("the listing is not that of an archive: {reason}")]
    Node { reason: String },
}

/// A node of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Directory {
        /// Its entries, in byte order.
        entries: BTreeMap<String, Node>,
    },
    Regular {
        /// Size in bytes.
        size: u64,
        /// Whether it is executable.
        executable: bool,
        /// Offset of the first byte of its contents in the NAR, if told.
        nar_offset: Option<u64>,
    },
    Symlink {
        /// Its target.
        target: String,
    },
}

/// The listing of a NAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The root node, of any kind.
    pub root: Node,
}

impl Listing {
    /// Parses the JSON.
    ///
    /// # Errors
    /// [`ListingError`] if it is not JSON, of another version, too deep, or not the listing of any archive.
    pub fn parse(bytes: &[u8]) -> Result<Self, ListingError> {
        let raw: RawListing = serde_json::from_slice(bytes).map_err(ListingError::Json)?;
        if raw.version != 1 {
            return Err(ListingError::Version {
                version: raw.version,
            });
        }
        let root = raw.root.check(1)?;
        Ok(Self { root })
    }

    /// The JSON, in the form of the newest Nix (`executable` is always written).
    ///
    /// # Errors
    /// [`ListingError::TooDeep`] if it could not be parsed again.
    pub fn to_json(&self) -> Result<Vec<u8>, ListingError> {
        if self.root.depth_exceeds(MAX_DEPTH) {
            return Err(ListingError::TooDeep);
        }
        serde_json::to_vec(self).map_err(ListingError::Json)
    }
}

impl Node {
    fn depth_exceeds(&self, limit: usize) -> bool {
        let Some(below) = limit.checked_sub(1) else {
            return true;
        };
        match self {
            Self::Directory { entries } => entries.values().any(|child| child.depth_exceeds(below)),
            Self::Regular { .. } | Self::Symlink { .. } => false,
        }
    }
}

impl Serialize for Listing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Listing", 2)?;
        object.serialize_field("version", &1)?;
        object.serialize_field("root", &self.root)?;
        object.end()
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        match self {
            Self::Directory { entries } => {
                object.serialize_entry("type", "directory")?;
                object.serialize_entry("entries", entries)?;
            }
            Self::Regular {
                size,
                executable,
                nar_offset,
            } => {
                object.serialize_entry("type", "regular")?;
                object.serialize_entry("size", size)?;
                object.serialize_entry("executable", executable)?;
                if let Some(offset) = nar_offset {
                    object.serialize_entry("narOffset", offset)?;
                }
            }
            Self::Symlink { target } => {
                object.serialize_entry("type", "symlink")?;
                object.serialize_entry("target", target)?;
            }
        }
        object.end()
    }
}

#[derive(serde::Deserialize)]
struct RawListing {
    version: u64,
    root: RawNode,
}

/// A node as the JSON has it; which fields belong to which type is checked afterwards.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawNode {
    #[serde(rename = "type")]
    kind: String,
    entries: Option<RawEntries>,
    size: Option<u64>,
    #[serde(default)]
    executable: bool,
    nar_offset: Option<u64>,
    target: Option<String>,
}

impl RawNode {
    fn check(self, depth: usize) -> Result<Node, ListingError> {
        if depth > MAX_DEPTH {
            return Err(ListingError::TooDeep);
        }
        match self.kind.as_str() {
            "directory" => {
                let entries = self.entries.ok_or_else(|| missing("entries"))?;
                let mut checked = BTreeMap::new();
                for (name, node) in entries.0 {
                    nar::check_entry_name(name.as_bytes()).map_err(|defect| {
                        ListingError::Node {
                            reason: defect.to_string(),
                        }
                    })?;
                    checked.insert(name, node.check(depth + 1)?);
                }
                Ok(Node::Directory { entries: checked })
            }
            "regular" => Ok(Node::Regular {
                size: self.size.ok_or_else(|| missing("size"))?,
                executable: self.executable,
                nar_offset: self.nar_offset,
            }),
            "symlink" => {
                let target = self.target.ok_or_else(|| missing("target"))?;
                nar::check_target(target.as_bytes()).map_err(|defect| ListingError::Node {
                    reason: defect.to_string(),
                })?;
                Ok(Node::Symlink { target })
            }
            kind => Err(ListingError::Node {
                reason: format!("unknown type '{}'", kind.escape_debug()),
            }),
        }
    }
}

fn missing(field: &str) -> ListingError {
    ListingError::Node {
        reason: format!("'{field}' is missing"),
    }
}

/// The entries of a directory. A map of serde's would let a second entry of the same name replace the first.
struct RawEntries(BTreeMap<String, RawNode>);

impl<'de> Deserialize<'de> for RawEntries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = RawEntries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the entries of a directory")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawEntries, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            match entries.entry(name) {
                Entry::Vacant(slot) => {
                    slot.insert(map.next_value()?);
                }
                Entry::Occupied(slot) => {
                    let name = slot.key().escape_debug();
                    return Err(de::Error::custom(format!("entry '{name}' comes twice")));
                }
            }
        }
        Ok(RawEntries(entries))
    }
}

#[cfg(test)]
mod tests;
