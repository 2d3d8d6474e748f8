//! Ed25519 keys and signatures in Nix's text forms.
//!
//! Owns the key and signature texts and the choice of keys by name. Invariant: the text of a signature is
//! kept byte for byte; whether it can be decoded matters only when a key of its name is there to check it.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use thiserror::Error;

/// The public key of `cache.nixos.org`, which Nix trusts by default.
pub const CACHE_NIXOS_ORG_KEY: &str =
    "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Why a text is no key or signature. Secret material is never part of an error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// There is no `NAME:`, or nothing behind it.
    #[error("{what} is corrupt: expected 'NAME:BASE64'")]
    Structure { what: &'static str },
    /// The part behind the name is not base-64 of the right number of bytes.
    #[error("{what} '{name}' is not valid: expected base-64 of {bytes} bytes")]
    Encoding {
        what: &'static str,
        name: String,
        /// Bytes that the text should encode.
        bytes: usize,
    },
    /// The bytes are no point on the curve, or the two halves of a secret key do not belong together.
    #[error("{what} '{name}' is not valid: {reason}")]
    Invalid {
        what: &'static str,
        name: String,
        reason: &'static str,
    },
    /// A name for a new key contains a colon, a space or a control character, or is empty.
    #[error("'{name}' cannot name a key: use something like 'cache.example.org-1'")]
    Name { name: String },
}

/// Splits `NAME:REST`, both non-empty.
fn split<'a>(text: &'a str, what: &'static str) -> Result<(&'a str, &'a str), KeyError> {
    match text.split_once(':') {
        Some((name, rest)) if !name.is_empty() && !rest.is_empty() => Ok((name, rest)),
        _ => Err(KeyError::Structure { what }),
    }
}

fn decode<const N: usize>(
    name: &str,
    base64: &str,
    what: &'static str,
) -> Result<[u8; N], KeyError> {
    let bytes = BASE64.decode(base64.as_bytes()).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| KeyError::Encoding {
            what,
            name: name.into(),
            bytes: N,
        })
}

/// A key that verifies signatures, with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    /// Parses `NAME:BASE64` of 32 bytes.
    ///
    /// # Errors
    /// [`KeyError`] if it is not that, or not a point on the curve.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        const WHAT: &str = "public key";
        let (name, base64) = split(text, WHAT)?;
        let bytes = decode(name, base64, WHAT)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Invalid {
            what: WHAT,
            name: name.into(),
            reason: "not a point on the curve",
        })?;
        Ok(Self {
            name: name.into(),
            key,
        })
    }

    /// Whether `signature` is by this key, for this text. The name in the signature is not checked.
    #[must_use]
    fn verifies(&self, text: &[u8], signature: &Signature) -> bool {
        // Strict as libsodium is, which Nix uses: keys and nonces of small order are refused.
        signature.to_bytes().is_some_and(|bytes| {
            let signature = ed25519_dalek::Signature::from_bytes(&bytes);
            self.key.verify_strict(text, &signature).is_ok()
        })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

/// A key that somebody names: all keys of a name, or a single one, since several may share a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedKey {
    Name(String),
    Key(PublicKey),
}

impl NamedKey {
    /// Parses a name, or a public key.
    ///
    /// # Errors
    /// [`KeyError`] if it has a colon and is no public key, or is no name.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.contains(':') {
            return PublicKey::parse(text).map(Self::Key);
        }
        match is_name(text) {
            true => Ok(Self::Name(text.into())),
            false => Err(KeyError::Name { name: text.into() }),
        }
    }

    fn is(&self, key: &PublicKey) -> bool {
        match self {
            Self::Name(name) => *name == key.name,
            Self::Key(named) => named == key,
        }
    }

    /// Whether a signature of `fingerprint` is by it; of a name, whether it says so.
    #[must_use]
    pub fn has_signed(&self, fingerprint: &str, signature: &Signature) -> bool {
        match self {
            Self::Name(name) => name == signature.key_name(),
            Self::Key(key) => {
                key.name == signature.key_name() && key.verifies(fingerprint.as_bytes(), signature)
            }
        }
    }
}

/// Whether a text can be the name of a key.
fn is_name(text: &str) -> bool {
    let bad = |c: char| c == ':' || c == ';' || c.is_whitespace() || c.is_control();
    !text.is_empty() && !text.contains(bad)
}

/// A key that signs, with its name. Wiped from memory when dropped; its `Debug` form shows the name only.
#[derive(Clone)]
pub struct SecretKey {
    name: String,
    key: SigningKey,
}

