//! Why a path, or a source, could not be used.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::receive::ReceiveError;
use crate::nix::cache_info::CacheInfoError;
use crate::nix::hash::NarHash;
use crate::nix::narinfo::{Distrust, NarInfoError};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::StoreError;
use crate::substituter::SourceError;

/// Why a path, or a source, could not be used.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The failure of a try that several waited for.
    #[error(transparent)]
    Shared(#[from] Arc<FetchError>),
    /// A source does not answer, or not in a way that makes sense.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// These sources are known not to answer.
    #[error("{}", away(.0))]
    Away(Vec<AwaySource>),
    #[error("{url} is not a binary cache: it has no nix-cache-info")]
    NoBinaryCache { url: String },
    #[error("{url}: nix-cache-info is malformed")]
    CacheInfo {
        url: String,
        #[source]
        source: CacheInfoError,
    },
    #[error("binary cache '{url}' is for Nix stores with prefix '{theirs}', not '{ours}'")]
    OtherStoreDir {
        url: String,
        theirs: String,
        ours: String,
    },
    #[error("{url}: the narinfo of {hash} is not usable")]
    NarInfo {
        url: String,
        hash: StorePathHash,
        #[source]
        source: NarInfoError,
    },
    #[error(
        "{url}: {distrust}; name the key with --trusted-public-key, or give --no-require-sigs to believe \
         this source"
    )]
    Untrusted { url: String, distrust: Distrust },
    #[error(
        "{path} is in none of the sources: {sources}{}",
        not_reached(unreachable)
    )]
    Absent {
        /// Hash or whole path, as asked for.
        path: String,
        sources: String,
        /// Optional sources that could not be asked.
        unreachable: Vec<String>,
    },
    /// It is known to exist, though what is registered of it cannot be read.
    #[error(
        "{path} is in the state, but its path info is damaged, and it is in none of the sources: {sources}{}",
        not_reached(unreachable)
    )]
    Lost {
        path: String,
        sources: String,
        /// Optional sources that could not be asked.
        unreachable: Vec<String>,
    },
    /// It is known to exist, since the state has its path info.
    #[error("{path} cannot be fetched now{}", not_reached(unreachable))]
    OutOfReach {
        path: StorePath,
        /// Optional sources, of which one may have it.
        unreachable: Vec<String>,
    },
    /// The hash is that of another path, which is here.
    #[error("{0} is in the state, and no other path can have its hash")]
    OtherName(StorePath),
    #[error("not copied, because it and its reference {0} need each other, or others that do")]
    Circle(StorePath),
    #[error("not copied, because its reference {0} could not be")]
    Reference(StorePath),
    /// Another NAR than the one whose contents were dropped.
    #[error(
        "{url} has another NAR of {path} than the one that is registered here ({theirs} instead of \
         {ours}), so that what was dropped cannot come back from it"
    )]
    OtherNar {
        url: String,
        path: StorePath,
        theirs: NarHash,
        ours: NarHash,
    },
    /// Contents that were taken without a signature are not what is vouched for.
    #[error(
        "{path} is here with contents that were taken without a signature, and they are not those that \
         {url} vouches for ({ours} instead of {theirs}): remove it from profiles, views and pins, and run \
         `narfs gc`; then the right ones are fetched"
    )]
    Contradiction {
        url: String,
        path: StorePath,
        theirs: NarHash,
        ours: NarHash,
    },
    #[error("{url}: {error}")]
    Receive {
        url: String,
        #[source]
        error: Box<ReceiveError>,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("stopped")]
    Stopped,
    #[error("the process that waited was killed")]
    Killed,
    /// It takes longer than a program waits; it goes on.
    #[error("{path} did not arrive within {} s; the transfer continues", patience.as_secs())]
    Patience { path: StorePath, patience: Duration },
}

/// A source that is known not to answer.
#[derive(Debug)]
pub struct AwaySource {
    pub(super) url: String,
    /// For how long.
    pub(super) since: Duration,
    /// What came of the last try.
    pub(super) error: Arc<FetchError>,
}

