//! Content addresses: the claim of a store path to be computed from its content.
//!
//! Owns the grammar of the `CA` field (`text:sha256:…`, `fixed:[r:|git:]ALGO:…`), the computation of the path
//! from it, and the check of a NAR against it. Invariant: a content address is a claim until
//! [`ContentVerifier`] has seen the bytes; that the path follows from the claim says nothing about a
//! `NarHash` beside it.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::{HashModulo, NameError, StoreDir, StorePath, StorePathHash, TooManySelfReferences};
use crate::nix::hash::{Hash, HashAlgo, HashError, Hasher};

/// Bytes before the content of a NAR whose root is a plain file: the fixed part and the length of the
/// content.
const FLAT_HEADER: &[u8; 88] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0\
    \x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\
    \x04\0\0\0\0\0\0\0type\0\0\0\0\
    \x07\0\0\0\0\0\0\0regular\0\
    \x08\0\0\0\0\0\0\0contents";

/// How the content becomes the bytes that are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IngestionMethod {
    /// The bytes of a single, non-executable file.
    Flat,
    /// The NAR, modulo references to itself.
    Nar,
    /// A git tree or blob object.
    Git,
}

impl IngestionMethod {
    /// The prefix of the method in a content address.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Flat => "",
            Self::Nar => "r:",
            Self::Git => "git:",
        }
    }
}

/// Why a content address is malformed, or gives no path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContentAddressError {
    /// It begins neither with `text:` nor with `fixed:`.
    #[error("content address '{text}' does not begin with 'text:' or 'fixed:'")]
    UnknownPrefix { text: String },
    #[error("content address '{text}' has an invalid hash")]
    Hash {
        text: String,
        #[source]
        source: HashError,
    },
    /// The method does not go with this algorithm.
    #[error("content address '{text}' cannot use the algorithm {algo}")]
    Algorithm { text: String, algo: HashAlgo },
    /// Only text and SHA-256 NAR addresses may have references, and only the latter a self-reference.
    #[error("a path with content address '{address}' cannot have these references")]
    References { address: String },
    #[error(transparent)]
    Name(#[from] NameError),
}

impl ContentAddressError {
    /// Whether the text may be an address of a kind that a newer Nix has made, rather than a malformed one.
    #[must_use]
    pub const fn is_unknown_kind(&self) -> bool {
        let unknown_algorithm = matches!(
            self,
            Self::Hash {
                source: HashError::UnknownAlgorithm { .. },
                ..
            }
        );
        unknown_algorithm || matches!(self, Self::UnknownPrefix { .. } | Self::Algorithm { .. })
    }
}

/// What a content-addressed path was computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentAddress {
    /// A text file (`builtins.toFile`, derivations); the hash is SHA-256 of the file.
    Text(Hash),
    /// A fixed output or a source.
    Fixed {
        /// What was hashed.
        method: IngestionMethod,
        hash: Hash,
    },
}

impl ContentAddress {
    /// Parses the value of a `CA` field.
    ///
    /// # Errors
    /// [`ContentAddressError`] saying which rule is broken.
    pub fn parse(text: &str) -> Result<Self, ContentAddressError> {
        if let Some(rest) = text.strip_prefix("text:") {
            return Self::text(parse_hash(rest, text)?);
        }
        let Some(rest) = text.strip_prefix("fixed:") else {
            return Err(ContentAddressError::UnknownPrefix { text: text.into() });
        };
        let (method, rest) = match (rest.strip_prefix("r:"), rest.strip_prefix("git:")) {
            (Some(rest), _) => (IngestionMethod::Nar, rest),
            (None, Some(rest)) => (IngestionMethod::Git, rest),
            (None, None) => (IngestionMethod::Flat, rest),
        };
        Self::fixed(method, parse_hash(rest, text)?)
    }

    /// The address of a text file from the hash of its bytes.
    ///
    /// # Errors
    /// [`ContentAddressError::Algorithm`] if the hash is not SHA-256.
    pub fn text(hash: Hash) -> Result<Self, ContentAddressError> {
        Self::Text(hash).checked(hash.algo() == HashAlgo::Sha256)
    }

