//! The metadata of a store path in a binary cache.
//!
//! Owns the `.narinfo` text, the fingerprint that is signed, and the decision whether to trust it. Invariant:
//! what was signed is kept exactly, so that writing a parsed narinfo again keeps every signature valid.

mod parse;
mod trust;

use std::fmt::Write;

use thiserror::Error;

use crate::nix::compression::Compression;
use crate::nix::hash::{Hash, HashError, NarHash};
use crate::nix::signature::{SecretKey, Signature};
use crate::nix::store_path::{
    ContentAddress, ContentAddressError, StoreDir, StorePath, StorePathError, StorePathHash,
};

pub use trust::{Distrust, Trust};

/// Why a narinfo is refused.
#[derive(Debug, Error)]
pub enum NarInfoError {
    /// A line has no `Name: `, or its newline is missing.
    #[error("NAR info file is corrupt at byte {offset}: {reason}")]
    Line {
        /// Where the line begins, in bytes.
        offset: usize,
        reason: &'static str,
    },
    #[error("NAR info file is corrupt: {field} missing")]
    Missing { field: &'static str },
    /// A field that may come once comes again.
    #[error("NAR info file is corrupt: extra {field}")]
    Duplicate { field: &'static str },
    /// A value cannot be read.
    #[error("NAR info file is corrupt: {field} '{value}': {reason}")]
    Value {
        field: &'static str,
        /// The value, shortened and escaped.
        value: String,
        reason: &'static str,
    },
    /// A value that should name a store path does not.
    #[error("NAR info file is corrupt: {field} is not a store path")]
    StorePath {
        field: &'static str,
        #[source]
        source: StorePathError,
    },
    #[error("NAR info file is corrupt: {field} is not a hash")]
    Hash {
        field: &'static str,
        #[source]
        source: HashError,
    },
    #[error("NAR info file is corrupt: CA is not a content address")]
    ContentAddress(#[from] ContentAddressError),
    #[error("NAR info file is corrupt: unknown compression method '{name}'")]
    Compression { name: String },
    /// The narinfo is about another path than the one asked for.
    #[error("NAR info file for path '{asked}' is about '{found}'")]
    OtherPath {
        /// The base name or hash part asked for.
        asked: String,
        /// The path that the narinfo describes.
        found: StorePath,
    },
}

/// What a binary cache says about a store path. `NarInfo::trust` decides whether that is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    pub store_path: StorePath,
    /// Where the compressed NAR is: a URL reference, relative to the cache or absolute.
    pub url: String,
    pub compression: Compression,
    /// The other files that hold the NAR, in the order of the narinfo; not written again.
    pub further: Vec<NarFile>,
    /// Hash of the compressed file; never verified by Nix, and unsigned.
    pub file_hash: Option<Hash>,
    /// Bytes of the compressed file; unsigned.
    pub file_size: Option<u64>,
    /// Hash of the NAR; signed.
    pub nar_hash: NarHash,
    /// Bytes of the NAR, never zero; signed.
    pub nar_size: u64,
    /// The paths that this path refers to, itself perhaps included, sorted; signed.
    pub references: Vec<StorePath>,
    /// The derivation that made the path; unsigned.
    pub deriver: Option<StorePath>,
    /// The signatures in their order, byte for byte.
    pub signatures: Vec<Signature>,
    /// What the path was computed from, if it is content-addressed; bound by the path itself.
    pub ca: Option<ContentAddress>,
    /// The text of a content address whose method or algorithm is not known here, in place of `ca`.
    pub unknown_ca: Option<String>,
    /// Guix's signature, which covers the text of the narinfo.
    pub guix_signature: Option<GuixSignature>,
}

/// Another file that holds the NAR: Guix offers several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarFile {
    /// As [`NarInfo::url`].
    pub url: String,
    pub compression: Compression,
}

/// The signature in a Guix narinfo: it covers the literal text before its own line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuixSignature {
    /// The bytes that are signed.
    pub signed_text: Vec<u8>,
    /// The value of the line: `VERSION;HOST;BASE64`.
    pub text: String,
}

impl NarInfo {
    /// Checks that the narinfo is about the very path that was asked for, hash and name.
    ///
    /// # Errors
    /// [`NarInfoError::OtherPath`] if it is not.
    pub fn verify_request(&self, asked: &StorePath) -> Result<(), NarInfoError> {
        if self.store_path == *asked {
            return Ok(());
        }
        Err(NarInfoError::OtherPath {
            asked: asked.base_name(),
            found: self.store_path.clone(),
        })
    }

    /// Checks that the narinfo has the hash part that was asked for, where the name is not known.
    ///
    /// # Errors
    /// [`NarInfoError::OtherPath`] if it has not.
    pub fn verify_request_hash(&self, asked: &StorePathHash) -> Result<(), NarInfoError> {
        if self.store_path.hash() == *asked {
            return Ok(());
        }
        Err(NarInfoError::OtherPath {
            asked: asked.to_string(),
            found: self.store_path.clone(),
        })
    }

    /// The text that signatures cover.
    #[must_use]
    pub fn fingerprint(&self, store_dir: &StoreDir) -> String {
        fingerprint(
            store_dir,
            &self.store_path,
            &self.nar_hash,
            self.nar_size,
            &self.references,
        )
    }

    /// Adds a signature by this key, unless it is there already.
    pub fn sign(&mut self, store_dir: &StoreDir, key: &SecretKey) {
        let signature = key.sign(self.fingerprint(store_dir).as_bytes());
        if !self.signatures.contains(&signature) {
            self.signatures.push(signature);
        }
    }

    /// The text of the file, fields in the order of Nix. Guix's signature is not written: it covers another
    /// text.
    #[must_use]
    pub fn to_text(&self, store_dir: &StoreDir) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}: {value}");
        };
        line("StorePath", &self.store_path.to_full(store_dir));
        line("URL", &self.url);
        line("Compression", &self.compression);
        if let Some(hash) = &self.file_hash {
            line("FileHash", hash);
        }
        if let Some(size) = self.file_size {
            line("FileSize", &size);
        }
        line("NarHash", &self.nar_hash);
        line("NarSize", &self.nar_size);
        let references = sorted(&self.references).map(StorePath::base_name);
        // The space after the colon is written even without references: readers count on it.
        line("References", &references.collect::<Vec<_>>().join(" "));
        if let Some(deriver) = &self.deriver {
            line("Deriver", deriver);
        }
        for signature in &self.signatures {
            line("Sig", signature);
        }
        if let Some(ca) = &self.ca {
            line("CA", ca);
        }
        if let Some(ca) = &self.unknown_ca {
            line("CA", ca);
        }
        text
    }
}

/// The text that a signature of a store path covers.
#[must_use]
pub fn fingerprint(
    store_dir: &StoreDir,
    store_path: &StorePath,
    nar_hash: &NarHash,
    nar_size: u64,
    references: &[StorePath],
) -> String {
    let references: Vec<String> = sorted(references)
        .map(|reference| reference.to_full(store_dir))
        .collect();
    format!(
        "1;{};{nar_hash};{nar_size};{}",
        store_path.to_full(store_dir),
        references.join(",")
    )
}

/// The references in order, each once, whatever the caller has put into the field.
fn sorted(references: &[StorePath]) -> impl Iterator<Item = &StorePath> {
    let mut references: Vec<&StorePath> = references.iter().collect();
    references.sort_unstable();
    references.dedup();
    references.into_iter()
}

#[cfg(test)]
mod tests;
