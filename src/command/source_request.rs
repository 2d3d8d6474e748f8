//! Which sources a command or a daemon uses, and which keys it trusts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fetch::{Deadlines, FetchOptions, PrefetchPolicy, Trust};
use crate::nix::signature::{self, PublicKey};

/// An invalid public key.
#[derive(Debug, Error)]
#[error("--trusted-public-key {text:?}")]
pub struct KeyError {
    text: String,
    #[source]
    source: signature::KeyError,
}

/// Sources and trust. Values that are not set default to those of the daemon of the state, or of
/// the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRequest {
    /// URLs; empty if not set.
    pub from: Vec<String>,
    /// Trusted public keys besides the key of cache.nixos.org.
    pub trusted_public_keys: Vec<String>,
    /// Accept paths without trusted signatures.
    pub no_require_signatures: bool,
    /// The netrc file.
    pub netrc: Option<PathBuf>,
    /// Why there are no sources, to be shown to the user; set only by the daemon.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub without: Option<String>,
}

impl SourceRequest {
    /// This request, with values that are not set taken from `defaults`.
    pub fn or(&self, defaults: &Self) -> Self {
        let from = if self.from.is_empty() {
            &defaults.from
        } else {
            &self.from
        };
        let keys = [&defaults.trusted_public_keys, &self.trusted_public_keys];
        Self {
            from: from.clone(),
            trusted_public_keys: keys.into_iter().flatten().cloned().collect(),
            no_require_signatures: self.no_require_signatures || defaults.no_require_signatures,
            netrc: self.netrc.as_ref().or(defaults.netrc.as_ref()).cloned(),
            without: defaults.without.clone(),
        }
    }

    /// The trusted keys.
    ///
    /// # Errors
    /// A public key is invalid.
    pub fn trust(&self) -> Result<Trust, KeyError> {
        let mut trust = Trust {
            require_signatures: !self.no_require_signatures,
            ..Trust::default()
        };
        for text in &self.trusted_public_keys {
            let key = PublicKey::parse(text.trim()).map_err(|source| KeyError {
                text: text.clone(),
                source,
            })?;
            trust.keys.insert(key);
        }
        Ok(trust)
    }

    /// Options for fetching from these sources on demand.
    ///
    /// # Errors
    /// A public key is invalid.
    pub fn fetch_options(
        &self,
        deadlines: Deadlines,
        prefetch: PrefetchPolicy,
    ) -> Result<FetchOptions, KeyError> {
        Ok(FetchOptions {
            urls: self.from.clone(),
            trust: self.trust()?,
            netrc: self.netrc.clone(),
            deadlines,
            prefetch,
        })
    }
}