    /// The address of a fixed output or source from the hash of what the method yields.
    ///
    /// # Errors
    /// [`ContentAddressError::Algorithm`] if the method is git, and the algorithm neither SHA-1 nor SHA-256.
    pub fn fixed(method: IngestionMethod, hash: Hash) -> Result<Self, ContentAddressError> {
        let git_knows = matches!(hash.algo(), HashAlgo::Sha1 | HashAlgo::Sha256);
        Self::Fixed { method, hash }.checked(method != IngestionMethod::Git || git_knows)
    }

    fn checked(self, allowed: bool) -> Result<Self, ContentAddressError> {
        if allowed {
            return Ok(self);
        }
        Err(ContentAddressError::Algorithm {
            text: self.to_string(),
            algo: self.hash().algo(),
        })
    }

    /// The hash in the address.
    #[must_use]
    pub const fn hash(&self) -> &Hash {
        match self {
            Self::Text(hash) | Self::Fixed { hash, .. } => hash,
        }
    }

    /// Whether contents can be compared with it: those of git objects are not understood here.
    #[must_use]
    pub const fn can_be_verified(&self) -> bool {
        !matches!(
            self,
            Self::Fixed {
                method: IngestionMethod::Git,
                ..
            }
        )
    }

    /// Computes the store path of this content with this name and these references to other paths;
    /// `self_reference` says whether the path refers to itself.
    ///
    /// # Errors
    /// [`ContentAddressError`] if the address cannot have these references, or the name is not allowed.
    pub fn store_path<'a>(
        &self,
        store_dir: &StoreDir,
        name: &str,
        references: impl IntoIterator<Item = &'a StorePath>,
        self_reference: bool,
    ) -> Result<StorePath, ContentAddressError> {
        let mut references: Vec<&StorePath> = references.into_iter().collect();
        references.sort_unstable();
        references.dedup();
        let with_references = |kind: &str| {
            let mut kind = String::from(kind);
            for reference in &references {
                kind.push(':');
                kind.push_str(&reference.to_full(store_dir));
            }
            if self_reference {
                kind.push_str(":self");
            }
            kind
        };
        let (kind, inner) = match self {
            Self::Text(hash) if !self_reference => (with_references("text"), *hash),
            Self::Fixed {
                method: IngestionMethod::Nar,
                hash,
            } if hash.algo() == HashAlgo::Sha256 => (with_references("source"), *hash),
            Self::Fixed { method, hash } if references.is_empty() && !self_reference => {
                let output = format!("fixed:out:{}{}:", method.prefix(), hash.to_hex());
                let inner = Hash::of(HashAlgo::Sha256, output.as_bytes());
                (String::from("output:out"), inner)
            }
            _ => {
                return Err(ContentAddressError::References {
                    address: self.to_string(),
                });
            }
        };
        Ok(StorePath::compute(store_dir, &kind, &inner, name)?)
    }
}

fn parse_hash(rest: &str, text: &str) -> Result<Hash, ContentAddressError> {
    let invalid = |source| ContentAddressError::Hash {
        text: text.into(),
        source,
    };
    // SRI is no form of a content address, so the algorithm ends at the colon.
    let (algo, digest) = rest.split_once(':').ok_or_else(|| {
        invalid(HashError::MissingAlgorithm {
            text: rest.to_owned(),
        })
    })?;
    let algo = algo.parse().map_err(invalid)?;
    Hash::parse_digest(algo, digest).map_err(invalid)
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(hash) => write!(f, "text:{hash}"),
            Self::Fixed { method, hash } => write!(f, "fixed:{}{hash}", method.prefix()),
        }
    }
}

impl FromStr for ContentAddress {
    type Err = ContentAddressError;

    fn from_str(text: &str) -> Result<Self, ContentAddressError> {
        Self::parse(text)
    }
}

