//! Whether to trust a narinfo.
//!
//! Invariant: a narinfo is trusted only if a trusted key has signed its fingerprint, or its path follows from
//! its content address; in the second case the content itself must still be checked, since nothing binds
//! `NarHash` to the address.

use thiserror::Error;

use super::NarInfo;
use crate::nix::hash::{Hash, HashAlgo};
use crate::nix::signature::{TrustedKeys, Verdict};
use crate::nix::store_path::{ContentAddress, IngestionMethod, StoreDir};

/// Why a narinfo is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A trusted key has signed it, so its `NarHash` is right.
    Signed { key_name: String },
    /// Its path follows from its content address. The NAR may be used only after a
    /// [`ContentVerifier`](crate::nix::store_path::ContentVerifier) has accepted its bytes.
    ContentAddressed {
        /// What the bytes must be checked against.
        address: ContentAddress,
    },
}

/// Why a narinfo is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Distrust {
    #[error("path '{path}' lacks a signature by a trusted key: it is not signed")]
    Unsigned { path: String },
    /// The signatures are by keys that are not trusted.
    #[error("path '{path}' lacks a signature by a trusted key: it is signed by {}", named.join(", "))]
    NoTrustedKey {
        path: String,
        /// The key names of the signatures.
        named: Vec<String>,
    },
    /// A signature names a trusted key, but is not by it, or not for this narinfo.
    #[error("path '{path}' lacks a valid signature: the one by '{key_name}' is wrong")]
    BadSignature { path: String, key_name: String },
    /// The path does not follow from its content address, and no signature makes up for it.
    #[error("path '{path}' claims to be content-addressed but isn't, and lacks a valid signature")]
    NotContentAddressed { path: String },
    /// The kind of the content address is not known here, and no signature makes up for it.
    #[error(
        "path '{path}' has the content address '{address}', whose kind this version does not know, so \
             that it needs a signature by a trusted key"
    )]
    UnknownAddress { path: String, address: String },
    /// Content addresses of git objects cannot be checked, and no signature makes up for it.
    #[error("path '{path}' is addressed as a git object, which needs a signature by a trusted key")]
    GitWithoutSignature { path: String },
}

impl NarInfo {
    /// Decides whether to trust this narinfo: by signature, else by content address.
    ///
    /// # Errors
    /// [`Distrust`] with the reason.
    pub fn trust(&self, store_dir: &StoreDir, keys: &TrustedKeys) -> Result<Trust, Distrust> {
        let path = || self.store_path.to_full(store_dir);
        let verdict = keys.verify(&self.fingerprint(store_dir), &self.signatures);
        if let Verdict::Valid { key_name } = verdict {
            return Ok(Trust::Signed { key_name });
        }
        if let Some(address) = self.ca {
            if !self.follows_from(&address, store_dir) {
                return Err(Distrust::NotContentAddressed { path: path() });
            }
            if !address.can_be_verified() {
                return Err(Distrust::GitWithoutSignature { path: path() });
            }
            return Ok(Trust::ContentAddressed { address });
        }
        if let Some(address) = self.unknown_ca.clone() {
            return Err(Distrust::UnknownAddress {
                path: path(),
                address,
            });
        }
        Err(match verdict {
            Verdict::BadSignature { key_name } => Distrust::BadSignature {
                path: path(),
                key_name,
            },
            Verdict::NoTrustedKey { named } if !named.is_empty() => Distrust::NoTrustedKey {
                path: path(),
                named,
            },
            _ => Distrust::Unsigned { path: path() },
        })
    }

    /// Whether path, name, references and NAR hash agree with the content address.
    fn follows_from(&self, address: &ContentAddress, store_dir: &StoreDir) -> bool {
        self.is_named_by(address, store_dir)
            // A wrong one is found before the download.
            && (!self.is_nar_hash(address) || *address.hash() == Hash::from(self.nar_hash))
    }

    /// Whether path, name and references follow from the content address.
    #[must_use]
    pub fn is_named_by(&self, address: &ContentAddress, store_dir: &StoreDir) -> bool {
        let own = self.references.contains(&self.store_path);
        let references = self.references.iter();
        let others = references.filter(|&path| *path != self.store_path);
        let computed = address.store_path(store_dir, self.store_path.name(), others, own);
        computed.as_ref() == Ok(&self.store_path)
    }

    /// Whether contents with this `NarHash` fulfil the content address.
    #[must_use]
    pub fn is_proven(&self, address: &ContentAddress) -> bool {
        self.is_nar_hash(address) && *address.hash() == Hash::from(self.nar_hash)
    }

    /// Whether the hash of the address is that of the plain NAR: there is no reference to itself to be
    /// left out.
    fn is_nar_hash(&self, address: &ContentAddress) -> bool {
        let is_nar = matches!(
            address,
            ContentAddress::Fixed {
                method: IngestionMethod::Nar,
                ..
            }
        );
        is_nar
            && address.hash().algo() == HashAlgo::Sha256
            && !self.references.contains(&self.store_path)
    }
}
