//! Which sources a command or a daemon asks, and whom it believes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fetch::{Deadlines, FetchOptions, PrefetchPolicy, Trust};
use crate::nix::signature::{self, PublicKey};

/// A key that is none.
#[derive(Debug, Error)]
#[error("--trusted-public-key {text:?}")]
pub struct KeyError {
    text: String,
    #[source]
    source: signature::KeyError,
}

/// Sources, and whom to believe. What is not said is as the state's daemon has it, or the
/// configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRequest {
    /// URLs; empty if not said.
    pub from: Vec<String>,
    /// Public keys to trust besides that of cache.nixos.org.
    pub trusted_public_keys: Vec<String>,
    /// Believe the sources without signatures.
    pub no_require_signatures: bool,
    /// The file with names and passwords for servers.
    pub netrc: Option<PathBuf>,
    /// Why there are no sources, for people; only who serves knows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub without: Option<String>,
}

impl SourceRequest {
    /// This, and what it does not say from `defaults`.
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

    /// Whom to believe.
    ///
    /// # Errors
    /// A key that is none.
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

    /// How to fetch from these sources on demand.
    ///
    /// # Errors
    /// A key that is none.
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