/// Why a NAR is not what its content address claims.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContentVerifyError {
    #[error("ca hash mismatch: the content address claims {expected}, the content has {actual}")]
    Mismatch {
        /// The hash in the content address.
        expected: Box<Hash>,
        /// The hash of the content.
        actual: Box<Hash>,
    },
    /// Flat and text content is a single, non-executable file.
    #[error("the content address is that of a plain file, but the NAR is not one")]
    NotPlainFile,
    /// Git objects are not checked here.
    #[error("content addresses of git objects cannot be verified; a trusted signature is needed")]
    UnsupportedGit,
    /// It is an address that two contents can share, and nothing else vouches for these.
    #[error(
        "the content address was made without the offsets of the self-references (Nix 2.17 to 2.34), so that \
         other contents can have it too; a signature by a trusted key is needed"
    )]
    WithoutOffsets,
    /// The content refers to itself implausibly often.
    #[error(transparent)]
    TooManySelfReferences(#[from] TooManySelfReferences),
}

/// Checks the bytes of a NAR against the content address of its path, as they stream by.
///
/// Only what the address covers is checked; whether the bytes are a well-formed NAR is checked by the NAR
/// reader.
pub struct ContentVerifier {
    expected: Hash,
    is_vouched_for: bool,
    check: Check,
}

enum Check {
    Nar(HashModulo),
    Flat {
        hasher: Hasher,
        header: Vec<u8>,
        /// Bytes of content still to come; known once the header is complete.
        remaining: u64,
    },
}

impl ContentVerifier {
    /// Starts the check of the NAR of the path with this hash part. `is_vouched_for` says that something
    /// else, such as a signature, vouches for the contents: an address without the offsets of
    /// self-references is enough then.
    ///
    /// # Errors
    /// [`ContentVerifyError::UnsupportedGit`] for git addresses.
    pub fn new(
        address: &ContentAddress,
        own: &StorePathHash,
        is_vouched_for: bool,
    ) -> Result<Self, ContentVerifyError> {
        let algo = address.hash().algo();
        let check = match address {
            ContentAddress::Fixed {
                method: IngestionMethod::Git,
                ..
            } => return Err(ContentVerifyError::UnsupportedGit),
            ContentAddress::Fixed {
                method: IngestionMethod::Nar,
                ..
            } => Check::Nar(HashModulo::new(algo, own)),
            ContentAddress::Text(_) | ContentAddress::Fixed { .. } => Check::Flat {
                hasher: Hasher::new(algo),
                header: Vec::with_capacity(FLAT_HEADER.len() + 8),
                remaining: 0,
            },
        };
        Ok(Self {
            expected: *address.hash(),
            is_vouched_for,
            check,
        })
    }