impl SecretKey {
    /// A key from 32 bytes of randomness.
    ///
    /// # Errors
    /// [`KeyError::Name`] if the name is not allowed in the text of a key.
    pub fn from_seed(name: &str, seed: [u8; 32]) -> Result<Self, KeyError> {
        if !is_name(name) {
            return Err(KeyError::Name { name: name.into() });
        }
        Ok(Self {
            name: name.into(),
            key: SigningKey::from_bytes(&seed),
        })
    }

    /// Parses `NAME:BASE64` of 64 bytes: the seed and the public key.
    ///
    /// # Errors
    /// [`KeyError`] if it is not that, or the two halves do not belong together.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        const WHAT: &str = "secret key";
        let (name, base64) = split(text, WHAT)?;
        let bytes = decode(name, base64, WHAT)?;
        let key = SigningKey::from_keypair_bytes(&bytes).map_err(|_| KeyError::Invalid {
            what: WHAT,
            name: name.into(),
            reason: "its public half does not belong to its seed",
        })?;
        Ok(Self {
            name: name.into(),
            key,
        })
    }

    /// `NAME:BASE64`, the content of a secret key file.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "{}:{}",
            self.name,
            BASE64.encode(&self.key.to_keypair_bytes())
        )
    }

    /// The key that verifies what this one signs.
    #[must_use]
    pub fn to_public(&self) -> PublicKey {
        PublicKey {
            name: self.name.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// Signs a text, for example the fingerprint of a store path.
    #[must_use]
    pub fn sign(&self, text: &[u8]) -> Signature {
        let signature = BASE64.encode(&self.key.sign(text).to_bytes());
        Signature {
            text: format!("{}:{signature}", self.name),
            name_length: self.name.len(),
        }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}:…)", self.name)
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

/// Most signatures of one text that are compared with trusted keys, each some 50 us: a signer signs once.
const MAX_TRIES: usize = 64;

/// Most key names of untrusted signatures that are told.
const MAX_NAMED: usize = 8;

/// A signature as text, `KEYNAME:BASE64`, kept byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    text: String,
    name_length: usize,
}

impl Signature {
    /// Parses `KEYNAME:BASE64`. Whether the second part encodes a signature is known only when it is
    /// verified.
    ///
    /// # Errors
    /// [`KeyError::Structure`] if a part is missing or empty.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, _) = split(text, "signature")?;
        Ok(Self {
            text: text.into(),
            name_length: name.len(),
        })
    }

    /// The name of the key that has signed, by its own claim.
    #[must_use]
    pub fn key_name(&self) -> &str {
        &self.text[..self.name_length]
    }

    /// The 64 bytes, if the text encodes that many.
    #[must_use]
    pub fn to_bytes(&self) -> Option<[u8; 64]> {
        decode(
            self.key_name(),
            &self.text[self.name_length + 1..],
            "signature",
        )
        .ok()
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

/// What a set of trusted keys says about a set of signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A trusted key has signed.
    Valid { key_name: String },
    /// No signature names a trusted key.
    NoTrustedKey {
        /// The names that the signatures carry; empty if there are no signatures.
        named: Vec<String>,
    },
    /// At least one signature names a trusted key, but none of them is right.
    BadSignature {
        /// The first such name.
        key_name: String,
    },
}

/// The public keys that a user trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys {
    keys: Vec<PublicKey>,
}

impl TrustedKeys {
    /// No trusted keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key. Several keys may share a name while a cache changes its key.
    pub fn insert(&mut self, key: PublicKey) {
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
    }

    /// The keys without one.
    #[must_use]
    pub fn without(&self, key: &NamedKey) -> Self {
        let others = self.keys.iter().filter(|other| !key.is(other));
        others.cloned().collect()
    }

    /// Whether a key is among them.
    #[must_use]
    pub fn has(&self, key: &NamedKey) -> bool {
        self.keys.iter().any(|other| key.is(other))
    }

    /// Looks for a signature of `fingerprint` by a trusted key. Signatures by other keys are ignored.
    #[must_use]
    pub fn verify(&self, fingerprint: &str, signatures: &[Signature]) -> Verdict {
        let mut bad = None;
        let mut tries = 0;
        for signature in signatures {
            let named = |key: &&PublicKey| key.name == signature.key_name();
            for key in self.keys.iter().filter(named) {
                tries += 1;
                if tries > MAX_TRIES {
                    break;
                }
                if key.verifies(fingerprint.as_bytes(), signature) {
                    let key_name = key.name.clone();
                    return Verdict::Valid { key_name };
                }
                bad.get_or_insert_with(|| key.name.clone());
            }
        }
        match bad {
            Some(key_name) => Verdict::BadSignature { key_name },
            None => Verdict::NoTrustedKey {
                named: signatures
                    .iter()
                    .take(MAX_NAMED)
                    .map(|signature| signature.key_name().into())
                    .collect(),
            },
        }
    }
}

