//! Store directories and store paths, and how a path is computed from what it holds.
//!
//! Owns the grammar `STOREDIR/HASH-NAME`. Invariant: a [`StorePath`] that exists has passed the grammar of
//! Nix's newest release (older releases let a few more names through; those are refused here). The order of
//! paths is that of their texts, byte by byte, as everywhere in Nix.

mod content_address;
mod hash_finder;
mod self_reference;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::nix::hash::Hash;
use crate::nix::nix32;

pub use content_address::{
    ContentAddress, ContentAddressError, ContentVerifier, ContentVerifyError, IngestionMethod,
};
pub use hash_finder::{HashFinder, HashStream};
pub use self_reference::{HashModulo, ModuloHashes, TooManySelfReferences};

/// Characters of a hash part.
pub const HASH_PART_LEN: usize = 32;

/// Longest name: a file name of 255 bytes, less the hash part, its dash, and 11 bytes for the suffixes that
/// Nix appends to the paths it is working on.
pub const MAX_NAME_LEN: usize = 211;

/// Why a text is not a store path. The texts contain those of Nix, which scripts look for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StorePathError {
    /// The path is not exactly one level below the store directory.
    #[error("path '{path}' is not in the Nix store '{store_dir}'")]
    NotInStore { path: String, store_dir: StoreDir },
    /// Shorter than a hash part with its dash.
    #[error("'{base_name}' is too short to be a valid store path")]
    TooShort { base_name: String },
    /// Longer than any base name can be, or not the 32 characters of a hash part.
    #[error("'{text}' is not a hash part of 32 characters")]
    HashPartLength { text: String },
    /// No dash after the hash part.
    #[error(
        "path '{base_name}' can't name a store path because the hash part is not followed by a '-'"
    )]
    NoDash { base_name: String },
    /// A character outside nix32 in the hash part.
    #[error("store path '{base_name}' contains illegal base-32 character '{}'", byte.escape_ascii())]
    IllegalDigit { base_name: String, byte: u8 },
    #[error("path '{base_name}' is not a valid store path: {reason}")]
    Name {
        base_name: String,
        reason: NameError,
    },
}

/// Why a text is not the name of a store path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing after the dash.
    #[error("name must not be empty")]
    Empty,
    /// More than [`MAX_NAME_LEN`] bytes.
    #[error("name '{name}' must be no longer than {MAX_NAME_LEN} characters")]
    TooLong { name: String },
    /// The first dash-separated component is `.` or `..`.
    #[error("name '{name}' is not valid: first dash-separated component must not be '.' or '..'")]
    DotComponent { name: String },
    /// A byte outside `[0-9A-Za-z+-._?=]`.
    #[error("name '{name}' contains illegal character '{}'", byte.escape_ascii())]
    IllegalCharacter { name: String, byte: u8 },
}

/// Why a text is not a store directory.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not a store directory: {reason}")]
pub struct StoreDirError {
    pub text: String,
    pub reason: &'static str,
}

/// The directory that holds store paths, `/nix/store` unless said otherwise: absolute, canonical, not the
/// root.
///
/// It is part of what a path is computed from, so the same content has another path under another directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreDir(String);

impl StoreDir {
    /// Parses an absolute path; a trailing slash, doubled slashes and dot components are refused, not
    /// repaired, since two spellings would be two stores.
    ///
    /// # Errors
    /// [`StoreDirError`] saying which rule is broken.
    pub fn parse(text: &str) -> Result<Self, StoreDirError> {
        let refuse = |reason| {
            Err(StoreDirError {
                text: text.into(),
                reason,
            })
        };
        let Some(relative) = text.strip_prefix('/') else {
            return refuse("it must be an absolute path");
        };
        if text.chars().any(char::is_control) {
            return refuse("it must not contain control characters");
        }
        if relative
            .split('/')
            .any(|component| matches!(component, "" | "." | ".."))
        {
            return refuse("it must be canonical and below the root");
        }
        Ok(Self(text.into()))
    }