/// What is said of sources that do not answer.
fn away(sources: &[AwaySource]) -> String {
    let each = sources.iter().map(|source| {
        let seconds = source.since.as_secs();
        let mut said = format!(
            "{} has been away for {seconds} s: {}",
            source.url, source.error
        );
        let mut cause = std::error::Error::source(&source.error);
        while let Some(error) = cause {
            said = format!("{said}: {error}");
            cause = error.source();
        }
        said
    });
    each.collect::<Vec<_>>().join("; ")
}

/// What is said of optional sources that could not be asked.
fn not_reached(sources: &[String]) -> String {
    match sources {
        [] => String::new(),
        [one] => format!("; {one}, which is optional, cannot be reached"),
        several => {
            let several = several.join(", ");
            format!("; {several}, which are optional, cannot be reached")
        }
    }
}

impl FetchError {
    /// The error itself, where others share it.
    pub(super) fn cause(&self) -> &Self {
        match self {
            Self::Shared(error) => error.cause(),
            error => error,
        }
    }

    /// Whether every source said that it has no such path, but for optional ones that are out of reach.
    pub fn is_absent(&self) -> bool {
        matches!(self.cause(), Self::Absent { .. })
    }

    /// Whether an optional source is out of reach that may have it.
    pub fn is_out_of_reach(&self) -> bool {
        match self.cause() {
            Self::Absent { unreachable, .. } | Self::Lost { unreachable, .. } => {
                !unreachable.is_empty()
            }
            Self::OutOfReach { .. } => true,
            _ => false,
        }
    }

    /// Whether its hash is that of another path.
    pub fn is_other_name(&self) -> bool {
        matches!(self.cause(), Self::OtherName(_))
    }

    /// Whether a source has it, and is not believed.
    pub fn is_distrusted(&self) -> bool {
        matches!(self.cause(), Self::Untrusted { .. } | Self::NarInfo { .. })
    }

    /// Whether sources vouch for other contents than those that are here.
    pub(super) fn is_contradiction(&self) -> bool {
        matches!(self.cause(), Self::Contradiction { .. })
    }

    /// Whether a source did not answer, and may another time.
    pub(super) fn is_transient(&self) -> bool {
        match self.cause() {
            Self::Source(error) => error.is_transient(),
            Self::Away(_) => true,
            _ => false,
        }
    }

    /// Whether an optional source at `url` counts as out of reach with this failure: it does not answer, or
    /// something else does in its place, or its directory is not there.
    pub(super) fn is_out_of_the_way(&self, url: &str) -> bool {
        match self.cause() {
            Self::Source(SourceError::Url { .. }) => url.starts_with("file:"),
            Self::Source(error) => error.is_transient(),
            Self::NoBinaryCache { .. } | Self::CacheInfo { .. } => true,
            Self::Away(sources) => sources.iter().all(|s| s.error.is_out_of_the_way(url)),
            _ => false,
        }
    }

    /// What came of the last try, where that is why a source is away.
    pub(super) fn into_last_try(self) -> Self {
        match self {
            Self::Away(sources) if sources.len() == 1 => sources[0].error.clone().into(),
            error => error,
        }
    }

    /// Whether another source may do better: neither the state nor the user ended it.
    pub(super) fn is_of_source(&self) -> bool {
        match self {
            Self::Source(_) | Self::OtherNar { .. } => true,
            Self::Receive { error, .. } => !error.is_ours(),
            _ => false,
        }
    }

    /// Whether the source has not got what its narinfo names.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Receive { error, .. } if matches!(**error, ReceiveError::Gone))
    }

    /// Whether the state or the user ended it, so that no other path can be had either.
    pub(super) fn is_final(&self) -> bool {
        match self.cause() {
            Self::Store(_) | Self::Stopped => true,
            Self::Receive { error, .. } => error.is_ours(),
            _ => false,
        }
    }
}

/// A path that could not be fetched.
#[derive(Debug)]
pub struct CopyFailure {
    pub hash: StorePathHash,
    pub path: Option<StorePath>,
    pub error: FetchError,
}