    /// Adds the next bytes of the NAR.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.check {
            Check::Nar(hasher) => hasher.update(bytes),
            Check::Flat {
                hasher,
                header,
                remaining,
            } => {
                let missing = (FLAT_HEADER.len() + 8).saturating_sub(header.len());
                let (head, content) = bytes.split_at(bytes.len().min(missing));
                header.extend_from_slice(head);
                if missing > 0
                    && let Some((_, size)) = header.split_last_chunk::<8>()
                    && header.len() == FLAT_HEADER.len() + 8
                {
                    *remaining = u64::from_le_bytes(*size);
                }
                let take = usize::try_from(*remaining)
                    .map_or(content.len(), |remaining| remaining.min(content.len()));
                hasher.update(&content[..take]);
                *remaining -= take as u64;
            }
        }
    }

    /// Says whether the whole NAR is what the content address claims.
    ///
    /// # Errors
    /// [`ContentVerifyError`] if it is not.
    pub fn finish(self) -> Result<(), ContentVerifyError> {
        let actual = match self.check {
            Check::Nar(hasher) => {
                let hashes = hasher.finish()?;
                if hashes.with_offsets != self.expected && hashes.without_offsets == self.expected {
                    if !self.is_vouched_for {
                        return Err(ContentVerifyError::WithoutOffsets);
                    }
                    return Ok(());
                }
                hashes.with_offsets
            }
            Check::Flat {
                hasher,
                header,
                remaining,
            } => {
                if !header.starts_with(FLAT_HEADER)
                    || header.len() != FLAT_HEADER.len() + 8
                    || remaining != 0
                {
                    return Err(ContentVerifyError::NotPlainFile);
                }
                hasher.finish()
            }
        };
        if actual == self.expected {
            return Ok(());
        }
        Err(ContentVerifyError::Mismatch {
            expected: Box::new(self.expected),
            actual: Box::new(actual),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello_nar() -> Vec<u8> {
        let mut nar = FLAT_HEADER.to_vec();
        nar.extend_from_slice(&6u64.to_le_bytes());
        nar.extend_from_slice(b"hello\n\0\0\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0");
        nar
    }

    fn path(address: &ContentAddress, name: &str) -> String {
        address
            .store_path(&StoreDir::default(), name, [], false)
            .unwrap()
            .base_name()
    }

    #[test]
    fn the_known_paths_of_hello() {
        let flat = Hash::of(HashAlgo::Sha256, b"hello\n");
        let nar = Hash::of(HashAlgo::Sha256, &hello_nar());
        let sha1 = Hash::of(HashAlgo::Sha1, &hello_nar());
        assert_eq!(
            nar.to_nix32(),
            "sha256:04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw"
        );
        let fixed = |method, hash| ContentAddress::fixed(method, hash).unwrap();
        assert_eq!(
            path(&fixed(IngestionMethod::Flat, flat), "hello.txt"),
            "gy454w1cxaq731grqwylhzf4pp9r5izh-hello.txt"
        );
        assert_eq!(
            path(&fixed(IngestionMethod::Nar, nar), "hello.txt"),
            "i9pmrzmpshapij2kin22pff6fc2adavx-hello.txt"
        );
        assert_eq!(
            path(&fixed(IngestionMethod::Nar, sha1), "hello.txt"),
            "hzq8n5jpi3g2d0xhlvqd8q1gx5c9s6i3-hello.txt"
        );
        assert_eq!(
            path(&ContentAddress::text(flat).unwrap(), "t.txt"),
            "nj4j70xcnmcdh9y4yfs0ddw3hhli4880-t.txt"
        );
    }

    #[test]
    fn references_are_allowed_where_nix_allows_them() {
        let dir = StoreDir::default();
        let other: StorePath = "gy454w1cxaq731grqwylhzf4pp9r5izh-hello.txt"
            .parse()
            .unwrap();
        let hash = Hash::of(HashAlgo::Sha256, b"");
        let allows = |address: ContentAddress, references: &[StorePath], own| {
            address.store_path(&dir, "n", references, own).is_ok()
        };
        let one = std::slice::from_ref(&other);
        let text = ContentAddress::text(hash).unwrap();
        let source = ContentAddress::fixed(IngestionMethod::Nar, hash).unwrap();
        let flat = ContentAddress::fixed(IngestionMethod::Flat, hash).unwrap();
        let sha1 = Hash::of(HashAlgo::Sha1, b"");
        let nar_sha1 = ContentAddress::fixed(IngestionMethod::Nar, sha1).unwrap();
        assert!(allows(text, one, false) && !allows(text, one, true) && !allows(text, &[], true));
        assert!(allows(source, one, false) && allows(source, one, true));
        assert!(allows(flat, &[], false) && !allows(flat, one, false) && !allows(flat, &[], true));
        assert!(!allows(nar_sha1, one, false) && !allows(nar_sha1, &[], true));
    }

    #[test]
    fn the_order_of_references_does_not_matter() {
        let dir = StoreDir::default();
        let a: StorePath = "gy454w1cxaq731grqwylhzf4pp9r5izh-a".parse().unwrap();
        let b: StorePath = "04zwf782yjwnh3q6hz5izfd6jyip8kgw-b".parse().unwrap();
        let address = ContentAddress::text(Hash::of(HashAlgo::Sha256, b"")).unwrap();
        let path = |references: [&StorePath; 2]| address.store_path(&dir, "n", references, false);
        assert_eq!(path([&a, &b]), path([&b, &a]));
        assert_ne!(path([&a, &b]), path([&a, &a]));
    }

    #[test]
    fn malformed_addresses_are_refused() {
        let digest = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        for good in [
            "text:sha256",
            "fixed:sha256",
            "fixed:r:sha256",
            "fixed:git:sha256",
        ] {
            let text = format!("{good}:{digest}");
            assert_eq!(ContentAddress::parse(&text).unwrap().to_string(), text);
        }
        let md5 = Hash::of(HashAlgo::Md5, b"").to_nix32();
        for bad in [
            String::new(),
            "text".into(),
            format!("text:r:sha256:{digest}"),
            format!("text:{md5}"),
            format!("fixed:git:{md5}"),
            format!("fixed:R:sha256:{digest}"),
            format!("fixed:sha256-{digest}"),
            format!("nar:sha256:{digest}"),
            format!("fixed:r:r:sha256:{digest}"),
            "fixed:r:sha256:".into(),
        ] {
            assert!(ContentAddress::parse(&bad).is_err(), "{bad}");
        }
    }

    fn verify(
        address: &ContentAddress,
        nar: &[u8],
        block: usize,
    ) -> Result<(), ContentVerifyError> {
        let own = StorePathHash::from_bytes([7; 20]);
        let mut verifier = ContentVerifier::new(address, &own, false)?;
        nar.chunks(block).for_each(|bytes| verifier.update(bytes));
        verifier.finish()
    }

    #[test]
    fn content_is_checked_against_its_address() {
        let nar = hello_nar();
        let flat =
            ContentAddress::fixed(IngestionMethod::Flat, Hash::of(HashAlgo::Md5, b"hello\n"));
        let text = ContentAddress::text(Hash::of(HashAlgo::Sha256, b"hello\n"));
        let whole = ContentAddress::fixed(IngestionMethod::Nar, Hash::of(HashAlgo::Sha512, &nar));
        for block in [1, 7, 95, 96, 97, 120] {
            for address in [&flat, &text, &whole] {
                assert_eq!(verify(address.as_ref().unwrap(), &nar, block), Ok(()));
            }
        }
        let other = ContentAddress::text(Hash::of(HashAlgo::Sha256, b"hello")).unwrap();
        assert!(matches!(
            verify(&other, &nar, 8),
            Err(ContentVerifyError::Mismatch { .. })
        ));
    }

    #[test]
    fn a_flat_address_wants_a_plain_file() {
        let empty = ContentAddress::text(Hash::of(HashAlgo::Sha256, b"")).unwrap();
        let mut directory = hello_nar();
        directory[56] = b'D';
        let mut truncated = hello_nar();
        truncated.truncate(100);
        for nar in [&b""[..], &hello_nar()[..90], &directory, &truncated] {
            assert_eq!(
                verify(&empty, nar, 9),
                Err(ContentVerifyError::NotPlainFile)
            );
        }
        let git = ContentAddress::fixed(IngestionMethod::Git, Hash::of(HashAlgo::Sha1, b""));
        assert_eq!(
            verify(&git.unwrap(), b"", 1),
            Err(ContentVerifyError::UnsupportedGit)
        );
    }

    proptest! {
        #[test]
        fn addresses_survive(method in 0usize..4, sha1: bool, data: [u8; 4]) {
            let algo = if sha1 { HashAlgo::Sha1 } else { HashAlgo::Sha256 };
            let address = match method {
                0 => ContentAddress::text(Hash::of(HashAlgo::Sha256, &data)),
                1 => ContentAddress::fixed(IngestionMethod::Flat, Hash::of(algo, &data)),
                2 => ContentAddress::fixed(IngestionMethod::Nar, Hash::of(algo, &data)),
                _ => ContentAddress::fixed(IngestionMethod::Git, Hash::of(algo, &data)),
            };
            let address = address.unwrap();
            prop_assert_eq!(ContentAddress::parse(&address.to_string()), Ok(address));
        }
    }
}