    /// The directory as text, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for StoreDir {
    fn default() -> Self {
        Self("/nix/store".into())
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StoreDir {
    type Err = StoreDirError;

    fn from_str(text: &str) -> Result<Self, StoreDirError> {
        Self::parse(text)
    }
}

/// The hash part of a store path, 160 bits. Ordered as its text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StorePathHash([u8; 20]);

impl StorePathHash {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// Parses the 32 characters.
    ///
    /// # Errors
    /// [`StorePathError`] if it is not 32 characters of nix32.
    pub fn parse(text: &[u8]) -> Result<Self, StorePathError> {
        if text.len() != HASH_PART_LEN {
            return Err(StorePathError::HashPartLength { text: lossy(text) });
        }
        Self::parse_within(text, text)
    }

    /// Parses a hash part of the right length; errors name the whole base name.
    fn parse_within(text: &[u8], base_name: &[u8]) -> Result<Self, StorePathError> {
        let mut bytes = [0; 20];
        match nix32::decode_into(text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(nix32::Nix32Error::InvalidDigit { byte, .. }) => {
                Err(StorePathError::IllegalDigit {
                    base_name: lossy(base_name),
                    byte,
                })
            }
            Err(_) => Err(StorePathError::HashPartLength { text: lossy(text) }),
        }
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// The 32 characters, without allocating.
    #[must_use]
    pub fn to_ascii(&self) -> [u8; HASH_PART_LEN] {
        nix32::encode_hash_part(&self.0)
    }
}

impl Ord for StorePathHash {
    fn cmp(&self, other: &Self) -> Ordering {
        // 160 is a multiple of 5, the alphabet ascends, and the text begins with the highest bits of the last
        // byte: so the order of the texts is that of the bytes read backwards.
        self.0.iter().rev().cmp(other.0.iter().rev())
    }
}

impl PartialOrd for StorePathHash {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for StorePathHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&nix32::encode(&self.0))
    }
}

impl fmt::Debug for StorePathHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePathHash({self})")
    }
}

impl FromStr for StorePathHash {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, StorePathError> {
        Self::parse(text.as_bytes())
    }
}

/// A store path without its store directory: `HASH-NAME`. Ordered as that text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    // The derived order (hash, then name) is that of the text, because all hash parts are equally long.
    hash: StorePathHash,
    name: String,
}

impl StorePath {
    /// A path from its parts.
    ///
    /// # Errors
    /// [`NameError`] if the name is not allowed.
    pub fn new(hash: StorePathHash, name: &str) -> Result<Self, NameError> {
        let name = check_name(name.as_bytes())?;
        Ok(Self {
            hash,
            name: name.into(),
        })
    }

    /// Parses `HASH-NAME`.
    ///
    /// # Errors
    /// [`StorePathError`] saying which rule is broken.
    pub fn parse_base_name(base_name: &[u8]) -> Result<Self, StorePathError> {
        let Some((hash, rest)) = base_name.split_at_checked(HASH_PART_LEN) else {
            return Err(StorePathError::TooShort {
                base_name: lossy(base_name),
            });
        };
        let Some((&dash, name)) = rest.split_first() else {
            return Err(StorePathError::TooShort {
                base_name: lossy(base_name),
            });
        };
        if dash != b'-' {
            return Err(StorePathError::NoDash {
                base_name: lossy(base_name),
            });
        }
        let hash = StorePathHash::parse_within(hash, base_name)?;
        let name = check_name(name).map_err(|reason| StorePathError::Name {
            base_name: lossy(base_name),
            reason,
        })?;
        Ok(Self {
            hash,
            name: name.into(),
        })
    }

    /// Parses a full path, which must be exactly one level below the store directory once `//`, `.` and `..`
    /// are resolved by text (Nix does the same).
    ///
    /// # Errors
    /// [`StorePathError`] saying which rule is broken.
    pub fn parse_full(store_dir: &StoreDir, path: &str) -> Result<Self, StorePathError> {
        let not_in_store = || StorePathError::NotInStore {
            path: path.into(),
            store_dir: store_dir.clone(),
        };
        if !path.starts_with('/') {
            return Err(not_in_store());
        }
        let mut components = Vec::new();
        for component in path.split('/') {
            match component {
                "" | "." => {}
                ".." => {
                    components.pop();
                }
                name => components.push(name),
            }
        }
        let base_name = components.pop().ok_or_else(not_in_store)?;
        if !store_dir.as_str().split('/').skip(1).eq(components) {
            return Err(not_in_store());
        }
        Self::parse_base_name(base_name.as_bytes())
    }

