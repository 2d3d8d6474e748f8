//! Errors of missing paths.

use thiserror::Error;

use crate::fetch::FetchError;

#[derive(Debug, Error)]
pub enum SupplyError {
    /// The path is absent, and there are no sources.
    #[error(
        "{0} is not in the state, and no source is configured; give one with --from, or add \
         it with `narfs copy`"
    )]
    NoSources(String),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{path} could not be fetched{more}")]
    Failed {
        path: String,
        /// Text about further paths.
        more: String,
        #[source]
        source: FetchError,
    },
}
