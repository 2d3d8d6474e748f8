//! The record of a path: what narinfo says of it, its ordinal, where it came from, and its tree.
//!
//! Invariants: what is signed (path, NarHash, NarSize, references) and the signatures are kept
//! byte for byte. Which paths rest on the word of a source alone is told from the other fields; only
//! where these say something else is it in the record, which needs a feature then.

use crate::chunk::{ChunkDigest, HASH_LEN};
use crate::nix::hash::NarHash;
use crate::nix::store_path::{ContentAddress, StorePath, StorePathHash};
use crate::store::error::StoreError;
use crate::store::format::Feature;
use crate::store::records::{Reader, Writer};

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
    /// Its content address, if it has one with which its contents were compared.
    pub ca: Option<ContentAddress>,
    /// Whether a trusted key has signed NarHash, NarSize and references, or a content address or
    /// contents of this machine say the same. If not, they are the word of a source alone.
    pub vouched: bool,
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
    /// [`super::Paths::has_contents`].
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
/// Records of version 3 say themselves whether the path is vouched for.
const WITH_VOUCHED: u8 = 3;
const UNKNOWN: u8 = 0;
const LOCAL: u8 = 255;

impl Registration {
    /// Whether records of a version that does not say so are vouched for.
    fn is_vouched_by_default(&self, origin: Origin) -> bool {
        origin == Origin::Added || self.ca.is_some() || !self.signatures.is_empty()
    }
}

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

    /// The feature that a state needs for the record.
    pub(in crate::store) fn needed_feature(&self) -> Option<Feature> {
        let registration = &self.registration;
        let default = registration.is_vouched_by_default(self.origin);
        (registration.vouched != default).then_some(Feature::Vouched)
    }

    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let r = &self.registration;
        let mut out = Writer::versioned(match self.needed_feature() {
            None => VERSION,
            Some(_) => WITH_VOUCHED,
        });
        out.u32(self.ordinal.0);
        out.bytes(r.nar_hash.as_bytes());
        out.u64(r.nar_size);
        out.u64(self.registered);
        out.byte(self.origin as u8);
        if self.needed_feature().is_some() {
            out.byte(u8::from(r.vouched));
        }
        match self.contents {
            Contents::Local(tree) => {
                out.byte(LOCAL);
                out.bytes(&tree.0);
            }
            Contents::Absent(kind) => out.byte(kind.map_or(UNKNOWN, |k| k as u8)),
        }
        let deriver = r.deriver.as_ref().map(StorePath::base_name);
        let ca = r.ca.as_ref().map(ToString::to_string);
        out.string(r.path.name());
        out.string(deriver.unwrap_or_default());
        out.string(ca.unwrap_or_default());
        out.list(&r.signatures, |out, signature| out.string(signature));
        out.list(&r.references, Writer::path);
        out.finish()
    }

    pub(in crate::store) fn decode(hash: StorePathHash, record: &[u8]) -> Result<Self, StoreError> {
        let what = || format!("the path info of {hash}");
        Reader::whole(record, what, |fields| Self::read(hash, fields))
    }

    /// The ordinal that a record begins with, for who needs no more of it.
    pub(super) fn ordinal_of(
        hash: StorePathHash,
        record: &[u8],
    ) -> Result<PathOrdinal, StoreError> {
        let mut fields = Reader::new(record);
        let ordinal = fields.byte().and_then(|_| fields.u32());
        ordinal.map(PathOrdinal).ok_or_else(|| StoreError::Damaged {
            what: format!("the path info of {hash}"),
        })
    }

    /// The path info of a record with its key.
    pub(in crate::store) fn scanned(key: &[u8], record: &[u8]) -> Result<Self, StoreError> {
        let hash = key.try_into().map(StorePathHash::from_bytes);
        let hash = hash.map_err(|_| StoreError::Damaged {
            what: "the key of a path info".into(),
        })?;
        Self::decode(hash, record)
    }

    fn read(hash: StorePathHash, fields: &mut Reader<'_>) -> Option<Self> {
        let version = fields.byte()?;
        if !matches!(version, WITHOUT_ORIGIN | VERSION | WITH_VOUCHED) {
            return None;
        }
        let ordinal = PathOrdinal(fields.u32()?);
        let nar_hash = NarHash::from_bytes(fields.array()?);
        let nar_size = fields.u64()?;
        let registered = fields.u64()?;
        let origin = match version {
            WITHOUT_ORIGIN => None,
            _ => match fields.byte()? {
                0 => Some(Origin::Added),
                1 => Some(Origin::Fetched),
                _ => return None,
            },
        };
        let vouched = match version {
            WITH_VOUCHED => match fields.byte()? {
                0 => Some(false),
                1 => Some(true),
                _ => return None,
            },
            _ => None,
        };
        let contents = match fields.byte()? {
            LOCAL => Contents::Local(ChunkDigest(fields.array()?)),
            UNKNOWN => Contents::Absent(None),
            1 => Contents::Absent(Some(RootKind::Directory)),
            2 => Contents::Absent(Some(RootKind::File)),
            3 => Contents::Absent(Some(RootKind::Link)),
            _ => return None,
        };
        let path = StorePath::new(hash, fields.string()?).ok()?;
        let deriver = match fields.string()? {
            "" => None,
            text => Some(text.parse().ok()?),
        };
        let ca = match fields.string()? {
            "" => None,
            text => Some(ContentAddress::parse(text).ok()?),
        };
        let signatures = fields.list(|f| f.string().map(str::to_owned))?;
        let local = matches!(contents, Contents::Local(_));
        let origin = origin.unwrap_or(match signatures.is_empty() && local {
            true => Origin::Added,
            false => Origin::Fetched,
        });
        let mut registration = Registration {
            path,
            nar_hash,
            nar_size,
            references: fields.list(Reader::path)?,
            deriver,
            signatures,
            ca,
            vouched: true,
        };
        let default = registration.is_vouched_by_default(origin);
        registration.vouched = vouched.unwrap_or(default);
        Some(Self {
            registration,
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
                vouched: true,
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
    fn a_record_says_that_nobody_vouches_for_it_only_where_the_other_fields_do_not() {
        let path = StorePath::new(StorePathHash::from_bytes([1; 20]), "x").unwrap();
        let signed = vec!["k-1:AAAA".to_owned()];
        for (signatures, origin, vouched, version) in [
            (signed.clone(), Origin::Fetched, true, VERSION),
            (signed, Origin::Fetched, false, WITH_VOUCHED),
            (Vec::new(), Origin::Fetched, false, VERSION),
            (Vec::new(), Origin::Fetched, true, WITH_VOUCHED),
            (Vec::new(), Origin::Added, true, VERSION),
        ] {
            let info = PathInfo {
                registration: Registration {
                    path: path.clone(),
                    nar_hash: NarHash::of(b"x"),
                    nar_size: 120,
                    references: Vec::new(),
                    deriver: None,
                    signatures,
                    ca: None,
                    vouched,
                },
                ordinal: PathOrdinal(3),
                registered: 5,
                origin,
                contents: Contents::Absent(None),
            };
            let record = info.encode();
            assert_eq!(record[0], version, "{info:?}");
            assert_eq!(info.needed_feature().is_some(), version == WITH_VOUCHED);
            assert_eq!(PathInfo::decode(path.hash(), &record).unwrap(), info);
        }
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
                    vouched: true,
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