    /// Computes a path from a type (`source`, `text:REF…`, `output:out`, …), the hash that belongs to the
    /// type, and a name.
    ///
    /// # Errors
    /// [`NameError`] if the name is not allowed.
    pub fn compute(
        store_dir: &StoreDir,
        kind: &str,
        inner: &Hash,
        name: &str,
    ) -> Result<Self, NameError> {
        let name = check_name(name.as_bytes())?;
        let preimage = format!("{kind}:{}:{store_dir}:{name}", inner.to_hex());
        let mut bytes = [0; 20];
        for (index, byte) in Sha256::digest(preimage.as_bytes()).iter().enumerate() {
            bytes[index % 20] ^= byte;
        }
        Ok(Self {
            hash: StorePathHash(bytes),
            name: name.into(),
        })
    }

    #[must_use]
    pub const fn hash(&self) -> StorePathHash {
        self.hash
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `HASH-NAME`.
    #[must_use]
    pub fn base_name(&self) -> String {
        self.to_string()
    }

    /// `STOREDIR/HASH-NAME`.
    #[must_use]
    pub fn to_full(&self, store_dir: &StoreDir) -> String {
        format!("{store_dir}/{self}")
    }

    /// Whether this is a derivation: the name ends in `.drv`.
    #[must_use]
    pub fn is_derivation(&self) -> bool {
        self.name.ends_with(".drv")
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash, self.name)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePath({self})")
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(base_name: &str) -> Result<Self, StorePathError> {
        Self::parse_base_name(base_name.as_bytes())
    }
}

/// Checks the name part of a store path.
///
/// # Errors
/// [`NameError`] saying which rule is broken.
pub fn check_name(name: &[u8]) -> Result<&str, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_NAME_LEN {
        return Err(NameError::TooLong { name: lossy(name) });
    }
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
    if let Some(&byte) = name.iter().find(|byte| !allowed(byte)) {
        return Err(NameError::IllegalCharacter {
            name: lossy(name),
            byte,
        });
    }
    if matches!(name.split(|&byte| byte == b'-').next(), Some(b"." | b"..")) {
        return Err(NameError::DotComponent { name: lossy(name) });
    }
    // The allowed bytes are ASCII, so this cannot fail; the error keeps the function total.
    std::str::from_utf8(name).map_err(|_| NameError::IllegalCharacter {
        name: lossy(name),
        byte: name[0],
    })
}

