//! Why something is not here.

use thiserror::Error;

use crate::fetch::FetchError;

/// Why something is not here.
#[derive(Debug, Error)]
pub enum SupplyError {
    /// It is not here, and there is nobody to ask.
    #[error(
        "{0} is not in the state, and nobody is asked for it; name a source with --from, or bring \
         it with `narfs copy`"
    )]
    Nobody(String),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Some of what is needed could not be had.
    #[error("{path} could not be fetched{more}")]
    Failed {
        /// The first path.
        path: String,
        /// How many more.
        more: String,
        /// Why the first one.
        #[source]
        source: FetchError,
    },
}
