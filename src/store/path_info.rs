//! The record of a path: what narinfo says of it, its ordinal, where it came from, and its tree.
//!
//! Invariant: what is signed (path, NarHash, NarSize, references) and the signatures are kept
//! byte for byte.

use super::StoreError;
use crate::chunk::{ChunkDigest, HASH_LEN};
use crate::nix::hash::NarHash;
use crate::nix::store_path::{ContentAddress, StorePath, StorePathHash};
use crate::tree::{read_number, write_number};

/// A path's part of an inode number; from 1, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathOrdinal(pub u32);

impl PathOrdinal {
    /// The largest: 28 bits of the inode number are the path's.
    pub const MAX: u32 = (1 << 28) - 1;
}

/// What is known of a path that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub path: StorePath,
    /// SHA-256 of its NAR.
    pub nar_hash: NarHash,
    /// Length of its NAR, in bytes.
    pub nar_size: u64,
    /// Its references, itself among them if it refers to itself, in the order of their numbers
    /// in the tree.
    pub references: Vec<StorePath>,
    /// The derivation that it came from, if known.
    pub deriver: Option<StorePath>,
    /// Signatures as they came, `NAME:BASE64`.
    pub signatures: Vec<String>,
    /// Its content address, if it has one.
    pub ca: Option<ContentAddress>,
}

/// What the root of a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootKind {
    Directory = 1,
    File = 2,
    Link = 3,
}

/// Where the contents of a path came from: what was fetched can be fetched again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From this machine; perhaps no source has them.
    Added = 0,
    /// From a source.
    Fetched = 1,
}

/// Whether the tree of a path is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// It is, under this name. Its chunks are here as well, unless they were dropped: see
    /// [`super::Store::has_contents`].
    Local(ChunkDigest),
    /// Nothing is; the root is said to be of this kind, if anything was said.
    Absent(Option<RootKind>),
}

/// A registered path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// What was registered.
    pub registration: Registration,
    /// Its part of an inode number.
    pub ordinal: PathOrdinal,
    /// When, in seconds since 1970.
    pub registered: u64,
    /// Where its contents came from, or will.
    pub origin: Origin,
    /// Whether its tree is here.
    pub contents: Contents,
}

/// Records of version 1 have no origin: those with a signature count as fetched.
const WITHOUT_ORIGIN: u8 = 1;
const VERSION: u8 = 2;
const UNKNOWN: u8 = 0;
const LOCAL: u8 = 255;

impl PathInfo {
    /// The hashes of the references as text, in the order of their numbers.
    pub fn table(&self) -> Vec<[u8; HASH_LEN]> {
        let references = &self.registration.references;
        references.iter().map(|r| r.hash().to_ascii()).collect()
    }

    /// The references in the order in which Nix writes them.
    pub fn sorted_references(&self) -> Vec<&StorePath> {
        let mut all: Vec<_> = self.registration.references.iter().collect();
        all.sort();
        all
    }

    /// The tree, if it is here.
    pub fn tree(&self) -> Option<ChunkDigest> {
        match self.contents {
            Contents::Local(tree) => Some(tree),
            Contents::Absent(_) => None,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let r = &self.registration;
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.ordinal.0.to_le_bytes());
        out.extend_from_slice(r.nar_hash.as_bytes());
        out.extend_from_slice(&r.nar_size.to_le_bytes());
        out.extend_from_slice(&self.registered.to_le_bytes());
        out.push(self.origin as u8);
        match self.contents {
            Contents::Local(tree) => {
                out.push(LOCAL);
                out.extend_from_slice(&tree.0);
            }
            Contents::Absent(kind) => out.push(kind.map_or(UNKNOWN, |k| k as u8)),
        }
        string(&mut out, r.path.name());
        string(
            &mut out,
            &r.deriver
                .as_ref()
                .map_or_else(String::new, StorePath::base_name),
        );
        string(
            &mut out,
            &r.ca.as_ref().map_or_else(String::new, ToString::to_string),
        );
        write_number(&mut out, r.signatures.len() as u64);
        for s in &r.signatures {
            string(&mut out, s);
        }
        write_number(&mut out, r.references.len() as u64);
        for reference in &r.references {
            out.extend_from_slice(reference.hash().as_bytes());
            string(&mut out, reference.name());
        }
        out
    }

    pub(super) fn decode(hash: StorePathHash, bytes: &[u8]) -> Result<Self, StoreError> {
        Fields(bytes)
            .path_info(hash)
            .ok_or_else(|| StoreError::Damaged {
                what: format!("the path info of {hash}"),
            })
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    write_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Reads the fields of a record from the front; `None` is a record that ends early or does not
/// make sense.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(part)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        read_number(&mut self.0)
    }