impl FromIterator<PublicKey> for TrustedKeys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        let mut trusted = Self::new();
        keys.into_iter().for_each(|key| trusted.insert(key));
        trusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, seed: u8) -> SecretKey {
        SecretKey::from_seed(name, [seed; 32]).unwrap()
    }

    #[test]
    fn texts_survive() {
        let secret = key("example.org-1", 3);
        let again = SecretKey::parse(&secret.to_text()).unwrap();
        assert_eq!(again.to_text(), secret.to_text());
        let public = PublicKey::parse(&secret.to_public().to_string()).unwrap();
        assert_eq!(public, secret.to_public());
        assert_eq!(
            PublicKey::parse(CACHE_NIXOS_ORG_KEY).unwrap().to_string(),
            CACHE_NIXOS_ORG_KEY
        );
        let signature = secret.sign(b"x");
        assert_eq!(Signature::parse(&signature.to_string()), Ok(signature));
    }

    #[test]
    fn corrupt_texts_are_refused() {
        let public = key("k", 1).to_public().to_string();
        for bad in [
            "",
            "k",
            "k:",
            ":AAAA",
            "k:AAAA",
            "k:!",
            &public[..public.len() - 1],
        ] {
            assert!(PublicKey::parse(bad).is_err(), "{bad}");
            assert!(SecretKey::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "k", "k:", ":AAAA"] {
            assert!(Signature::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "a:b", "a b", "a\n"] {
            assert!(SecretKey::from_seed(bad, [0; 32]).is_err(), "{bad}");
        }
        let mut halves = [7; 64];
        halves[..32].fill(1);
        let text = format!("k:{}", BASE64.encode(&halves));
        assert!(matches!(
            SecretKey::parse(&text),
            Err(KeyError::Invalid { .. })
        ));
    }

    #[test]
    fn a_secret_key_does_not_show_itself() {
        let secret = key("k", 9);
        assert_eq!(format!("{secret:?}"), "SecretKey(k:…)");
    }

    #[test]
    fn the_verdict_tells_why() {
        let (mine, other) = (key("mine-1", 1), key("other-1", 2));
        let trusted: TrustedKeys = [mine.to_public()].into_iter().collect();
        let forged = Signature::parse(&mine.sign(b"another text").to_string()).unwrap();
        let renamed = other.sign(b"text").to_string().replace("other-1", "mine-1");
        let renamed = Signature::parse(&renamed).unwrap();
        let garbage = Signature::parse("mine-1:garbage").unwrap();

        let valid = Verdict::Valid {
            key_name: "mine-1".into(),
        };
        let bad = Verdict::BadSignature {
            key_name: "mine-1".into(),
        };
        assert_eq!(trusted.verify("text", &[mine.sign(b"text")]), valid);
        assert_eq!(
            trusted.verify(
                "text",
                &[other.sign(b"text"), garbage.clone(), mine.sign(b"text")]
            ),
            valid
        );
        for signature in [forged, renamed, garbage] {
            assert_eq!(trusted.verify("text", &[signature]), bad);
        }
        assert_eq!(
            trusted.verify("text", &[other.sign(b"text")]),
            Verdict::NoTrustedKey {
                named: vec!["other-1".into()]
            }
        );
        assert_eq!(
            trusted.verify("text", &[]),
            Verdict::NoTrustedKey { named: vec![] }
        );
        assert_eq!(
            TrustedKeys::new().verify("text", &[mine.sign(b"text")]),
            Verdict::NoTrustedKey {
                named: vec!["mine-1".into()]
            }
        );
    }

    #[test]
    fn two_keys_may_share_a_name() {
        let (old, new) = (key("k-1", 1), key("k-1", 2));
        let trusted: TrustedKeys = [old.to_public(), new.to_public()].into_iter().collect();
        for key in [old, new] {
            let verdict = trusted.verify("t", &[key.sign(b"t")]);
            assert_eq!(
                verdict,
                Verdict::Valid {
                    key_name: "k-1".into()
                }
            );
        }
    }
}