/// A text for error messages: readable, and never longer than a line.
fn lossy(bytes: &[u8]) -> String {
    const SHOWN: usize = 300;
    let mut text = bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string();
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::hash::HashAlgo;
    use proptest::prelude::*;

    const HASH: &str = "gy454w1cxaq731grqwylhzf4pp9r5izh";

    fn error(base_name: &str) -> String {
        StorePath::parse_base_name(base_name.as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn names_follow_the_newest_grammar() {
        for good in [
            "a",
            ".foo",
            "...",
            "..a",
            "a-.",
            "x+-._?=9",
            &"n".repeat(211),
        ] {
            let path: StorePath = format!("{HASH}-{good}").parse().unwrap();
            assert_eq!(path.name(), good);
        }
        for bad in [".", "..", ".-", "..-", ".-a", "..-a"] {
            assert!(
                error(&format!("{HASH}-{bad}")).contains("first dash-separated component"),
                "{bad}"
            );
        }
        for bad in ["a b", "a/b", "ä", "a\0", "a\n", "~"] {
            assert!(
                error(&format!("{HASH}-{bad}")).contains("contains illegal character"),
                "{bad}"
            );
        }
    }

    #[test]
    fn errors_have_the_texts_of_nix() {
        assert!(error("").contains("is too short to be a valid store path"));
        assert!(error(HASH).contains("is too short to be a valid store path"));
        assert!(
            error(&format!("{HASH}_a"))
                .contains("can't name a store path because the hash part is not followed by a '-'")
        );
        assert!(error(&format!("e{}-a", &HASH[1..])).contains("illegal base-32 character 'e'"));
        assert!(error(&format!("G{}-a", &HASH[1..])).contains("illegal base-32 character 'G'"));
        assert!(error(&format!("{HASH}-")).contains("name must not be empty"));
        assert!(
            error(&format!("{HASH}-{}", "n".repeat(212)))
                .contains("must be no longer than 211 characters")
        );
        assert!(error(&format!("{HASH}-a b")).contains("contains illegal character ' '"));
    }

    #[test]
    fn full_paths_are_one_level_below_the_store() {
        let nix = StoreDir::default();
        let base = format!("{HASH}-hello");
        for good in [
            format!("/nix/store/{base}"),
            format!("//nix/./store//{base}/"),
            format!("/nix/store/x/../{base}"),
        ] {
            assert_eq!(
                StorePath::parse_full(&nix, &good).unwrap().base_name(),
                base
            );
        }
        for bad in [
            base.clone(),
            format!("nix/store/{base}"),
            format!("/nix/store/{base}/bin"),
            format!("/gnu/store/{base}"),
            format!("/{base}"),
            "/".into(),
            String::new(),
        ] {
            let error = StorePath::parse_full(&nix, &bad).unwrap_err();
            assert!(
                error.to_string().contains("is not in the Nix store"),
                "{bad}"
            );
        }
        let gnu = StoreDir::parse("/gnu/store").unwrap();
        let path = StorePath::parse_full(&gnu, &format!("/gnu/store/{base}")).unwrap();
        assert_eq!(path.to_full(&gnu), format!("/gnu/store/{base}"));
    }

    #[test]
    fn store_directories_are_canonical() {
        for good in ["/nix/store", "/gnu/store", "/s", "/home/a b/store"] {
            assert_eq!(StoreDir::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "/",
            "nix/store",
            "/nix/store/",
            "/nix//store",
            "/nix/./s",
            "/nix/..",
            "/a\nb",
        ] {
            assert!(StoreDir::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_computed_path_depends_on_the_store_directory() {
        let inner = Hash::of(HashAlgo::Sha256, b"x");
        let compute = |dir: &str| {
            StorePath::compute(&StoreDir::parse(dir).unwrap(), "source", &inner, "n").unwrap()
        };
        assert_ne!(compute("/nix/store"), compute("/gnu/store"));
        assert!(StorePath::compute(&StoreDir::default(), "source", &inner, "a b").is_err());
    }

    #[test]
    fn derivations_are_known_by_their_suffix() {
        let path = |name| StorePath::new(StorePathHash::from_bytes([0; 20]), name).unwrap();
        assert!(path("hello.drv").is_derivation());
        assert!(!path("hello.drv.gz").is_derivation());
    }

    proptest! {
        #[test]
        fn the_order_of_hashes_is_that_of_their_texts(
            a in any::<[u8; 20]>(),
            mut b in any::<[u8; 20]>(),
            keep in 0usize..20,
        ) {
            b[keep..].copy_from_slice(&a[keep..]);
            let (a, b) = (StorePathHash::from_bytes(a), StorePathHash::from_bytes(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn paths_survive_and_sort_as_text(
            hashes in any::<[[u8; 20]; 2]>(),
            names in proptest::array::uniform2("[0-9A-Za-z+_?=][0-9A-Za-z+._?=-]{0,40}"),
        ) {
            let path = |i: usize| StorePath::new(StorePathHash::from_bytes(hashes[i]), &names[i]).unwrap();
            let (a, b) = (path(0), path(1));
            prop_assert_eq!(a.cmp(&b), a.base_name().cmp(&b.base_name()));
            prop_assert_eq!(StorePath::parse_base_name(a.base_name().as_bytes()).unwrap(), a.clone());
            let dir = StoreDir::parse("/gnu/store").unwrap();
            prop_assert_eq!(StorePath::parse_full(&dir, &a.to_full(&dir)).unwrap(), a);
        }

        #[test]
        fn any_bytes_parse_or_fail_quietly(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(path) = StorePath::parse_base_name(&bytes) {
                prop_assert_eq!(path.base_name().into_bytes(), bytes);
            }
        }
    }
}