    fn string(&mut self) -> Option<&'a str> {
        let n = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.take(n)?).ok()
    }

    fn path_info(mut self, hash: StorePathHash) -> Option<PathInfo> {
        let [version] = self.array::<1>()?;
        if !matches!(version, WITHOUT_ORIGIN | VERSION) {
            return None;
        }
        let ordinal = PathOrdinal(u32::from_le_bytes(self.array()?));
        let nar_hash = NarHash::from_bytes(self.array()?);
        let nar_size = u64::from_le_bytes(self.array()?);
        let registered = u64::from_le_bytes(self.array()?);
        let origin = match version {
            WITHOUT_ORIGIN => None,
            _ => match self.array()? {
                [0] => Some(Origin::Added),
                [1] => Some(Origin::Fetched),
                _ => return None,
            },
        };
        let [contents] = self.array::<1>()?;
        let contents = match contents {
            LOCAL => Contents::Local(ChunkDigest(self.array()?)),
            UNKNOWN => Contents::Absent(None),
            1 => Contents::Absent(Some(RootKind::Directory)),
            2 => Contents::Absent(Some(RootKind::File)),
            3 => Contents::Absent(Some(RootKind::Link)),
            _ => return None,
        };
        let path = StorePath::new(hash, self.string()?).ok()?;
        let deriver = match self.string()? {
            "" => None,
            text => Some(text.parse().ok()?),
        };
        let ca = match self.string()? {
            "" => None,
            text => Some(ContentAddress::parse(text).ok()?),
        };
        let signatures = (0..self.number()?)
            .map(|_| self.string().map(str::to_owned))
            .collect::<Option<Vec<_>>>()?;
        let local = matches!(contents, Contents::Local(_));
        let origin = origin.unwrap_or(match signatures.is_empty() && local {
            true => Origin::Added,
            false => Origin::Fetched,
        });
        let references = (0..self.number()?)
            .map(|_| {
                let hash = StorePathHash::from_bytes(self.array()?);
                StorePath::new(hash, self.string()?).ok()
            })
            .collect::<Option<_>>()?;
        self.0.is_empty().then_some(PathInfo {
            registration: Registration {
                path,
                nar_hash,
                nar_size,
                references,
                deriver,
                signatures,
                ca,
            },
            ordinal,
            registered,
            origin,
            contents,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_cut_one_is_damage() {
        let path =
            |seed, name| StorePath::new(StorePathHash::from_bytes([seed; 20]), name).unwrap();
        let info = PathInfo {
            registration: Registration {
                path: path(1, "hello-2.10"),
                nar_hash: NarHash::of(b"x"),
                nar_size: 1 << 40,
                references: vec![path(9, "glibc"), path(1, "hello-2.10")],
                deriver: Some(path(3, "hello.drv")),
                signatures: vec!["k-1:AAAA".into(), "odd text".into()],
                ca: None,
            },
            ordinal: PathOrdinal(77),
            registered: 1_700_000_000,
            origin: Origin::Added,
            contents: Contents::Local(ChunkDigest::of(b"t")),
        };
        let bytes = info.encode();
        let hash = info.registration.path.hash();
        assert_eq!(PathInfo::decode(hash, &bytes).unwrap(), info);
        for n in 0..bytes.len() {
            assert!(PathInfo::decode(hash, &bytes[..n]).is_err(), "{n}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(PathInfo::decode(hash, &longer).is_err());
    }

    #[test]
    fn a_record_of_version_1_was_fetched_if_it_is_signed() {
        for (signatures, origin) in [
            (vec!["k-1:AAAA".to_owned()], Origin::Fetched),
            (Vec::new(), Origin::Added),
        ] {
            let path = StorePath::new(StorePathHash::from_bytes([1; 20]), "x").unwrap();
            let info = PathInfo {
                registration: Registration {
                    path,
                    nar_hash: NarHash::of(b"x"),
                    nar_size: 120,
                    references: Vec::new(),
                    deriver: None,
                    signatures,
                    ca: None,
                },
                ordinal: PathOrdinal(3),
                registered: 5,
                origin,
                contents: Contents::Local(ChunkDigest::of(b"t")),
            };
            let mut old = info.encode();
            old[0] = WITHOUT_ORIGIN;
            old.remove(1 + 4 + 32 + 8 + 8);
            let hash = info.registration.path.hash();
            assert_eq!(PathInfo::decode(hash, &old).unwrap(), info);
        }
    }
}
