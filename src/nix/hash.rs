//! Hashes, their text forms, and hashing of streams.
//!
//! Owns [`struct@Hash`] (any algorithm Nix knows), [`NarHash`] (the SHA-256 of a NAR) and the
//! streaming hashers. Invariant: a `Hash` always holds exactly as many bytes as its algorithm
//! yields.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use thiserror::Error;

use crate::nix::nix32::{self, Nix32Error};

/// Bytes of the longest digest.
const MAX_DIGEST: usize = 64;

/// Why a text is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HashError {
    /// Neither `ALGO:` nor `ALGO-` opens the text.
    #[error("hash '{text}' does not include a type")]
    MissingAlgorithm { text: String },
    /// The algorithm is not one that Nix knows.
    #[error("unknown hash algorithm '{name}', expect 'md5', 'sha1', 'sha256' or 'sha512'")]
    UnknownAlgorithm { name: String },
    /// Only one algorithm is possible at this place.
    #[error("expected a {expected} hash, not {found}")]
    WrongAlgorithm {
        /// The algorithm that belongs here.
        expected: HashAlgo,
        /// The algorithm of the text.
        found: HashAlgo,
    },
    /// No text form of this algorithm has this length.
    #[error("hash '{text}' has wrong length for hash algorithm '{algo}'")]
    WrongLength {
        /// The digest text as given.
        text: String,
        /// The algorithm of the digest.
        algo: HashAlgo,
    },
    /// The digest is not valid base-16 or base-64.
    #[error("hash '{text}' has an invalid digest: {reason}")]
    InvalidDigest {
        /// The digest text as given.
        text: String,
        reason: data_encoding::DecodeError,
    },
    /// The digest is not valid nix32.
    #[error("hash '{text}' has an invalid digest")]
    InvalidNix32 {
        /// The digest text as given.
        text: String,
        #[source]
        source: Nix32Error,
    },
}

/// A hash algorithm of Nix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgo {
    /// MD5, 16 bytes; only ever met in old fixed-output paths.
    Md5,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl HashAlgo {
    /// Bytes of a digest.
    #[must_use]
    const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The lower case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for HashAlgo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HashAlgo {
    type Err = HashError;

    fn from_str(name: &str) -> Result<Self, HashError> {
        match name {
            "md5" => Ok(Self::Md5),
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(HashError::UnknownAlgorithm { name: name.into() }),
        }
    }
}

/// A digest together with its algorithm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash {
    algo: HashAlgo,
    /// Zero beyond the length of the algorithm's digest, so that the derived comparisons hold.
    digest: [u8; MAX_DIGEST],
}

impl Hash {
    /// A hash from its digest; `None` if the length is not that of the algorithm.
    #[must_use]
    pub fn new(algo: HashAlgo, digest: &[u8]) -> Option<Self> {
        if digest.len() != algo.digest_len() {
            return None;
        }
        let mut padded = [0; MAX_DIGEST];
        padded[..digest.len()].copy_from_slice(digest);
        Some(Self {
            algo,
            digest: padded,
        })
    }

    /// A SHA-256 hash from its digest.
    #[must_use]
    pub fn sha256(digest: [u8; 32]) -> Self {
        let mut padded = [0; MAX_DIGEST];
        padded[..32].copy_from_slice(&digest);
        Self {
            algo: HashAlgo::Sha256,
            digest: padded,
        }
    }

    /// Hashes bytes in memory.
    #[must_use]
    pub fn of(algo: HashAlgo, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algo);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Parses any text form with its algorithm: `ALGO:HEX`, `ALGO:NIX32`, `ALGO:BASE64` or SRI
    /// (`ALGO-BASE64`).
    ///
    /// # Errors
    /// [`HashError`] if the algorithm is missing or unknown, or the digest is not one of its text forms.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let separator = text.find([':', '-']);
        let Some((algo, digest)) = separator.map(|at| (&text[..at], &text[at + 1..])) else {
            return Err(HashError::MissingAlgorithm { text: text.into() });
        };
        let algo = algo.parse()?;
        if separator.is_some_and(|at| text.as_bytes()[at] == b'-') {
            return Self::parse_base64(algo, digest);
        }
        Self::parse_digest(algo, digest)
    }

    /// Parses a digest without its algorithm; its length tells base-16, nix32 or base-64.
    ///
    /// # Errors
    /// [`HashError`] if the length or a character fits none of them.
    pub fn parse_digest(algo: HashAlgo, text: &str) -> Result<Self, HashError> {
        let bytes = algo.digest_len();
        if text.len() == bytes * 2 {
            let digest = HEXLOWER_PERMISSIVE.decode(text.as_bytes());
            let digest = digest.map_err(|reason| HashError::InvalidDigest {
                text: text.into(),
                reason,
            })?;
            return Self::from_decoded(algo, &digest, text);
        }
        if text.len() == nix32::encoded_len(bytes) {
            let digest = nix32::decode(text.as_bytes());
            let digest = digest.map_err(|source| HashError::InvalidNix32 {
                text: text.into(),
                source,
            })?;
            return Self::from_decoded(algo, &digest, text);
        }
        Self::parse_base64(algo, text)
    }

    fn parse_base64(algo: HashAlgo, text: &str) -> Result<Self, HashError> {
        if text.len() != BASE64.encode_len(algo.digest_len()) {
            return Err(HashError::WrongLength {
                text: text.into(),
                algo,
            });
        }
        let digest = BASE64.decode(text.as_bytes());
        let digest = digest.map_err(|reason| HashError::InvalidDigest {
            text: text.into(),
            reason,
        })?;
        Self::from_decoded(algo, &digest, text)
    }

    fn from_decoded(algo: HashAlgo, digest: &[u8], text: &str) -> Result<Self, HashError> {
        Self::new(algo, digest).ok_or_else(|| HashError::WrongLength {
            text: text.into(),
            algo,
        })
    }

    /// The algorithm.
    #[must_use]
    pub const fn algo(&self) -> HashAlgo {
        self.algo
    }

    /// The bytes of the digest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.digest[..self.algo.digest_len()]
    }

    /// `sha256:NIX32`, as narinfo files have it.
    #[must_use]
    pub fn to_nix32(&self) -> String {
        format!("{}:{}", self.algo, nix32::encode(self.as_bytes()))
    }

    /// `sha256:HEX`, as Nix's database has it.
    #[must_use]
    pub fn to_hex(&self) -> String {
        format!("{}:{}", self.algo, HEXLOWER.encode(self.as_bytes()))
    }

    /// `sha256-BASE64`, as JSON has it.
    #[must_use]
    pub fn to_sri(&self) -> String {
        format!("{}-{}", self.algo, BASE64.encode(self.as_bytes()))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_nix32())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({})", self.to_nix32())
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        Self::parse(text)
    }
}

