//! Whether to believe a narinfo.
//!
//! Invariant: a narinfo is trusted only if a trusted key has signed its fingerprint, or its path
//! follows from its content address; in the second case the content itself must still be checked,
//! since nothing binds `NarHash` to the address.

use thiserror::Error;

use super::NarInfo;
use crate::nix::hash::{Hash, HashAlgo};
use crate::nix::signature::{TrustedKeys, Verdict};
use crate::nix::store_path::{ContentAddress, IngestionMethod, StoreDir};

/// Why a narinfo is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A trusted key has signed it, so its `NarHash` is to be believed.
    Signed {
        /// The name of the key.
        key_name: String,
    },
    /// Its path follows from its content address. The NAR is to be believed only once a
    /// [`ContentVerifier`](crate::nix::store_path::ContentVerifier) has accepted its bytes.
    ContentAddressed {
        /// What the bytes must be checked against.
        address: ContentAddress,
    },
}

/// Why a narinfo is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Distrust {
    /// There is no signature at all.
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
    BadSignature {
        path: String,
        /// The name of the key.
        key_name: String,
    },
    /// The path does not follow from its content address, and no signature makes up for it.
    #[error("path '{path}' claims to be content-addressed but isn't, and lacks a valid signature")]
    NotContentAddressed { path: String },
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
            if matches!(
                address,
                ContentAddress::Fixed {
                    method: IngestionMethod::Git,
                    ..
                }
            ) {
                return Err(Distrust::GitWithoutSignature { path: path() });
            }
            return Ok(Trust::ContentAddressed { address });
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
        let own = self.references.contains(&self.store_path);
        let others = self
            .references
            .iter()
            .filter(|&path| *path != self.store_path);
        let computed = address.store_path(store_dir, self.store_path.name(), others, own);
        if computed.as_ref() != Ok(&self.store_path) {
            return false;
        }
        // Without self-references the address of a NAR is its plain hash: a lie shows before the download.
        match address {
            ContentAddress::Fixed {
                method: IngestionMethod::Nar,
                hash,
            } if hash.algo() == HashAlgo::Sha256 && !own => *hash == Hash::from(self.nar_hash),
            _ => true,
        }
    }
}