/// The SHA-256 of a whole, uncompressed NAR.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NarHash([u8; 32]);

impl NarHash {
    /// A NAR hash from its digest.
    #[must_use]
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Hashes a NAR in memory.
    #[must_use]
    pub fn of(nar: &[u8]) -> Self {
        Self(Sha256::digest(nar).into())
    }

    /// Parses any text form of a SHA-256 hash with its algorithm.
    ///
    /// # Errors
    /// [`HashError`] as [`Hash::parse`], or if the algorithm is another one.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        Self::try_from(Hash::parse(text)?)
    }

    /// The bytes of the digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `sha256:NIX32`.
    #[must_use]
    pub fn to_nix32(&self) -> String {
        Hash::from(*self).to_nix32()
    }

    /// `sha256:HEX`.
    #[must_use]
    pub fn to_hex(&self) -> String {
        Hash::from(*self).to_hex()
    }

    /// `sha256-BASE64`.
    #[must_use]
    pub fn to_sri(&self) -> String {
        Hash::from(*self).to_sri()
    }
}

impl From<NarHash> for Hash {
    fn from(hash: NarHash) -> Self {
        Self::sha256(hash.0)
    }
}

impl TryFrom<Hash> for NarHash {
    type Error = HashError;

    fn try_from(hash: Hash) -> Result<Self, HashError> {
        match (hash.algo(), hash.as_bytes().try_into()) {
            (HashAlgo::Sha256, Ok(digest)) => Ok(Self(digest)),
            (found, _) => Err(HashError::WrongAlgorithm {
                expected: HashAlgo::Sha256,
                found,
            }),
        }
    }
}

impl fmt::Display for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_nix32())
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NarHash({})", self.to_nix32())
    }
}

/// A running hash of any algorithm.
#[derive(Clone)]
pub struct Hasher(Running);

#[derive(Clone)]
enum Running {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// Starts a hash.
    #[must_use]
    pub fn new(algo: HashAlgo) -> Self {
        Self(match algo {
            HashAlgo::Md5 => Running::Md5(Md5::new()),
            HashAlgo::Sha1 => Running::Sha1(Sha1::new()),
            HashAlgo::Sha256 => Running::Sha256(Sha256::new()),
            HashAlgo::Sha512 => Running::Sha512(Sha512::new()),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Running::Md5(hasher) => hasher.update(bytes),
            Running::Sha1(hasher) => hasher.update(bytes),
            Running::Sha256(hasher) => hasher.update(bytes),
            Running::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The hash of all bytes added.
    #[must_use]
    pub fn finish(self) -> Hash {
        let mut digest = [0; MAX_DIGEST];
        let (algo, bytes): (_, &[u8]) = match self.0 {
            Running::Md5(hasher) => (HashAlgo::Md5, &hasher.finalize()),
            Running::Sha1(hasher) => (HashAlgo::Sha1, &hasher.finalize()),
            Running::Sha256(hasher) => (HashAlgo::Sha256, &hasher.finalize()),
            Running::Sha512(hasher) => (HashAlgo::Sha512, &hasher.finalize()),
        };
        digest[..bytes.len()].copy_from_slice(bytes);
        Hash { algo, digest }
    }
}

/// What a finished stream was: its SHA-256 and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamDigest {
    /// SHA-256 of all bytes.
    pub sha256: [u8; 32],
    /// Number of bytes.
    pub length: u64,
}

impl StreamDigest {
    /// The digest as the hash of a NAR, if the stream was one.
    #[must_use]
    pub const fn nar_hash(&self) -> NarHash {
        NarHash(self.sha256)
    }

    /// The digest as a hash of anything else, a compressed file for example.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::sha256(self.sha256)
    }
}

/// Hashes and counts the bytes of a stream.
#[derive(Clone, Default)]
pub struct Sha256Hasher {
    hasher: Sha256,
    length: u64,
}

impl Sha256Hasher {
    /// Starts with no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Number of bytes so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Hash and length of all bytes.
    #[must_use]
    pub fn finish(self) -> StreamDigest {
        StreamDigest {
            sha256: self.hasher.finalize().into(),
            length: self.length,
        }
    }
}

/// A writer that hashes and counts what passes to the writer below.
pub struct Sha256Writer<W> {
    inner: W,
    hasher: Sha256Hasher,
}

impl<W: Write> Sha256Writer<W> {
    /// Hashes what is written to `inner` from now on; `io::sink()` only hashes.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256Hasher::new(),
        }
    }

    /// Number of bytes so far.
    pub const fn length(&self) -> u64 {
        self.hasher.length()
    }

    /// The writer below, with the hash and length of what it took.
    pub fn finish(self) -> (W, StreamDigest) {
        (self.inner, self.hasher.finish())
    }
}

impl<W: Write> Write for Sha256Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A reader that hashes and counts what passes from the reader below.
pub struct Sha256Reader<R> {
    inner: R,
    hasher: Sha256Hasher,
}

impl<R: Read> Sha256Reader<R> {
    /// Hashes what is read from `inner` from now on.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Sha256Hasher::new(),
        }
    }

    /// Number of bytes so far.
    pub const fn length(&self) -> u64 {
        self.hasher.length()
    }

    /// The reader below, with the hash and length of what it gave.
    pub fn finish(self) -> (R, StreamDigest) {
        (self.inner, self.hasher.finish())
    }
}

impl<R: Read> Read for Sha256Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALGOS: [HashAlgo; 4] = [
        HashAlgo::Md5,
        HashAlgo::Sha1,
        HashAlgo::Sha256,
        HashAlgo::Sha512,
    ];

    #[test]
    fn known_digests_of_hello() {
        let hex = |algo| Hash::of(algo, b"hello\n").to_hex();
        assert_eq!(hex(HashAlgo::Md5), "md5:b1946ac92492d2347c6235b4d2611184");
        assert_eq!(
            hex(HashAlgo::Sha1),
            "sha1:f572d396fae9206628714fb2ce00f72e94f2258f"
        );
        assert_eq!(
            hex(HashAlgo::Sha256),
            "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        assert!(hex(HashAlgo::Sha512).starts_with("sha512:e7c22b994c59d9cf2b48e549b1e24666"));
    }

    #[test]
    fn text_without_algorithm_is_refused() {
        let nix32 = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        assert!(matches!(
            Hash::parse(nix32),
            Err(HashError::MissingAlgorithm { .. })
        ));
        assert!(matches!(
            Hash::parse("blake3:00"),
            Err(HashError::UnknownAlgorithm { .. })
        ));
        assert!(matches!(
            Hash::parse("sha256:00"),
            Err(HashError::WrongLength { .. })
        ));
        assert!(Hash::parse(&format!("sha256-{nix32}")).is_err());
        assert!(Hash::parse(&format!("SHA256:{nix32}")).is_err());
        assert!(Hash::parse(&format!("sha256:{nix32} ")).is_err());
        assert!(Hash::parse("").is_err());
        assert!(Hash::parse("sha256:ä").is_err());
    }

    #[test]
    fn a_nar_hash_is_sha256_only() {
        let sha1 = Hash::of(HashAlgo::Sha1, b"").to_nix32();
        assert!(matches!(
            NarHash::parse(&sha1),
            Err(HashError::WrongAlgorithm { .. })
        ));
    }

    #[test]
    fn streams_are_hashed_and_counted() {
        let mut writer = Sha256Writer::new(Vec::new());
        writer.write_all(b"hel").unwrap();
        writer.write_all(b"lo\n").unwrap();
        let (bytes, digest) = writer.finish();
        assert_eq!((bytes.as_slice(), digest.length), (&b"hello\n"[..], 6));
        assert_eq!(digest.hash(), Hash::of(HashAlgo::Sha256, b"hello\n"));

        let mut reader = Sha256Reader::new(&b"hello\n"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.finish().1, digest);
    }

    proptest! {
        #[test]
        fn every_text_form_is_read_back(
            algo in 0usize..4,
            data in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let hash = Hash::of(ALGOS[algo], &data);
            for text in [hash.to_nix32(), hash.to_hex(), hash.to_sri(), hash.to_sri().replacen('-', ":", 1)] {
                prop_assert_eq!(Hash::parse(&text), Ok(hash));
            }
            prop_assert_eq!(Hash::new(hash.algo(), hash.as_bytes()), Some(hash));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,80}") {
            let _ = Hash::parse(&text);
        }
    }
}
